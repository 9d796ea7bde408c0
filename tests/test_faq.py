"""The messages that the page of questions quotes are those that hyperflow says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperflow import errors
from tests.imports import TOP

PAGE = (TOP / "docs" / "faq.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
HOLE = "\0"
"""What stands in a text of the source for a value that is filled in."""
LEAST = 12
"""So many characters of a message have to be fixed: fewer would be found anywhere."""
_FILLED = re.compile(r"%(?:\.\d+)?[sdgrf]")


def _text(node: ast.expr) -> str | None:
    """Return what an expression says, with a HOLE for each value; None if it is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return _FILLED.sub(HOLE, text)
        case ast.JoinedStr(values=parts):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = _text(left), _text(right)
            return None if one is None and other is None else (one or HOLE) + (other or HOLE)
        case _:
            return None


def _texts(path: Path) -> Iterator[str]:
    """Yield all texts of a module but the docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and id(node) not in comments and (text := _text(node)):
            yield text


@pytest.fixture(scope="module")
def said() -> list[list[str]]:
    """Return the texts of each module."""
    return [list(_texts(path)) for path in sorted((TOP / "hyperflow").rglob("*.py"))]


def fixed(message: str) -> list[str]:
    """Return the parts of a message between its dots."""
    return [part for part in (dotted.strip(" :;,().") for dotted in message.split("...")) if part]


def is_said(message: str, said: list[list[str]]) -> bool:
    """Whether one module has a text for each fixed part of a message."""
    parts = fixed(message)
    return sum(map(len, parts)) >= LEAST and any(
        all(any(part in text for text in texts) for part in parts) for texts in said
    )


@pytest.mark.parametrize("message", QUOTED)
def test_message_is_said(message: str, said: list[list[str]]) -> None:
    """Each fixed part of a quoted message is in the source, and all of them in one module."""
    assert is_said(message, said), fixed(message)


def test_what_nobody_says_is_found_out(said: list[list[str]]) -> None:
    """A message that was reworded fails, and so does one that is quoted without a fixed part."""
    assert not is_said("cannot reach ... by telnet: ...", said)
    assert not is_said("... is ... of ...", said)


def test_page_has_the_common_ones_once() -> None:
    """There are at least 25 messages, no two alike."""
    assert len(QUOTED) >= 25
    assert len(set(QUOTED)) == len(QUOTED)


def test_errors_that_are_linked_exist() -> None:
    """Each link to the page of an error or a warning is called by its name."""
    links = re.findall(r"\[(\w+)\]\(reference/errors/(\w+)\.md\)", PAGE)
    assert len(links) > 20
    for name, target in links:
        assert name == target
        assert issubclass(getattr(errors, name), errors.HyperflowError | RuntimeWarning)
