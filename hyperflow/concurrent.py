"""Flows side by side: concurrently, map_concurrently, replicate_concurrently, race, as_completed.

Guarantees: when one of several flows fails, the others are cancelled and awaited; then the first failure is raised
itself, not in a group. When the awaiting flow is cancelled, so are all of them. Nothing is left running. With
`errors="return"`, a `Failed` takes the place of a result, and the others go on. What ends keeps nothing alive: see
`_Group`.

Why not asyncio.TaskGroup: it wraps even a single failure into a group, and it needs a task for each flow.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar, overload

from hyperflow import environment, failures
from hyperflow import flow as flows
from hyperflow.aio import Outcome, settled
from hyperflow.environment import BulkMap
from hyperflow.errors import ConfigurationError
from hyperflow.failures import Errors, Failed
from hyperflow.flow import Flow, Job, Native, Step
from hyperflow.progress.tally import Counted, Steps, length

logger = logging.getLogger("hyperflow")

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

STARTS_BETWEEN_PAUSES = 2000
"""After so many starts the event loop runs once, so that workers begin while the rest is started."""

ALIKE_AT_ONCE = 4
"""So many that go together cost what one does, once the workers have begun."""


class _Group:
    """Flows that run side by side and end together.

    A result takes the place of its flow at once, so beside the results memory follows what runs. At its end the group
    lets go of all flows: the traceback of an error knows the frames that it passed, and these know the group. If the
    group still knew the error, only the cycle collector could free what the user's frames hold.
    """

    def __init__(self, where: str, fn: Callable[[Any], Flow[Any]] | None, errors: Errors) -> None:
        self.where = where
        self.fn = fn
        self.returns = errors == "return"
        self.going = 0
        self.evaluated = None  # where, it does not ask
        self.results: list[Any] = []  # of each x, or a Failed; None for what has not ended
        self.failed: list[_Failure] = []  # in the order in which they failed, if a failure ends the group
        self.returned: list[Failed] = []
        # Those that run. Only where an error is to name the call, with its x and step.
        self._futures: dict[asyncio.Future[Any], tuple[int, Any, Step | None]] = {}
        self._alike: BulkMap | None = None  # what starts those that are like the one before
        self._ways: dict[object, BulkMap | None] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._enough = 0
        self.name = ""
        self.total: int | None = None  # how many flows there will be, if that is known

    @property
    def title(self) -> str:
        """What it is called where its progress is shown."""
        return f"{self.where} of {self.name}"

    @property
    def ended(self) -> int:
        """How many flows have ended."""
        return len(self.results) - self.going

    async def run(self, xs: Iterable[Any], limit: int | None) -> tuple[list[Any], BaseException | None]:
        """Run the flow of each x, at most `limit` at a time; return their results in order, or the first failure."""
        try:
            source, self._alike = iter(xs), environment.open_map(self)
            self._ways = {None: self._alike}
            paused = 0
            while not self.failed:
                room, together = STARTS_BETWEEN_PAUSES - (len(self.results) - paused), 1
                if limit is not None:
                    await self._until_fewer_than(limit)
                    if self.failed:
                        break
                    room = min(room, limit - self.going)
                elif paused:
                    together = ALIKE_AT_ONCE
                if not self._start_some(source, room, together):
                    break
                if len(self.results) - paused >= STARTS_BETWEEN_PAUSES:
                    paused = len(self.results)
                    await asyncio.sleep(0)
            await self._until_fewer_than(1)
            if self.failed:
                return [], await self._first_failure()
            failures.tell(self.where, self.returned, len(self.results))
            results, self.results = self.results, []
            return results, None
        except BaseException as error:
            self._cancel_alike()
            if self.going:  # this was cancelled; or the function, or the iterable, has failed
                others = [future for _, future in self.failed]
                lost = await _cancel_all([*others, *self._futures], self.where)
                _note_lost(error, lost, self.where)
            raise
        finally:
            self._alike = None  # which knows this
            for content in (self.results, self.failed, self.returned, self._futures, self._ways):
                content.clear()

    def _start_some(self, xs: Iterator[Any], most: int, together: int) -> bool:
        """Start the flows of so many xs; so many that go together count one. Return False if there are no more."""
        started = 0
        while self._alike is not None and started < most:
            # What a memoized function computes at once, it computes here.
            many = together if self._alike is self._ways[None] else 1
            wanted = (most - started) * many
            count, other = self._alike.start(xs, self.fn, wanted)
            started += -(-count // many)
            if other is None:
                return count == wanted
            self._start(*other)
            self._alike = self._way_of(other[1])
            started += 1
        if started >= most:
            return True
        for x in itertools.islice(xs, most - started):
            started += 1
            try:
                one = x if self.fn is None else self.fn(x)
            except Exception as error:
                if not self.refused(x, error):
                    raise
            else:
                self._start(x, one)
        return started == most

    def _way_of(self, one: Any) -> BulkMap | None:
        """Return what starts together those that are like this one."""
        step: Step | None = one.step if isinstance(one, Flow) else None
        way = None if step is None else step.way()
        if way not in self._ways:
            assert step is not None
            self._ways[way] = step.open_map(self)
        return self._ways[way]

    def _start(self, x: Any, one: Any) -> None:
        """Start the flow of one x, or whatever the user's function has returned."""
        try:
            if not isinstance(one, Flow):
                flows.check_made(one, self.where, self.fn)
            future = one.start()
        except Exception as error:
            if not self._noted(x, error):
                raise
        else:
            # An evaluation's error names its call by itself.
            named = self.returns or isinstance(future, (asyncio.Task, Outcome))
            self.results.append(None)
            self._begun(len(self.results) - 1, x, future, one.step if named else None)
            self.going += 1

    def _begun(self, index: int, x: Any, future: asyncio.Future[Any], step: Step | None) -> None:
        self._futures[future] = index, None if step is None else x, step
        future.add_done_callback(self._ended)

    def _noted(self, x: Any, error: Exception) -> bool:
        """Note an error in place of the result of x, if errors are returned; else the caller raises it."""
        if not self.returns or not failures.may_return(error):
            return False
        failed = failures.returned(len(self.results), _call_of(self.fn, x, None), error)
        self.results.append(failed)
        self.returned.append(failed)
        return True

    # ---- as an environment.MapOwner ------------------------------------------------------------------------------

    def begun(self, count: int) -> int:
        """So many that are alike have begun; return the place of the first one's result."""
        place = len(self.results)
        self.results += (None,) * count
        self.going += count
        return place

    def done(self, count: int) -> None:
        """So many of them have put their results in their places."""
        self.going -= count
        self._wake()

    def apart(self, place: int, future: asyncio.Future[Any], step: Any) -> None:
        """One of them goes on by itself."""
        named = self.returns or isinstance(future, (asyncio.Task, Outcome))
        self._begun(place, None, future, step if named else None)

    def refused(self, x: Any, error: Exception) -> bool:
        """The user's function made no flow of x: return whether that is noted."""
        if isinstance(error, StopIteration):
            assert self.fn is not None
            if not self.returns:
                raise stopped(self.fn, x, self.where) from error
            stop, error = error, stopped(self.fn, x, self.where)
            error.__cause__ = stop
        return self._noted(x, error)

    def _cancel_alike(self) -> None:
        for alike in self._ways.values():
            if alike is not None:
                alike.cancel()

    # ---- how they end --------------------------------------------------------------------------------------------

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self.going -= 1
        place = self._futures.pop(future, None)  # None: the group is over
        if future.cancelled() or future.exception() is not None:  # asking marks the exception as seen
            if place is not None:
                self._on_failure(future, *place)
        elif place is not None:
            self.results[place[0]] = future.result()
        self._wake()

    def _wake(self) -> None:
        """Go on if that is what was waited for."""
        if self._waiter is not None and not self._waiter.done() and (self.failed or self.going < self._enough):
            self._waiter.set_result(None)

    def _on_failure(self, future: asyncio.Future[Any], index: int, x: Any, step: Step | None) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None and step is not None:
            call = _call_of(self.fn, x, step)
            failures.note_call(error, call, self.where)
            if self.returns and isinstance(error, Exception) and failures.may_return(error):
                failed = self.results[index] = failures.returned(index, call, error)
                self.returned.append(failed)
                return
        self.failed.append(_Failure(index, future))

    async def _until_fewer_than(self, count: int) -> None:
        """Wait until fewer than `count` run, or one has failed. Wakes up once, not at each end."""
        if self.going >= count and not self.failed:
            self._enough = count
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _first_failure(self) -> BaseException:
        """End the others, and return the first failure."""
        self._cancel_alike()
        first = self.failed[0].future
        others = [future for _, future in sorted(self.failed[1:], key=lambda failure: failure.place)]
        return _failure(first, await _cancel_all([*others, *self._futures], self.where), self.where)


class _Failure(NamedTuple):
    """A flow that has failed, or was cancelled, and its place."""

    place: int
    future: asyncio.Future[Any]


def _call_of(fn: Callable[[Any], Flow[Any]] | None, x: Any, step: Step | None) -> str:
    """Return the user's call that a flow makes; else, the one that made the flow."""
    step = x.step if step is None and fn is None else step
    return (step is not None and step.call()) or (repr(step) if fn is None else flows.show_call(fn, (x,), {}))


def made_by(fn: Callable[[X], Flow[T]], x: X, where: str) -> Flow[T]:
    """Return the flow that the user's function makes of x."""
    try:
        made = fn(x)
    except StopIteration as error:
        raise stopped(fn, x, where) from error
    flows.check_made(made, where, fn)
    return made


def stopped(fn: Callable[[Any], Any], x: object, where: str) -> RuntimeError:
    """Return what stands for a StopIteration, which would end the loop, as if there were no more xs."""
    return RuntimeError(f"{flows.show_call(fn, (x,), {})}, the function of {where}, raised StopIteration")


def _failure(future: asyncio.Future[Any], others: list[BaseException], where: str) -> BaseException:
    """Return what a future has failed with, with a note about what else has failed."""
    if future.cancelled():
        _note_lost(None, others, where)
        return asyncio.CancelledError()
    error = future.exception()
    assert error is not None
    if others:
        told = failures.lost_in_words(others)
        failures.add_note(error, f"(of the flows beside it, {told}; the first failure is raised)")
    return error


def _errors(futures: Iterable[asyncio.Future[Any]]) -> list[BaseException]:
    """Return what futures have failed with; it counts as retrieved: asyncio does not report it."""
    ended = (future for future in futures if future.done() and not future.cancelled())
    return [error for future in ended if (error := future.exception()) is not None]


async def _cancel_all(futures: Collection[asyncio.Future[Any]], where: str) -> list[BaseException]:
    """Cancel those that run, wait until all have ended, and return what they have failed with, as in a clean-up."""
    going = [future for future in futures if not future.done()]
    for future in going:
        future.cancel()
    try:
        await settled(*going)
    except asyncio.CancelledError as error:
        _note_lost(error, _errors(futures), where)
        raise
    return _errors(futures)


def _note_lost(error: BaseException | None, lost: list[BaseException], where: str) -> None:
    """Tell of errors that nobody gets: in a note to the one that is raised, or, where none reaches the user, a log."""
    if not lost:
        return
    told = failures.lost_in_words(lost)
    if isinstance(error, Exception):
        failures.add_note(error, f"(while the flows beside it in {where} were cancelled, {told})")
    else:
        logger.warning("%s: while flows were cancelled, %s", where, told)


def _mine(made: tuple[Flow[Any], ...], where: str) -> tuple[Flow[Any], ...]:
    """Check that all are flows, and mark them as used."""
    for one in made:
        flows.check(one, where)
    return tuple(one.used() for one in made)


def _checked_limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit!r}: a whole number of at least 1 is needed, or None")
    return limit


async def _gather(
    where: str, fn: Callable[[Any], Flow[Any]] | None, xs: Iterable[Any], limit: int | None, errors: Errors
) -> Any:
    group = _Group(where, fn, errors)
    if fn is None:
        maps = set[Counted]()  # what stands beside each other in the program is no map
    else:
        maps, name = environment.maps()
        group.name, group.total = name or flows.function_name(fn), length(xs)
    maps.add(group)
    try:
        results, error = await group.run(xs, limit)
    finally:
        maps.discard(group)
    if error is None:
        return tuple(results) if where == "concurrently" else results
    try:
        failures.shorten_in_task(error)
        raise error
    finally:
        del error


@overload
def concurrently(*, errors: Errors = "raise") -> Job[tuple[()]]: ...
@overload
def concurrently(a: Flow[A], /, *, errors: Literal["raise"] = "raise") -> Job[tuple[A]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], /, *, errors: Literal["raise"] = "raise") -> Job[tuple[A, B]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], /, *, errors: Literal["raise"] = "raise"
) -> Job[tuple[A, B, C]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], /, *, errors: Literal["raise"] = "raise"
) -> Job[tuple[A, B, C, D]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], /, *, errors: Literal["raise"] = "raise"
) -> Job[tuple[A, B, C, D, E]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], e: Flow[E], f: Flow[F], /, *, errors: Literal["raise"] = "raise"
) -> Job[tuple[A, B, C, D, E, F]]: ...
@overload
def concurrently(
    a: Flow[A],
    b: Flow[B],
    c: Flow[C],
    d: Flow[D],
    e: Flow[E],
    f: Flow[F],
    g: Flow[G],
    /,
    *,
    errors: Literal["raise"] = "raise",
) -> Job[tuple[A, B, C, D, E, F, G]]: ...
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
    /,
    *,
    errors: Literal["raise"] = "raise",
) -> Job[tuple[A, B, C, D, E, F, G, H]]: ...
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
    /,
    *,
    errors: Literal["raise"] = "raise",
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
    *,
    errors: Literal["raise"] = "raise",
) -> Job[tuple[A, B, C, D, E, F, G, H, J, K]]: ...
@overload
def concurrently(*flows: Flow[T], errors: Literal["raise"] = "raise") -> Job[tuple[T, ...]]: ...
@overload
def concurrently(a: Flow[A], /, *, errors: Literal["return"]) -> Job[tuple[A | Failed]]: ...
@overload
def concurrently(a: Flow[A], b: Flow[B], /, *, errors: Literal["return"]) -> Job[tuple[A | Failed, B | Failed]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], /, *, errors: Literal["return"]
) -> Job[tuple[A | Failed, B | Failed, C | Failed]]: ...
@overload
def concurrently(
    a: Flow[A], b: Flow[B], c: Flow[C], d: Flow[D], /, *, errors: Literal["return"]
) -> Job[tuple[A | Failed, B | Failed, C | Failed, D | Failed]]: ...
@overload
def concurrently(*flows: Flow[T], errors: Literal["return"]) -> Job[tuple[T | Failed, ...]]: ...
def concurrently(*flows: Flow[Any], errors: Errors = "raise", **others: object) -> Job[Any]:
    """Run flows side by side and return all their results, in order.

    Args:
        flows: What to run.
        errors: As for `map_concurrently`.

    The first failure cancels the others, waits for them, and is raised unchanged. Cancelling cancels all.
    """
    failures.check(errors, "concurrently", others)
    return Job(Native("concurrently", _gather, ("concurrently", None, _mine(flows, "concurrently"), None, errors)))


@overload
def map_concurrently(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None, *, errors: Literal["raise"] = "raise"
) -> Job[list[T]]: ...
@overload
def map_concurrently(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None, *, errors: Literal["return"]
) -> Job[list[T | Failed]]: ...
def map_concurrently(
    fn: Callable[[Any], Flow[Any]],
    xs: Iterable[Any],
    limit: int | None = None,
    *,
    errors: Errors = "raise",
    **others: object,
) -> Job[list[Any]]:
    """Run `fn(x)` for every x side by side and return the results in the order of xs.

    Args:
        fn: Returns the flow for one x. If it raises StopIteration, that is a RuntimeError, as in a generator.
        xs: Read as far as `limit` allows at a time. The first run uses an iterator up.
        limit: How many flows may run at a time; None for all.
        errors: "raise": the first failure cancels the others, waits for them, and is raised unchanged, with a note that
            names its call. "return": the others go on, a `Failed` takes the place of each result that is missing, and
            a line in the log says how many there are. AllocationEnding, MisuseError and a cancellation are raised all
            the same.
    """
    failures.check(errors, "map_concurrently", others)
    where = "map_concurrently"
    return Job(Native(where, _gather, (where, flows.function(fn, where), xs, _checked_limit(limit), errors)))


def replicate_concurrently(n: int, flow: Flow[T]) -> Job[list[T]]:
    """Run one flow `n` times side by side and return the n results."""
    where = "replicate_concurrently"
    if type(n) is not int or n < 0:
        raise ConfigurationError(f"{where}({n!r}, ...): a whole number of at least 0 is needed")
    return Job(Native(where, _gather, (where, None, _mine((flow,), where) * n, None, "raise")))


async def _race(made: tuple[Flow[Any], ...]) -> Any:
    futures: dict[asyncio.Future[Any], Step] = {}
    ended: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
    try:
        for one in made:
            future = one.start()
            futures[future] = one.step
            future.add_done_callback(ended.put_nowait)
            del future
        winner = await ended.get()
        others = await _cancel_all([one for one in futures if one is not winner], "race")
    except BaseException as left:
        _note_lost(left, await _cancel_all(futures, "race"), "race")
        raise
    step = futures.pop(winner)
    futures.clear()
    error: BaseException | None = None
    try:
        if not winner.cancelled() and winner.exception() is None:
            _note_lost(None, others, "race")
            return winner.result()
        error = _failure(winner, others, "race")
        failures.note_call(error, step.call() or repr(step), "race")
        failures.shorten_in_task(error)
        raise error
    finally:
        del winner, others, error


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
        raise ConfigurationError("race() of no flows would never end; write: race(one, another)")
    return Job(Native("race", _race, (_mine(flows, "race"),)))


@overload
def as_completed(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None, *, errors: Literal["raise"] = "raise"
) -> AsyncGenerator[tuple[X, T], None]: ...
@overload
def as_completed(
    fn: Callable[[X], Flow[T]], xs: Iterable[X], limit: int | None = None, *, errors: Literal["return"]
) -> AsyncGenerator[tuple[X, T | Failed], None]: ...
def as_completed(
    fn: Callable[[Any], Flow[Any]],
    xs: Iterable[Any],
    limit: int | None = None,
    *,
    errors: Errors = "raise",
    **others: object,
) -> AsyncGenerator[tuple[Any, Any], None]:
    """Iterate over `(x, result)` in the order in which they end: `async for x, r in as_completed(fn, xs): ...`.

    Args:
        fn: Returns the flow for one x.
        xs: May be lazy and endless; the next x is read when fewer than `limit` flows run.
        limit: How many flows run at a time; None for 1000.
        errors: "raise": the iteration raises the first failure, after it has cancelled the others. "return": it goes
            on, and gives `(x, Failed)`; the Failed's index counts the xs. For what is raised all the same, see
            `map_concurrently`.

    Leaving the loop early cancels what still runs. Memory is O(limit).
    """
    failures.check(errors, "as_completed", others)
    flows.function(fn, "as_completed")
    return _as_completed(fn, xs, _checked_limit(limit) or IN_FLIGHT, errors == "return")


async def _as_completed(
    fn: Callable[[Any], Flow[Any]], xs: Iterable[Any], room: int, returns: bool
) -> AsyncGenerator[tuple[Any, Any], None]:
    source = enumerate(xs)
    going: dict[asyncio.Future[Any], tuple[int, Any, Step]] = {}
    done: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
    ready: deque[tuple[Any, Failed]] = deque()  # those that could not even be started
    returned: list[Failed] = []  # only the first of them: there may be endlessly many
    count, index = 0, -1
    maps, name = environment.maps()
    steps = Steps(f"as_completed of {name or flows.function_name(fn)}", length(xs))
    maps.add(steps)
    try:
        while True:
            read = 0
            for index, x in itertools.islice(source, room - len(going)):
                read += 1
                try:
                    _begin(fn, index, x, going, done)
                except Exception as refused:
                    if not returns or not failures.may_return(refused):
                        raise
                    ready.append((x, failures.returned(index, flows.show_call(fn, (x,), {}), refused)))
            if going and not ready:
                x, result, error = _outcome(fn, await done.get(), going, returns)
                if error is not None:
                    failures.shorten_in_task(error)
                    raise error
            elif ready:
                x, result = ready.popleft()
            elif not read:
                break
            else:
                continue
            steps.ended += 1
            if returns and type(result) is Failed:
                count += 1
                returned = returned or [result]
            yield x, result
            del x, result
    except BaseException as left:
        _note_lost(left, await _cancel_all(going, "as_completed"), "as_completed")
        raise
    finally:
        error = None
        going.clear()
        maps.discard(steps)
        failures.tell("as_completed", returned, index + 1, count)


def _begin(
    fn: Callable[[Any], Flow[Any]],
    index: int,
    x: Any,
    going: dict[asyncio.Future[Any], tuple[int, Any, Step]],
    done: asyncio.Queue[asyncio.Future[Any]],
) -> None:
    one = made_by(fn, x, "as_completed")
    future = one.start()
    going[future] = index, x, one.step
    future.add_done_callback(done.put_nowait)


def _outcome(
    fn: Callable[[Any], Flow[Any]],
    future: asyncio.Future[Any],
    going: dict[asyncio.Future[Any], tuple[int, Any, Step]],
    returns: bool,
) -> tuple[Any, Any, BaseException | None]:
    """Return an x with its result or Failed, or with the error that ends the iteration."""
    index, x, step = going.pop(future)
    if future.cancelled():
        return x, None, asyncio.CancelledError()
    error = future.exception()
    if error is None:
        return x, future.result(), None
    call = _call_of(fn, x, step)
    failures.note_call(error, call, "as_completed")
    if returns and isinstance(error, Exception) and failures.may_return(error):
        return x, failures.returned(index, call, error), None
    return x, None, error
