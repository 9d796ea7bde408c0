"""Batches in the head: how they are submitted and answered, and how one of them becomes an evaluation by itself."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from hyperflow.environment import MapOwner, Options, peek_making, peek_try
from hyperflow.events.writer import EventLog
from hyperflow.fields import frozen
from hyperflow.head.account import Account
from hyperflow.head.aside import NodesAside
from hyperflow.head.bulk.calls import Calls, calls_of
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.link import Link
from hyperflow.head.streams import Streams
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.progress.tally import Tally
from hyperflow.remote import RemoteEval
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import CANCELLED, SENT, Batch, Task, Worker
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.frames import Outcome
from hyperflow.wire.numbers import Seq, TaskNumber, WorkerNumber

SKIPPED = int(Outcome.SKIPPED)

SMALL = 1 << 16
"""Bytes of answers that are copied, because pieces of bytes are made quicker than views."""

running_loop = asyncio.get_running_loop


@frozen(eq=False)
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
        batch = Batch(calls.first, function.number, calls.options.cpus, size, count, calls, calls.owner)
        head.scheduler.submit_batch(batch)

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
        if not calls.left:
            self.head.packer.release(calls.function)

    # ---- in -----------------------------------------------------------------------------------------------------

    def on_results(self, worker: Worker, body: memoryview) -> None:
        """A worker that has, or had, batches has answered."""
        offset = 0
        while offset < len(body):
            first = next(iter(worker.queue.values()), None)
            if type(first) is Batch:
                read = self._read(worker, first, body, offset)
                if read > offset:
                    offset = read
                    continue
                end = frames.end_of_result(body, offset)
                number, outcome = frames.task_of_result(body, offset)
                if outcome != SKIPPED:
                    self.single_out(worker, number)
            else:
                worker.has_batches = any(type(entry) is Batch for entry in worker.queue.values())
                end = frames.end_of_result(body, offset) if worker.has_batches else len(body)
            self.head.read_all(worker.number, body[offset:end])
            offset = end

    def _read(self, worker: Worker, batch: Batch, body: memoryview, offset: int) -> int:
        """Read answers to a batch as long as they are its next ones, and results; return where that ends."""
        calls = calls_of(batch)
        unpack, size, loads = frames.RESULT.unpack_from, frames.RESULT.size, pickle.loads
        data = bytes(body) if len(body) < SMALL else body  # quicker to cut
        results, place, wanted = calls.owner.results, calls.at(batch.number), batch.state is SENT
        times: list[float] = []
        end = len(data)
        for number in batch.numbers:
            if offset >= end:
                break
            task, outcome, seconds, buffers, length = unpack(data, offset)
            if task != number or outcome or (buffers and not wanted):
                break
            start = offset + size
            offset = start + length
            if wanted:
                try:
                    if buffers:
                        results[place] = self._with_buffers(worker, body[start:offset], buffers)
                    else:
                        results[place] = loads(data[start:offset])
                except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read)
                    if times:
                        self._answered(worker, batch, calls, times)
                    self._unreadable(worker, number, seconds, error)
                    return offset
            times.append(seconds)
            place += 1
        if times:
            self._answered(worker, batch, calls, times)
        return offset

    def _with_buffers(self, worker: Worker, content: memoryview, count: int) -> Any:
        payload, buffers = frames.split(content, count)
        return pickle.loads(payload, buffers=self.head.links[worker.node].found(worker.number, buffers))

    def _unreadable(self, worker: Worker, number: TaskNumber, seconds: float, error: BaseException) -> None:
        evaluation = self.single_out(worker, number)
        task = self.head.scheduler.answered(worker.number, number, seconds)
        if evaluation is not None and task is not None:
            self.head.unreadable(evaluation, task, worker, error)

    def _answered(self, worker: Worker, batch: Batch, calls: Calls, times: list[float]) -> None:
        """So many of a batch have been answered, each after so many seconds."""
        head, count, wanted = self.head, len(times), batch.state is SENT
        numbers, seconds = batch.numbers[:count], sum(times)
        if head.locks.busy:
            for each in numbers:
                head.worker_locks.answered(worker.number, each)
        head.scheduler.answered_first(batch, count, seconds)
        if not wanted:
            return
        self._let_go(calls, numbers[0], count)
        head.counts["done"] += count
        head.account.used += seconds * len(worker.cpus)
        head.tally.of[calls.group].done += count
        head.events.done(dict(zip(numbers, times, strict=True)), worker.name)
        if head.aside.trust.accused:
            head.aside.trust.succeeded(worker.node, count)
        calls.owner.done(count)

    # ---- one by itself ------------------------------------------------------------------------------------------

    def single_out(self, worker: Worker, number: TaskNumber) -> Evaluation | None:
        """Make one that a worker has an evaluation by itself; None if it is none of a batch, or was cancelled."""
        for entry in worker.queue.values():
            if type(entry) is Batch and entry.number <= number < entry.number + entry.count:
                calls = calls_of(entry)
                return self._evaluation(calls, self.head.scheduler.single_out(entry, number))
        return None

    def single_out_started(self, worker: Worker, seq: Seq) -> None:
        """The same for the one that a worker has started last."""
        for entry in worker.queue.values():
            if type(entry) is Batch and entry.seq <= seq < entry.seq + entry.count:
                self.single_out(worker, TaskNumber(entry.number + seq - entry.seq))
                return

    def single_out_all(self, nodes: Collection[str] | None = None) -> None:
        """The same for all, or all that workers of these nodes have."""
        for batch, tasks in self.head.scheduler.single_out_all(nodes):
            for task in tasks:
                self._evaluation(calls_of(batch), task)

    def apart(self, tasks: Iterable[Task]) -> list[Task]:
        """Return tasks with each of a batch by itself; the batches are with no worker, and wait no more."""
        found: list[Task] = []
        for task in tasks:
            if type(task) is not Batch:
                found.append(task)
                continue
            for number in task.numbers:
                found.append(task.one(number))
                self._evaluation(calls_of(task), found[-1])
        return found

    def group_of(self, worker: Worker) -> str | None:
        """Return what is counted that a worker is in, if that is one of a batch."""
        task = next(iter(worker.queue.values()))
        return calls_of(task).group if type(task) is Batch else None

    def _evaluation(self, calls: Calls, task: Task) -> Evaluation | None:
        """Return the evaluation by itself of one that has left its batch."""
        if task.state is CANCELLED:
            return None
        head, number = self.head, task.number
        packed, args = calls.packed(number), calls.args[number - calls.first]
        assert args is not None
        head.packer.hold(packed)
        self._let_go(calls, number, 1)
        evaluation = Evaluation(task, packed, calls.options, head.cancelled, (calls.fn, args, {}))
        head.evaluations[number] = evaluation
        calls.owner.apart(calls.at(number), evaluation, RemoteEval(calls.fn, args, {}))
        return evaluation
