"""docs/design.md: what it says about the code is there."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "design.md").read_text(encoding="utf-8")


def names(text: str) -> list[str]:
    """Return the names in "The way of one evaluation": those in backticks with a dot, which are no files or calls."""
    section = text.partition("\n## The way of one evaluation\n")[2].partition("\n## ")[0]
    return [name for name in re.findall("`([^`]+)`", section) if re.fullmatch(r"[a-z_]+(\.\w+)+", name)]


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
    raise LookupError(f"docs/design.md, the way of one evaluation: there is no {name}")


def test_the_way_of_one_evaluation() -> None:
    """Every module, class and function that the way names exists, and it names a good number of them."""
    found = names(TEXT)

    assert len(found) > 20
    assert all(find(name) is not None for name in found)


def test_a_name_that_is_wrong_is_found() -> None:
    """A function that was renamed, and a module that was moved, are noticed."""
    assert names("\n## The way of one evaluation\n`a.b` `wire/x.py` `await f(x)`\n## Next\n`c.d`") == ["a.b"]
    for wrong in ("head.engine.Engine.sbumit", "head.motor.Engine", "remote.nothing"):
        with pytest.raises(LookupError, match=wrong):
            find(wrong)
