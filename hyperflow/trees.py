"""tree_reduce: many values to one, by a function of two, on the workers.

The values are leaves of a tree in which each node has up to `fan_in` neighbours below it. Which they are follows from
their places alone, not from who comes first: so the same values give the same result, in floating point, too. A node is
evaluated as soon as all that is below it is there, and lets go of that. So what is kept is what is under way, and, on
each level, the neighbours of what is under way.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

from hyperflow.concurrent import as_completed
from hyperflow.errors import ConfigurationError, MisuseError, NothingToReduce
from hyperflow.flow import Flow, Job, Native, plain_function
from hyperflow.remote import remote_eval

T = TypeVar("T")


class _Node(NamedTuple):
    """One that has no value yet: a leaf (level 0) that is a flow, or some neighbours that are to be reduced."""

    level: int
    place: int
    flow: Flow[Any] | None
    below: tuple[Any, ...] = ()


class _Tree:
    """An iterator over the nodes that can be started now; what has ended makes more of them."""

    def __init__(self, fn: Callable[[Any, Any], Any], xs: Iterable[Any], fan_in: int) -> None:
        self._xs = iter(xs)
        self._fold = _folding(fn)
        self._fan_in = fan_in
        self._groups: dict[tuple[int, int], dict[int, Any]] = {}  # what is there below a node, by level and index
        self._ready: deque[_Node] = deque()
        self._leaves = 0
        self._all_read = False
        self.result: list[Any] = []

    def flow_of(self, node: _Node) -> Flow[Any]:
        """Return what gives a node its value."""
        return node.flow if node.flow is not None else remote_eval(self._fold, *node.below)

    def __iter__(self) -> _Tree:
        return self

    def __next__(self) -> _Node:
        while not self._ready and not self._all_read:
            self._read()
        if not self._ready:
            raise StopIteration  # for now
        return self._ready.popleft()

    def _read(self) -> None:
        """Read one leaf."""
        index = self._leaves
        try:
            x = next(self._xs)
        except StopIteration:
            self._all_read = True
            self._close()
            return
        self._leaves += 1
        if isinstance(x, Flow):
            self._ready.append(_Node(0, index, x))
        else:
            self.put(0, index, x)

    def _close(self) -> None:
        """All leaves are known, and so the last node of each level, which may have fewer below it than the others."""
        if self._leaves == 0:
            raise NothingToReduce(
                "tree_reduce(...) of no values has no result; where there may be none, put a neutral one before them: "
                "tree_reduce(fn, [0, *xs])"
            )
        level, count = 1, self._leaves
        while count > 1 or level == 1:
            count = -(-count // self._fan_in)
            self._complete(level, count - 1)
            level += 1

    def put(self, level: int, index: int, value: Any) -> None:
        """A node has its value."""
        if self._all_read and self._count(level) == 1 and (level or self._leaves == 1):
            self.result.append(value)
            return
        above = level + 1, index // self._fan_in
        self._groups.setdefault(above, {})[index] = value
        self._complete(*above)

    def _count(self, level: int) -> int:
        """Return how many nodes a level has, once all leaves are known."""
        count = self._leaves
        for _ in range(level):
            count = -(-count // self._fan_in)
        return count

    def _complete(self, level: int, index: int) -> None:
        """Let a node be evaluated if all is there that belongs below it; one alone is its own result."""
        group = self._groups.get((level, index), {})
        size = self._fan_in
        if self._all_read:
            size = min(size, self._count(level - 1) - index * self._fan_in)
        if len(group) < size or not group:
            return
        del self._groups[level, index]
        if size == 1:
            self.put(level, index, *group.values())
        else:
            self._ready.append(_Node(level, index, None, tuple(group[at] for at in sorted(group))))


def _folding(fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return what reduces some neighbours on a worker; it is counted and shown as the user's function."""

    def fold(*values: Any) -> Any:
        return functools.reduce(fn, values)

    fold.__name__ = getattr(fn, "__name__", "fold")
    fold.__qualname__ = getattr(fn, "__qualname__", fold.__name__)
    return fold


async def _reduce(fn: Callable[[Any, Any], Any], xs: Iterable[Any], fan_in: int) -> Any:
    tree = _Tree(fn, xs, fan_in)
    async with aclosing(as_completed(tree.flow_of, tree)) as ended:
        async for node, value in ended:
            tree.put(node.level, node.place, value)
            del node, value
    return tree.result.pop()


def tree_reduce(fn: Callable[[T, T], T], xs: Iterable[T | Flow[T]], fan_in: int = 8) -> Job[T]:
    """Reduce many values to one on the workers: `best = await tree_reduce(better, xs)`.

    Args:
        fn: Reduces two neighbours to one; called as `fn(left, right)`. It has to be associative: the values are reduced
            in groups, and those again. It need not be commutative: their order is kept.
        xs: Values, or flows of them, which run side by side and are reduced as they end. Read as needed; it may be
            lazy. The first run uses an iterator up.
        fan_in: How many neighbours one evaluation reduces.

    Which values make a group depends on their places only: the same values give the same result. One value is its own
    result. The first failure cancels the rest, waits for it, and is raised unchanged.

    Raises:
        NothingToReduce: There are no values. It is a ValueError.
        ConfigurationError: `fan_in` is below 2.

    Flows and evaluations under way are at most 1,000 at a time, and no more values are kept than these have neighbours.
    """
    if type(fan_in) is not int or fan_in < 2:
        raise ConfigurationError(f"tree_reduce(..., fan_in={fan_in!r}): a whole number of at least 2 is needed")
    plain_function(fn, "tree_reduce", "await {name}(...)")
    if inspect.iscoroutinefunction(fn):
        raise MisuseError(f"tree_reduce({fn.__qualname__}, ...): a plain function is needed, and this is async")
    return Job(Native("tree_reduce", _reduce, (fn, xs, fan_in)))
