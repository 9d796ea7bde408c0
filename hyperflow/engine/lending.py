"""Locks for evaluations: what workers ask the doorkeeper for, and what it replies.

An evaluation that waits for a lock keeps its CPUs. So there is one more circle than those that `locks` sees: a flow holds
a lock and awaits an evaluation, which finds no free CPU, because all are with evaluations that wait for that lock. It is
looked for whenever an evaluation that was submitted in the scope of a lock cannot be started, and the newest ask in it is
refused. (Rejected: lending out the CPUs of those that wait. They are pinned to them, and get them back too late.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperflow.engine import wire
from hyperflow.engine.doorkeeper import Doorkeeper, inside
from hyperflow.engine.locks import Ask, Stage
from hyperflow.engine.scheduler import Scheduler
from hyperflow.engine.state import State, Task, Worker
from hyperflow.engine.wire import Kind
from hyperflow.errors import Deadlock, HyperflowError


class Lending(Doorkeeper):
    """The doorkeeper of an engine.

    Args:
        scheduler: Knows which evaluation is where.
        write: Sends a frame to a node.
    """

    def __init__(self, scheduler: Scheduler, write: Callable[[str, list[wire.Bytes]], None]) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._write = write
        self._serials: dict[int, int] = {}  # the workers' numbers of asks

    def note(self, task: Task) -> None:
        """A task was submitted; call it when there are asks."""
        number = inside.get()
        if number in self.asks:
            self.parents[task.number] = number
            self._tasks_inside[task.number] = task

    def on_ask(self, worker: Worker, name: str, told: dict[str, Any]) -> None:
        """A worker wants a lock, or gives it back."""
        owner = (worker.number, int(told["task"]))
        asks = {self._serials.get(ask.number): ask.number for ask in self.locks.owned(owner)}
        if "release" in told:
            if told["release"] in asks:
                self.release(asks[told["release"]])
            return
        serial = int(told["ask"])

        def answer(error: HyperflowError | None) -> None:
            said: dict[str, Any] = {"ask": serial}
            if isinstance(error, Deadlock):
                said["deadlock"] = error.args
            elif error is not None:
                said["error"] = str(error)
            self._write(worker.node, [wire.control(Kind.REPLY, worker.number, said)])

        parent = asks.get(told["within"], self.parents.get(owner[1]))
        try:
            number = self.ask([str(key) for key in told["keys"]], owner, name, parent, answer)
        except HyperflowError as error:
            answer(error)
        else:
            if number in self.asks:
                self._serials[number] = serial
