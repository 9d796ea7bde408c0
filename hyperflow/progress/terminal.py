"""The live display at the bottom of a terminal. What the program prints meanwhile appears above it.

Guarantees: there is one in a process. When it ends, standard streams are as they were, and it leaves the line that it
is told to leave. The cursor is never hidden, so that a kill leaves a terminal in order.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

from rich.console import Console, Group
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyperflow.progress.stderr import drawing, is_terminal, say
from hyperflow.progress.view import HEADINGS, Row, View

OTHER_LINES = 6
"""Lines of a terminal that are not for rows: headings, the line below, the prompt and what was printed last."""

GAP = 2
"""Blanks between columns."""

SHORTEST = 8
"""Columns of the terminal that a name has at least."""


class _Console(Console):
    """A console that leaves the cursor alone, and breaks no lines of the program."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
        return False

    def print(self, *objects: Any, **options: Any) -> None:
        options.setdefault("soft_wrap", True)
        super().print(*objects, **options)


class Terminal:
    """Shows a View on standard error, which is a terminal."""

    def __init__(self) -> None:
        self._console = _Console(stderr=True, highlight=False)
        # No auto_refresh: a thread would draw while somebody is asked something, or a debugger has stopped the loop.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=is_terminal(sys.stdout),  # what goes to a file stays there
            redirect_stderr=True,
            vertical_overflow="crop",
        )
        before = sys.stdout, sys.stderr
        self._live.start()
        self._handlers = _hand_over(before, (sys.stdout, sys.stderr))

    def draw(self, view: View) -> None:
        """Show how the run stands now."""
        self._live.update(drawn(view, *self._console.size), refresh=True)

    def close(self, line: str) -> None:
        """Leave the terminal, with this line on it."""
        try:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, FileProxy):
                    stream.flush()  # half a line
            self._live.stop()
        finally:
            for handler, stream in self._handlers:
                handler.setStream(stream)
            drawing.release()
        say(line)


def open_here() -> Terminal | None:
    """Take the terminal; return None if something else is drawn on it."""
    if not drawing.acquire(blocking=False):
        return None
    try:
        return Terminal()
    except BaseException:
        drawing.release()
        raise


def drawn(view: View, width: int, height: int) -> Group:
    """Return what is drawn on a terminal of this size."""
    rows = view.rows(max(height - OTHER_LINES, 1))
    headings, widths = _fitting(rows, width)
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    # rich itself would shrink all columns alike, and cut numbers.
    table.add_column(headings[0], no_wrap=True, max_width=max(width - sum(widths[1:]) - GAP * len(widths), SHORTEST))
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, _STYLES.get(heading, "")) for heading, cell in zip(headings, row, strict=False)))
    return Group(table, Text(view.foot(len(rows)), no_wrap=True, overflow="ellipsis", style="bold"))


def _fitting(rows: list[Row], width: int) -> tuple[list[str], list[int]]:
    """Return the headings that have room, and how wide their columns are: a number that is cut is a wrong one."""
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    while len(widths) > 1 and SHORTEST + sum(widths[1:]) + GAP * len(widths) > width:
        widths.pop()
    return list(HEADINGS[: len(widths)]), widths


_STYLES = {"running": "green", "failed": "bold red"}


def _hand_over(before: tuple[TextIO, TextIO], now: tuple[TextIO, TextIO]) -> list[tuple[Any, TextIO]]:
    """Make the program's log appear above the display; return what is to be put back."""
    changed: list[tuple[Any, TextIO]] = []
    for handler in logging.getLogger().handlers:
        for old, new in zip(before, now, strict=True):
            if type(handler) is logging.StreamHandler and handler.stream is old and new is not old:
                changed.append((handler, old))
                handler.setStream(new)
                break
    return changed
