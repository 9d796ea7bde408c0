"""The lock manager: the locks of a Job, as its head process hands them out to flows and to workers.

Guarantees:
- What is held is released when its holder ends: the flow's scope, the evaluation's answer, the worker's end. An
  evaluation that was cancelled still holds until its process group has gone, for until then it may be at work.
- Locks that other Jobs of the program may want, too, are taken from them (`Outside`) when those here have agreed. They
  are given back before the next one here gets them.
- A request that would wait for ever is refused with `Deadlock`, naming all who wait for each other.

The rules are in `locks`; here is what waits: futures of flows, replies to workers, tasks that deal with the outside.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Hashable
from contextvars import Context, ContextVar
from typing import Any, NoReturn, Protocol

from hyperflow.errors import Deadlock, HyperflowError, MisuseError
from hyperflow.locking.rules import Cycle, LockRequest, Locks, Stage

logger = logging.getLogger("hyperflow")

Answer = Callable[[HyperflowError | None], None]

FLOW = (0, 0)
"""The owner of what flows ask for: they release it themselves. (Evaluations: worker and task.)"""

inside: ContextVar[int | None] = ContextVar("hyperflow_inside_lock", default=None)
"""The request in whose scope this code runs."""


class Outside(Protocol):
    """The other Jobs of the program."""

    async def take(self, request: LockRequest) -> None:
        """Wait until no other Job has the keys, and take them, all or none; a cancelled one leaves nothing."""
        ...

    async def give_back(self, request: LockRequest) -> None:
        """Let other Jobs have them."""
        ...


class LockManager:
    """Hands out the locks of one Job."""

    def __init__(self) -> None:
        self.outside: Outside | None = None
        self.locks = Locks()
        self.requests = self.locks.requests
        """All that hold or wait; empty in programs without locks."""
        self._answers: dict[int, Answer] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # that take from outside, or give back
        self._leaving: set[int] = set()
        self._closed = False

    # ---- for flows ----------------------------------------------------------------------------------------------

    async def take(self, keys: Collection[str]) -> int:
        """Wait for some keys, all or none, and return the ask's number; cancelled, it holds nothing."""
        task = asyncio.current_task()
        return await self.take_for(keys, FLOW, f"the flow in {task.get_name() if task else 'no task'}")

    async def take_for(self, keys: Collection[str], owner: Hashable, name: str) -> int:
        """Wait for some keys in the name of somebody."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answer(error: HyperflowError | None) -> None:
            if waiting.done():
                return
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)

        number = self.request(keys, owner, name, inside.get(), answer)
        try:
            await waiting
        except BaseException:
            self.release(number)
            raise
        return number

    def take_blocking(self, keys: Collection[str]) -> NoReturn:
        """Refuse to hold the event loop up."""
        del keys
        raise MisuseError("in a flow a lock is waited for; write: async with hyperflow.with_lock(...)")

    # ---- for all ------------------------------------------------------------------------------------------------

    def request(self, keys: Collection[str], owner: Hashable, name: str, parent: int | None, answer: Answer) -> int:
        """Ask for some keys.

        Args:
            keys: Which.
            owner: Who, for `gone`.
            name: The same, for errors.
            parent: The request in whose scope it is.
            answer: Called with None when they are held, or with an error; maybe before this returns.

        Raises:
            Deadlock: They would be waited for for ever.
        """
        if self._closed:
            raise HyperflowError("this environment was closed; locks belong inside its `async with`")
        try:
            request = self.locks.request(keys, name, owner, parent)
        except Cycle as cycle:
            raise Deadlock(cycle.wanted, cycle.cycle) from None
        self._answers[request.number] = answer
        self._settle(request.keys)
        return request.number

    def release(self, number: int) -> None:
        """Let go of what was asked for, whether it is held or not (yet)."""
        request = self.requests.get(number)
        if request is None or number in self._leaving:
            return
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
        """Somebody has ended."""
        for request in self.locks.owned(owner):
            self.release(request.number)

    def worker_gone(self, worker: int) -> None:
        """A worker has ended."""
        for owner in {request.owner for request in self.requests.values()}:
            if isinstance(owner, tuple) and owner[0] == worker:
                self.gone(owner)

    def refuse(self, request: LockRequest, error: HyperflowError) -> None:
        """Tell somebody who waits that it is in vain."""
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

    # ---- turns --------------------------------------------------------------------------------------------------

    def _forget(self, request: LockRequest) -> None:
        self._leaving.discard(request.number)
        self._settle(self.locks.release(request.number))

    def _settle(self, keys: Collection[str]) -> None:
        for request in self.locks.settle(keys):
            if self.outside is None:
                self._answers.pop(request.number)(None)
            else:
                self._start(request, self._take_outside(request, self.outside))

    def share(self, outside: Outside) -> None:
        """Ask the outside, too, from now on; before anybody has asked for anything."""
        assert not self.requests, self.requests
        self.outside = outside
        self.locks.at_once = False

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
            if answer is None:  # released meanwhile
                return
            if isinstance(error, HyperflowError):
                answer(error)
            elif isinstance(error, OSError):
                answer(HyperflowError(f"cannot take the lock of {request.shown}: {error}"))
            else:
                answer(HyperflowError(f"waiting for {request.shown} was ended"))
                raise
            return
        if request.number in self._leaving:
            await self._give_back(request, outside)
        else:
            self.locks.hold(request.number)
            self._answers.pop(request.number)(None)

    async def _give_back(self, request: LockRequest, outside: Outside) -> None:
        try:
            await outside.give_back(request)
        except OSError as error:
            logger.warning("the lock of %s cannot be given back, and is kept from other jobs: %s", request.shown, error)
        finally:
            self._forget(request)
