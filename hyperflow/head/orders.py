"""Orders: what the scheduler wants done, as frames, with one write per node.

A definition (a function, class or large buffer of arguments) has a number. A node gets it once and keeps it; a worker
of that node gets it from there when its number is named. So a task names its function in four bytes. Here is the
account of which node and which worker has what.

Guarantees: what a task needs is in the stream before it, once for each worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from hyperflow.events.writer import EventLog
from hyperflow.head.broadcast import Broadcast
from hyperflow.head.bulk.calls import Alike, alike_of, calls_of
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.link import Link
from hyperflow.head.log_places import LogPlaces
from hyperflow.scheduling.state import (
    Cancel,
    Effect,
    Feed,
    Fork,
    Join,
    Kill,
    Recall,
    Retire,
    Retract,
    Send,
    Task,
    TeamEffect,
    Worker,
)
from hyperflow.shipping.arrays import SharedBuffer
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Facts, ForkOrder
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber, WorkerNumber

FORGOTTEN = 16
"""So many forgotten definitions a worker may be noted to have: to look at all workers each time costs more."""


class Known:
    """What a worker has."""

    __slots__ = ("epoch", "name", "numbers")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        """Of its classes."""
        self.numbers: set[DefinitionNumber] = set()
        """Of its definitions; perhaps also of some that were forgotten, which nobody needs any more."""
        self.name: str | None = None
        """What the tasks that it got last are called."""


class Orders:
    """Writes the scheduler's effects to the nodes. `evaluations` are those that a flow waits for."""

    def __init__(
        self,
        links: Mapping[str, Link],
        broadcast: Broadcast,
        packer: Packer,
        evaluations: Mapping[TaskNumber, Evaluation],
        events: EventLog,
        logs: LogPlaces,
    ) -> None:
        self.at_workers: dict[WorkerNumber, Known] = {}
        """What each worker has."""
        self.at_nodes: dict[str, set[DefinitionNumber]] = {}
        """Those that each node has."""
        self.attempts: dict[TaskNumber, int] = {}
        """Which try it is of those that are not at the first one."""
        self._links = links
        self._broadcast = broadcast
        self._packer = packer
        self._evaluations = evaluations
        self._events = events
        self.logs = logs

    def write(self, effects: Iterable[Effect]) -> None:
        """Carry out what the scheduler has decided."""
        out: dict[str, list[frames.Bytes]] = {}
        for effect in effects:
            place = effect.team if isinstance(effect, TeamEffect) else effect.worker
            parts = out.get(place.node)
            if parts is None:
                parts = out[place.node] = []
            if isinstance(effect, TeamEffect):
                self._order_team(effect, parts)
            elif type(effect) is not Send:
                self._order(effect, parts)
            elif len(effect.tasks) > 1 or not self._send_one(effect.worker, effect.tasks[0], parts):
                self._send(effect, parts)
        for node, parts in out.items():
            link = self._links.get(node)
            if link is not None:  # else it has gone
                link.write(parts)

    def _send_one(self, worker: Worker, task: Task, parts: list[frames.Bytes]) -> bool:
        """Send a task if nothing has to go with it: most are such, and `_send` takes three times as long."""
        number, function = task.number, task.function
        evaluation = self._evaluations.get(number)
        known = self.at_workers[worker.number]
        if evaluation is None or task.alone or function not in known.numbers:
            return False
        packed, options = evaluation.packed, evaluation.options
        if packed.needs or packed.buffers or packed.epoch != known.epoch:
            return False
        if options.name != known.name or options.post_mortem:
            return False
        parts.append(frames.task_frame(worker.number, number, function, packed.payload))
        self._events.running([number], worker.name)
        return True

    def _send(self, effect: Send, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        known = self.at_workers[worker.number]
        has = known.numbers
        records: list[frames.Bytes] = []
        started: list[TaskNumber] = []
        for task in effect.tasks:
            number, function = task.number, task.function
            evaluation = self._evaluations.get(number)
            if evaluation is None:  # cancelled in this very turn: its place in the sequence is kept
                frames.add_task(records, number, function, b"")
                continue
            packed = evaluation.packed
            if packed.epoch != known.epoch:
                parts += _tasks(worker, records)  # they run with the classes that are there now
                known.epoch = packed.epoch
                has.intersection_update(self._packer.buffers.known)
            if evaluation.options.name != known.name:
                parts += _tasks(worker, records)
                known.name = evaluation.options.name
                parts.append(frames.frame(Kind.NAMED, worker.number, (known.name or "").encode()))
            if function not in has or packed.needs:
                self._give(worker, (*packed.needs, packed.function), parts)
            if task.alone and (facts := self._facts(task, evaluation)) is not None:
                parts.append(messages.framed(facts, worker.number))
            if evaluation.options.post_mortem:
                parts.append(frames.frame(Kind.KEEP, worker.number, frames.SIZE.pack(number)))
            buffers = packed.buffers
            if buffers and (channels := self._links[worker.node].channels) is not None:
                buffers = channels.filled(worker.number, buffers)
            frames.add_task(records, number, function, packed.payload, buffers)
            started.append(number)
            if task.alone:
                self._limit(evaluation, worker, parts)
        parts += _tasks(worker, records)
        if started:
            self._events.running(started, worker.name)

    def _limit(self, evaluation: Evaluation, worker: Worker, parts: list[frames.Bytes]) -> None:
        """Say what an evaluation, which comes by itself, may take at most."""
        if (seconds := evaluation.options.time_limit) is not None:
            parts.append(frames.frame(Kind.LIMIT, worker.number, frames.SECONDS.pack(seconds)))
        evaluation.began = time.monotonic()
        if (memory := evaluation.memory_limit) is not None:
            parts.append(frames.frame(Kind.LIMIT_MEMORY, worker.number, frames.SIZE.pack(memory)))

    def try_again(self, task: Task) -> None:
        """A try of an evaluation has ended, and there will be another one, which is told which it is."""
        self.attempts[task.number] = self.attempts.get(task.number, 1) + 1
        task.alone = True

    def _facts(self, task: Task, evaluation: Evaluation) -> Facts | None:
        """Return what a worker has to know of an evaluation, where that is not the usual."""
        facts = Facts(task.number, self.attempts.get(task.number, 1), evaluation.memory_limit)
        if len(places := task.places) > 1:
            nodes, cpus, gpus = zip(*places, strict=True)
            facts = facts._replace(nodes=nodes, cpus=cpus, gpus=gpus)
        return facts if facts != Facts(task.number) else None

    def _order_team(self, effect: TeamEffect, parts: list[frames.Bytes]) -> None:
        team = effect.team
        if type(effect) is Feed:
            batch = effect.batch
            content = frames.batch(batch.function, batch.number, calls_of(batch).payloads_of(batch))
            parts += frames.records_frame(Kind.BATCH, team.number, content)
            self._events.queued(team.node, batch.numbers)
        elif type(effect) is Join:
            alike = alike_of(team)
            for worker in effect.workers:
                self._make_ready(worker, alike, parts)
            body = b"".join(frames.NUMBER.pack(worker.number) for worker in effect.workers)
            parts.append(frames.frame(Kind.JOIN, team.number, body))
        elif type(effect) is Recall:
            parts.append(frames.frame(Kind.RECALL, team.number, frames.NUMBER.pack(effect.most)))
        elif type(effect) is Cancel:
            parts += (frames.frame(Kind.CANCEL, team.number, frames.RANGE.pack(*each)) for each in effect.ranges)

    def _make_ready(self, worker: Worker, alike: Alike, parts: list[frames.Bytes]) -> None:
        """Give a worker what it needs for all that its team will have."""
        known = self.at_workers[worker.number]
        if alike.epoch != known.epoch:
            known.epoch = alike.epoch
            known.numbers.intersection_update(self._packer.buffers.known)
        if alike.name != known.name:
            known.name = alike.name
            parts.append(frames.frame(Kind.NAMED, worker.number, (alike.name or "").encode()))
        if alike.function.number not in known.numbers:
            self._give(worker, (alike.function,), parts)

    def _give(self, worker: Worker, needs: Iterable[Definition | SharedBuffer], parts: list[frames.Bytes]) -> None:
        """Give a worker what it does not have of this."""
        has = self.at_workers[worker.number].numbers
        here = self.at_nodes.setdefault(worker.node, set())
        if len(has) > 2 * len(here) + FORGOTTEN:
            has.intersection_update(here)
        for need in needs:
            number = need.number
            if number in has:
                continue
            if isinstance(need, Definition):
                if need.needs:
                    self._give(worker, need.needs, parts)
                if number not in here:
                    parts.append(frames.frame(Kind.DEFINE, body=need.body()))
            elif number not in here:
                self._broadcast.give(worker.node, number, need.block)
            here.add(number)
            has.add(number)
            parts.append(frames.frame(Kind.GIVE, worker.number, frames.NUMBER.pack(number)))

    def _order(self, effect: Fork | Retract | Kill | Retire, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        if type(effect) is Fork:
            self.at_workers[worker.number] = Known(self._packer.epoch)
            pinned = self._links[worker.node].cpus.pinned
            log = self.logs.path(worker.node, _log_name(worker))
            order = ForkOrder(worker.name, log, worker.cpus, pinned, worker.fresh, worker.gpus)
            parts.append(messages.fork(order, worker.number))
            self._events.started(worker.name, worker.cpus, worker.number, worker.gpus)
        elif type(effect) is Retract:
            parts.append(frames.frame(Kind.RETRACT, worker.number, frames.SIZE.pack(effect.below)))
        else:
            parts.append(frames.frame(Kind.KILL if type(effect) is Kill else Kind.RETIRE, worker.number))

    def forget(self) -> list[DefinitionNumber]:
        """Forget everywhere what is not used any more; return the numbers."""
        gone = self._packer.evict()
        if gone:
            self._packer.buffers.leave(self._holders)
            self._broadcast.forget(gone)
            body = b"".join(map(frames.NUMBER.pack, gone))
            for link in self._links.values():
                link.write([frames.frame(Kind.FORGET, body=body)])
            for known in self.at_nodes.values():
                known.difference_update(gone)
        return gone

    def _holders(self, number: DefinitionNumber) -> set[WorkerNumber] | None:
        """Return the workers that have a block; None if any is on another machine."""
        for node, known in self.at_nodes.items():
            link = self._links.get(node)
            if number in known and (link is None or link.channels is None):
                return None
        return {worker for worker, known in self.at_workers.items() if number in known.numbers}

    def drop_old(self) -> bool:
        """Let go of blocks that nobody has needed for a while; return whether there are others."""
        if self._packer.buffers.stock.drop_old(time.monotonic()):
            for link in self._links.values():
                link.write([frames.frame(Kind.FORGET)])  # workers unmap what they do not use
        return bool(self._packer.buffers.stock)

    def returned(self, worker: WorkerNumber, body: memoryview) -> None:
        """A worker does not look at blocks any more."""
        for number, kept in frames.RETURNED.iter_unpack(body):
            self._packer.buffers.stock.returned(worker, number, kept)

    def log_file(self, worker: Worker) -> str:
        """Return the worker's log file, for people. A worker appends to the log of the previous worker in its slot."""
        return self.logs.for_people(worker.node, _log_name(worker))

    def worker_gone(self, worker: WorkerNumber) -> None:
        """Forget what a worker had."""
        known = self.at_workers.pop(worker, None)
        if known is not None:
            self._packer.buffers.worker_gone(worker, known.numbers)


def _log_name(worker: Worker) -> str:
    return f"worker-{worker.node}-{worker.slot}.log"


def _tasks(worker: Worker, records: list[frames.Bytes]) -> list[frames.Bytes]:
    """Return the frame of these tasks, and take them out of the list."""
    parts = frames.records_frame(Kind.TASKS, worker.number, records) if records else []
    records.clear()
    return parts
