"""The lock manager: the locks of a Job, as its head process hands them out to flows and to workers.

Guarantees:
- A lock is released when its holder ends: a flow's scope, an evaluation with its answer, a worker. A cancelled
  evaluation holds its locks until its process group has gone, because until then it may be at work.
- If other Jobs of the program may want the same locks (`Outside`), a lock is taken from them after it was granted
  here, and given back to them before the next request here gets it.
- A request that would close a deadlock is refused with `Deadlock`, which names all who wait for each other.

rules.py decides. Here is what waits: futures of flows, replies to workers, tasks that deal with the outside.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextvars import Context, ContextVar
from typing import Any, NoReturn, Protocol

from hyperflow.errors import EnvironmentClosed, HyperflowError, MisuseError
from hyperflow.locking.rules import LockRequest, Locks, Stage
from hyperflow.wire.numbers import LockRequestNumber

logger = logging.getLogger("hyperflow")

Answer = Callable[[HyperflowError | None], None]

FLOW = (0, 0)
"""The owner of requests of flows, which release them themselves. (Those of evaluations: worker and task.)"""

inside: ContextVar[int | None] = ContextVar("hyperflow_inside_lock", default=None)
"""The request in whose scope this code runs: its LockRequestNumber, on a worker its LockSerial."""


class Outside(Protocol):
    """The other Jobs of the program."""

    async def take(self, request: LockRequest) -> None:
        """Wait until no other Job has the keys, and take them, all or none; when cancelled, leave nothing."""
        ...

    async def give_back(self, request: LockRequest) -> None:
        """Let other Jobs have them."""
        ...


class LockManager:
    """Hands out the locks of one Job."""

    def __init__(self) -> None:
        self.outside: Outside | None = None
        self.busy = False
        """Whether anybody holds or waits; never in programs without locks."""
        self.on_forget: list[Callable[[LockRequest], None]] = []
        """Called when a request has ended, whether it was held or not."""
        self.rules = Locks()
        self.requests = self.rules.requests
        self._answers: dict[LockRequestNumber, Answer] = {}
        self._tasks: dict[LockRequestNumber, asyncio.Task[None]] = {}  # that take from outside, or give back
        self._leaving: set[LockRequestNumber] = set()
        self._closed = False

    # ---- for flows ----------------------------------------------------------------------------------------------

    async def take(self, keys: Collection[str]) -> LockRequestNumber:
        """Acquire some keys, all or none, and return the request's number; when cancelled, hold nothing."""
        task = asyncio.current_task()
        return await self.take_for(keys, FLOW, f"the flow in {task.get_name() if task else 'no task'}")

    async def take_for(self, keys: Collection[str], owner: Hashable, name: str) -> LockRequestNumber:
        """Do the same for the given owner."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = self.request(keys, owner, name, scope(), functools.partial(resolve, waiting))
        try:
            await waiting
        except BaseException:
            self.release(number)
            raise
        finally:
            del waiting  # it knows the error, whose traceback knows this frame
        return number

    def take_blocking(self, keys: Collection[str]) -> NoReturn:
        """Refuse to block the event loop."""
        del keys
        raise MisuseError("in a flow, acquire a lock without blocking: async with hyperflow.with_lock(...)")

    # ---- for all ------------------------------------------------------------------------------------------------

    def request(
        self, keys: Collection[str], owner: Hashable, name: str, parent: LockRequestNumber | None, answer: Answer
    ) -> LockRequestNumber:
        """Ask for some keys; raises Deadlock if waiting for them would never end.

        Args:
            keys: Which.
            owner: Who, for `gone`.
            name: The same, for errors.
            parent: The request in whose scope it is.
            answer: Called with None when they are held, or with an error; maybe before this returns.
        """
        if self._closed:
            raise EnvironmentClosed("locks")
        request = self.rules.request(keys, name, owner, parent)
        self.busy = True
        self._answers[request.number] = answer
        self._settle(request.keys)
        return request.number

    def release(self, number: int) -> None:
        """End a request, whatever its stage."""
        request = self.requests.get(LockRequestNumber(number))
        if request is None or request.number in self._leaving:
            return
        number = request.number
        self._answers.pop(number, None)
        if self.outside is None or request.stage is Stage.WAITING:
            self._forget(request)
            return
        self._leaving.add(number)
        if request.stage is Stage.GRANTED:
            self._tasks[number].cancel()
        else:
            self._start(request, self._give_back(request, self.outside))

    def gone(self, owner: Hashable) -> None:
        """An owner has ended."""
        for request in self.rules.owned(owner):
            self.release(request.number)

    def refuse(self, request: LockRequest, error: HyperflowError) -> None:
        """End a request that waits, with an error."""
        answer = self._answers.pop(request.number, None)
        self.release(request.number)
        if answer is not None:
            answer(error)

    async def close(self) -> None:
        """Let go of everything, and wait until the outside has it back."""
        self._closed = True
        for number in list(self.requests):
            self.release(number)
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    # ---- granting -----------------------------------------------------------------------------------------------

    def _forget(self, request: LockRequest) -> None:
        self._leaving.discard(request.number)
        keys = self.rules.release(request.number)
        self.busy = bool(self.requests)
        for tell in self.on_forget:
            tell(request)
        self._settle(keys)

    def _settle(self, keys: Collection[str]) -> None:
        for request in self.rules.settle(keys):
            if self.outside is None:
                self._answers.pop(request.number)(None)
            else:
                self._start(request, self._take_outside(request, self.outside))

    def share(self, outside: Outside) -> None:
        """Take each lock from the outside, too. Only before the first request."""
        assert not self.busy, self.requests
        self.outside = outside
        self.rules.at_once = False

    # ---- the outside --------------------------------------------------------------------------------------------

    def _start(self, request: LockRequest, work: Coroutine[Any, Any, None]) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if self._tasks.get(request.number) is task:
                del self._tasks[request.number]
            if task.cancelled() and request.number in self.requests:  # before its first step
                self._forget(request)

        task = asyncio.get_running_loop().create_task(work, name=f"lock {request.shown}", context=Context())
        self._tasks[request.number] = task
        task.add_done_callback(ended)

    async def _take_outside(self, request: LockRequest, outside: Outside) -> None:
        try:
            await outside.take(request)
        except BaseException as error:
            answer = self._answers.pop(request.number, None)
            self._forget(request)
            if answer is None:  # released before that
                return
            if isinstance(error, HyperflowError):
                answer(error)
            elif isinstance(error, OSError):
                answer(HyperflowError(f"cannot take the lock of {request.shown}: {error}"))
            else:
                answer(HyperflowError(f"the wait for the lock of {request.shown} was ended"))
                raise
            return
        if request.number in self._leaving:
            await self._give_back(request, outside)
        else:
            self.rules.hold(request.number)
            self._answers.pop(request.number)(None)

    async def _give_back(self, request: LockRequest, outside: Outside) -> None:
        try:
            await outside.give_back(request)
        except OSError as error:
            logger.warning("the lock of %s cannot be given back, so other jobs cannot get it: %s", request.shown, error)
        finally:
            self._forget(request)


def resolve(waiting: asyncio.Future[None], error: HyperflowError | None) -> None:
    """Hand the answer to a request to who awaits it, if anybody does."""
    if waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)


def scope() -> LockRequestNumber | None:
    """Return the request in whose scope this code runs, in the head process of a Job."""
    number = inside.get()
    return LockRequestNumber(number) if number is not None else None
