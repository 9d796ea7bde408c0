"""Batches in the head: how they are submitted and answered, and how one of them becomes an evaluation by itself."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import attrs

from hyperflow.environment import MapOwner, Options, peek_making, peek_try
from hyperflow.events.writer import EventLog
from hyperflow.head.account import Account
from hyperflow.head.aside import NodesAside
from hyperflow.head.bulk.calls import Calls, alike_of, calls_of
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.link import Link
from hyperflow.head.streams import Streams
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.progress.tally import Tally
from hyperflow.remote import RemoteEval
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Batch, Task, Team, Worker
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.numbers import NO_TASK, DefinitionNumber, TaskNumber, WorkerNumber

FAILED = frames.IS_MEASURED - 1
"""The bits of an outcome that are zero for a result."""

SMALL = 1 << 16
"""Bytes of answers that are copied, because pieces of bytes are made quicker than views."""

running_loop = asyncio.get_running_loop


@attrs.frozen(eq=False)
class Head:
    """What this has of the engine.

    Args:
        evaluator: The engine, as environments know it.
        is_open: Whether evaluations are taken.
        counted: Counts and logs calls that are submitted, and returns the first one's number.
        turn: Logs what was submitted in this turn.
        cancelled: What each Evaluation does when it is cancelled.
        read_all: Reads answers to evaluations by themselves.
        unreadable: Ends an evaluation whose result cannot be read.
    """

    evaluator: object
    scheduler: Scheduler
    packer: Packer
    evaluations: dict[TaskNumber, Evaluation]
    events: EventLog
    tally: Tally
    counts: Counter[str]
    account: Account
    aside: NodesAside
    links: Mapping[str, Link]
    locks: LockManager
    worker_locks: WorkerLocks
    streams: Streams
    is_open: Callable[[], bool]
    counted: Callable[[Calls], TaskNumber]
    turn: Callable[[], None]
    cancelled: Callable[[Evaluation], None]
    read_all: Callable[[WorkerNumber, memoryview], None]
    unreadable: Callable[[Evaluation, Task, Worker, BaseException], None]


class Bulk:
    """All batches of an engine."""

    def __init__(self, head: Head) -> None:
        self.head = head
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
            special = (options.fresh_process, options.exclusive, options.post_mortem)
            if any(special) or options.time_limit is not None or options.straggler_factor is not None:
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

    def withdraw(self, owner: MapOwner) -> None:
        """A map has ended: cancel what is left of it."""
        head = self.head
        head.turn()  # it may have been submitted in this turn
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
        """Workers of a team have answered.

        What is rare (an error, a result that cannot be read, one that is by itself or was cancelled) comes after all else.
        """
        head = self.head
        team, workers = head.scheduler.teams.all.get(number), head.scheduler.workers
        held = team.held if team is not None else {}
        take = held.pop
        unpack, size, loads = frames.RESULT.unpack_from, frames.RESULT.size, pickle.loads
        args: list[Any] = []
        payloads: list[bytes] = []
        results: list[Any] = []
        first = shift = 0
        before: Task | None = None
        answers, rare = _Answers(), list[_Rare]()
        add, add_time = answers.numbers.append, answers.seconds.append
        for worker_number, _, records in frames.read_answers(body):
            data = bytes(records) if len(records) < SMALL else records  # quicker to cut
            at, end, had = 0, len(data), len(answers.numbers)
            while at < end:
                begin = at
                task, outcome, seconds, buffers, length = unpack(data, begin)
                start = begin + size
                at = start + length
                if outcome & FAILED:
                    rare.append(_Rare(worker_number, task, records[begin:at], seconds))
                    continue
                batch = take(task, _GONE)
                if batch is not before:
                    if type(batch) is not Batch:
                        if batch is not _GONE:
                            held[task] = batch
                        rare.append(_Rare(worker_number, task, records[begin:at], seconds))
                        continue
                    before, calls = batch, calls_of(batch)
                    answers.calls.append((calls, len(answers.numbers)))
                    args, payloads, results, first = calls.args, calls.payloads, calls.owner.results, calls.first
                    shift = calls.place - first
                if outcome:
                    answers.measured[task] = frames.MEASURED.unpack_from(data, start)
                    start += frames.MEASURED.size
                try:
                    if buffers:
                        value = self._with_buffers(workers[worker_number], records[start:at], buffers)
                    else:
                        value = loads(data[start:at])
                except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read)
                    held[task] = batch
                    rare.append(_Rare(worker_number, task, records[begin:at], seconds, error))
                    continue
                results[shift + task] = value
                args[task - first] = None
                payloads[task - first] = b""
                add(task)
                add_time(seconds)
            if len(answers.numbers) > had:
                answers.workers.append((workers[worker_number], had))
        value = None
        if answers.numbers:
            assert team is not None
            self._answered(team, answers)
        for each in rare:
            self._on_rare(each)

    def _with_buffers(self, worker: Worker, content: memoryview, count: int) -> Any:
        payload, buffers = frames.split(content, count)
        return pickle.loads(payload, buffers=self.head.links[worker.node].found(worker.number, buffers))

    def _on_rare(self, it: _Rare) -> None:
        """Deal with an answer by itself."""
        head, worker = self.head, self.head.scheduler.workers.get(it.worker)
        if worker is not None:
            evaluation = self.single_out(worker, it.task)
            if it.error is not None:
                task = head.scheduler.answered(it.worker, it.task, it.seconds)
                if evaluation is not None and task is not None:
                    head.unreadable(evaluation, task, worker, it.error)
                return
        head.read_all(it.worker, it.record)

    def _answered(self, team: Team, answers: _Answers) -> None:
        """Count and tell what has been read."""
        head, count, seconds = self.head, len(answers.numbers), sum(answers.seconds)
        head.scheduler.teams.answered(team, count, seconds)
        head.counts["done"] += count
        head.account.used += seconds * team.cpus
        for worker, numbers, times in answers.by_worker():
            if head.locks.busy:
                for each in numbers:
                    head.worker_locks.answered(worker.number, each)
            head.events.done(dict(zip(numbers, times, strict=True)), worker.name)
        for number, used in answers.measured.items():
            head.events.measured(number, *used)
        if head.aside.trust.accused:
            head.aside.trust.succeeded(team.node, count)
        ends = [*(start for _, start in answers.calls[1:]), count]
        for (calls, start), end in zip(answers.calls, ends, strict=True):
            if end > start:
                calls.left -= end - start
                self._release(calls)
                head.tally.of[calls.group].done += end - start
                calls.owner.done(end - start)

    # ---- one by itself ------------------------------------------------------------------------------------------

    def single_out(self, worker: Worker, number: TaskNumber) -> Evaluation | None:
        """Make one that a worker is in an evaluation by itself; None if it is none of a batch, or was cancelled."""
        team = worker.team
        batch = team.held.get(number) if team is not None else None
        if team is None or type(batch) is not Batch:
            return None
        self._by_itself(calls_of(batch), self.head.scheduler.teams.single_out(team, batch, number))
        return self.head.evaluations[number]

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
        evaluation = Evaluation(task, packed, calls.options, head.cancelled, (calls.fn, args, {}))
        head.evaluations[number] = evaluation
        calls.owner.apart(calls.at(number), evaluation, RemoteEval(calls.fn, args, {}))


@attrs.frozen
class _Rare:
    """An answer that is none of a batch, or is an error, or one that cannot be read."""

    worker: WorkerNumber
    task: TaskNumber
    record: memoryview
    seconds: float
    error: BaseException | None = None


@attrs.frozen
class _Answers:
    """Results that have been read, in their order; for their calls and workers, from which one on."""

    numbers: list[TaskNumber] = attrs.field(factory=list[TaskNumber])
    seconds: list[float] = attrs.field(factory=list[float])
    calls: list[tuple[Calls, int]] = attrs.field(factory=list[tuple[Calls, int]])
    workers: list[tuple[Worker, int]] = attrs.field(factory=list[tuple[Worker, int]])
    measured: dict[TaskNumber, tuple[float, int]] = attrs.field(factory=dict[TaskNumber, tuple[float, int]])

    def by_worker(self) -> Iterator[tuple[Worker, list[TaskNumber], list[float]]]:
        """Yield each worker, what it has answered, and the seconds of that."""
        ends = [*(start for _, start in self.workers[1:]), len(self.numbers)]
        for (worker, start), end in zip(self.workers, ends, strict=True):
            yield worker, self.numbers[start:end], self.seconds[start:end]


_GONE = Task(NO_TASK, DefinitionNumber(0))
"""In the place of what was cancelled."""
