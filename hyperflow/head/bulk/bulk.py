"""Batches in the head: how they are submitted and answered, and how one of them becomes an evaluation by itself."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Collection, Iterable
from typing import Any

from hyperflow.environment import MapOwner, peek_making, peek_try
from hyperflow.head.bulk.answers import Answers, Rare
from hyperflow.head.bulk.calls import Calls, alike_of, calls_of
from hyperflow.head.endings import Endings
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.head import Head
from hyperflow.options import Options
from hyperflow.remote import RemoteEval
from hyperflow.scheduling.state import Batch, Task, Team, Worker
from hyperflow.wire import frames
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

running_loop = asyncio.get_running_loop


class Bulk:
    """All batches of an engine."""

    def __init__(self, head: Head, endings: Endings) -> None:
        self.head = head
        self._endings = endings
        self._cancelled = endings.cancelled  # bound once: each evaluation has it
        self.submit_open: Callable[[], None] | None = None
        """Submits what a map has packed: before anything younger is submitted."""
        self._loop = asyncio.get_running_loop()
        self._plain: Options | None = None  # the last ones that were plain

    # ---- out ----------------------------------------------------------------------------------------------------

    def may_go(self, evaluator: object, fn: Callable[..., Any], options: Options) -> bool:
        """Whether calls of a function may be evaluated in batches now: whether nothing has to be noted of each one."""
        head = self.head
        if evaluator is not head.evaluator or not head.is_open() or running_loop() is not self._loop:
            return False
        if options is not self._plain:
            if options.alone or options.fresh_process or options.exclusive or options.request is not None:
                return False
            self._plain = options
        if options.cpus > head.scheduler.pool.largest or head.locks.busy or head.streams.asks(fn):
            return False
        return peek_try() is None and peek_making() is None

    def submit(self, calls: Calls) -> None:
        """Queue calls."""
        head, function = self.head, calls.function.function
        size, count = max(map(len, calls.payloads)), len(calls.payloads)
        head.packer.hold(calls.function)
        calls.first = head.counted(calls)
        head.scheduler.submit_batch(Batch(calls.first, function.number, calls.options.cpus, size, count, calls))

    def withdraw(self, owner: MapOwner, apart: bool = False) -> None:
        """A map has ended: cancel what is left of it; with `apart`, have each go on by itself."""
        head = self.head
        head.turn()  # it may have been submitted in this turn
        if apart:
            self.single_out_all()
        for batch in head.scheduler.withdraw(owner):
            calls, count = calls_of(batch), batch.count
            head.events.cancelled(*batch.numbers)
            head.counts["cancelled"] += count
            head.tally.of[calls.group].cancelled += count
            self._let_go(calls, batch.number, count)

    def _let_go(self, calls: Calls, number: int, count: int) -> None:
        calls.let_go(number, count)
        self._release(calls)

    def _release(self, calls: Calls) -> None:
        if not calls.left:
            self.head.packer.release(calls.function)

    # ---- in -----------------------------------------------------------------------------------------------------

    def on_answers(self, number: WorkerNumber, body: memoryview) -> None:
        """Workers of a team have answered."""
        head = self.head
        team = head.scheduler.teams.all.get(number)
        answers = Answers({} if team is None else team.held, head.scheduler.workers, self._with_buffers)
        answers.read(body)
        if team is not None and answers.numbers:
            self._answered(team, answers)
        for each in answers.rare:
            self._on_rare(each)

    def _with_buffers(self, worker: Worker, content: memoryview, count: int) -> Any:
        payload, buffers = frames.split(content, count)
        return pickle.loads(payload, buffers=self.head.fleet.links[worker.node].found(worker.number, buffers))

    def _on_rare(self, it: Rare) -> None:
        """Deal with an answer by itself."""
        head, worker = self.head, self.head.scheduler.workers.get(it.worker)
        if worker is not None:
            evaluation = self.single_out(worker, it.task, it.seconds)
            if it.error is not None:
                task = head.scheduler.answered(it.worker, it.task, it.seconds)
                if evaluation is not None and task is not None:
                    self._endings.unreadable(evaluation, task, worker, it.error)
                return
        self._endings.on_results(it.worker, it.record)

    def _answered(self, team: Team, answers: Answers) -> None:
        """Count and tell what has been read."""
        head, count, seconds = self.head, len(answers.numbers), sum(answers.seconds)
        head.scheduler.teams.answered(team, count, seconds)
        head.counts["done"] += count
        head.account.used += seconds * team.cpus
        if head.locks.busy:
            for worker, _, numbers, _ in answers.by_worker():
                for each in numbers:
                    head.worker_locks.answered(worker.number, each)
        if answers.is_scattered:
            head.events.done(answers.numbers, answers.seconds, *answers.each(), answers.measured)
        else:
            for worker, age, numbers, times in answers.by_worker():
                head.events.done(numbers, times, worker.name, age, answers.measured)
        if head.aside.trust.accused:
            head.aside.trust.succeeded(team.node, count)
        start = 0
        for calls, many in answers.by_calls():
            calls.left -= many
            self._release(calls)
            which = slice(start, start + many)
            counts = head.tally.of[calls.group]
            counts.times += answers.seconds[which]
            counts.settle_if_many()
            if answers.measured:
                for number in answers.numbers[which]:
                    if (used := answers.measured.get(number)) is not None:
                        counts.usage.used(*used)
            if (evaluated := calls.owner.evaluated) is not None:
                shift = calls.place - calls.first
                evaluated(shift, answers.numbers[which], answers.seconds[which], team.node, team.cpus)
            start += many
            calls.owner.done(many)

    # ---- one by itself ------------------------------------------------------------------------------------------

    def evaluation(self, worker: Worker, number: TaskNumber) -> Evaluation | None:
        """Return what a worker is in, by itself from now on; None if nobody waits for it any more."""
        return self.head.evaluations.get(number) or self.single_out(worker, number)

    def single_out(self, worker: Worker, number: TaskNumber, ago: float | None = None) -> Evaluation | None:
        """Make one that a worker is in an evaluation by itself; None if it is none of a batch, or was cancelled.

        Args:
            ago: How many seconds ago it had begun.
        """
        team = worker.team
        batch = team.held.get(number) if team is not None else None
        if team is None or type(batch) is not Batch:
            return None
        self._by_itself(calls_of(batch), self.head.scheduler.teams.single_out(team, batch, number))
        self.head.events.running([number], worker.name, ago)  # of the others that is said when they are done
        evaluation: Evaluation = self.head.evaluations[number]
        return evaluation

    def single_out_all(self, nodes: Collection[str] | None = None) -> None:
        """The same for all, or all that workers of these nodes have."""
        for batch, tasks in self.head.scheduler.single_out_all(nodes):
            for task in tasks:
                self._by_itself(calls_of(batch), task)

    def apart(self, tasks: Iterable[Task]) -> list[Task]:
        """Return tasks with each of a batch by itself; the batches are with no worker, and wait no more."""
        found: list[Task] = []
        for task in tasks:
            if type(task) is not Batch:
                found.append(task)
                continue
            for number in task.numbers:
                found.append(task.one(number))
                self._by_itself(calls_of(task), found[-1])
        return found

    def group_of(self, worker: Worker) -> str | None:
        """Return what is counted that a worker is in, if it serves a team."""
        return alike_of(worker.team).group if worker.team is not None else None

    def _by_itself(self, calls: Calls, task: Task) -> None:
        """Make one that has left its batch an evaluation by itself."""
        head, number = self.head, task.number
        packed, args = calls.packed(number), calls.args[number - calls.first]
        assert args is not None
        head.packer.hold(packed)
        self._let_go(calls, number, 1)
        evaluation = Evaluation(task, packed, calls.options, self._cancelled, (calls.fn, args, {}))
        head.evaluations[number] = evaluation
        making = calls.owner.apart(calls.at(number), evaluation, RemoteEval(calls.fn, args, {}))
        if making is not None:
            head.makings[evaluation] = making
