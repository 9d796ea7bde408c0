"""Orders: what the scheduler wants done, as frames, with one write per node.

Guarantees: what a task needs (its function, classes, large buffers) is in the stream before it, once for each worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hyperflow.events.writer import EventLog
from hyperflow.head.definitions import Definitions
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.link import Link
from hyperflow.scheduling.state import Effect, Fork, Kill, Retire, Retract, Send, Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import ForkOrder
from hyperflow.wire.numbers import TaskNumber


class Orders:
    """Writes the scheduler's effects to the nodes.

    Args:
        links: The nodes that are up.
        definitions: Which of them has what.
        evaluations: Those that somebody waits for.
        events: The event log.
        log_dir: Where workers log.
    """

    def __init__(
        self,
        links: Mapping[str, Link],
        definitions: Definitions,
        evaluations: Mapping[TaskNumber, Evaluation],
        events: EventLog,
        log_dir: Path,
    ) -> None:
        self._links = links
        self._definitions = definitions
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
        has = self._definitions.workers[worker.number]
        records: list[frames.Bytes] = []
        started: list[TaskNumber] = []
        for task in effect.tasks:
            number, function = task.number, task.function
            evaluation = self._evaluations.get(number)
            if evaluation is None:  # cancelled in this very turn: its place in the sequence is kept
                frames.add_task(records, number, function, b"")
                continue
            packed = evaluation.packed
            for need in packed.needs:
                if need.number not in has:
                    self._definitions.give(worker, need.number, parts)
            if function not in has:
                self._definitions.give(worker, function, parts)
            frames.add_task(records, number, function, packed.payload, packed.buffers)
            started.append(number)
            if task.alone and (limit := evaluation.options.time_limit) is not None:
                parts.append(frames.frame(Kind.LIMIT, worker.number, frames.SECONDS.pack(limit)))
        parts += frames.records_frame(Kind.TASKS, worker.number, records)
        if started:
            self._events.running(started, worker.name)

    def _order(self, effect: Fork | Retract | Kill | Retire, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        if type(effect) is Fork:
            self._definitions.workers[worker.number] = set()
            pinned = self._links[worker.node].cpus.pinned
            order = ForkOrder(worker.name, self.log_file(worker), worker.cpus, pinned, worker.fresh)
            parts.append(messages.framed(order, worker.number))
            self._events.note("started", worker=worker.name, cpus=worker.cpus, number=worker.number)
        elif type(effect) is Retract:
            parts.append(frames.frame(Kind.RETRACT, worker.number, frames.SIZE.pack(effect.below)))
        else:
            parts.append(frames.frame(Kind.KILL if type(effect) is Kill else Kind.RETIRE, worker.number))

    def log_file(self, worker: Worker) -> str:
        """Return where a worker logs; it goes on with the log of the one that had its slot before."""
        return str(self._log_dir / f"worker-{worker.node}-{worker.slot}.log")
