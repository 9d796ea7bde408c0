"""The pages that are made from the code: every public name is in one group, every setting has its text."""

from __future__ import annotations

import inspect
from collections import Counter
from types import ModuleType

import pytest

import hyperflow as hf
from hyperflow.config import FIELDS
from hyperflow.database import entries, place
from hyperflow.debugging import capsule
from hyperflow.events import schema
from hyperflow.master import rundir
from hyperflow.records import record
from tests.helpers import module_at
from tests.imports import TOP


@pytest.fixture(scope="module")
def generated() -> ModuleType:
    """Return the module that makes them."""
    return module_at(TOP / "docs" / "_site" / "generated.py")


def test_every_name_is_in_one_group(generated: ModuleType) -> None:
    """But errors and warnings, which have pages of their own."""
    grouped = Counter(name for names in generated.GROUPS.values() for name in names.split())
    found = {name: getattr(hf, name) for name in hf.__all__ if name != "__version__"}
    errors = {name for name, one in found.items() if inspect.isclass(one) and issubclass(one, Exception)}

    assert set(grouped) == set(found) - errors
    assert set(grouped.values()) == {1}


def test_every_setting_has_its_text(generated: ModuleType) -> None:
    """Its heading is followed by what its docstring says, and its variable is in the table."""
    page = generated.configuration()

    for name in FIELDS:
        assert f"`HYPERFLOW_{name.upper()}`" in page
        text = page.partition(f"\n## {name}\n\n")[2].partition("\n")[0]
        assert text.endswith((".", "/")), (name, text)
        assert len(text) > 20


def test_the_versions_of_file_formats() -> None:
    """The page on file formats has the versions and bounds that the code has."""
    page = (TOP / "docs/reference/file-formats.md").read_text()

    assert f"| `log/run.json` | `format` {record.FORMAT} |" in page
    assert f"| `log/events.jsonl` and segments | `version` {schema.VERSION} |" in page
    assert f"| `results.sqlite`, or a server | `user_version` {place.LAYOUT_VERSION} |" in page
    assert f"| `program.json`, `jobs/N/job.json` | `format` {rundir.FORMAT} |" in page
    assert f"| `log/capsules/N.hfc` | format {capsule.FORMAT} |" in page
    assert f"the application id {place.APPLICATION_ID:#x}" in page
    assert f"| `schema_version` | {entries.SCHEMA_VERSION}: " in page
    assert f"A run keeps {capsule.MOST} capsules, and {capsule.TOTAL // 1_000_000} MB of them" in page
