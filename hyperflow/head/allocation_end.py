"""The end of an allocation: when it comes, who says so, and how what runs is brought to an end before it.

Guarantees: from the announcement on nothing is started. What runs may go on until CUT_OFF before the end. Only when
nothing runs any more, the flows that await the others get the error: a flow that gets it cancels its siblings, and what
those had computed would be lost.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping

import attrs

from hyperflow.errors import AllocationEnding

logger = logging.getLogger("hyperflow")

USUAL_MARGIN = 60.0
"""Seconds before the end at which a job is told, unless the user has set another margin."""

CUT_OFF = 10.0
"""Seconds before the end of an allocation (at most a quarter of the notice) at which what still runs is ended."""


@attrs.frozen
class Notice:
    """What a signal says of the end.

    Args:
        why: In words.
        seconds: How long the allocation lasts from then on, if the signal says so; None if the clock does.
    """

    why: str
    seconds: float | None = None


@attrs.frozen
class End:
    """When an allocation ends, as far as that is known.

    Args:
        at: Seconds since 1970, or None.
        margin: How many seconds before that the job is told; 0 for USUAL_MARGIN, or a quarter of the time that is left
            now, if that is less.
        signals: Signals that announce it, by number.
    """

    at: float | None
    margin: float
    signals: Mapping[int, Notice] = attrs.field(factory=dict[int, Notice])

    def seconds_left(self) -> float:
        """Return how long the allocation lasts; 0 if that is not known."""
        return max(self.at - time.time(), 0.0) if self.at is not None else 0.0


class EndWatch:
    """Calls `announce(why, seconds left)` when the end is near, by the clock or by a signal."""

    def __init__(self, end: End, announce: Callable[[str, float], None]) -> None:
        self._end = end
        self._announce = announce
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._signals: list[int] = []
        if end.at is not None:
            left = end.seconds_left()
            pause = max(left - (end.margin or min(USUAL_MARGIN, left / 4)), 0.0)
            self._timer = self._loop.call_later(pause, self._tell, Notice("its time limit is near"))
        if threading.current_thread() is threading.main_thread():  # others cannot have signal handlers
            for signum, notice in end.signals.items():
                self._loop.add_signal_handler(signum, self._tell, notice)
                self._signals.append(signum)

    def _tell(self, notice: Notice) -> None:
        self._announce(notice.why, self._end.seconds_left() if notice.seconds is None else notice.seconds)

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)


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
        self._on_begin = on_begin
        self._turn_away = turn_away
        self._watch: EndWatch | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, end: End) -> None:
        """Begin when the end is near."""
        self._watch = EndWatch(end, self.begin)

    def begin(self, why: str, seconds: float) -> None:
        """The allocation ends in so many seconds."""
        if self.begun is not None:
            return
        logger.warning("the allocation ends (%s), in %.0f s: nothing more is started", why, seconds)
        self.begun = AllocationEnding(why, seconds)
        pause = seconds - min(CUT_OFF, seconds / 4)
        self._timer = asyncio.get_running_loop().call_later(pause, self.finish)
        self._on_begin(self.begun)

    def finish(self) -> None:
        """Nothing runs any more, or the time is up."""
        if self.begun is not None:
            self.over = self.begun
            self._turn_away(self.begun)

    def close(self) -> None:
        """Forget the end: nothing is left to be drained."""
        if self._watch is not None:
            self._watch.close()
        if self._timer is not None:
            self._timer.cancel()
