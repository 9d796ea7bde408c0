"""Scripts on a terminal: what is on its screen, not what was written to it."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from tests.console.programs import LEADER
from tests.helpers import block_until
from tests.programs.runs import surroundings
from tests.support import script

SIZE = 20, 100

_PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(\x1b)")


def on_it(written: str) -> list[str]:
    """Return the lines that a terminal shows, scrolled ones included, when this was written to it."""
    lines, row, column = [""], 0, 0
    for match in _PIECE.finditer(written):
        number, order, move, text, _ = match.groups()
        if order == "A":
            row = max(row - int(number or 1), 0)
        elif order == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif move == "\r":
            column = 0
        elif move == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]


class Screen:
    """A program on a terminal of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self._terminal = terminal
        self._written = b""

    @property
    def written(self) -> str:
        """All that was written to the terminal so far."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self._terminal, 65536):
                self._written += data
        return self._written.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What stands on it now."""
        return on_it(self.written)

    def wait_for(self, words: str) -> None:
        """Wait until something stands on it."""
        block_until(lambda: words in "\n".join(self.lines), 20, f"{words!r} on the screen", state=lambda: self.lines)

    def wait_in(self, file: Path, words: str) -> None:
        """Wait until something stands in a file."""
        block_until(
            lambda: file.exists() and words in file.read_text(), 20, f"{words!r} in {file}", state=file.read_text
        )

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._terminal, keys.encode())

    def end(self) -> list[str]:
        """Wait for the end of the program, and return what it leaves."""
        block_until(lambda: (self.written, self.process.poll())[1] is not None, 20, "the end", state=lambda: self.lines)
        return [line for line in self.lines if line]


@contextlib.contextmanager
def shown(directory: Path, source: str, **changes: str) -> Iterator[Screen]:
    """Run a script on a terminal, not as a part of a test."""
    ours, its = pty.openpty()
    try:
        termios.tcsetwinsize(its, SIZE)
        os.set_blocking(ours, False)
        hidden = ("COLUMNS", "LINES", "PYTEST_CURRENT_TEST")
        variables = surroundings(**{"TERM": "xterm-256color", "TMPDIR": str(directory), **changes})
        with subprocess.Popen(
            [sys.executable, "-c", LEADER, sys.executable, str(script(directory, source))],
            cwd=directory,
            env={name: value for name, value in variables.items() if name not in hidden},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        ) as process:
            try:
                yield Screen(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(its)
