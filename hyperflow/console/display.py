"""Shows a running program's jobs: a live table on a terminal, elsewhere a line for each change of state.

All of it goes to standard error; standard output has the program's own output only. What the program prints while the
table is shown appears above it. The lines are records of the logger "hyperflow"; a file in the program's log directory
has them, too. Where the program has set up logging itself, nothing is printed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hyperflow.console.table import counts_in_words, held_in_words, jobs_table
from hyperflow.master.master import Master
from hyperflow.progress.stderr import drawing

logger = logging.getLogger("hyperflow")

FRAME = 0.2
"""At least so many seconds lie between two redraws of the table."""

AGE = 1.0
"""The table is redrawn after so many seconds without a change, because its ages change."""


def say(console: Console, text: str) -> None:
    """Print a line unchanged."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Lines(logging.Handler):
    """Prints log records on the console, which shows them above the table."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self._console, self.format(record))
        except Exception:  # noqa: BLE001 (logging must not end a program)
            self.handleError(record)


@contextmanager
def logging_to(console: Console, log_file: Path, verbose: bool) -> Iterator[None]:
    """Print log records, and write them to a file."""
    level = logger.level
    handlers: list[logging.Handler] = []
    if not logger.handlers and not logging.getLogger().handlers:
        lines = _Lines(console)
        lines.setLevel(logging.INFO if verbose or not has_table(console) else logging.WARNING)
        handlers.append(lines)
    with suppress(OSError):
        kept = logging.FileHandler(log_file)
        kept.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(kept)
    for handler in handlers:
        logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def has_table(console: Console) -> bool:
    """Tell whether this is a terminal that can redraw a table, and is to show one."""
    return console.is_terminal and not console.is_dumb_terminal and os.environ.get("HYPERFLOW_PROGRESS") != "0"


class LiveTable:
    """The table of a master's jobs at the bottom of the terminal; where there is no terminal, nothing."""

    def __init__(self, master: Master, console: Console) -> None:
        self.shown = has_table(console)
        self._master = master
        self._console = console
        self._live = self._made()

    def _made(self) -> Live:
        # No auto_refresh: its thread would draw while the jobs change; `follow` draws afterwards. Standard output that
        # goes to a file stays there.
        return Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
            vertical_overflow="crop",
        )

    def aside(self) -> None:
        """Free the terminal for a question; the last table stays on it."""
        if self.shown:
            self.draw()
            self._live.stop()

    def back(self) -> None:
        """Show the table again, below what was written while it was hidden."""
        if self.shown:
            self._live = self._made()  # one that was stopped would begin by drawing over as many lines as it had
            self._live.start()
            self.draw()

    def draw(self) -> None:
        """Draw the jobs as they are now."""
        jobs = self._master.jobs()
        size = self._console.size
        room = max(size.height - 4, 1)
        table = jobs_table(jobs, time.time(), width=size.width, rows=room, slurm=not self._master.batch.local)
        words = counts_in_words(job.state for job in jobs)
        if held := held_in_words(jobs):
            words += f"; {held}"
        line = Text(words, style="bold", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(table, line), refresh=True)

    async def follow(self) -> None:
        """Redraw after each change."""
        seen = self._master.version
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(AGE):
                    seen = await self._master.changed(seen)
            if self._live.is_started:
                self.draw()
            await asyncio.sleep(FRAME)


@asynccontextmanager
async def showing(master: Master, console: Console) -> AsyncIterator[LiveTable]:
    """Show the jobs of a master within a scope, if there is a terminal to show them on."""
    table = LiveTable(master, console)
    if not table.shown:
        yield table
        return
    mine = drawing.acquire(blocking=False)  # so that a job in this process leaves the terminal to the table
    table.back()
    following = asyncio.create_task(table.follow(), name="table of jobs")
    try:
        yield table
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        table.aside()
        if mine:
            drawing.release()
