"""The end of an allocation: when it comes, and who says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping

import attrs

USUAL_MARGIN = 60.0
"""Seconds before the end at which a job is told, if nobody has said otherwise."""


@attrs.frozen
class Notice:
    """What a signal says of the end.

    Args:
        why: In words.
        seconds: How long the allocation lasts from then on, if the signal says so and not the clock.
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
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
        for signum in self._signals:
            self._loop.remove_signal_handler(signum)
