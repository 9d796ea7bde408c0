"""A map of memoized calls, as far as they are alike: looked up together, and recorded together.

A call by itself (see `recording`) has a flight, futures, callbacks and contexts of its own, which take several times
what it takes to write its entry. Here the calls of one function that a map starts in one turn of the event loop are one
`Several`: what is known of their keys is asked once, what they have computed is handed over once, and the map hears
once that it is on the disk.

Guarantees: the same as for calls by themselves, because whatever happens to one of them alone makes it a `Recording`
with its place in the map, before it is dealt with: somebody else wants its key, its function fails, its flow has to
run, its result cannot be recorded or is long. So there is one code for what is rare.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from hyperflow import environment
from hyperflow.database import single_flight
from hyperflow.database.entries import Entry, FromCode, warn_of, with_origin
from hyperflow.database.kept import LONGEST
from hyperflow.database.memo_function import Memo
from hyperflow.database.origins import Making, of_seconds
from hyperflow.database.recording import MemoStep, Recording, decoded, started
from hyperflow.database.store import Store
from hyperflow.environment import MapOwner
from hyperflow.errors import SerializationError
from hyperflow.flow import Flow, Job, Pure

Call = tuple[tuple[Any, ...], dict[str, Any]]

NO_KEYWORDS: dict[str, Any] = {}

clock = time.perf_counter


class MemoMap:
    """What a map has of a memoized function; see `environment.BulkMap`."""

    def __init__(self, owner: MapOwner, memo: Memo) -> None:
        self._owner = owner
        self._memo = memo
        self._going: set[Several] = set()

    def start(
        self, xs: Iterator[Any], make: Callable[[Any], Any] | None, most: int
    ) -> tuple[int, tuple[Any, Any] | None]:
        calls: list[Call] = []
        database, memo, refused = self._database(), self._memo, 0
        if database is not None and memo.takes_one and getattr(make, "__memo__", None) is memo:
            for x in xs:  # no flow is needed of each
                calls.append(((x,), NO_KEYWORDS))
                if len(calls) == most:
                    break
            self._begin(database, calls)
            return len(calls), None
        try:
            for x in xs:
                try:
                    one = x if make is None else make(x)
                except Exception as error:
                    self._begin(database, calls)
                    refused, calls = refused + len(calls) + 1, []
                    if not self._owner.refused(x, error):
                        raise
                else:
                    step = one.step if isinstance(one, Flow) else None
                    if database is None or not isinstance(step, MemoStep) or step.fn.__memo__ is not memo:
                        return refused + len(calls), (x, one)
                    calls.append((step.args, step.kwargs))
                    one.used()
                if refused + len(calls) == most:
                    break
            return refused + len(calls), None
        finally:
            self._begin(database, calls)

    def _database(self) -> Store | None:
        """Return where several may be recorded together."""
        env = environment.peek()
        # Of what is part of another computation, each is noted there when it is read.
        here = env is not None and environment.peek_making() is None and single_flight.inside.get() is None
        return env.database if here and env is not None and isinstance(env.database, Store) else None

    def _begin(self, database: Store | None, calls: list[Call]) -> None:
        if database is not None and calls:
            Several(self._owner, self._memo, database, calls, self._going).begin()

    def cancel(self) -> None:
        for several in list(self._going):
            several.withdraw()


class Running:
    """One of several while its function runs, for what that starts."""

    __slots__ = ("at", "flight", "several")

    def __init__(self, several: Several, at: int) -> None:
        self.several = several
        self.at = at
        self.flight: Recording | None = None

    def current(self) -> Recording | None:
        """Return its flight, if it has not ended: with one, it is known who waits for whom."""
        if self.flight is None and self.several.running is self:
            self.flight = self.several.alone(self.at)
        return self.flight

    def fail(self, error: BaseException) -> None:
        """Its function has failed."""
        if (flight := self.current()) is not None:
            flight.fail(error)

    def go_on(self, made: Any, making: Making) -> None:
        """Its function has made what has to run, while `making` noted what it read."""
        if (flight := self.current()) is not None:
            flight.go_on(made, making)


class Batch:
    """Results that are recorded together."""

    __slots__ = ("entries", "name", "ready", "recorded")

    def __init__(self, name: str) -> None:
        self.name = name
        """The map that they are recorded in."""
        self.entries: list[Entry] = []
        self.ready: dict[int, tuple[str, Any]] = {}
        """The text of each, and the value made of that, by its place."""
        self.recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Several:
    """Calls of a memoized function in consecutive places of a map; it stands for the flights of their keys."""

    def __init__(self, owner: MapOwner, memo: Memo, database: Store, calls: list[Call], going: set[Several]) -> None:
        self.running: Running | None = None
        self._owner, self._memo, self._database, self._calls, self._going = owner, memo, database, calls, going
        self._context = contextvars.copy_context()
        self._place = owner.begun(len(calls))
        self._keys: list[str | None] = []
        """None for what has ended, or has gone on by itself."""
        self._asked: set[int] = set()
        self._batches: list[Batch] = []

    def begin(self) -> None:
        """Look all up, and compute what is not there."""
        memo, database, every = self._memo, self._database, range(len(self._calls))
        try:
            _ = memo.codec, memo.fingerprint
            keys = memo.keys_of(self._calls)
            self._keys = [*keys]
            found = database.peek_all(memo.map_name, keys)
        except Exception:  # noqa: BLE001 (each by itself says what is wrong)
            self._keys = [None] * len(every)
            self._restart(every)
            return
        self._going.add(self)
        if found is None:
            self._compute(self._mine(every))
            self._told(0)
            return
        self._asked = {at for at in every if not found[at][0]}
        if asked := self._mine(sorted(self._asked)):
            answers = database.ask_all([(memo.map_name, keys[at]) for at in asked])
            answers.add_done_callback(partial(self._looked, asked))
        missing = self._take([(at, text) for at, (known, text) in enumerate(found) if known])
        self._compute(self._mine(missing))
        self._told(0)

    def _mine(self, places: Iterable[int]) -> list[int]:
        """Make this the flight of these, and return them; but what has one already joins that."""
        flights, name, keys = self._database.flights, self._memo.map_name, self._keys
        mine: list[int] = []
        for at in places:
            key = name, keys[at]
            if key in flights:
                self._restart((at,))
            else:
                flights[key] = self
                mine.append(at)
        return mine

    def _restart(self, places: Iterable[int]) -> None:
        """Have some, of which this is not the flight, go by themselves."""
        for at in places:
            self._keys[at] = None
            args, kwargs = self._calls[at]
            future = self._context.copy().run(started, self._memo, args, kwargs)
            self._owner.apart(self._place + at, future, MemoStep(self._memo.fn, args, kwargs))

    # ---- recorded already ----------------------------------------------------------------------------------------

    def _take(self, found: Iterable[tuple[int, str | None]]) -> list[int]:
        """Take the recorded results that count, and return what has to be computed."""
        memo, database, results = self._memo, self._database, self._owner.results
        missing: list[int] = []
        taken = 0
        for at, text in found:
            args, kwargs = self._calls[at]
            try:
                if text is None or not memo.counts(text, database):
                    missing.append(at)
                    continue
                results[self._place + at] = decoded(memo.codec, text, memo, args, kwargs)
            except Exception:  # noqa: BLE001 (by itself, it says what is wrong)
                self._leave(at)
                self._restart((at,))
            else:
                self._leave(at)
                taken += 1
        self._told(taken)
        return missing

    def _leave(self, at: int) -> None:
        """Be the flight of one no more."""
        key = self._memo.map_name, self._keys[at]
        self._keys[at] = None
        if self._database.flights.get(key) is self:
            del self._database.flights[key]

    def _looked(self, asked: list[int], answers: asyncio.Future[list[tuple[str | None, list[str]]]]) -> None:
        self._asked.clear()
        error = answers.exception()
        found: list[tuple[int, str | None]] = []
        for at, (text, damaged) in zip(asked, [] if error is not None else answers.result(), strict=False):
            try:
                warn_of(damaged)
            except Exception as warning:  # noqa: BLE001 (who waits for it gets it)
                self._fail((at,), warning)
            if self._keys and self._keys[at] is not None:
                found.append((at, text))
        if error is not None:
            self._fail(asked, error)
        self._compute(self._take(found))
        self._told(0)

    # ---- computed ------------------------------------------------------------------------------------------------

    def _compute(self, places: list[int]) -> None:
        """Call the function for these, and record what is there at once."""
        places = [at for at in places if self._keys[at] is not None]
        if places and self._memo.has_new_texts:  # which go with the first result, by itself
            self._context.copy().run(self.alone(places[0]).begin)
        batch = Batch(self._memo.map_name)
        self._batches.append(batch)
        noting, inside = environment.set_making(None), single_flight.inside.set(None)
        try:
            self._call(places, batch)
        finally:
            self.running = None
            single_flight.inside.reset(inside)
            environment.end_making(noting)
            if batch.entries:
                self._database.record_all(batch.entries).add_done_callback(partial(self._written, batch))
            else:
                self._batches.remove(batch)

    def _call(self, places: list[int], batch: Batch) -> None:
        memo, keys, calls, name, ready = self._memo, self._keys, self._calls, self._memo.map_name, batch.ready
        fn, encode, set_inside, code = memo.fn, memo.codec.encode_again, single_flight.inside.set, memo.fingerprint.text
        metadata = memo.metadata(code)
        abouts: dict[int, str] = {}
        making = None
        began = clock()
        for at in places:
            key = keys[at]
            if key is None:  # the function of one before has asked for it
                continue
            if making is None:
                making = Making()
                environment.set_making(making)
            self.running = running = Running(self, at)
            set_inside(running)
            args, kwargs = calls[at]
            try:
                made = fn(*args, **kwargs)
            except BaseException as error:
                running.fail(error)
                if not isinstance(error, Exception):
                    raise
                making, began = None, clock()
                continue
            found = None
            if type(made) is Job and type(step := made.step) is Pure and running.flight is None:
                try:  # noqa: SIM105 (half a microsecond)
                    found = encode(step.value)
                except SerializationError:
                    pass  # by itself, it says why
            if found is None or len(found[0]) > LONGEST:
                making.began = began
                running.go_on(made, making)
                making, began = None, clock()
                continue
            made.made_at = None  # it is used
            now = clock()
            took = int((now - began) * 1e7)  # in short, so that many have the same words
            about = abouts.get(took) or abouts.setdefault(took, with_origin(metadata, of_seconds(took / 1e7)))
            batch.entries.append((name, key, FromCode.of(found[0], code, about)))
            ready[at] = found
            began = now

    def _written(self, batch: Batch, done: asyncio.Future[list[None]]) -> None:
        error, ready = done.exception(), batch.ready
        if error is not None:
            batch.recorded.set_exception(error)
            batch.recorded.exception()  # who waits for it has been given a copy
            self._fail(ready, error)
        else:
            batch.recorded.set_result(None)
            if self._keys:
                flights, name, keys, results = self._database.flights, batch.name, self._keys, self._owner.results
                for at, (_, value) in ready.items():
                    del flights[name, keys[at]]
                    keys[at] = None
                    results[self._place + at] = value
                self._told(len(ready))
        self._batches.remove(batch)
        self._told(0)

    # ---- one by itself, and the end ------------------------------------------------------------------------------

    def join_one(self, key: str, taken: Callable[[], None] | None) -> single_flight.Waiter:
        """Somebody else wants one: it goes on by itself from now on."""
        at, running = self._keys.index(key), self.running
        if running is not None and running.at == at and (flight := running.current()) is not None:
            return flight.join(taken)
        flight = self.alone(at)
        waiter = flight.join(taken)
        for batch in self._batches:
            if (found := batch.ready.pop(at, None)) is not None:
                flight.wait_until(found[0], asyncio.shield(batch.recorded))
                return waiter
        self._context.copy().run(flight.begin)
        self._told(0)
        return waiter

    def alone(self, at: int) -> Recording:
        """Have one go on by itself; how, is the caller's business."""
        key = self._keys[at]
        assert key is not None
        self._keys[at] = None
        return self._context.copy().run(self._recording, at, key)

    def _recording(self, at: int, key: str) -> Recording:
        args, kwargs = self._calls[at]
        flight = Recording(self._memo, key, args, kwargs, self._database, at not in self._asked)
        self._owner.apart(self._place + at, flight.join(None), MemoStep(self._memo.fn, args, kwargs))
        return flight

    def _fail(self, places: Iterable[int], error: BaseException) -> None:
        """Give each of those that are still here an error of its own: a traceback grows where it is raised."""
        for at in places:
            if self._keys and self._keys[at] is not None:
                again = type(error)(*error.args)
                again.__cause__ = error.__cause__
                self.alone(at).fail(again)
        self._told(0)

    def _told(self, count: int) -> None:
        """So many have their results."""
        if count:
            self._owner.done(count)
        if not any(self._keys):
            self._going.discard(self)

    def withdraw(self) -> None:
        """Nobody wants the rest."""
        for at, key in enumerate(self._keys):
            if key is not None:
                self._leave(at)
        self._keys = []
        self._going.discard(self)
