"""Single flight: a computation that several callers wait for runs once.

Guarantees:
- Calls for one key that overlap are one computation; its result, or its failure, reaches all who wait.
- A cancelled caller leaves, and does not disturb the others. When the last one leaves, the computation is cancelled,
  and that caller waits until it has ended: nothing keeps running.
- A caller that comes while a computation is being cancelled waits for its end and starts a new one: two never overlap.
- A computation that would wait for itself, directly or through others, fails at once instead of waiting forever.

A flight is no task, because most computations are one evaluation, which needs none. It runs in the environment of the
first caller, and belongs to none, because any caller may leave.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, Self

from hyperflow import environment
from hyperflow.aio import Outcome
from hyperflow.errors import MisuseError
from hyperflow.guesses import Guess
from hyperflow.saying import in_words

logger = logging.getLogger("hyperflow")


class Computation(Protocol):
    """What computes one key, or several at the same time."""

    def current(self) -> Flight | None:
        """Return the flight of what is computed; None if that has ended."""
        ...


inside: ContextVar[Computation | None] = ContextVar("hyperflow_flight", default=None)
"""The computation that this is part of."""


class Waiter(Outcome):
    """What one caller waits for."""

    __slots__ = ("flight", "outer", "taken")

    flight: Flight | None
    outer: Flight | None
    """The computation that the caller is part of."""
    taken: Callable[[], None] | None
    """Called when it gets its result."""

    def cancel(self, msg: Any = None) -> bool:
        """Leave; the last one ends the computation, and is cancelled when that has ended."""
        return self.flight is not None and not self.done() and self.flight.leave(self, msg)

    def give_up(self, msg: Any = None) -> None:
        """Be cancelled now."""
        self.ended()
        super().cancel(msg)

    def ended(self) -> None:
        """Know the flight no more: a map keeps what its flows gave until all have ended."""
        flight, self.flight = self.flight, None
        if self.outer is not None and flight is not None:
            self.outer.waits_for.remove(flight)


class Flight:
    """A computation that callers wait for; subclasses say what it does, and call `succeed` or `fail` at its end."""

    __slots__ = ("_cancelling", "_flights", "_going", "_key", "_late", "_waiting", "guess", "waits_for")

    def __init__(self, flights: dict[Any, Flight], key: Any) -> None:
        self._flights = flights
        self._key = key
        self._waiting: list[Waiter] = []
        self._late: list[tuple[Waiter, contextvars.Context]] = []
        self._going: asyncio.Future[Any] | None = None
        self._cancelling = False
        self.waits_for: list[Flight] = []
        self.guess: Guess | None = None
        """What it evaluates, if a guess has begun it; it is wanted when who is wanted joins."""
        flights[key] = self

    def current(self) -> Self:
        return self

    @property
    def name(self) -> str:
        """The call, for errors."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start, in the caller's environment; it must not raise."""
        raise NotImplementedError

    def went_well(self, result: Any) -> None:
        """Go on with the result of what was waited for; what it raises ends the flight."""
        raise NotImplementedError

    def value(self, result: Any) -> Any:
        """Return what one caller gets."""
        raise NotImplementedError

    def again(self) -> Flight:
        """Return a new flight of the same call."""
        raise NotImplementedError

    def join(self, taken: Callable[[], None] | None) -> Waiter:
        """Return what one more caller waits for; the first one begins it afterwards."""
        waiter = Waiter()
        computation = inside.get()
        outer = None if computation is None else computation.current()
        waiter.flight, waiter.outer, waiter.taken = self, outer, taken
        if outer is not None:
            if self._reaches(outer):
                waiter.flight = None
                waiter.set_exception(MisuseError(f"{self.name} waits for its own result, so it would never end"))
                return waiter
            outer.waits_for.append(self)
        if self.guess is not None:
            self.guess.wanted_by(environment.peek_guess())
        if self._cancelling:
            self._late.append((waiter, contextvars.copy_context()))
        else:
            self._waiting.append(waiter)
        return waiter

    def join_one(self, key: str, taken: Callable[[], None] | None) -> Waiter:  # noqa: ARG002
        """The same, for who has the key; several may be one flight until somebody joins one of them."""
        return self.join(taken)

    def _reaches(self, other: Flight) -> bool:
        """Tell whether this one is the other, or waits for it, maybe through more of them."""
        seen: list[Flight] = [self]
        for one in seen:
            seen.extend(next_one for next_one in one.waits_for if next_one not in seen)
        return other in seen

    def leave(self, waiter: Waiter, msg: Any) -> bool:
        """One caller does not wait any more."""
        if waiter not in self._waiting:
            self._late = [each for each in self._late if each[0] is not waiter]
        elif len(self._waiting) > 1:
            self._waiting.remove(waiter)
        else:
            if not self._cancelling and self._going is not None:
                self._going.cancel()
            self._cancelling = True
            return True
        waiter.give_up(msg)
        return True

    def wait_for(self, going: asyncio.Future[Any]) -> None:
        """Go on with `went_well` when this has ended; it is cancelled if nobody waits any more."""
        self._going = going
        going.add_done_callback(self._went)

    def _went(self, going: asyncio.Future[Any]) -> None:
        self._going = None
        error = None if going.cancelled() else going.exception()
        if self._cancelling or going.cancelled():
            if error is not None:
                logger.warning("%s failed while it was cancelled: %s", self.name, in_words(error))
            for waiter in self._end():
                waiter.give_up()
        elif error is not None:
            self.fail(error)
        else:
            try:
                self.went_well(going.result())
            except Exception as failure:  # noqa: BLE001 (all who wait get it)
                self.fail(failure)
        del error  # it knows this frame

    def succeed(self, result: Any) -> None:
        """Give all who wait their value."""
        for waiter in self._end():
            waiter.ended()
            try:
                value = self.value(result)
                if waiter.taken is not None:
                    waiter.taken()
            except Exception as error:  # noqa: BLE001 (the waiter gets it)
                waiter.set_exception(error)
            else:
                waiter.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Give all who wait the error."""
        if isinstance(error, StopIteration):  # no future takes one
            error = RuntimeError(f"{self.name} raised StopIteration")
        for waiter in self._end():
            waiter.ended()
            waiter.set_exception(error)

    def _end(self) -> list[Waiter]:
        """Be no flight any more, and return who waits; those who came too late begin a new one."""
        del self._flights[self._key]
        waiting, self._waiting = self._waiting, []
        if self.guess is not None:
            self.guess.end()
        late, self._late = self._late, []
        if late:
            again = self.again()
            for waiter, _ in late:
                if waiter.outer is not None:
                    waiter.outer.waits_for.remove(self)
                    waiter.outer.waits_for.append(again)
                waiter.flight = again
                again._waiting.append(waiter)
            late[0][1].run(again.begin)
            for _, context in late[1:]:
                if again.guess is not None:
                    again.guess.wanted_by(context.run(environment.peek_guess))
        return waiting
