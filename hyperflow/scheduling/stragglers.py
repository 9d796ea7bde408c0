"""Which evaluations are stragglers: those that take much longer than their function mostly does.

Only evaluations that ask for it (`using(straggler_factor=...)`) are watched, and only their times count here. The
clock is the caller's.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

from hyperflow.scheduling.state import SENT, Effect, Send, Task
from hyperflow.wire.numbers import TaskNumber

SAMPLES = 10
"""So many evaluations of a function must have ended before one counts as a straggler."""

MOST_SAMPLES = 200
"""The last ones count."""

LEAST_SECONDS = 0.25
"""What runs for less is no straggler: to fork a worker and to send the call takes some of that."""

QUANTILE = 0.95


class Times:
    """How long the last evaluations of a function took."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """One took so long."""
        self._by_age.append(seconds)
        insort(self._sorted, seconds)
        if len(self._by_age) > MOST_SAMPLES:
            del self._sorted[bisect_left(self._sorted, self._by_age.popleft())]

    def quantile(self) -> float | None:
        """Return what 95 of 100 did not exceed; None while too few are known."""
        if len(self._sorted) < SAMPLES:
            return None
        return self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]


class Watched:
    """An evaluation that may get a copy."""

    __slots__ = ("factor", "function", "since", "task")

    def __init__(self, task: Task, function: str, factor: float) -> None:
        self.task = task
        self.function = function
        self.factor = factor
        self.since = math.inf  # when it was sent to a worker


class Stragglers:
    """The evaluations that are watched."""

    def __init__(self) -> None:
        self.watched: dict[TaskNumber, Watched] = {}
        self.running: dict[TaskNumber, Watched] = {}
        """Those that were sent to a worker."""
        self._times: dict[str, Times] = {}

    def watch(self, task: Task, function: str, factor: float) -> None:
        """An evaluation was submitted."""
        self.watched[task.number] = Watched(task, function, factor)

    def sent(self, effects: Iterable[Effect], now: float) -> None:
        """The scheduler has sent tasks, perhaps again."""
        for effect in effects:
            if isinstance(effect, Send):
                for task in effect.tasks:
                    watched = self.watched.get(task.number)
                    if watched is not None:
                        watched.since = now
                        self.running[task.number] = watched

    def forget(self, task: TaskNumber) -> None:
        """It has ended without a result, or has a copy."""
        self.watched.pop(task, None)
        self.running.pop(task, None)

    def answered(self, task: TaskNumber, seconds: float) -> None:
        """It has ended with a result."""
        watched = self.watched.get(task)
        if watched is not None:
            self.forget(task)
            self.took(watched.function, seconds)

    def took(self, function: str, seconds: float) -> None:
        """An evaluation of this function took so long."""
        times = self._times.get(function)
        if times is None:
            times = self._times[function] = Times()
        times.add(seconds)

    def due(self, now: float) -> list[Watched]:
        """Return those that take too long, the one that exceeds its time most first."""
        found: list[tuple[float, Watched]] = []
        for watched in self.running.values():
            times = self._times.get(watched.function)
            usual = times.quantile() if times is not None else None
            if usual is not None and watched.task.state is SENT:
                excess = (now - watched.since) / max(watched.factor * usual, LEAST_SECONDS)
                if excess > 1.0:
                    found.append((excess, watched))
        return [watched for _, watched in sorted(found, key=lambda pair: -pair[0])]
