"""Copies of stragglers: an evaluation that takes much longer than others of its function runs a second time.

Guarantees: the evaluation has one outcome, the first result; a failure counts only when no copy goes on. The other one
is cancelled. Nothing is copied while anything waits for a CPU, while locks are in use (what waits for a lock is no
straggler), or when the allocation ends. An evaluation gets one copy.

(Rejected: to end the straggler and start it elsewhere. What it has done would be lost, and it may be about to end.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from hyperflow.events.writer import EventLog
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.later import Later
from hyperflow.locking.manager import LockManager
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Effect, Task
from hyperflow.scheduling.stragglers import Stragglers
from hyperflow.wire.numbers import TaskNumber

LOOK_PAUSE = 0.05
"""Seconds between looks at evaluations that may be stragglers."""


class Copies:
    """The evaluations that may get a copy, and those that have one."""

    def __init__(
        self,
        scheduler: Scheduler,
        evaluations: dict[TaskNumber, Evaluation],
        events: EventLog,
        locks: LockManager,
        new_number: Callable[[], TaskNumber],
        flush: Callable[[], None],
    ) -> None:
        self.made = 0
        self.stragglers = Stragglers()
        self.watched = self.stragglers.watched
        """Evaluations that may get a copy, or have one; in most programs none."""
        self._twins: dict[TaskNumber, Task] = {}  # from the one to the other, both ways
        self._scheduler = scheduler
        self._evaluations = evaluations
        self._events = events
        self._locks = locks
        self._new_number = new_number
        self._flush = flush
        self._clock = asyncio.get_running_loop().time
        self._looking = Later(self._look, LOOK_PAUSE)

    def sent(self, effects: Iterable[Effect]) -> None:
        """Note what was sent just now."""
        self.stragglers.sent(effects, self._clock())
        self._looking.ask()

    def _look(self) -> None:
        made = self.made
        for straggler in self.stragglers.due(self._clock()):
            if self._locks.busy or not self._copy(straggler.task):
                break  # nothing is to be copied now
        if self.stragglers.running:
            self._looking.ask()
        if self.made > made:
            self._flush()

    def _copy(self, task: Task) -> bool:
        number = self._new_number()
        copy = Task(number, task.function, task.cpus, task.fresh, alone=True, size=task.size, request=task.asks)
        if not self._scheduler.start_copy(copy, task):
            return False
        self.made += 1
        self._evaluations[number] = self._evaluations[task.number]
        self._twins |= {task.number: copy, number: task}
        self.stragglers.running.pop(task.number, None)
        self._events.copied(task.number, number)
        return True

    def answered(self, task: Task, function: str, seconds: float) -> None:
        """A task that is watched, or a copy of one, has ended with a result."""
        self.stragglers.took(function, seconds)
        self.end(task)

    def end(self, task: Task) -> None:
        """Its evaluation has ended: cancel the other one."""
        self.stragglers.forget(task.number)
        twin = self._twins.pop(task.number, None)
        if twin is not None:
            self.stragglers.forget(twin.number)
            del self._twins[twin.number]
            self._evaluations.pop(twin.number, None)
            self._scheduler.cancel(twin)
            self._events.superseded(twin.number, task.number)

    def gives_way(self, task: Task, node: str, blamed: bool = True) -> bool:
        """A task has failed on a node, or its node has gone; if there is a copy, only that one counts from now on."""
        twin = self._twins.pop(task.number, None)
        if twin is None:
            return False
        del self._twins[twin.number]
        evaluation = self._evaluations.pop(task.number)
        evaluation.task = twin
        watched = self.stragglers.watched.pop(task.number, None)
        if watched is not None:
            self.stragglers.watched[twin.number] = watched
        if not blamed:
            pass  # the node was released
        elif task.past is not None and task.past.lost:
            self._scheduler.was_lost(twin, node)
        else:
            twin.failed_on(node)
        self._scheduler.cancel(task)
        self._events.superseded(task.number, twin.number)
        return True

    def close(self) -> None:
        """Look no more."""
        self._looking.close()
