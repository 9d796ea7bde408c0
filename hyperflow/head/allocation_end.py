"""The end of an allocation: when it comes, who says so, and what is done before it.

Guarantees: from the notice on nothing is started. What runs may go on until CUT_OFF before the end. Flows that wait get
their error only when nothing runs any more: a flow that gets it cancels its siblings, and their results would be lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from hyperflow.errors import AllocationEnding

logger = logging.getLogger("hyperflow")

USUAL_MARGIN = 60.0
"""How long before the end the job gets its notice, in seconds, unless the user has set another margin."""

CUT_OFF = 10.0
"""Seconds before the end of an allocation (at most a quarter of the notice) at which what still runs is ended."""


class Notice(NamedTuple):
    """What a signal says of the end."""

    why: str
    seconds: float | None = None  # how long the allocation lasts from then on; None if the clock says so


class End(NamedTuple):
    """When an allocation ends, as far as that is known."""

    at: float | None  # seconds since 1970
    margin: float
    """Seconds before `at` at which the job gets its notice. 0 for USUAL_MARGIN, or a quarter of what is left if
    less."""
    signals: Mapping[int, Notice] = MappingProxyType({})  # that announce it, by number

    def seconds_left(self) -> float:
        """Return how long the allocation lasts; 0 if that is not known."""
        return max(self.at - time.time(), 0.0) if self.at is not None else 0.0


class Drain:
    """Brings what runs to an end before the allocation ends.

    Args:
        on_begin: Called when the end is near: start nothing more.
        turn_away: Called with the error for all that is left, when nothing runs any more or the time is up.
    """

    def __init__(
        self, on_begin: Callable[[AllocationEnding], None], turn_away: Callable[[AllocationEnding], None]
    ) -> None:
        self.begun: AllocationEnding | None = None
        self.over: AllocationEnding | None = None
        """The same error, once all that was left has got it."""
        self.near = self.cut_off = math.inf
        """When it begins, and when what still runs is ended, on the loop's clock, as far as that is known."""
        self._on_begin = on_begin
        self._turn_away = turn_away
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._signals: list[int] = []

    def expect(self, end: End) -> None:
        """Begin when the end is near, by the clock or by a signal."""
        if end.at is not None:
            left = end.seconds_left()
            margin = min(end.margin or min(USUAL_MARGIN, left / 4), left)
            pause = left - margin
            self.near = self._loop.time() + pause
            self.cut_off = self.near + _usable(margin)
            self._timers.append(self._loop.call_later(pause, self.begin, end, Notice("its time limit is near")))
        if threading.current_thread() is threading.main_thread():  # others cannot have signal handlers
            for signum, notice in end.signals.items():
                self._loop.add_signal_handler(signum, self.begin, end, notice)
                self._signals.append(signum)

    def begin(self, end: End, notice: Notice) -> None:
        """The end is near: nothing more is started. Only the first notice counts."""
        if self.begun is not None:
            return
        seconds = end.seconds_left() if notice.seconds is None else notice.seconds
        logger.warning("the allocation ends (%s), in %.0f s: nothing more is started", notice.why, seconds)
        self.begun = AllocationEnding(notice.why, seconds)
        pause = _usable(seconds)
        self.near = self._loop.time()
        self.cut_off = self.near + pause
        self._timers.append(self._loop.call_later(pause, self.finish))
        self._on_begin(self.begun)

    def finish(self) -> None:
        """Nothing runs any more, or the time is up."""
        if self.begun is not None:
            self.over = self.begun
            self._turn_away(self.begun)

    def close(self) -> None:
        """Stop watching: nothing is left to be drained."""
        for timer in self._timers:
            timer.cancel()
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)


def _usable(seconds: float) -> float:
    """Return how much of the time after the notice evaluations can have."""
    return seconds - min(CUT_OFF, seconds / 4)
