"""Which task comes after which: the order, circles, and the parts that have nothing to do with each other. Pure.

Guarantees: a circle is found, and told with the tasks on it and no others. Nothing here recurses: a chain may be as
long as there are tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence


class Graph:
    """Tasks, by number, that come after others; those without a line come after none."""

    def __init__(self, after: Mapping[int, Sequence[int]]) -> None:
        self._missing = {number: len(set(before)) for number, before in after.items() if before}
        self._behind = _behind(after)

    def is_free(self, number: int) -> bool:
        """Whether it waits for no other one any more."""
        return number not in self._missing

    def done(self, number: int) -> list[int]:
        """A task is done; return those that wait for nothing any more because of it."""
        free: list[int] = []
        for each in self._behind.pop(number, ()):
            self._missing[each] -= 1
            if not self._missing[each]:
                del self._missing[each]
                free.append(each)
        return free

    def failed(self, number: int) -> Iterator[tuple[int, int]]:
        """A task has failed: give each that comes after it, at any distance, once, with the one right before it."""
        pending = [number]
        while pending:
            at = pending.pop()
            for each in self._behind.pop(at, ()):
                if self._missing.get(each, 0) > 0:
                    self._missing[each] = -1  # it never is free
                    pending.append(each)
                    yield each, at


def _behind(after: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    """Return what comes right after each task."""
    found: dict[int, list[int]] = {}
    for number, before in after.items():
        for each in set(before):
            found.setdefault(each, []).append(number)
    return found


def with_all_behind(numbers: Iterable[int], after: Mapping[int, Sequence[int]]) -> set[int]:
    """Return these tasks, and all that come after them at any distance."""
    behind = _behind(after)
    found = set(numbers)
    pending = list(found)
    while pending:
        new = [each for each in behind.get(pending.pop(), ()) if each not in found]
        found.update(new)
        pending += new
    return found


def circle(after: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the tasks of a circle, each of which comes after the next one, and the last after the first; or none."""
    settled = set[int]()
    for start in after:
        if start in settled:
            continue
        path, on_path = [start], {start}
        ways = [iter(after[start])]
        while path:
            for each in ways[-1]:
                if each in on_path:
                    return path[path.index(each) :]
                if each not in settled:
                    path.append(each)
                    on_path.add(each)
                    ways.append(iter(after.get(each, ())))
                    break
            else:
                settled.add(path[-1])
                on_path.discard(path.pop())
                ways.pop()
    return []


def parts(count: int, after: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Return the tasks 1 to `count` in parts between which nothing waits, each in the order of its numbers."""
    root = list(range(count + 1))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for number, before in after.items():
        for each in before:
            one, other = find(number), find(each)
            root[max(one, other)] = min(one, other)
    found: dict[int, list[int]] = {}
    for number in range(1, count + 1):
        found.setdefault(find(number), []).append(number)
    return list(found.values())


def shared(of: Iterable[Sequence[int]], shares: int) -> list[list[int]]:
    """Return parts dealt to so many shares, the largest first, each to the share that has least; none of them empty."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    for part in sorted(of, key=len, reverse=True):
        min(dealt, key=len).extend(part)
    return [sorted(each) for each in dealt if each]
