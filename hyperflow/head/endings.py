"""How evaluations by themselves end: with a result, an error, the end of their worker, or because nobody wants them.

Guarantees:
- Each ends once, in a result or in an error that names evaluation, worker, node and log.
- An error is its own, whatever the user's objects do while they are read or shown.
"""

from __future__ import annotations

import contextlib
import pickle

from hyperflow import failures
from hyperflow.errors import AllocationEnding, MemoryLimitExceeded, ScratchFull, SerializationError
from hyperflow.head.evaluation import Evaluation, death, read_failure
from hyperflow.head.head import Head
from hyperflow.saying import in_words
from hyperflow.scheduling.state import Task, Worker
from hyperflow.wire import frames
from hyperflow.wire.frames import Outcome
from hyperflow.wire.messages import CANCELLED, WorkerEnded
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

VALUE, SKIPPED = int(Outcome.VALUE), int(Outcome.SKIPPED)
"""As plain numbers, because each answer is compared with them."""

RETRIED = (Outcome.RAISED, Outcome.UNSENDABLE_ERROR)
"""Outcomes after which `retries` start an evaluation again. What cannot be sent or read could not be the next time, and
who calls sys.exit() means it."""


class Endings:
    """The ends of all evaluations of a head."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def on_results(self, number: WorkerNumber, body: memoryview) -> int:
        """A worker has answered, mostly several tasks at once; return how many."""
        head = self._head
        scheduler, evaluations, locks = head.scheduler, head.evaluations, head.locks
        watched = head.copies.watched or head.orders.attempts or head.checkpoints.given or head.learning.alive
        rare = head.tries or head.makings or watched
        groups, worker = head.tally.of, scheduler.workers.get(number)
        done: dict[TaskNumber, float] = {}
        measured: dict[TaskNumber, frames.Measured] = {}
        results = frames.results(body, measured)
        for task_number, outcome, seconds, payload, buffers in results:
            if outcome == SKIPPED:
                self.retracted(scheduler.skipped(number, task_number, *frames.SIZE.unpack(payload)))
                continue
            if locks.busy:
                head.worker_locks.answered(number, task_number)
                if outcome == VALUE:
                    head.worker_locks.ended(task_number)
            task = scheduler.answered(number, task_number, seconds)
            evaluation = evaluations.get(task_number)
            if task is None or worker is None or evaluation is None:
                if buffers and worker is not None and worker.node in head.fleet.links:  # it comes late
                    with contextlib.suppress(OSError, KeyError):
                        head.fleet.links[worker.node].found(number, buffers)
                continue
            try:
                if outcome != VALUE:
                    head.account.used += seconds * len(worker.cpus)
                    self._on_failure(evaluation, task, worker, outcome, payload, measured.get(task_number))
                    continue
                if buffers:
                    value = pickle.loads(payload, buffers=head.fleet.links[worker.node].found(number, buffers))
                else:
                    value = pickle.loads(payload)
                del evaluations[task_number]
            except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read or shown)
                self.unreadable(evaluation, task, worker, error)
                continue
            packed = evaluation.packed
            head.packer.release(packed)
            evaluation.call = None
            done[task_number] = seconds
            (counts := groups[evaluation.options.name or packed.function.name]).ended(seconds)
            if measured and task_number in measured:
                counts.usage.used(*measured[task_number])
            evaluation.set_result(value)
            if rare or task.past is not None:
                self._on_special(evaluation, task, worker, seconds, measured.get(task_number))
        if done and worker is not None:
            self._count_done(done, worker, measured)
        return len(results)

    def _count_done(
        self, done: dict[TaskNumber, float], worker: Worker, measured: dict[TaskNumber, frames.Measured]
    ) -> None:
        self._head.counts["done"] += len(done)
        self._head.account.used += sum(done.values()) * len(worker.cpus)
        self._head.events.done([*done], [*done.values()], worker.name, measured=measured)
        if self._head.aside.trust.accused:
            self._head.aside.trust.succeeded(worker.node, len(done))

    def unreadable(self, evaluation: Evaluation, task: Task, worker: Worker, error: BaseException) -> None:
        """What an evaluation has ended with cannot be read here: that is its error, and nobody else's."""
        if task.number not in self._head.evaluations or self._head.copies.gives_way(task, worker.node):
            return  # reading it has ended the evaluation, or there is a copy
        text = f"the result of {evaluation.title} cannot be unpickled here: {in_words(error)}"
        self.fail(evaluation, SerializationError(text))

    def _on_special(
        self, evaluation: Evaluation, task: Task, worker: Worker, seconds: float, used: frames.Measured | None
    ) -> None:
        """Do what few evaluations need when they have a result."""
        if evaluation.options.learns:
            self._head.learning.ended(evaluation, seconds, used)
        self._head.tries.pop(task.number, None)
        self._head.orders.attempts.pop(task.number, None)
        making = self._head.makings.pop(evaluation, None)
        self._head.checkpoints.ended(task.number, well=True, making=making)
        if making is not None:
            making.evaluated(task.number, worker.node, len(worker.cpus), seconds)
        if task.past is not None:
            self._head.aside.recovered(worker.node, task.past.failed_on)
        if evaluation.options.straggler_factor is not None:
            self._head.copies.answered(task, evaluation.packed.function.name, seconds)

    def _on_failure(
        self,
        evaluation: Evaluation,
        task: Task,
        worker: Worker,
        outcome: int,
        payload: memoryview,
        used: frames.Measured | None,
    ) -> None:
        if used is not None:
            self._head.tally.of[evaluation.group].usage.used(*used)
            self._head.events.measured(task.number, *used[:2])
        if self._head.copies.gives_way(task, worker.node):
            return
        error, trace = read_failure(evaluation, outcome, payload)
        if isinstance(error, AllocationEnding) and self._head.ends.is_ending_at(worker.node):
            self._head.orders.try_again(task)
            self._head.scheduler.resubmit(task)
            self.returned(task, worker.name)
            return
        elsewhere = isinstance(error, ScratchFull) and self._is_new_elsewhere(task, worker.node)
        self._failed_on(evaluation, worker.node)
        if elsewhere:
            self._head.orders.try_again(task)
            self._head.scheduler.resubmit(task)
            self.returned(task, worker.name)
            return
        if outcome in RETRIED and self._again(evaluation, error):
            return
        if trace:
            failures.add_note(error, f"remote {trace}")
        log_file = self._head.orders.log_file(worker)
        failures.add_note(error, f"(raised by {evaluation.title} on {worker.name}; log: {log_file})")
        if task.number in self._head.post_mortems:
            seen = f"hyperflow debug [RUN] {task.number} --attach"
            failures.add_note(error, f"(a copy of its process can be looked at, while the run goes on: {seen})")
        failures.note_tries(error, evaluation.options.retries - evaluation.retries + 1)
        self.fail(evaluation, error)

    def on_ended(self, number: WorkerNumber, ended: WorkerEnded) -> None:
        """A worker and its process group have gone."""
        head = self._head
        worker = head.scheduler.workers.get(number)
        head.orders.worker_gone(number)
        if head.locks.busy:
            head.worker_locks.worker_gone(number)
        if worker is None:
            return
        if worker.node in head.fleet.links:
            head.fleet.links[worker.node].drop_blocks(number)
        within, back = head.scheduler.ended(number, ended.started, ended.task)
        log_file = head.orders.log_file(worker)
        told = {name: value for name, value in ended._asdict().items() if name != "task"}  # its failure says that
        head.events.note("ended", worker=worker.name, number=number, **told, log_file=log_file)
        for task in back:
            self.returned(task, worker.name)
        if not ended.started and ended.reason != CANCELLED:
            working = any(other.is_busy for other in head.scheduler.workers_at(worker.node))
            head.fleet.failed_start(worker.node, ended.reason or ended.tail or f"status {ended.status}", working)
        evaluation = head.evaluations.get(within.number) if within is not None else None
        if evaluation is None or within is None or head.copies.gives_way(within, worker.node):
            return
        error = death(evaluation, worker, ended, log_file)
        if error is None:
            head.orders.try_again(evaluation.task)
            head.scheduler.resubmit(evaluation.task)
            self.returned(evaluation.task, worker.name)
            return
        if evaluation.options.learns and head.learning.exceeds(evaluation, ended):
            self._start_again(evaluation, error)
            return
        self._failed_on(evaluation, worker.node)
        if not self._again(evaluation, error):
            from hyperflow.head import capsules  # noqa: PLC0415 (only failures need it)

            capsules.leave(evaluation, worker, head.orders, head.program, error)
            failures.note_tries(error, evaluation.options.retries - evaluation.retries + 1)
            self.fail(evaluation, error)

    def retracted(self, tasks: list[Task]) -> None:
        """These were taken back, and wait again."""
        if tasks:
            self._head.events.retracted([number for task in tasks for number in task.numbers])

    def returned(self, task: Task, by: str) -> None:
        """One waits again because its worker, or its node, has ended."""
        self._head.counts["returned"] += task.count
        for number in task.numbers:
            self._head.events.returned(number, by)
        evaluation = self._head.evaluations.get(task.number)
        if evaluation is not None and not self._head.pieces.may_restart(task.number):
            self._head.scheduler.cancel(task)
            self.fail(evaluation, self._head.pieces.broken(evaluation, by))

    def _is_new_elsewhere(self, task: Task, node: str) -> bool:
        """Whether an evaluation fails on a node for the first time, and there are some where it has not failed yet."""
        failed_on = task.past.failed_on if task.past is not None else set[str]()
        pool = self._head.scheduler.pool
        return node not in failed_on and bool(set(pool.nodes) - pool.aside - failed_on - {node})

    def _failed_on(self, evaluation: Evaluation, node: str) -> None:
        """Let another node have it next, by its retries or those of its flow. A node that is alone is not to blame."""
        if len(self._head.scheduler.pool.nodes) > 1:
            evaluation.task.failed_on(node)
        if (run := self._head.tries.get(evaluation.task.number)) is not None:
            run.failed_on.add(node)

    def _again(self, evaluation: Evaluation, error: Exception) -> bool:
        """Start a failed evaluation once more if it has retries left."""
        if evaluation.retries <= 0 or (isinstance(error, MemoryLimitExceeded) and error.before):
            return False  # none are left, or it would be the same each time
        if not self._head.pieces.may_restart(evaluation.task.number):
            return False
        evaluation.retries -= 1
        self._start_again(evaluation, error)
        return True

    def _start_again(self, evaluation: Evaluation, error: Exception) -> None:
        self._head.counts["retried"] += 1
        self._head.events.retried(evaluation.task.number, evaluation.shown_call, error)
        self._head.orders.try_again(evaluation.task)
        self._head.scheduler.resubmit(evaluation.task)

    def fail(self, evaluation: Evaluation, error: Exception, started: bool = True) -> None:
        """End an evaluation with an error."""
        self._end(evaluation, "failed" if started else "cancelled")
        self._head.events.failed(evaluation.task.number, evaluation.shown_call, error)
        evaluation.call = None
        evaluation.set_exception(error)
        if failures.watcher is not None:
            failures.watcher(evaluation)

    def cancelled(self, evaluation: Evaluation) -> None:
        """Nobody waits for the evaluation any more."""
        if evaluation.task.number in self._head.evaluations:
            self._head.scheduler.cancel(evaluation.task)
            self._end(evaluation, "cancelled")
            evaluation.call = None
            self._head.events.cancelled(evaluation.task.number)
            self._head.flush_soon()

    def _end(self, evaluation: Evaluation, state: str) -> None:
        head = self._head
        del head.evaluations[evaluation.task.number]
        head.worker_locks.ended(evaluation.task.number)
        head.copies.end(evaluation.task)
        head.tries.pop(evaluation.task.number, None)
        head.learning.dropped(evaluation)
        head.orders.attempts.pop(evaluation.task.number, None)
        head.checkpoints.ended(evaluation.task.number, well=False)
        head.makings.pop(evaluation, None)
        head.packer.release(evaluation.packed)
        head.counts[state] += 1
        head.turn()  # it may have been submitted in this turn
        counts = head.tally.of[evaluation.group]
        if state == "failed":
            counts.failed += 1
        else:
            counts.cancelled += 1
