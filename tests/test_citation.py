"""What is said of how to cite hyperflow is right."""

import re

import hyperflow
from tests.imports import TOP


def test_version_is_this_one() -> None:
    """CITATION.cff and the page name the version that the package has."""
    cff = (TOP / "CITATION.cff").read_text(encoding="utf-8")
    page = (TOP / "docs" / "cite.md").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", cff, re.MULTILINE) == [hyperflow.__version__]
    assert re.findall(r"version = \{(.+)\}", page) == [hyperflow.__version__]
