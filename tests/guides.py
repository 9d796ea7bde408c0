"""The pages of docs/ that a newcomer follows: their files, commands and cells, taken out of the text.

A block of Python that begins with `# NAME.py` is a file; others are cells of a notebook, with what they show below, if
anything, as an indented block. In a block of the console, lines after `$ ` are commands, with their output below; dots
there stand for anything.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.imports import TOP

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```\n(?:\n((?: {4}[^\n]*\n)+))?", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


@attrs.frozen
class Block:
    """A file with its name, a command with its output, or a cell with what it shows."""

    kind: str
    text: str
    about: str


def blocks(page: str) -> Iterator[Block]:
    """Give the blocks of a page in their order."""
    for language, text, below in _BLOCK.findall((TOP / "docs" / page).read_text()):
        if language == "python":
            name = _FILE.match(text)
            shows = below.replace("    ", "").strip()
            yield Block("file", text, name[1]) if name else Block("cell", text, shows)
        else:
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Block("command", command, output)


def matches(output: str, expected: str) -> bool:
    """Whether it is the output, line by line; dots stand for anything, spaces at a line's end for nothing."""
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
    said = "\n".join(line.rstrip() for line in output.strip().splitlines())
    return re.fullmatch(pattern, said, re.DOTALL) is not None


def write(block: Block, directory: Path) -> None:
    """Write a file."""
    (directory / block.about).write_text(block.text)
