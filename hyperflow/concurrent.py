"""Flows side by side: concurrently, map_concurrently, replicate_concurrently, race, as_completed.

Guarantees: when one of several flows fails, the others are cancelled and awaited, and then the first failure is
raised itself, not a group. The same holds when the awaiting flow is cancelled. Nothing is left running.

Why not asyncio.TaskGroup: it wraps even a single failure into a group, so that `except Boom` would not see it,
and it needs a task for each flow.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar, overload

import attrs

from hyperflow import flow as flows
from hyperflow.errors import ConfigurationError
from hyperflow.flow import Flow, Job, Native

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
X = TypeVar("X")

IN_FLIGHT = 1000
"""How many flows `as_completed` keeps going without a `limit`: enough to keep a large allocation busy with short
evaluations, few enough that an endless iterable costs little memory."""


async def _cancel_all(futures: Iterable[asyncio.Future[Any]]) -> int:
    """Cancel what has not ended, wait until it has, and return how many of them failed instead."""
    pending = [future for future in futures if not future.done()]
    for future in pending:
        future.cancel()
    interrupted: asyncio.CancelledError | None = None
    waiting = [future for future in pending if not future.done()]
    while waiting:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as error:  # cancelled once more: still nothing may be left running
            interrupted = error
        waiting = [future for future in waiting if not future.done()]
    failed = sum(not future.cancelled() and future.exception() is not None for future in pending)
    if interrupted is not None:
        raise interrupted
    return failed


async def _gather(made: Iterator[Flow[Any]], limit: int | None) -> list[Any]:
    """Run flows, at most `limit` at a time, and return their results in order."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = []
    going = 0
    exhausted = False
    first_failure: asyncio.Future[Any] | None = None
    wakeup: asyncio.Future[None] | None = None

    def ended(future: asyncio.Future[Any]) -> None:
        nonlocal going, first_failure
        going -= 1
        failed = future.cancelled() or future.exception() is not None  # asking marks it as seen
        if failed and first_failure is None:
            first_failure = future
        if wakeup is not None and not wakeup.done() and (going == 0 or first_failure or not exhausted):
            wakeup.set_result(None)

    try:
        while first_failure is None:
            while not exhausted and (limit is None or going < limit):
                try:
                    one = next(made)
                except StopIteration:
                    exhausted = True
                    break
                future = flows.flow(one, "map_concurrently's function result").start()
                going += 1
                futures.append(future)
                future.add_done_callback(ended)
            if going == 0:
                break
            wakeup = loop.create_future()
            await wakeup
        if first_failure is None:
            return [future.result() for future in futures]
    except BaseException:
        await _cancel_all(futures)
        raise
    failed = await _cancel_all(futures)
    try:
        return first_failure.result()
    except BaseException as error:
        also = failed + sum(
            f.done() and not f.cancelled() and f.exception() is not None for f in futures if f is not first_failure
        )
        if also and not isinstance(error, asyncio.CancelledError):
            error.add_note(f"(of the flows beside it, {also} more failed; the first failure is raised)")
        raise


def _mine(made: Iterable[object], where: str) -> tuple[Flow[Any], ...]:
    """Check that all are flows, and take them over."""
    taken = tuple(flows.flow(one, where) for one in made)
    for one in taken:
        one._unused = False
    return taken


def _checked_limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit!r}: a whole number of at least 1 is needed, or None")
    return limit


async def _concurrently(made: tuple[Flow[Any], ...]) -> tuple[Any, ...]:
    return tuple(await _gather(iter(made), None))


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
def concurrently(*flows: Flow[T]) -> Job[tuple[T, ...]]: ...
def concurrently(*flows: Flow[Any]) -> Job[Any]:
    """Run flows side by side and give all their results, in order.

    The first failure cancels the others, waits for them, and is raised itself. Cancelling cancels all.
    """
    return Job(Native("concurrently", _concurrently, (_mine(flows, "concurrently"),)))


async def _map_concurrently(fn: Callable[[Any], Flow[Any]], xs: Iterable[Any], limit: int | None) -> list[Any]:
    return await _gather(map(fn, xs), limit)


def map_concurrently(fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None) -> Job[list[T]]:
    """Run `fn(x)` for every x side by side and give the results in the order of xs.

    Args:
        fn: Makes the flow for one x.
        xs: Taken as far as `limit` allows at a time. An iterator is used up by the first run.
        limit: How many flows may run at a time; None for all.
    """
    made = Native("map_concurrently", _map_concurrently)
    return Job(attrs.evolve(made, args=(flows.function(fn, "map_concurrently"), xs, _checked_limit(limit))))


async def _replicate(n: int, flow: Flow[Any]) -> list[Any]:
    return await _gather(itertools.repeat(flow, n), None)


def replicate_concurrently(n: int, flow: Flow[T]) -> Job[list[T]]:
    """Run one flow `n` times side by side and give the n results."""
    (mine,) = _mine([flow], "replicate_concurrently")
    return Job(Native("replicate_concurrently", _replicate, (n, mine)))


async def _race(made: tuple[Flow[Any], ...]) -> Any:
    futures: list[asyncio.Future[Any]] = []
    try:
        futures.extend(one.start() for one in made)
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        winner = next(future for future in futures if future.done())
    finally:
        await _cancel_all(futures)
    return winner.result()


def race(*flows: Flow[T]) -> Job[T]:
    """Run flows side by side; the first that ends gives the result (or its error), the others are cancelled.

    Cancelling a remote evaluation kills its process; `race` does not wait until that process has gone.
    """
    if not flows:
        raise ConfigurationError("race() of no flows would wait for ever")
    return Job(Native("race", _race, (_mine(flows, "race"),)))


async def as_completed(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None
) -> AsyncIterator[tuple[X, T]]:
    """Iterate over `(x, result)` in the order in which they end: `async for x, r in as_completed(fn, xs): ...`.

    Args:
        fn: Makes the flow for one x.
        xs: May be lazy and endless; the next x is taken only when there is room for it.
        limit: How many flows run at a time; None for 1000.

    The first failure is raised at the iteration, after the others were cancelled. Leaving the loop early cancels
    what still runs. Memory is O(limit).
    """
    flows.function(fn, "as_completed")
    room = _checked_limit(limit) or IN_FLIGHT
    loop = asyncio.get_running_loop()
    source = iter(xs)
    going: dict[asyncio.Future[T], X] = {}
    done: list[asyncio.Future[T]] = []
    wakeup: asyncio.Future[None] | None = None
    exhausted = False

    def ended(future: asyncio.Future[T]) -> None:
        done.append(future)
        if wakeup is not None and not wakeup.done():
            wakeup.set_result(None)

    try:
        while True:
            while not exhausted and len(going) < room:
                try:
                    x = next(source)
                except StopIteration:
                    exhausted = True
                    break
                future = flows.flow(fn(x), "as_completed's function result").start()
                going[future] = x
                future.add_done_callback(ended)
            if not going:
                return
            if not done:
                wakeup = loop.create_future()
                await wakeup
            ready, done = done, []
            for position, future in enumerate(ready):
                x = going.pop(future)
                try:
                    result = future.result()
                except BaseException:
                    done.extend(ready[position + 1 :])
                    raise
                yield x, result
    finally:
        await _cancel_all(going)


__all__ = ("as_completed", "concurrently", "map_concurrently", "race", "replicate_concurrently")

