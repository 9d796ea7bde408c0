"""The pages of docs/ that a newcomer follows: their files, commands and cells, taken out of the text.

A block of Python, of the shell or of TOML that begins with `# NAME` is a file; other Python is a cell of a notebook,
with what it shows below, if anything, as an indented block. In a block of the console, lines after `$ ` are commands,
with their output below; dots there stand for anything.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.imports import TOP

_BLOCK = re.compile(r"^```(python|console|sh|toml)\n(.*?)^```\n(?:\n((?: {4}[^\n]*\n)+))?", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#!.*\n)?# ([\w.]+)\n")


@attrs.frozen
class Block:
    """A file with its name, a command with its output, or a cell with what it shows."""

    kind: str
    text: str
    about: str


def blocks(page: str) -> Iterator[Block]:
    """Give the blocks of a page in their order."""
    for language, text, below in _BLOCK.findall((TOP / "docs" / page).read_text()):
        if language != "console":
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
    """Write a file; one that says what runs it can be run."""
    path = directory / block.about
    path.write_text(block.text)
    if block.text.startswith("#!"):
        path.chmod(0o755)
