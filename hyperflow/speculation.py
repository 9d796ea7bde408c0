"""speculate: a flow that runs on idle CPUs only, in case somebody wants its result.

What it evaluates is submitted as a guess (`environment`, guesses.py), which the scheduler gives what is idle, and takes
it back from when anybody else needs it. When the handle is awaited, all that is under way becomes wanted. So does the
computation of a memoized call that a guess has begun when somebody else asks for it (database/single_flight.py).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from hyperflow import environment
from hyperflow import flow as flows
from hyperflow.errors import MisuseError
from hyperflow.flow import Flow
from hyperflow.guesses import Guess

T = TypeVar("T")


class Speculation(Generic[T]):
    """A flow that runs on idle CPUs; made by `speculate`. Awaiting it makes it wanted, and returns its result."""

    __slots__ = ("__weakref__", "_awaited", "_close", "_guess", "_running", "_shown")

    def __init__(self, flow: Flow[T]) -> None:
        self._shown = repr(flow.step)
        self._awaited = False
        self._running: asyncio.Future[T] | None = None
        self._guess = Guess()
        self._close = _closing(weakref.ref(self))
        env = environment.current(repr(self))
        if env.level == "cluster":
            raise MisuseError(
                f"{self!r} belongs in a Job, which has CPUs; jobs of a Cluster computation are not guessed"
            )
        with environment.guessing(env, self._guess):
            self._running = running = flow.start()
        running.add_done_callback(_ended)
        task = asyncio.current_task()
        if task is not None and environment.peek() is not None:  # the cells of a notebook are tasks of their own
            task.add_done_callback(self._close)
            running.add_done_callback(_letting_go(task, self._close))

    def __await__(self) -> Generator[Any, None, T]:
        assert self._running is not None
        self._awaited = True
        self._guess.wanted_by(environment.peek_guess())
        return self._running.__await__()

    def done(self) -> bool:
        """Whether it has ended; asking does not make it wanted."""
        return self._running is not None and self._running.done()

    def cancel(self) -> bool:
        """End it, as a future's `cancel` does: its evaluations are killed."""
        return self._running is not None and self._running.cancel()

    def leave(self) -> None:
        """Nobody can await it any more, or wants to."""
        if not self._awaited:
            self.cancel()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            self.leave()

    def __repr__(self) -> str:
        return f"hyperflow.speculate({self._shown})"


def _ended(running: asyncio.Future[Any]) -> None:
    """Take note of an error: what nobody awaits is raised nowhere."""
    if not running.cancelled():
        running.exception()


def _closing(speculation: weakref.ref[Speculation[Any]]) -> Callable[[object], None]:
    """Return what ends it, if nobody has awaited it, with the task that began it."""

    def close(_: object) -> None:
        if (one := speculation()) is not None:
            one.leave()

    return close


def _letting_go(task: asyncio.Task[Any], close: Callable[[object], None]) -> Callable[[object], None]:
    """Return what makes a task forget it, once it has ended."""

    def let_go(_: object) -> None:
        task.remove_done_callback(close)

    return let_go


def speculate(flow: Flow[T]) -> Speculation[T]:
    """Start a flow now, on idle CPUs only, and return a handle: `guess = speculate(f(x))`; maybe later, `await guess`.

        left, right = hf.speculate(f(a)), hf.speculate(f(b))    # one of them will be needed
        side = left if await f(middle) > 0 else right
        value = await side                                      # it has run for a while, or to its end
        del left, right                                         # the other one ends

    Until somebody wants it, its evaluations take only CPUs (GPUs, memory, tokens) that nobody else can use, and are
    killed the moment somebody else needs these: they start again when something is idle. For others it is as if it were
    not there. It is wanted from when the handle is awaited; and the computation of a memoized call in it is, from when
    somebody else asks for that call. Then it waits among the others by its age, and keeps what it has.

    A handle that is not awaited ends with the task of the flow that made it, when it is cancelled, and when nothing
    refers to it any more. An error in it is raised where it is awaited, and nowhere else.

    Only evaluations are held back: what the flow itself does here it does at once, and it takes its locks when it is
    wanted. An evaluation that is killed and started again does twice what it does to files.

    Raises:
        NotInFlow: There is no environment here.
        SerializationError, ImpossibleRequest: At once, for an evaluation that cannot be sent or run anywhere.
    """
    flows.check(flow, "speculate")
    return Speculation(flow)
