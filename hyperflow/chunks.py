"""The chunks of remote_map: many plain function calls in one evaluation, and what becomes of them when one fails."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import attrs

from hyperflow import environment, failures
from hyperflow.aio import cancelling
from hyperflow.environment import Kept
from hyperflow.errors import (
    EvaluationExited,
    MisuseError,
    RemoteError,
    SerializationError,
    TimeLimitExceeded,
    WorkerDied,
)
from hyperflow.failures import Errors, Failed
from hyperflow.flow import ShowsItself, function_name, show_call
from hyperflow.progress.tally import length
from hyperflow.saying import short_repr, unfit_name

CHUNK_SECONDS = 0.02
"""How long a chunk of remote_map should take: much longer than a round trip, too short to notice."""

LARGEST_CHUNK = 100_000

MOST_PARTS = 100
"""How many evaluations a chunk that has failed as a whole is cut into: each of them carries the whole of it."""

MOST_CARRIED = 100_000_000
"""Bytes that these may carry together; a large chunk is cut into fewer parts, and these again."""

UNREADABLE = "could not be unpickled"
"""What the error says if a function or argument could not be read on the worker: then nothing was evaluated."""


class ItemError(NamedTuple):
    """Stands in the results of a chunk for one that is missing; the exception travels by itself (see `exceptions`)."""

    data: bytes | None
    words: tuple[str, str, str]
    exited: bool

    @classmethod
    def of(cls, error: BaseException) -> ItemError:
        """Pack what an item has raised; on the worker."""
        from hyperflow.shipping import exceptions, pickler  # noqa: PLC0415 (a worker has imported them)

        failures.shorten(error)
        if failures.on_item is not None:
            failures.on_item(error)
        words = exceptions.in_words(error)
        if not isinstance(error, Exception):
            return cls(None, words, exited=True)
        data = exceptions.dumps(error, lambda it: pickler.by_value(it, going_home=True))
        failures.let_go(error)
        return cls(data, words, exited=False)

    def make(self) -> Exception:
        """Return the exception; in words if it cannot be made."""
        from hyperflow.shipping import exceptions  # noqa: PLC0415 (few maps need it)

        if self.exited:
            return EvaluationExited(*self.words)
        error = RemoteError(*self.words) if self.data is None else exceptions.loads(self.data, self.words)
        if self.data is not None and self.words[-1]:
            failures.add_note(error, f"remote {self.words[-1]}")
        return error


@attrs.frozen
class Chunk(ShowsItself):
    """Evaluates a chunk of remote_map on a worker; with `returns`, an ItemError takes the place of what is missing.

    `stream` and the item's place, of which `first` is that of the first one, say what random numbers it draws.
    """

    fn: Callable[[Any], Any]
    returns: bool
    stream: tuple[int, ...]
    first: int

    def __call__(self, items: list[Any]) -> list[Any] | Coroutine[Any, Any, list[Any]]:
        fn, returns = self.fn, self.returns
        results: list[Any] = []
        place = [*self.stream, self.first]
        token = environment.map_item.set(place)
        try:
            for item in items:
                try:
                    result = fn(item)
                    if type(result) is types.CoroutineType:  # also of a lambda or object that calls an async function
                        return _apply_to_rest(fn, items, results, result, returns, place)
                except BaseException as error:  # noqa: BLE001 (what a user's function raises goes back, or is raised)
                    result = _failed_item(fn, item, error, returns)
                results.append(result)
                place[-1] += 1
        finally:
            environment.map_item.reset(token)
        return results

    def shown(self, args: tuple[Any, ...]) -> str:
        first, *_, last = (show_call(self.fn, (item,), {}) for item in args[0])
        return f"{first} ... {last}"


def evaluate_part(
    packed: tuple[tuple[Chunk, list[Any]]], begin: int, end: int
) -> list[Any] | Coroutine[Any, Any, list[Any]] | Any:
    """On a worker: evaluate items of a chunk, as it was when it was submitted; one alone is evaluated by itself."""
    ((chunk, items),) = packed
    if end - begin == 1:
        return chunk.fn(items[begin])
    return attrs.evolve(chunk, first=chunk.first + begin)(items[begin:end])


async def _apply_to_rest(
    fn: Callable[[Any], Awaitable[Any]],
    items: list[Any],
    results: list[Any],
    waiting: Awaitable[Any] | None,
    returns: bool,
    place: list[int],
) -> list[Any]:
    """Evaluate the rest of a chunk whose function turned out to be async; `waiting` is what it returned last."""
    token = environment.map_item.set(place)
    try:
        for item in items[len(results) :]:
            try:
                result = await (fn(item) if waiting is None else waiting)
            except BaseException as error:  # noqa: BLE001 (what a user's function raises is raised again, or goes back)
                result = _failed_item(fn, item, error, returns)
            waiting = None
            results.append(result)
            place[-1] += 1
    finally:
        environment.map_item.reset(token)
    return results


def _failed_item(fn: Callable[[Any], Any], item: object, error: BaseException, returns: bool) -> ItemError:
    """Return what stands for a failed item, or raise its error."""
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        raise error
    if isinstance(error, asyncio.CancelledError) and cancelling():
        raise error  # not of its own accord (where a test evaluates in its own event loop)
    if isinstance(error, StopIteration):  # no future can carry one
        stop, error = error, RuntimeError(f"{show_call(fn, (item,), {})}, in remote_map, raised StopIteration")
        error.__cause__ = stop
    _note_item(error, fn, item)
    if not returns:
        raise error
    return ItemError.of(error)


def _note_item(error: BaseException, fn: Callable[[Any], Any], item: object) -> None:
    where = f"in remote_map, for the item {short_repr(item, 200)}"
    call = show_call(fn, (item,), {})
    failures.add_note(error, f"({where})" if failures.names(error, call) else f"(raised by {call}, {where})")


class _Part:
    """Items that are evaluated together."""

    __slots__ = ("again", "began", "first", "items", "kept", "place")

    def __init__(
        self,
        first: int,  # the index of the first one
        items: list[Any],
        began: float,
        again: bool = False,  # whether a chunk with these items in it has failed as a whole
        kept: Kept | None = None,  # what was submitted for that chunk, or for this one
        place: int = 0,  # the place of the first item in it
    ) -> None:
        self.first = first
        self.items = items
        self.began = began
        self.again = again
        self.kept = kept
        self.place = place

    def drop(self) -> None:
        """It has ended, and is not evaluated again."""
        if self.kept is not None:
            self.kept.drop()


class _Map:
    """One run of remote_map: keeps all CPUs busy with chunks; the automatic size follows how long chunks take.

    When a chunk fails as a whole (a crash, the time limit, an unsendable result), nobody can tell by which item:
    then its items are evaluated again, one by one. So the error names the item, and the others have their results. They
    are evaluated from what was submitted: items and captures may have changed since.
    """

    def __init__(self, fn: Callable[[Any], Any], xs: Iterable[Any], chunk_size: int | None, errors: Errors) -> None:
        self.fn = fn
        self.source = iter(xs)
        self.automatic = chunk_size is None
        self.size = chunk_size or 1
        self.returns = errors == "return"
        self.env = environment.current()
        self.options, name = self.env.options, self.env.options.name or function_name(fn)
        if name.strip() and not unfit_name(name):
            self.options = attrs.evolve(self.options, name=name)  # else chunks are shown as what they are
        self.title, self.total = f"remote_map of {name}", length(xs)
        self.stream = self.env.evaluator.streams.of_map(fn, self.env.options.seed)
        self.loop = asyncio.get_running_loop()
        self.results: dict[int, list[Any]] = {}  # of each part, by the index of its first item
        self.returned: list[Failed] = []
        self.read = 0
        self.again: deque[_Part] = deque()
        self.going: dict[asyncio.Future[Any], _Part] = {}

    async def run(self) -> tuple[list[Any], BaseException | None]:
        """Return the results in order, or the first failure."""
        self.env.evaluator.maps.add(self)
        try:
            while True:
                error = await self._fill()
                if error is not None:
                    return [], error
                if not self.going:
                    failures.tell("remote_map", self.returned, self.read)
                    return [result for _, part in sorted(self.results.items(), key=_index) for result in part], None
                done, _ = await asyncio.wait(self.going, return_when=asyncio.FIRST_COMPLETED)
                while done:
                    error = self._take(done.pop())
                    if error is not None:
                        return [], error
        finally:
            self.env.evaluator.maps.discard(self)
            for future in self.going:
                if not future.cancel() and not future.cancelled():
                    future.exception()  # retrieved: it failed together with the one that is raised
            for part in (*self.going.values(), *self.again):
                part.drop()
            self.going.clear()
            self.again.clear()
            self.returned.clear()
            self.results.clear()

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return self.read - sum(len(part.items) for part in (*self.going.values(), *self.again))

    async def _fill(self) -> BaseException | None:
        """Keep three parts for each place on the CPUs under way; return a failure that ends the map."""
        room = 3 * max(1, self.env.evaluator.cpus // self.env.options.cpus)
        while len(self.going) < room:
            if self.again:
                part = self.again.popleft()
            else:
                items = list(itertools.islice(self.source, self.size))
                if not items:
                    return None
                part = _Part(self.read, items, self.loop.time())
                self.read += len(items)
            try:
                self.going[self._submit(part)] = part
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the part's failure)
                if (ends := self._failure(part, error)) is not None:
                    return ends
                await asyncio.sleep(0)  # else, if nothing can be started any more, the event loop had no turn
        return None

    def _submit(self, part: _Part) -> asyncio.Future[Any]:
        evaluator, options = self.env.evaluator, self.options
        chunk = Chunk(self.fn, self.returns, self.stream, part.first)
        single = len(part.items) == 1
        call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
        call = (self.fn, (part.items[0],), {}) if single else (chunk, (part.items,), {})
        stream = (*self.stream, part.first)
        if part.kept is not None:
            numbers = part.place, part.place + len(part.items)
            return part.kept.submit(evaluate_part, numbers, call, options, stream)
        future = evaluator.submit(call[0], call[1], call[2], options, stream)
        if not single:
            part.kept = evaluator.keep(future)
        return future

    def _take(self, future: asyncio.Future[Any]) -> BaseException | None:
        """Take what a part has ended with; return a failure that ends the map."""
        part = self.going.pop(future)
        if future.cancelled():
            return asyncio.CancelledError()
        error = future.exception()
        if error is not None:
            return self._failure(part, error)
        results = future.result() if len(part.items) > 1 else [future.result()]
        part.drop()
        if self.returns and len(part.items) > 1:
            results = self._made(part, results)
        self.results[part.first] = results
        if self.automatic and not part.again:
            each = max((self.loop.time() - part.began) / 3, 1e-9) / len(part.items)
            self.size = max(1, min(2 * self.size, LARGEST_CHUNK, int(CHUNK_SECONDS / each)))
        return None

    def _failure(self, part: _Part, error: BaseException) -> BaseException | None:
        """Have a chunk's items evaluated one by one, or keep a single one's failure; return what ends the map."""
        may_return = self.returns and failures.may_return(error)
        if len(part.items) > 1:
            if may_return or isinstance(error, (WorkerDied, TimeLimitExceeded, SerializationError)):
                self._split(part, unreadable=UNREADABLE in str(error))
                return None
        else:
            _note_item(error, self.fn, part.items[0])
            if may_return and isinstance(error, Exception):
                self.results[part.first] = [self._failed(part.first, part.items[0], error)]
                part.drop()
                return None
        part.drop()
        return error

    def _split(self, part: _Part, unreadable: bool) -> None:
        """Have a chunk's items evaluated again; anew, if what was submitted for it could not be read."""
        now, kept, count, size = self.loop.time(), part.kept, len(part.items), 1
        if kept is not None and unreadable:
            kept.drop()
            kept = None
        if kept is not None:
            size = -(-count // max(2, min(MOST_PARTS, MOST_CARRIED // kept.size)))
            kept.users += -(-count // size) - 1
        for at in range(0, count, size):
            self.again.append(_Part(part.first + at, part.items[at : at + size], now, True, kept, part.place + at))

    def _made(self, part: _Part, results: list[Any]) -> list[Any]:
        """Return the results of a chunk with a Failed in the place of each ItemError."""
        return [
            self._failed(index, item, result.make()) if type(result) is ItemError else result
            for index, (item, result) in enumerate(zip(part.items, results, strict=True), part.first)
        ]

    def _failed(self, index: int, item: Any, error: Exception) -> Failed:
        failed = failures.returned(index, show_call(self.fn, (item,), {}), error)
        self.returned.append(failed)
        return failed


def _index(entry: tuple[int, list[Any]]) -> int:
    return entry[0]


async def run(fn: Callable[[Any], Any], xs: Iterable[Any], chunk_size: int | None, errors: Errors) -> list[Any]:
    """Run remote_map."""
    if environment.current().level == "cluster":
        raise MisuseError(
            "remote_map in a Cluster computation would take a Slurm job for each few items; put it into a @job, and "
            "write: await hyperflow.remote_eval_job(that_job(...))"
        )
    results, error = await _Map(fn, xs, chunk_size, errors).run()
    if error is None:
        return results
    try:
        failures.shorten_in_task(error)
        raise error
    finally:
        del error
