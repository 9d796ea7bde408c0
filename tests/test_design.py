"""docs/design.md: what it says about the code is there."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "design.md").read_text(encoding="utf-8")


def names(text: str) -> list[str]:
    """Return the names in the sections "The way of ...": those in backticks with a dot, which are no files or calls."""
    ways = [section for section in text.split("\n## ") if section.startswith("The way of ")]
    quoted = [name for section in ways for name in re.findall("`([^`]+)`", section)]
    return [name for name in quoted if re.fullmatch(r"[a-z_]+(\.\w+)+", name)]


def find(name: str) -> object:
    """Return what a name means: a module of hyperflow, and attributes from there on; LookupError if nothing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["hyperflow", *parts[:count]]))
        except ImportError:
            continue
        try:
            return reduce(getattr, parts[count:], module)
        except AttributeError:
            break
    raise LookupError(f"docs/design.md: there is no {name}")


def test_the_ways_of_calls_and_jobs() -> None:
    """Every module, class and function that the ways name exists, and they name a good number of them."""
    found = names(TEXT)

    assert len(found) > 40
    assert all(find(name) is not None for name in found)


def test_a_name_that_is_wrong_is_found() -> None:
    """A function that was renamed, and a module that was moved, are noticed."""
    assert names("\n## The way of one evaluation\n`a.b` `wire/x.py` `await f(x)`\n## Next\n`c.d`") == ["a.b"]
    for wrong in ("head.engine.Engine.sbumit", "head.motor.Engine", "remote.nothing"):
        with pytest.raises(LookupError, match=wrong):
            find(wrong)
