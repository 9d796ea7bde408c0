"""Locks for evaluations: what workers ask the lock manager for, and what it replies.

An evaluation that waits for a lock keeps its CPUs. So there is one more cycle than those that `rules` sees: a flow
holds a lock and awaits an evaluation, which finds no free CPU, because all are with evaluations that wait for that
lock. It is looked for whenever an evaluation that was submitted in the scope of a lock cannot be started, and the
newest ask in it is refused. (Rejected: lending out the CPUs of those that wait. They are pinned to them, and get them
back too late.)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from hyperflow.errors import Deadlock, HyperflowError
from hyperflow.locking.manager import LockManager, inside
from hyperflow.locking.rules import LockRequest, Stage
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import State, Task, Worker
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind


class WorkerLocks(LockManager):
    """The lock manager of an engine.

    Args:
        scheduler: Knows which evaluation is where.
        write: Sends a frame to a node.
    """

    def __init__(self, scheduler: Scheduler, write: Callable[[str, list[frames.Bytes]], None]) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._write = write
        self.submitted: dict[int, tuple[Task, int]] = {}
        """Tasks that were submitted in the scope of an ask."""
        self._serials: dict[int, int] = {}  # the workers' numbers of asks

    def note(self, task: Task) -> None:
        """A task was submitted; to be called while there are asks."""
        number = inside.get()
        if number is not None and number in self.requests:
            self.submitted[task.number] = (task, number)

    def gone(self, owner: Hashable) -> None:
        """An evaluation has ended."""
        if isinstance(owner, tuple):
            self.submitted.pop(owner[1], None)
        super().gone(owner)

    def _forget(self, request: LockRequest) -> None:
        self._serials.pop(request.number, None)
        super()._forget(request)
        if not self.requests:
            self.submitted.clear()

    def on_request(self, worker: Worker, name: str, told: dict[str, Any]) -> None:
        """A worker wants a lock, or gives it back."""
        owner = (worker.number, int(told["task"]))
        requests = {self._serials.get(request.number): request.number for request in self.locks.owned(owner)}
        if "release" in told:
            if told["release"] in requests:
                self.release(requests[told["release"]])
            return
        serial = int(told["ask"])

        def answer(error: HyperflowError | None) -> None:
            said: dict[str, Any] = {"ask": serial}
            if isinstance(error, Deadlock):
                said["deadlock"] = error.args
            elif error is not None:
                said["error"] = str(error)
            self._write(worker.node, [frames.control(Kind.LOCK_REPLY, worker.number, said)])

        _, above = self.submitted.get(owner[1], (None, None))
        parent = requests.get(told["within"], above)
        try:
            number = self.request([str(key) for key in told["keys"]], owner, name, parent, answer)
        except HyperflowError as error:
            answer(error)
        else:
            if number in self.requests:
                self._serials[number] = serial

    def check_stall(self) -> None:
        """Refuse an ask if evaluations that wait for locks keep all CPUs from one that has to end before."""
        starved = {
            task.number: self.requests[number]
            for task, number in self.submitted.values()
            if number in self.requests and not _is_started(task)
        }
        if not starved:
            return
        above = {one for request in starved.values() for one in (request, *request.parents)}
        waiting: list[LockRequest] = []
        for worker in self._scheduler.workers.values():
            if worker.ending:
                return  # its CPUs will be free
            if worker.queue:
                owner = (worker.number, next(iter(worker.queue)))
                mine = [request for request in self.locks.owned(owner) if request.stage is not Stage.HELD]
                if not any(self.locks.depends(request, above) for request in mine):
                    return  # it will end some time
                waiting += mine
        if waiting:
            newest = max(waiting, key=lambda request: request.number)
            cycle = [
                f"{request.name} holds {request.shown}, and awaits evaluation {number}, which finds no free CPU"
                for number, request in starved.items()
            ]
            cycle += [f"{request.name}, on CPUs of its own, waits for {request.shown}" for request in waiting]
            self.refuse(newest, Deadlock(f"{newest.name} wants {newest.shown}", cycle))


def _is_started(task: Task) -> bool:
    if task.state is State.SENT and task.worker is not None:
        return next(iter(task.worker.queue)) == task.number
    return task.state is not State.WAITING
