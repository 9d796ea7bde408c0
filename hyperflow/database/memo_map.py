"""A map of memoized calls, as far as they are alike: looked up together, and recorded together.

A call by itself (see `recording`) has a flight, futures, callbacks and contexts of its own, which take several times
what it takes to write its entry. Here the calls of one function that a map starts in one turn of the event loop are one
`Several`: what is known of their keys is asked once, what they have computed is handed over once, and the map hears
once that it is on the disk.

Guarantees: the same as for calls by themselves, because whatever happens to one of them alone makes it a `Recording`
with its place in the map, before it is dealt with: somebody else wants its key, its function fails, its flow is none
that is evaluated together, its evaluation goes on by itself, its result cannot be recorded or is long. So there is one
code for what is rare.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from hyperflow import environment
from hyperflow.database import single_flight
from hyperflow.database.entries import Entry, FromCode, warn_of, with_origin
from hyperflow.database.fingerprint import Fingerprint
from hyperflow.database.kept import LONGEST
from hyperflow.database.memo_function import Memo
from hyperflow.database.origins import Making, of_seconds
from hyperflow.database.recording import MemoStep, Recording, decoded, started
from hyperflow.database.store import Store
from hyperflow.environment import BulkMap, MapOwner
from hyperflow.errors import DatabaseError, SerializationError
from hyperflow.flow import Flow, Job, Pure

Call = tuple[tuple[Any, ...], dict[str, Any]]

NO_KEYWORDS: dict[str, Any] = {}

clock = time.perf_counter


class MemoMap:
    """What a map has of a memoized function; see `environment.BulkMap`."""

    def __init__(self, owner: MapOwner, memo: Memo) -> None:
        self.owner = owner
        self.memo = memo
        self.going: set[Several] = set()
        self._evaluations = Evaluations()
        self._engine: BulkMap | None = None  # what evaluates

    def start(
        self, xs: Iterator[Any], make: Callable[[Any], Any] | None, most: int
    ) -> tuple[int, tuple[Any, Any] | None]:
        calls: list[Call] = []
        database, memo, refused = self._database(), self.memo, 0
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
                    if not self.owner.refused(x, error):
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
        here = here and environment.peek_guess() is None  # each of them may become wanted
        return env.database if here and env is not None and isinstance(env.database, Store) else None

    def _begin(self, database: Store | None, calls: list[Call]) -> None:
        if database is not None and calls:
            Several(self, database, calls).begin()

    def evaluate(self, made: list[Evaluating]) -> None:
        """Start the flows of these."""
        if self._engine is None:
            self._engine = environment.open_map(self._evaluations)
        xs = iter(made)
        if self._engine is not None:
            flows, self._evaluations.next = iter([one.flow for one in made]), xs
            left = len(made)
            while left:
                count, other = self._engine.start(flows, None, left)
                left -= count + (other is not None)
                if other is not None:
                    next(xs).go_on()
            self._evaluations.next = iter(())  # which would know them all
            return
        for one in xs:
            one.go_on()

    def cancel(self, apart: bool = False) -> None:  # noqa: ARG002 (nobody asks for it)
        for several in list(self.going):
            several.withdraw()
        if self._engine is not None:
            self._evaluations.cancel(self._engine)


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

    __slots__ = ("entries", "name", "ready", "recorded", "several")

    def __init__(self, several: Several, name: str) -> None:
        self.several = several
        self.name = name
        """The map that they are recorded in."""
        self.entries: list[Entry] = []
        self.ready: dict[int, tuple[str, Any]] = {}
        """The text of each, and the value made of that, by its place."""
        self.recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Evaluating:
    """One of several whose function has made a plain evaluation."""

    __slots__ = ("at", "fingerprint", "flight", "flow", "making", "several")

    def __init__(self, several: Several, at: int, flow: Job[Any], making: Making, fingerprint: Fingerprint) -> None:
        self.several = several
        self.at = at
        self.flow = flow
        self.making = making
        self.fingerprint = fingerprint
        self.flight: Recording | None = None
        """Where somebody has joined it."""

    def joined(self, flight: Recording) -> None:
        """Somebody wants it beside the map: it stays where it is, and this gets its result."""
        self.flight = flight
        flight.gets(self.fingerprint, self.making)

    def ended(self) -> None:
        """Know the others no more, nor they it."""
        self.several.evaluating.pop(self.at, None)

    def go_on(self) -> None:
        """It goes by itself."""
        self.ended()
        (self.flight or self.several.alone(self.at)).go_on(self.flow, self.making)

    def goes_on(self, evaluation: asyncio.Future[Any]) -> bool:
        """Its evaluation goes on by itself; return whether anybody wants that."""
        self.ended()
        if self.flight is None and self.several.is_over:
            return False
        flight = self.flight or self.several.alone(self.at)
        flight.gets(self.fingerprint, self.making)
        flight.wait_for(evaluation)
        return True

    def take(self, value: Any) -> Batch | None:
        """Take its value; return what it is recorded with, unless by itself."""
        self.ended()
        several = self.several
        text, again = None, None
        if self.flight is None:
            try:  # noqa: SIM105 (half a microsecond)
                text, again = several.memo.codec.encode_again(value)
            except Exception:  # noqa: BLE001 (by itself, it says what is wrong)
                pass
        if text is None or len(text) > LONGEST or not several.memo.has_told(self.fingerprint):
            flight = self.flight or several.alone(self.at)
            flight.gets(self.fingerprint, self.making)
            flight.take(value)
            return None
        return several.computed(self, text, again)


class Evaluations:
    """What a map's memoized functions evaluate together; as an `environment.MapOwner`, it has places of its own."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        """Until they are taken."""
        self.next: Iterator[Evaluating] = iter(())
        """Those that are being started."""
        self._begun = 0
        self._at: dict[int, Evaluating] = {}
        self._batches: dict[Batch, None] = {}
        self._unwanted: list[asyncio.Future[Any]] = []

    def begun(self, count: int) -> int:
        first = self._begun
        self._begun += count
        self._at.update(enumerate(islice(self.next, count), first))
        return first

    def evaluated(self, shift: int, numbers: Sequence[int], seconds: Sequence[float], node: str, cpus: int) -> None:
        """The results of these evaluations are in their places, which are so many more than their numbers."""
        of, results, batches = self._at.pop, self.results.pop, self._batches
        for number, took in zip(numbers, seconds, strict=True):
            place = shift + number
            one, value = of(place), results(place)
            one.making.evaluated(number, node, cpus, took)
            if (batch := one.take(value)) is not None:
                batches[batch] = None

    def done(self, count: int) -> None:  # noqa: ARG002 (it knows which)
        batches, self._batches = self._batches, {}
        for batch in batches:
            batch.several.record(batch)

    def apart(self, place: int, future: asyncio.Future[Any], step: Any) -> Making | None:  # noqa: ARG002
        one = self._at.pop(place)
        if one.goes_on(future):
            return one.making
        self._unwanted.append(future)
        return None

    def refused(self, x: Any, error: Exception) -> bool:  # noqa: ARG002 (the flows are made already)
        return False

    def cancel(self, engine: BulkMap) -> None:
        """Nobody wants these but who has joined one."""
        engine.cancel(apart=any(one.flight is not None for one in self._at.values()))
        self._at.clear()
        unwanted, self._unwanted = self._unwanted, []
        for evaluation in unwanted:
            evaluation.cancel()


class Several:
    """Calls of a memoized function in consecutive places of a map; it stands for the flights of their keys."""

    def __init__(self, of: MemoMap, database: Store, calls: list[Call]) -> None:
        self.running: Running | None = None
        self.memo = of.memo
        self.evaluating: dict[int, Evaluating] = {}
        """By the place."""
        self._map, self._owner, self._database, self._calls = of, of.owner, database, calls
        self._context = contextvars.copy_context()
        self._place = of.owner.begun(len(calls))
        self._left = len(calls)
        self._keys: list[str | None] = []
        """None for what has ended, or has gone on by itself."""
        self._asked: set[int] = set()
        self._batches: list[Batch] = []
        self._open: Batch | None = None

    @property
    def is_over(self) -> bool:
        """Whether the map wants nothing of it any more."""
        return not self._keys

    def begin(self) -> None:
        """Look all up, and compute what is not there."""
        memo, database, every = self.memo, self._database, range(len(self._calls))
        try:
            _ = memo.codec, memo.fingerprint
            keys = memo.keys_of(self._calls)
            self._keys = [*keys]
            found = database.peek_all(memo.map_name, keys)
        except Exception:  # noqa: BLE001 (each by itself says what is wrong)
            self._keys = [None] * len(every)
            self._restart(every)
            return
        self._map.going.add(self)
        if found is None:
            self._compute(self._mine(every))
            return
        self._asked = {at for at in every if not found[at][0]}
        if asked := self._mine(sorted(self._asked)):
            answers = database.ask_all([(memo.map_name, keys[at]) for at in asked])
            answers.add_done_callback(partial(self._looked, asked))
        missing = self._take([(at, text) for at, (known, text) in enumerate(found) if known])
        self._compute(self._mine(missing))

    def _mine(self, places: Iterable[int]) -> list[int]:
        """Make this the flight of these, and return them; but what has one already joins that."""
        flights, name, keys = self._database.flights, self.memo.map_name, self._keys
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
            self._gone(at)
            args, kwargs = self._calls[at]
            future = self._context.copy().run(started, self.memo, args, kwargs)
            self._owner.apart(self._place + at, future, MemoStep(self.memo.fn, args, kwargs))

    # ---- recorded already ----------------------------------------------------------------------------------------

    def _take(self, found: Iterable[tuple[int, str | None]]) -> list[int]:
        """Take the recorded results that count, and return what has to be computed."""
        memo, database, results = self.memo, self._database, self._owner.results
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
        if taken:
            self._owner.done(taken)
        return missing

    def _leave(self, at: int) -> None:
        """Be the flight of one no more."""
        key = self.memo.map_name, self._keys[at]
        self._gone(at)
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

    # ---- computed ------------------------------------------------------------------------------------------------

    def _compute(self, places: list[int]) -> None:
        """Call the function for these, and record what is there at once."""
        places = [at for at in places if self._keys[at] is not None]
        if places and self.memo.has_new_texts:  # which go with the first result, by itself
            self._context.copy().run(self.alone(places[0]).begin)
        batch = Batch(self, self.memo.map_name)
        self._batches.append(batch)
        made: list[Evaluating] = []
        noting, inside = environment.set_making(None), single_flight.inside.set(None)
        try:
            self._call(places, batch, made)
        finally:
            self.running = None
            single_flight.inside.reset(inside)
            environment.end_making(noting)
            if batch.entries:
                self.record(batch)
            else:
                self._batches.remove(batch)
        if made:
            self._map.evaluate(made)

    def _call(self, places: list[int], batch: Batch, evaluating: list[Evaluating]) -> None:
        memo, keys, calls, name, ready = self.memo, self._keys, self._calls, self.memo.map_name, batch.ready
        fn, encode, set_inside, fingerprint = (
            memo.fn,
            memo.codec.encode_again,
            single_flight.inside.set,
            memo.fingerprint,
        )
        code = fingerprint.text
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
            if type(made) is Job and running.flight is None:
                step = made.step
                if step.is_evaluation:
                    making.began = began
                    self.evaluating[at] = one = Evaluating(self, at, made, making, fingerprint)
                    evaluating.append(one)
                    making, began = None, clock()
                    continue
                if type(step) is Pure:
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

    def computed(self, one: Evaluating, text: str, value: Any) -> Batch:
        """One was evaluated: return what it is to be recorded with."""
        batch, memo, at, code = self._open, self.memo, one.at, one.fingerprint.text
        if batch is None:
            self._open = batch = Batch(self, memo.map_name)
            self._batches.append(batch)
        key = self._keys[at]
        assert key is not None
        about = with_origin(memo.metadata(code), one.making.text())
        batch.entries.append((batch.name, key, FromCode.of(text, code, about)))
        batch.ready[at] = text, value
        return batch

    def record(self, batch: Batch) -> None:
        """Record all that is in a batch."""
        self._open = None
        try:
            recorded = self._database.record_all(batch.entries)
        except DatabaseError as error:  # it is closed
            recorded = asyncio.get_running_loop().create_future()
            recorded.set_exception(error)
        recorded.add_done_callback(partial(self._written, batch))

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
                self._less(len(ready))
                if ready:
                    self._owner.done(len(ready))
        self._batches.remove(batch)

    # ---- one by itself, and the end ------------------------------------------------------------------------------

    def join_one(self, key: str, taken: Callable[[], None] | None) -> single_flight.Waiter:
        """Somebody else wants one: it goes on by itself from now on."""
        at, running = self._keys.index(key), self.running
        if running is not None and running.at == at and (flight := running.current()) is not None:
            return flight.join(taken)
        flight = self.alone(at)
        waiter = flight.join(taken)
        if (evaluating := self.evaluating.get(at)) is not None:
            evaluating.joined(flight)
            return waiter
        for batch in self._batches:
            if (found := batch.ready.pop(at, None)) is not None:
                flight.wait_until(found[0], asyncio.shield(batch.recorded))
                return waiter
        self._context.copy().run(flight.begin)
        return waiter

    def alone(self, at: int) -> Recording:
        """Have one go on by itself; how, is the caller's business."""
        key = self._keys[at]
        assert key is not None
        self._gone(at)
        return self._context.copy().run(self._recording, at, key)

    def _recording(self, at: int, key: str) -> Recording:
        args, kwargs = self._calls[at]
        flight = Recording(self.memo, key, args, kwargs, self._database, at not in self._asked)
        self._owner.apart(self._place + at, flight.join(None), MemoStep(self.memo.fn, args, kwargs))
        return flight

    def _fail(self, places: Iterable[int], error: BaseException) -> None:
        """Give each of those that are still here an error of its own: a traceback grows where it is raised."""
        for at in places:
            if self._keys and self._keys[at] is not None:
                again = type(error)(*error.args)
                again.__cause__ = error.__cause__
                self.alone(at).fail(again)

    def _gone(self, at: int) -> None:
        """One has ended, or goes on by itself."""
        self._keys[at] = None
        self._less(1)

    def _less(self, count: int) -> None:
        self._left -= count
        if not self._left:
            self._map.going.discard(self)

    def withdraw(self) -> None:
        """Nobody wants the rest."""
        for at, key in enumerate(self._keys):
            if key is not None:
                self._leave(at)
        self._keys = []
        self.evaluating.clear()
