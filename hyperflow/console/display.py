"""What is shown while a program runs: a live table on a terminal, a line for each change of state anywhere else.

Everything is on standard error, so that standard output has what the program itself says, and nothing else. What the
program prints while the table is there appears above it. The lines are those of the logger "hyperflow", which a file in
the program's log directory keeps as well; where the program has set up logging by itself, that is left alone.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from hyperflow.console.table import counts_in_words, jobs_table
from hyperflow.master.lifecycle import State
from hyperflow.master.master import Master

logger = logging.getLogger("hyperflow")

FRAME = 0.2
"""Seconds between two pictures of the table, at least."""

AGE = 1.0
"""Seconds after which it is drawn again though nothing has changed: the column of ages has."""


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class _Lines(logging.Handler):
    """Prints records on the console, which knows how to keep them out of the table."""

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
    """Print what is logged, and keep it in a file."""
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
    """Tell whether there is a terminal that can show a table that changes."""
    return console.is_terminal and not console.is_dumb_terminal


class LiveTable:
    """The table of a master's jobs at the bottom of the terminal; where there is no terminal, nothing."""

    def __init__(self, master: Master, console: Console) -> None:
        self.shown = has_table(console)
        self._master = master
        self._console = console
        # Its own thread would draw while the jobs change; we draw when they have. What the program prints goes to a
        # file, if that is where it is to go.
        self._live = Live(
            console=console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
            vertical_overflow="crop",
        )

    def aside(self) -> None:
        """Leave the terminal to somebody else; what was shown last stays."""
        if self.shown:
            self.draw()
            self._live.stop()

    def back(self) -> None:
        """Go on below what has been written meanwhile."""
        if self.shown:
            self._live.start()
            self.draw()

    def draw(self) -> None:
        """Draw the table as it is now."""
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        jobs = self._master.jobs()
        size = self._console.size
        room = max(size.height - 4, 1)
        table = jobs_table(jobs, time.time(), width=size.width, rows=room, slurm=not self._master.batch.local)
        words = counts_in_words(job.state for job in jobs)
        if held := [job.number for job in jobs if job.state is State.HELD]:
            words += f"; held jobs wait for you: hyperflow why {held[0]}"
        return Group(table, Text(words, style="bold", no_wrap=True, overflow="ellipsis"))

    async def follow(self) -> None:
        """Draw whenever something has changed."""
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
    table.back()
    following = asyncio.create_task(table.follow(), name="table of jobs")
    try:
        yield table
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        table.aside()
