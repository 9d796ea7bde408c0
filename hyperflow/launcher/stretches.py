"""The queue of a team: tasks that wait on their node, in stretches of consecutive numbers.

A stretch is cut without a copy, however many tasks are in it: lengths and payloads are views of the frame that brought
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from hyperflow.wire import frames
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber

Range = tuple[TaskNumber, int]
"""The first task, and how many they are."""


class Stretch:
    """Tasks of one function with consecutive numbers."""

    __slots__ = ("count", "first", "function", "lengths", "payloads")

    def __init__(
        self, function: DefinitionNumber, first: TaskNumber, lengths: Sequence[int], payloads: memoryview
    ) -> None:
        self.function = function
        self.first = first
        self.lengths = lengths
        self.payloads = payloads
        self.count = len(lengths)

    @classmethod
    def read(cls, body: memoryview) -> Stretch:
        """Return what is in a body of BATCH."""
        function, first, lengths, payloads = frames.read_batch(body)
        return cls(function, first, memoryview(lengths), payloads)  # type: ignore[arg-type]

    @property
    def range(self) -> Range:
        """Return which tasks these are."""
        return self.first, self.count

    def cut(self, count: int) -> tuple[Stretch, Stretch]:
        """Return the first so many, and the others."""
        at = sum(self.lengths[:count])
        return (
            Stretch(self.function, self.first, self.lengths[:count], self.payloads[:at]),
            Stretch(self.function, TaskNumber(self.first + count), self.lengths[count:], self.payloads[at:]),
        )

    def without(self, first: int, count: int) -> tuple[list[Stretch], Range | None]:
        """Return what is left without those of a range, and which of them it had."""
        begin, end = max(first, self.first), min(first + count, self.first + self.count)
        if begin >= end:
            return [self], None
        before, rest = self.cut(begin - self.first)
        _, after = rest.cut(end - begin)
        return [each for each in (before, after) if each.count], (TaskNumber(begin), end - begin)

    def frame(self, worker: int) -> bytes:
        """Return the frame that hands it to a worker."""
        size = frames.BATCH.size + self.count * 4 + len(self.payloads)
        head = frames.HEADER.pack(frames.BEGIN, size, frames.Kind.BATCH, worker)
        about = frames.BATCH.pack(self.function, self.first, self.count)
        return b"".join((head, about, memoryview(self.lengths).cast("B"), self.payloads, frames.END))  # type: ignore[arg-type]


class Queue:
    """Stretches, in the order in which they are to be run."""

    def __init__(self) -> None:
        self.count = 0
        """How many tasks wait."""
        self._stretches: deque[Stretch] = deque()

    def add(self, stretch: Stretch) -> None:
        """Add tasks behind all others."""
        self._stretches.append(stretch)
        self.count += stretch.count

    def put_back(self, stretches: Sequence[Stretch]) -> None:
        """Put tasks before all others: a worker had them, and will not run them."""
        self._stretches.extendleft(reversed(stretches))
        self.count += sum(each.count for each in stretches)

    def take(self, most: int, most_bytes: int) -> Stretch:
        """Return the next ones of one function: one at least, at most so many, and of about so many bytes."""
        first = self._stretches.popleft()
        room = most_bytes * first.count // max(len(first.payloads), 1)
        found, rest = first.cut(max(min(most, room), 1))
        if rest.count:
            self._stretches.appendleft(rest)
        self.count -= found.count
        return found

    def recall(self, most: int) -> list[Range]:
        """Let go of the newest, so many at most; return which they are."""
        found: list[Range] = []
        while most > 0 and self._stretches:
            last = self._stretches.pop()
            rest, newest = last.cut(max(last.count - most, 0))
            if rest.count:
                self._stretches.append(rest)
            found.append(newest.range)
            most -= newest.count
            self.count -= newest.count
        return found

    def drop(self, first: int, count: int) -> list[Range]:
        """Let go of those of a range; return which were there."""
        parts = [each.without(first, count) for each in self._stretches]
        found = [gone for _, gone in parts if gone is not None]
        if found:
            self._stretches = deque(stretch for left, _ in parts for stretch in left)
            self.count -= total(found)
        return found


def total(ranges: Iterable[Range]) -> int:
    """Return how many tasks there are in ranges."""
    return sum(count for _, count in ranges)
