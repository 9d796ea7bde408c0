"""Locks for evaluations: what workers want from the lock manager, and what it replies.

An evaluation that waits for a lock keeps its CPUs. So there is a deadlock that locking/rules.py does not see: a flow
holds a lock and awaits an evaluation, which finds no free CPU, because all are with evaluations that wait for that
lock. `check_stall` looks for it whenever an evaluation that was submitted in the scope of a lock cannot start, and
refuses the newest request in it. (Rejected: to lend out the CPUs of those that wait. They are pinned to them, and would
get them back too late.)
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable

from hyperflow.errors import ConfigurationError, Deadlock, HyperflowError
from hyperflow.locking.manager import LockManager, scope
from hyperflow.locking.rules import LockRequest, Stage
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Task, Worker, is_started
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, ProtocolError
from hyperflow.wire.messages import LockReleased, LockReply, LockWanted
from hyperflow.wire.numbers import LockRequestNumber, LockSerial, TaskNumber, WorkerNumber

logger = logging.getLogger("hyperflow")


class WorkerLocks:
    """What an engine's workers hold and want. The owner of an evaluation's request is (worker, task)."""

    def __init__(
        self,
        manager: LockManager,
        scheduler: Scheduler,
        write: Callable[[str, list[frames.Bytes]], None],
        name: Callable[[Worker, TaskNumber], str],
    ) -> None:
        self._manager = manager
        self._scheduler = scheduler
        self._write = write
        self._name = name
        self._serials: dict[LockRequestNumber, LockSerial] = {}
        self._submitted: dict[TaskNumber, tuple[Task, LockRequestNumber]] = {}  # in the scope of a request
        manager.on_forget.append(self._forget)

    def submitted(self, task: Task) -> None:
        """A task was submitted while the manager is busy."""
        number = scope()
        if number is not None and number in self._manager.requests:
            self._submitted[task.number] = (task, number)

    def answered(self, worker: WorkerNumber, task: TaskNumber) -> None:
        """A run of an evaluation has ended; it may be tried again."""
        self._manager.gone((worker, task))

    def ended(self, task: TaskNumber) -> None:
        """An evaluation has its result or error. Until then, each of its runs is within what it was submitted in."""
        self._submitted.pop(task, None)

    def worker_gone(self, worker: WorkerNumber) -> None:
        """A worker has ended, with whatever it was in."""
        for owner in {request.owner for request in self._manager.requests.values()}:
            if isinstance(owner, tuple) and owner[0] == worker:
                self._manager.gone(owner)

    def _forget(self, request: LockRequest) -> None:
        self._serials.pop(request.number, None)
        if not self._manager.busy:
            self._submitted.clear()

    def on_message(self, worker: Worker, kind: int, body: memoryview) -> None:
        """An evaluation wants locks, or does not want them any longer."""
        try:
            if kind == Kind.LOCK_WANTED:
                self._wanted(worker, messages.read(LockWanted, body))
                return
            released = messages.read(LockReleased, body)
            number = self._number(worker, released.task, released.serial)
        except (ProtocolError, TypeError):  # a function wrote to a descriptor that is not its own
            logger.warning("%s sent something that is no message about locks", worker.name)
            return
        if number is not None:
            self._manager.release(number)

    def _wanted(self, worker: Worker, message: LockWanted) -> None:
        def answer(error: HyperflowError | None) -> None:
            reply = LockReply(message.serial)
            if isinstance(error, Deadlock):
                reply = LockReply(message.serial, error.wanted, tuple(error.circle))
            elif error is not None:
                reply = LockReply(message.serial, str(error), misconfigured=isinstance(error, ConfigurationError))
            self._write(worker.node, [messages.framed(reply, worker.number)])

        owner, name = (worker.number, message.task), f"{self._name(worker, message.task)} on {worker.name}"
        _, above = self._submitted.get(message.task, (None, None))
        parent = self._number(worker, message.task, message.within) or above
        try:
            number = self._manager.request([str(key) for key in message.keys], owner, name, parent, answer)
        except HyperflowError as error:
            answer(error)
        else:
            if number in self._manager.requests:
                self._serials[number] = message.serial

    def _number(self, worker: Worker, task: TaskNumber, serial: LockSerial | None) -> LockRequestNumber | None:
        """Return the manager's number for a request of an evaluation."""
        mine = self._manager.rules.owned((worker.number, task)) if serial is not None else []
        return next((one.number for one in mine if self._serials.get(one.number) == serial), None)

    def check_stall(self) -> None:
        """Refuse a request if evaluations that wait for locks keep all CPUs from one that has to end before."""
        requests = self._manager.requests
        starved = {
            task.number: requests[number]
            for task, number in self._submitted.values()
            if number in requests and not is_started(task)
        }
        if not starved:
            return
        above = {one for request in starved.values() for one in (request, *request.parents)}
        wanted = defaultdict[WorkerNumber, list[LockRequest]](list)
        for request in requests.values():
            if isinstance(request.owner, tuple) and request.stage is not Stage.HELD:
                wanted[request.owner[0]].append(request)
        waiting: list[LockRequest] = []
        stuck = self._manager.rules.stuck(above)
        for worker in self._scheduler.workers.values():
            if worker.ending:
                return  # its CPUs will be free
            if worker.is_busy:
                mine = wanted.get(worker.number, [])
                if all(request.number not in stuck for request in mine):
                    return  # it will end some time
                waiting += mine
        if waiting:
            newest = max(waiting, key=lambda request: request.number)
            cycle = [
                f"{request.name} holds {request.shown}, and awaits evaluation {number}, which finds no free CPU"
                for number, request in starved.items()
            ]
            cycle += [f"{request.name}, on CPUs of its own, waits for {request.shown}" for request in waiting]
            self._manager.refuse(newest, Deadlock(f"{newest.name} wants {newest.shown}", cycle))
