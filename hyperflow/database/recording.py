"""Recording: a call of a memoized function is looked up, or computed and recorded.

Each call by itself; see `memo_map` for many that are alike.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any

from hyperflow import environment
from hyperflow import flow as flows
from hyperflow.aio import Outcome
from hyperflow.database import single_flight
from hyperflow.database.entries import FromCode, warn_of, with_origin
from hyperflow.database.fingerprint import Fingerprint
from hyperflow.database.hints import show
from hyperflow.database.kept import LONGEST
from hyperflow.database.memo_function import Memo
from hyperflow.database.origins import Making
from hyperflow.database.values import Codec
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import DatabaseError, MisuseError, SerializationError
from hyperflow.flow import Flow
from hyperflow.guesses import Guess


class MemoStep(flows.CallStep):
    """A call of a memoized function."""

    __slots__ = ()


async def run(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the recorded result of a call, or compute and record it."""
    codec = memo.codec
    key = memo.key(args, kwargs)
    database = environment.current(memo.name).database
    known, text = database.peek(memo.map_name, key)
    if not known or not memo.counts(text, database):
        future = join(memo, key, args, kwargs, database, known)
        try:
            return await future
        finally:
            del future  # it knows the error, whose traceback knows this frame
    if (making := environment.peek_making()) is not None:
        making.read(memo.map_name, key)
    assert text is not None
    return decoded(codec, text, memo, args, kwargs)


def started(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
    """Begin to look up, or to compute, the result of a call; in most cases that needs no task."""
    try:
        codec = memo.codec
        key = memo.key(args, kwargs)
        database = environment.current(memo.name).database
        known, text = database.peek(memo.map_name, key)
        if not known or not memo.counts(text, database):
            return join(memo, key, args, kwargs, database, known)
        if (making := environment.peek_making()) is not None:
            making.read(memo.map_name, key)
        assert text is not None
        found = Outcome()
        found.set_result(decoded(codec, text, memo, args, kwargs))
    except Exception as error:  # noqa: BLE001 (who awaits the call gets it)
        found = Outcome()
        found.set_exception(error)
    return found


def join(
    memo: Memo, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], database: ResultsDatabase, known: bool
) -> asyncio.Future[Any]:
    """Return what a caller waits for who found no recorded result that counts."""
    making = environment.peek_making()
    taken = None if making is None else functools.partial(making.read, memo.map_name, key)
    flight = database.flights.get((memo.map_name, key))
    if flight is not None:
        waiter: asyncio.Future[Any] = flight.join_one(key, taken)
        return waiter
    flight = Recording(memo, key, args, kwargs, database, known)
    waiter = flight.join(taken)
    flight.begin()
    try:
        return waiter
    finally:
        del waiter  # it may know an error, whose traceback knows this frame


def decoded(codec: Codec, text: str, memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the value of a recorded text."""
    try:
        return codec.decode(text)
    except SerializationError as error:
        raise DatabaseError(
            f"the recorded result of {flows.show_call(memo.fn, args, kwargs)} is no {show(codec.hint)} any more: "
            f"{error}. If the type has changed, give @memoize a higher version"
        ) from error


class Recording(single_flight.Flight):
    """A call whose result is computed and recorded, unless the database turns out to have it."""

    __slots__ = (
        "_args",
        "_checked",
        "_context",
        "_database",
        "_fingerprint",
        "_key_text",
        "_known",
        "_kwargs",
        "_making",
        "_memo",
        "_step",
        "_text",
    )

    _step: Callable[[Recording, Any], None]
    """What goes on with the result of what is waited for; no bound method, which would be a cycle."""

    def __init__(
        self,
        memo: Memo,
        key: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        database: ResultsDatabase,
        known: bool,
    ) -> None:
        super().__init__(database.flights, (memo.map_name, key))
        self._memo, self._key_text, self._args, self._kwargs = memo, key, args, kwargs
        self._database = database
        self._known = known
        """The database is known to have nothing that counts."""
        self._checked: tuple[Any] | None = None
        """The value that was made of its text to check that, for one caller; not a long one, which takes memory."""

    @property
    def name(self) -> str:
        return flows.show_call(self._memo.fn, self._args, self._kwargs)

    def again(self) -> Recording:
        return Recording(self._memo, self._key_text, self._args, self._kwargs, self._database, False)

    def begin(self) -> None:
        if (guess := environment.peek_guess()) is not None:
            self.guess = Guess()
            self.guess.wanted_by(guess)
        try:
            if self._known:
                self._compute()
            else:
                self._context = contextvars.copy_context()
                self._step = Recording._looked
                self.wait_for(self._database.ask(self._memo.map_name, self._key_text))
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise

    def went_well(self, result: Any) -> None:
        self._step(self, result)

    def value(self, result: Any) -> Any:
        checked, self._checked = self._checked, None
        if checked is not None:
            return checked[0]
        return decoded(self._memo.codec, result, self._memo, self._args, self._kwargs)

    def _looked(self, answer: tuple[str | None, list[str]]) -> None:
        text, damaged = answer
        warn_of(damaged)
        if text is not None and self._memo.counts(text, self._database):
            self.succeed(text)
        else:
            self._context.run(self._compute)

    def _compute(self) -> None:
        env = environment.peek()
        if self.guess is None or env is None:
            self._begin_to_compute()
            return
        with environment.guessing(env, self.guess):
            self._begin_to_compute()

    def _begin_to_compute(self) -> None:
        memo = self._memo
        self._fingerprint = memo.fingerprint
        self._making = Making()
        self._making.is_of(self._database, memo.map_name, self._key_text)
        making, inside = environment.set_making(self._making), single_flight.inside.set(self)
        try:
            self._start(memo.fn(*self._args, **self._kwargs))
        finally:
            single_flight.inside.reset(inside)
            environment.end_making(making)

    def _start(self, made: Any) -> None:
        """Start the flow that the function has made."""
        if not isinstance(made, Flow):
            if inspect.iscoroutine(made):
                made.close()
            raise MisuseError(
                f"{self._memo.name} returned {made!r:.80}, but memoize is for functions that return a flow: put "
                f"@hyperflow.job between @hyperflow.memoize and an `async def`, or let a `def` return "
                f"hyperflow.remote_eval(...)"
            )
        # Memoized calls that only call each other would use up the stack.
        nested = isinstance(made.step, MemoStep)
        going = flows.Step.start(made.used().step) if nested else made.start()
        self._step = Recording._computed
        self.wait_for(going)

    def _computed(self, value: Any) -> None:
        memo = self._memo
        try:
            text, made = memo.codec.encode_again(value)
        except SerializationError as error:
            raise SerializationError(f"the result of {self.name} cannot be recorded: {error}") from error
        if len(text) <= LONGEST:
            self._checked = (made,)
        code = self._fingerprint.text
        about = with_origin(memo.metadata(code), self._making.text(memo.new_texts(self._fingerprint)))
        entry = FromCode.of(text, code, about)
        self._record(text, self._database.record(memo.map_name, self._key_text, entry))

    def _record(self, text: str, recorded: asyncio.Future[None]) -> None:
        self._text = text
        self._step = Recording._recorded
        self.wait_for(recorded)

    # ---- where one of many goes on by itself (see memo_map) --------------------------------------------------------

    def go_on(self, made: Any, making: Making) -> None:
        """The function has made this flow, while `making` noted what it read."""
        self._fingerprint, self._making = self._memo.fingerprint, making
        making.is_of(self._database, self._memo.map_name, self._key_text)
        noting, inside = environment.set_making(making), single_flight.inside.set(self)
        try:
            self._start(made)
        except Exception as error:  # noqa: BLE001 (all who wait get it)
            self.fail(error)
        finally:
            single_flight.inside.reset(inside)
            environment.end_making(noting)

    def gets(self, fingerprint: Fingerprint, making: Making) -> None:
        """The function made an evaluation, which goes on: what this waits for, or what `take` is called with."""
        self._fingerprint, self._making = fingerprint, making
        making.is_of(self._database, self._memo.map_name, self._key_text)
        self._step = Recording._computed

    def take(self, value: Any) -> None:
        """Take the value of the evaluation."""
        try:
            self._computed(value)
        except Exception as error:  # noqa: BLE001 (all who wait get it)
            self.fail(error)

    def wait_until(self, text: str, recorded: asyncio.Future[None]) -> None:
        """The result is there, and is being recorded."""
        self._making = Making()  # what waits for that was told by who computed it
        self._record(text, recorded)

    def _recorded(self, _: None) -> None:
        self._making.recorded()
        self.succeed(self._text)
