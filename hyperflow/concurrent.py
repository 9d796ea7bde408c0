"""Flows side by side: concurrently, map_concurrently, replicate_concurrently, race, as_completed.

Guarantees: when one of several flows fails, the others are cancelled and awaited; then the first failure is raised
itself, not in a group. When the awaiting flow is cancelled, so are all of them. Nothing is left running.

Why not asyncio.TaskGroup: it wraps even a single failure into a group, and it needs a task for each flow.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any, TypeVar, overload

from hyperflow import flow as flows
from hyperflow.aio import settled
from hyperflow.errors import ConfigurationError
from hyperflow.flow import Flow, Job, Native

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")
J = TypeVar("J")
K = TypeVar("K")
X = TypeVar("X")

IN_FLIGHT = 1000
"""How many flows `as_completed` runs at a time without a `limit`: enough for a large allocation and short evaluations,
and few enough that an endless iterable needs little memory."""

STARTS_BETWEEN_PAUSES = 500
"""After so many starts the event loop runs once, so that workers begin while the rest is started."""


class _Group:
    """Futures that run side by side and end together."""

    def __init__(self) -> None:
        self.futures: list[asyncio.Future[Any]] = []
        self.going = 0
        self._on_end = self._ended  # bound once, for all of them
        self.failed: list[asyncio.Future[Any]] = []  # in the order in which they failed
        self._waiter: asyncio.Future[None] | None = None
        self._enough = 0

    def start(self, one: Flow[Any], where: str, fn: object = None) -> None:
        """Start a flow, which the user's function `fn` has made, if it is given."""
        if fn is None:
            flows.check(one, where)
        else:
            flows.check_made(one, where, fn)
        future = one.start()
        self.going += 1
        self.futures.append(future)
        future.add_done_callback(self._on_end)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self.going -= 1
        if future.cancelled() or future.exception() is not None:  # asking marks the exception as seen
            self.failed.append(future)
        if self._waiter is not None and not self._waiter.done() and (self.failed or self.going < self._enough):
            self._waiter.set_result(None)

    async def until_fewer_than(self, count: int) -> None:
        """Wait until fewer than `count` run, or one has failed. Wakes up once, not at each end."""
        if self.going >= count and not self.failed:
            self._enough = count
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


async def _cancel_all(futures: Collection[asyncio.Future[Any]]) -> None:
    """Cancel them and wait until all have ended. Their errors count as retrieved: asyncio does not report them."""
    for future in futures:
        future.cancel()
    try:
        await settled(*futures)
    finally:
        for future in futures:
            _ = future.cancelled() or future.exception()


async def _gather(made: Iterable[Flow[Any]], limit: int | None, where: str, fn: object = None) -> list[Any]:
    """Run flows, at most `limit` at a time, and return their results in order; `fn` is what makes them, if known."""
    group = _Group()
    try:
        for one in made:
            group.start(one, where, fn)
            if limit is not None:
                await group.until_fewer_than(limit)
            if len(group.futures) % STARTS_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)
            if group.failed:
                break
        await group.until_fewer_than(1)
    finally:
        await _cancel_all(group.futures)
    if group.failed:
        first, *others = group.failed
        more = sum(not future.cancelled() for future in others)
        if more and not first.cancelled() and (error := first.exception()) is not None:
            error.add_note(f"(of the flows beside it, {more} more failed; the first failure is raised)")
        first.result()  # raises it
    return [future.result() for future in group.futures]


def _mine(made: tuple[Flow[Any], ...], where: str) -> tuple[Flow[Any], ...]:
    """Check that all are flows, and mark them as used."""
    for one in made:
        flows.check(one, where)
    return tuple(one.used() for one in made)


def _checked_limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit!r}: a whole number of at least 1 is needed, or None")
    return limit


async def _concurrently(made: tuple[Flow[Any], ...]) -> tuple[Any, ...]:
    return tuple(await _gather(made, None, "concurrently"))


@overload
def concurrently() -> Job[tuple[()]]: ...
@overload
def concurrently(a: Flow[A], /) -> Job[tuple[A]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], /) -> Job[tuple[A, B]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], c: Flow[C], /) -> Job[tuple[A, B, C]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], /) -> Job[tuple[A, B, C, D]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], /) -> Job[tuple[A, B, C, D, E]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], /
) -> Job[tuple[A, B, C, D, E, F]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], /
) -> Job[tuple[A, B, C, D, E, F, G]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], h: Flow[H], /
) -> Job[tuple[A, B, C, D, E, F, G, H]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], h: Flow[H], j: Flow[J], /
) -> Job[tuple[A, B, C, D, E, F, G, H, J]]: ...
@overload
def concurrently(
    a: Flow[A],
    b: Flow[B],
    c: Flow[C],
    d: Flow[D],
    e: Flow[E],
    f: Flow[F],
    g: Flow[G],
    h: Flow[H],
    j: Flow[J],
    k: Flow[K],
    /,
) -> Job[tuple[A, B, C, D, E, F, G, H, J, K]]: ...
@overload
def concurrently(*flows: Flow[T]) -> Job[tuple[T, ...]]: ...
def concurrently(*flows: Flow[Any]) -> Job[Any]:
    """Run flows side by side and return all their results, in order.

    The first failure cancels the others, waits for them, and is raised unchanged. Cancelling cancels all.
    """
    return Job(Native("concurrently", _concurrently, (_mine(flows, "concurrently"),)))


async def _map_concurrently(fn: Callable[[Any], Flow[Any]], xs: Iterable[Any], limit: int | None) -> list[Any]:
    return await _gather(map(fn, xs), limit, "map_concurrently", fn)


def map_concurrently(fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None) -> Job[list[T]]:
    """Run `fn(x)` for every x side by side and return the results in the order of xs.

    Args:
        fn: Returns the flow for one x.
        xs: Read as far as `limit` allows at a time. The first run uses an iterator up.
        limit: How many flows may run at a time; None for all.
    """
    arguments = (flows.function(fn, "map_concurrently"), xs, _checked_limit(limit))
    return Job(Native("map_concurrently", _map_concurrently, arguments))


def replicate_concurrently(n: int, flow: Flow[T]) -> Job[list[T]]:
    """Run one flow `n` times side by side and return the n results."""
    where = "replicate_concurrently"
    if type(n) is not int or n < 0:
        raise ConfigurationError(f"{where}({n!r}, ...): a whole number of at least 0 is needed")
    return Job(Native(where, _gather, (_mine((flow,), where) * n, None, where)))


async def _race(made: tuple[Flow[Any], ...]) -> Any:
    futures: list[asyncio.Future[Any]] = []
    ended: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
    try:
        for one in made:
            future = one.start()
            futures.append(future)
            future.add_done_callback(ended.put_nowait)
        winner = await ended.get()
    finally:
        await _cancel_all(futures)
    return winner.result()


@overload
def race(a: Flow[A], b: Flow[B], /) -> Job[A | B]: ...
@overload
def race(a: Flow[A], b: Flow[B], c: Flow[C], /) -> Job[A | B | C]: ...
@overload
def race(a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], /) -> Job[A | B | C | D]: ...
@overload
def race(a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], /) -> Job[A | B | C | D | E]: ...
@overload
def race(a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], /) -> Job[A | B | C | D | E | F]: ...
@overload
def race(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], /
) -> Job[A | B | C | D | E | F | G]: ...
@overload
def race(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], h: Flow[H], /
) -> Job[A | B | C | D | E | F | G | H]: ...
@overload
def race(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], g: Flow[G], h: Flow[H], j: Flow[J], /
) -> Job[A | B | C | D | E | F | G | H | J]: ...
@overload
def race(
    a: Flow[A],
    b: Flow[B],
    c: Flow[C],
    d: Flow[D],
    e: Flow[E],
    f: Flow[F],
    g: Flow[G],
    h: Flow[H],
    j: Flow[J],
    k: Flow[K],
    /,
) -> Job[A | B | C | D | E | F | G | H | J | K]: ...
@overload
def race(*flows: Flow[T]) -> Job[T]: ...
def race(*flows: Flow[Any]) -> Job[Any]:
    """Run flows side by side; return the result of the first that ends, or raise its error, and cancel the others.

    Cancelling a remote evaluation kills its process; `race` does not wait until that process has gone.
    """
    if not flows:
        raise ConfigurationError("race() of no flows would never end")
    return Job(Native("race", _race, (_mine(flows, "race"),)))


async def as_completed(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None
) -> AsyncIterator[tuple[X, T]]:
    """Iterate over `(x, result)` in the order in which they end: `async for x, r in as_completed(fn, xs): ...`.

    Args:
        fn: Returns the flow for one x.
        xs: May be lazy and endless; the next x is read when fewer than `limit` flows run.
        limit: How many flows run at a time; None for 1000.

    The iteration raises the first failure, after it has cancelled the others. Leaving the loop early cancels what
    still runs. Memory is O(limit).
    """
    flows.function(fn, "as_completed")
    room = _checked_limit(limit) or IN_FLIGHT
    source = iter(xs)
    going: dict[asyncio.Future[T], X] = {}
    done: asyncio.Queue[asyncio.Future[T]] = asyncio.Queue()
    try:
        while True:
            for x in itertools.islice(source, room - len(going)):
                one = fn(x)
                flows.check_made(one, "as_completed", fn)
                future = one.start()
                going[future] = x
                future.add_done_callback(done.put_nowait)
            if not going:
                return
            future = await done.get()
            yield going.pop(future), future.result()
    finally:
        await _cancel_all(going)
