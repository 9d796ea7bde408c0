"""The page about security names tests: they are there."""

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
PAGE = TOP / "docs" / "sites" / "security.md"


def test_the_tests_that_it_names_are_there() -> None:
    """Each `tests/file.py::name` on the page is a test of that file."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text())
    assert len(named) > 20
    for file, name in named:
        tree = ast.parse((TOP / file).read_text())
        found = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert name in found, f"{file}::{name}"
