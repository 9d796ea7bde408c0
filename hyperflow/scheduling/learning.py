"""What evaluations of a function need, learned from those before: memory and time, for `using(memory="auto")`.

Pure numbers. While little is known, an evaluation gets a share of a node. One that needs more is killed at its limit,
and runs again with twice as much, or what is known by then, up to a whole node. As soon as a few have ended, the next
ones get what most of the last ones did not exceed, with a margin: a larger quantile wastes memory on all, a smaller one
kills more of them. Amounts are rounded up to steps, so that they do not change with each evaluation.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

FEW = 3
"""So many evaluations must have ended before they tell anything."""

KEPT = 200
"""The last ones count."""

QUANTILE = 0.95
"""This part of the last ones needed no more."""

MARGIN = 1.25
"""What the next ones get beyond that."""

LEAST = 64 << 20
"""Bytes; less is not worth to be told apart."""


class Recent:
    """The last values of something."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._by_age: deque[float] = deque()
        self._sorted: list[float] = []
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Take in the next one."""
        self._by_age.append(value)
        insort(self._sorted, value)
        if len(self._by_age) > KEPT:
            del self._sorted[bisect_left(self._sorted, self._by_age.popleft())]

    def most(self) -> float | None:
        """Return what most of them do not exceed; None while there are too few."""
        if len(self._sorted) < FEW:
            return None
        return self._sorted[math.ceil(QUANTILE * len(self._sorted)) - 1]

    def last(self, count: int) -> list[float]:
        """Return the newest, the oldest of them first."""
        return list(self._by_age)[-count:]


class Learned:
    """What is known of one function.

    Args:
        peaks, seconds: Bytes and seconds of earlier evaluations.
    """

    def __init__(self, peaks: Iterable[float] = (), seconds: Iterable[float] = ()) -> None:
        self.peaks = Recent(peaks)
        self.seconds = Recent(seconds)
        self.exceeded = 0
        """How often one needed more than it was given, and ran again."""
        self.given = self.used = 0.0
        """Bytes times seconds, of all that has ended or was killed: what was kept for it, and what came to use."""
        self._raised = 0  # the most that was given again while little is known

    def memory(self, share: int, whole: int) -> int:
        """Return how many bytes the next evaluation is given; `share` if nothing is known, `whole` at most."""
        most = self.peaks.most()
        if most is None:
            return min(max(share, self._raised, LEAST), whole)
        return min(stepped(max(round(most * MARGIN), LEAST)), whole)

    def min_time(self) -> float:
        """Return for how long a node must be there for the next evaluation; 0 if nothing is known."""
        most = self.seconds.most()
        return 0.0 if most is None else float(stepped(math.ceil(most * MARGIN), least=1))

    def ended(self, peak: int, seconds: float, given: int | None) -> None:
        """One has ended with a result; of what it was given, it used so much."""
        self.peaks.add(peak)
        self.seconds.add(seconds)
        if given is not None:
            self.given += given * seconds
            self.used += min(peak, given) * seconds

    def more(self, given: int, peak: int, seconds: float, share: int, whole: int) -> int | None:
        """One was killed at its limit; return what it is given next, or None if that was a whole node."""
        self.given += given * seconds
        if given >= whole:
            return None
        self.exceeded += 1
        again = min(max(stepped(2 * given), stepped(round(peak * MARGIN)), self.memory(share, whole)), whole)
        self._raised = max(self._raised, again)
        return again


def stepped(size: int, least: int = 1 << 20) -> int:
    """Return a number rounded up to a step of an eighth to a sixteenth of it."""
    step = max(1 << max(size.bit_length() - 4, 0), least)
    return -(-size // step) * step
