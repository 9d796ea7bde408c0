"""Each public error has a page with its cause and its remedy, and the message on it is the one that users see."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow import errors
from tests.error_examples import example
from tests.imports import TOP

PLACE = TOP / "docs/reference/errors"

HEADINGS = ["## Cause", "## Remedy", "## Is it tried again?", "## Where it comes from"]

PUBLIC = {
    name: one
    for name, one in vars(errors).items()
    if isinstance(one, type) and issubclass(one, Exception) and one.__module__ == errors.__name__
}


def page(name: str) -> str:
    """Return the page of an error."""
    return (PLACE / f"{name}.md").read_text()


def test_each_error_has_a_page_and_each_page_an_error() -> None:
    """None is missing, and none is left of an error that has gone."""
    assert {file.stem for file in PLACE.glob("*.md")} - {"index"} == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
async def test_a_page(name: str, tmp_path: Path) -> None:
    """It has a sentence, the message as Python prints it, what to know and to do, and the class."""
    title, sentence, block, rest = page(name).split("\n\n", 3)

    assert title == f"# {name}"
    assert sentence.endswith(".")
    shown = block.removeprefix("```text\n").removesuffix("\n```")
    pattern = ".*".join(map(re.escape, shown.split("...")))
    assert re.fullmatch(pattern, await example(name, tmp_path), re.DOTALL), await example(name, tmp_path)
    assert re.findall("^## .*$", rest, re.MULTILINE) == HEADINGS
    assert rest.rstrip().endswith(f"```{{eval-rst}}\n.. autoexception:: hyperflow.{name}\n   :show-inheritance:\n```")


def test_the_tree() -> None:
    """The list of all errors has each below its class above, with the first sentence of its page."""
    entries = re.findall(r"^( *)- \[(\w+)\]\(\w+\.md\): (.*)$", page("index"), re.MULTILINE)
    above: list[str] = []
    for indent, name, sentence in entries:
        depth = len(indent) // 2
        above = [*above[:depth], name]
        parent = PUBLIC[name].__bases__[0].__name__

        assert parent == (
            above[-2] if depth else "RuntimeWarning" if PUBLIC[name] is not hf.HyperflowError else "Exception"
        )
        assert sentence == " ".join(page(name).split("\n\n")[1].split())
    assert sorted(name for _, name, _ in entries) == sorted(PUBLIC)
