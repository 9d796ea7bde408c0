"""How far a long piece of work has come: bars on a terminal, now and then a line elsewhere; on standard error.

Several pieces may run side by side: each has a bar of its own. HYPERFLOW_PROGRESS=0 switches everything off.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_LINE = 2.0
"""Seconds before the first line: work that is done by then needs none."""

NEXT_LINE = 10.0
"""Seconds between lines: a night's log stays readable."""

_bars: "Progress | None" = None
"""All bars of the process; a terminal has one place at its bottom."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show progress for a scope; call what it gives once for each of the `total` things that are done."""
    if os.environ.get("HYPERFLOW_PROGRESS") == "0":
        yield lambda: None
    elif sys.stderr.isatty():
        with _bar(what, total) as done:
            yield done
    else:
        yield _lines(what, total)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    # Imported here, because most runs of a program are in a batch job, without a terminal.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    global _bars  # noqa: PLW0603 - see its text
    if _bars is None:
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        _bars = Progress(*columns, console=Console(stderr=True), transient=True)
        _bars.start()
    bars, task = _bars, _bars.add_task(what, total=total)
    try:
        yield lambda: bars.advance(task)
    finally:
        bars.stop_task(task)
        if all(one.stop_time is not None for one in bars.tasks):
            bars.stop()
            _bars = None


def _lines(what: str, total: int) -> Callable[[], None]:
    began = time.monotonic()
    count = 0
    due = began + FIRST_LINE

    def done() -> None:
        nonlocal count, due
        count += 1
        now = time.monotonic()
        if now >= due:
            due = now + NEXT_LINE
            print(f"{what}: {count} of {total} after {now - began:.0f} s", file=sys.stderr, flush=True)

    return done
