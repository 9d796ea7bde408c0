"""Who goes first: larger priorities, and of one priority those that came first. Nobody waits for ever.

An hour of waiting counts as much as one of priority. When a task was submitted follows from its number: now and then it
is noted which numbers there are by then, so that no task costs a look at the clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from hyperflow.request import Request
from hyperflow.scheduling.state import Key
from hyperflow.wire.numbers import TaskNumber

LEVEL_SECONDS = 3600.0
"""Whoever has waited for so long goes before those who have one more of priority."""

TICK = 60.0
"""Seconds between notes, at least."""


class Order:
    """The order of what waits."""

    def __init__(self) -> None:
        self._newest: list[TaskNumber] = []  # the newest task
        self._times: list[float] = []  # when that had come

    def note(self, now: float, waiting: Iterable[TaskNumber]) -> None:
        """The newest of each queue; called now and then while something waits."""
        newest = max(waiting)
        if not self._newest or newest > self._newest[-1]:
            self._newest.append(newest)
            self._times.append(now)

    def is_due(self, now: float) -> bool:
        """Whether it is time for a note."""
        return not self._times or now - self._times[-1] >= TICK

    def forget(self, before: TaskNumber) -> None:
        """Nothing older than this waits."""
        gone = bisect_left(self._newest, before)
        del self._newest[:gone], self._times[:gone]

    def level(self, request: Key, number: TaskNumber, now: float) -> int:
        """Return the priority of a task that waits: what it was given, and the hours that it has waited."""
        at = bisect_left(self._newest, number)
        waited = now - self._times[at] if at < len(self._times) else 0.0
        return priority_of(request) + int(waited / LEVEL_SECONDS)


def priority_of(request: Key) -> int:
    """Return the priority that was given."""
    return request.priority if type(request) is Request else 0
