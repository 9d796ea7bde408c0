"""Shows how a run stands, without being asked: on a terminal, in a notebook, and now and then in a file.

Guarantees: it costs a run that ends within a second nothing but a timer; rich is imported when something is drawn on a
terminal. It takes at most a small share of the event loop's time. It never fails a run. It is quiet in tests, on
workers, and where HYPERFLOW_PROGRESS=0 is set.

On a terminal it stays until the environment closes, and leaves one line. Where an environment stays open (in a
notebook, or after `start`), it is there while evaluations run, and leaves one line after each such spell.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from hyperflow import environment
from hyperflow.progress.stderr import is_terminal, say
from hyperflow.progress.tally import Snapshot
from hyperflow.progress.view import View

logger = logging.getLogger("hyperflow")

START = 1.0
"""Runs that end within so many seconds are not shown."""

PAUSE = 0.5
"""At least so many seconds lie between two looks at the run."""

SHARE = 50.0
"""A look may take one part in so many of the time."""

IDLE_LOOKS = 4
"""After so many looks at which nothing is under way, a spell of work has ended."""

BETWEEN_LINES = 60.0
"""Seconds between two lines in a file or pipe."""

Look = Callable[[], Snapshot]


class Screen(Protocol):
    """Where progress is shown."""

    def draw(self, view: View) -> None: ...
    def close(self, line: str) -> None: ...


class Lines:
    """Writes a line to standard error now and then: it goes to a file, or through a pipe."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._written = False

    def draw(self, view: View) -> None:
        """Write a line, if the last one was long ago."""
        now = time.monotonic()
        if now - self._last >= BETWEEN_LINES:
            self._last, self._written = now, True
            say(f"hyperflow: {view.line()}")

    def close(self, line: str) -> None:
        """Write the last line, if there were others."""
        if self._written:
            say(line)


def allowed() -> bool:
    """Tell whether progress may be shown at all."""
    wanted = os.environ.get("HYPERFLOW_PROGRESS") != "0"
    return wanted and "PYTEST_CURRENT_TEST" not in os.environ and not environment.on_worker()


@contextmanager
def showing(look: Look, run: str, wanted: bool) -> Iterator[None]:
    """Show how a run stands within the scope; `run` is its id, `look` tells how it stands."""
    if not wanted or not allowed():
        yield
        return
    display = Display(look, run)
    try:
        yield
    finally:
        display.close()


class Display:
    """Looks at a run now and then, on its event loop, and shows it."""

    def __init__(self, look: Look, run: str) -> None:
        self._look = look
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._view = View(time.monotonic())
        self._screen: Screen | None = None
        self._refused = False
        """Whether something else has the terminal."""
        self._begun = False
        """Whether evaluations were under way at the last look."""
        self._idle = 0
        self._cells = _watch_cells(self._cell_ended)
        self._timer = self._loop.call_later(START, self._tick)

    def _tick(self) -> None:
        began = time.perf_counter()
        try:
            self._show()
        except Exception:
            logger.info("how the run stands is not shown any more", exc_info=True)
            screen, self._screen = self._screen, None
            if screen is not None:
                with suppress(Exception):
                    screen.close("hyperflow: how the run stands is not shown any more")
            return
        pause = max(PAUSE, SHARE * (time.perf_counter() - began))
        self._timer = self._loop.call_later(pause, self._tick)

    def _show(self) -> None:
        now, stands = time.monotonic(), self._look()
        in_spells = _in_spells()
        if self._screen is None:
            if in_spells and not (stands.alive and self._begun):
                self._begun = stands.alive
                if not stands.alive:
                    self._view = View(now, base=stands)
                return
            if not stands.groups and not stands.jobs:
                return
            self._screen = screen_here()
            self._refused = self._screen is None
            if self._screen is None:
                self._view.see(now, stands)
                return
        self._view.see(now, stands)
        self._screen.draw(self._view)
        self._idle = 0 if stands.alive else self._idle + 1
        if in_spells and self._idle >= IDLE_LOOKS:
            self._leave(stands)

    def _leave(self, stands: Snapshot) -> None:
        """End a spell, or all."""
        screen, self._screen = self._screen, None
        line = f"hyperflow: {self._view.last_line()}; hyperflow show {self._run}"
        if screen is not None:
            screen.close(line)
        elif self._refused:
            say(line)
        self._begun, self._refused, self._idle = False, False, 0
        self._view = View(time.monotonic(), base=stands)

    def _cell_ended(self, *_: object) -> None:
        """A cell has ended. Where IPython's loop stops with it, or nothing is under way, so does the display."""
        with suppress(Exception):
            stands = self._look()
            if self._screen is not None and not (stands.alive and _kernel() is not None):
                self._view.see(time.monotonic(), stands)
                self._leave(stands)

    def close(self) -> None:
        """End the display; the run ends."""
        self._timer.cancel()
        if self._cells is not None:
            self._cells()
        if self._screen is None and not self._refused:
            return
        try:
            stands = self._look()
            self._view.see(time.monotonic(), stands)
            self._leave(stands)
        except Exception:
            logger.info("the last line could not be shown", exc_info=True)


def screen_here() -> Screen | None:
    """Return where to show progress here; None if something else is drawn on the terminal."""
    if _kernel() is not None:
        from hyperflow.progress.notebook import Notebook  # noqa: PLC0415 (it is for notebooks only)

        return Notebook()
    if not is_terminal(sys.stderr):
        return Lines()
    from hyperflow.progress import terminal  # noqa: PLC0415 (it imports rich)

    return terminal.open_here()


def _in_spells() -> bool:
    """Tell whether the environment stays open while nothing is to be done."""
    return _kernel() is not None or environment.started() is not None


def _shell() -> Any:
    """Return IPython's shell; None where there is none."""
    ipython: Any = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _kernel() -> Any:
    """Return the kernel of the notebook; None where there is none."""
    return getattr(_shell(), "kernel", None)


def _watch_cells(ended: Callable[..., None]) -> Callable[[], None] | None:
    """Be told when a cell ends; return what ends that. Without IPython, do nothing."""
    if (shell := _shell()) is None:
        return None
    shell.events.register("post_run_cell", ended)
    return functools.partial(shell.events.unregister, "post_run_cell", ended)
