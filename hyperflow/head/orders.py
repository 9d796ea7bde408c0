"""Orders: what the scheduler wants done, as frames, with one write per node.

A definition (a function, class or large buffer of arguments) has a number. A node gets it once and keeps it; a worker
of that node gets it from there when its number is named. So a task names its function in four bytes. Here is the
account of which node and which worker has what.

Guarantees: what a task needs is in the stream before it, once for each worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hyperflow.events.writer import EventLog
from hyperflow.head.bulk.calls import calls_of
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.link import Link
from hyperflow.scheduling.state import Batch, Effect, Fork, Kill, Retire, Retract, Send, Worker
from hyperflow.shipping.arrays import SharedBuffer
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import ForkOrder
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber, WorkerNumber


class Orders:
    """Writes the scheduler's effects to the nodes. `evaluations` are those that a flow waits for."""

    def __init__(
        self,
        links: Mapping[str, Link],
        packer: Packer,
        evaluations: Mapping[TaskNumber, Evaluation],
        events: EventLog,
        log_dir: Path,
    ) -> None:
        self.at_workers: dict[WorkerNumber, set[DefinitionNumber]] = {}
        """The definitions that each worker has."""
        self.at_nodes: dict[str, set[DefinitionNumber]] = {}
        """Those that each node has."""
        self._epochs: dict[WorkerNumber, int] = {}  # of the classes that each worker has
        self._names: dict[WorkerNumber, str | None] = {}  # of the tasks that each worker got last
        self._links = links
        self._packer = packer
        self._evaluations = evaluations
        self._events = events
        self._log_dir = log_dir

    def write(self, effects: Iterable[Effect]) -> None:
        """Carry out what the scheduler has decided."""
        out: dict[str, list[frames.Bytes]] = {}
        for effect in effects:
            worker = effect.worker
            parts = out.setdefault(worker.node, [])
            if type(effect) is Send:
                self._send(effect, parts)
            else:
                self._order(effect, parts)
        for node, parts in out.items():
            link = self._links.get(node)
            if link is not None:  # else it has gone
                link.write(parts)

    def _send(self, effect: Send, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        has = self.at_workers[worker.number]
        records: list[frames.Bytes] = []
        started: list[TaskNumber] = []
        name = self._names.get(worker.number)
        for task in effect.tasks:
            if type(task) is Batch:
                name = self._send_batch(worker, task, records, parts, name)
                started += task.numbers
                continue
            number, function = task.number, task.function
            evaluation = self._evaluations.get(number)
            if evaluation is None:  # cancelled in this very turn: its place in the sequence is kept
                frames.add_task(records, number, function, b"")
                continue
            packed = evaluation.packed
            if packed.epoch != self._epochs[worker.number]:
                parts += _tasks(worker, records)  # they run with the classes that are there now
                self._epochs[worker.number] = packed.epoch
                has.intersection_update(self._packer.buffers.known)
            if evaluation.options.name != name:
                parts += _tasks(worker, records)
                self._names[worker.number] = name = evaluation.options.name
                parts.append(frames.frame(Kind.NAMED, worker.number, (name or "").encode()))
            if function not in has or packed.needs:
                self._give(worker, (*packed.needs, packed.function), parts)
            if evaluation.options.post_mortem:
                parts.append(frames.frame(Kind.KEEP, worker.number, frames.SIZE.pack(number)))
            frames.add_task(records, number, function, packed.payload, packed.buffers)
            started.append(number)
            if task.alone and (limit := evaluation.options.time_limit) is not None:
                parts.append(frames.frame(Kind.LIMIT, worker.number, frames.SECONDS.pack(limit)))
        parts += _tasks(worker, records)
        if started:
            self._events.running(started, worker.name)

    def _send_batch(
        self, worker: Worker, batch: Batch, records: list[frames.Bytes], parts: list[frames.Bytes], name: str | None
    ) -> str | None:
        """The same for a batch, in the same order; return the name of its tasks. None of them is cancelled yet."""
        calls = calls_of(batch)
        packed, options = calls.function, calls.options
        if packed.epoch != self._epochs[worker.number]:
            parts += _tasks(worker, records)
            self._epochs[worker.number] = packed.epoch
            self.at_workers[worker.number].intersection_update(self._packer.buffers.known)
        if options.name != name:
            parts += _tasks(worker, records)
            self._names[worker.number] = options.name
            parts.append(frames.frame(Kind.NAMED, worker.number, (options.name or "").encode()))
        if batch.function not in self.at_workers[worker.number]:
            self._give(worker, (packed.function,), parts)
        frames.add_tasks(records, batch.number, batch.function, calls.payloads_of(batch))
        return options.name

    def _give(self, worker: Worker, needs: Iterable[Definition | SharedBuffer], parts: list[frames.Bytes]) -> None:
        """Give a worker what it does not have of this."""
        has = self.at_workers[worker.number]
        here = self.at_nodes.setdefault(worker.node, set())
        for need in needs:
            number = need.number
            if number in has:
                continue
            if isinstance(need, Definition):
                self._give(worker, need.needs, parts)
                if number not in here:
                    parts.append(frames.frame(Kind.DEFINE, body=need.body()))
            elif number not in here:
                self._links[worker.node].write_block(number, need.block)
            here.add(number)
            has.add(number)
            parts.append(frames.frame(Kind.GIVE, worker.number, frames.NUMBER.pack(number)))

    def _order(self, effect: Fork | Retract | Kill | Retire, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        if type(effect) is Fork:
            self.at_workers[worker.number] = set()
            self._epochs[worker.number] = self._packer.epoch
            pinned = self._links[worker.node].cpus.pinned
            order = ForkOrder(worker.name, self.log_file(worker), worker.cpus, pinned, worker.fresh)
            parts.append(messages.framed(order, worker.number))
            self._events.note("started", worker=worker.name, cpus=worker.cpus, number=worker.number)
        elif type(effect) is Retract:
            parts.append(frames.frame(Kind.RETRACT, worker.number, frames.SIZE.pack(effect.below)))
        else:
            parts.append(frames.frame(Kind.KILL if type(effect) is Kill else Kind.RETIRE, worker.number))

    def forget(self) -> list[DefinitionNumber]:
        """Forget everywhere what is not used any more; return the numbers."""
        gone = self._packer.evict()
        if gone:
            body = b"".join(map(frames.NUMBER.pack, gone))
            for link in self._links.values():
                link.write([frames.frame(Kind.FORGET, body=body)])
            for known in (*self.at_nodes.values(), *self.at_workers.values()):
                known.difference_update(gone)
        return gone

    def log_file(self, worker: Worker) -> str:
        """Return the worker's log file. A worker appends to the log of the previous worker in its slot."""
        return str(self._log_dir / f"worker-{worker.node}-{worker.slot}.log")

    def worker_gone(self, worker: WorkerNumber) -> None:
        """Forget what a worker had."""
        self.at_workers.pop(worker, None)
        self._epochs.pop(worker, None)
        self._names.pop(worker, None)


def _tasks(worker: Worker, records: list[frames.Bytes]) -> list[frames.Bytes]:
    """Return the frame of these tasks, and take them out of the list."""
    parts = frames.records_frame(Kind.TASKS, worker.number, records) if records else []
    records.clear()
    return parts
