"""Programs that an evaluation starts on its other nodes: those by which mpirun starts its ranks there.

A launcher runs each of them as if it were a worker. So what holds for workers holds for them: CPUs and GPUs of their
own, a log, and an end of all that they have started, whatever dies first. Nothing between the nodes is needed for
that: no ssh, no key. (Rejected: mpirun's own ssh. Sites forbid it between nodes, and what it has started survives.)

Guarantees:
- A program runs only on nodes that its evaluation has.
- It ends with the worker that has started it, or with that worker's node.
- A memory limit counts on each node. Whatever exceeds it, on any of them, the evaluation has exceeded it.
- An evaluation's CPUs are free when none of its programs is left.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence

import attrs

from hyperflow.head.link import Link
from hyperflow.head.log_places import LogPlaces
from hyperflow.scheduling.state import Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, ProtocolError
from hyperflow.wire.messages import MEMORY_LIMIT, Guest, RanksEnded, RanksWanted, WorkerEnded
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

logger = logging.getLogger("hyperflow")

FIRST = 1 << 31
"""The number of the first program; those of workers, which share the space, are smaller."""

LOST = -9
"""The status of a program whose node was lost."""


@attrs.frozen(eq=False)
class _Program:
    number: WorkerNumber
    owner: Worker
    serial: int
    node: str


class Ranks:
    """The programs of all evaluations.

    Args:
        limit: Returns the bytes that an evaluation may have on each node; None where there is no limit.
        deliver: Gets the end of a worker when its programs have ended, too.
    """

    def __init__(
        self,
        links: Mapping[str, Link],
        write: Callable[[str, Sequence[frames.Bytes]], None],
        logs: LogPlaces,
        limit: Callable[[TaskNumber], int | None],
        deliver: Callable[[WorkerNumber, WorkerEnded], None],
    ) -> None:
        self._links = links
        self._write = write
        self._logs = logs
        self._limit = limit
        self._deliver = deliver
        self._numbers = map(WorkerNumber, itertools.count(FIRST))
        self._programs: dict[WorkerNumber, _Program] = {}
        self._over: dict[WorkerNumber, WorkerEnded] = {}  # of workers: their program that had too much memory
        self._ends: dict[WorkerNumber, WorkerEnded] = {}  # of workers whose programs have not ended yet

    def on_message(self, worker: Worker, body: memoryview) -> None:
        """An evaluation wants a program to run, or to end."""
        try:
            wanted = messages.read(RanksWanted, body)
            mine = [one for one in self._of(worker.number) if one.serial == wanted.serial]
            if not wanted.argv:
                self._kill(mine)
            elif not mine:
                self._start(worker, wanted)
        except (ProtocolError, TypeError):  # a function wrote to a descriptor that is not its own
            logger.warning("%s sent something that is no message about programs on other nodes", worker.name)

    def _start(self, worker: Worker, wanted: RanksWanted) -> None:
        task = worker.queue.get(wanted.task)
        places = task.places if task is not None else []
        place = next((place for place in places if place.node == wanted.node), None)
        link = self._links.get(wanted.node)
        if place is None or link is None:
            why = "is not a node of this evaluation" if place is None else "has been lost"
            self._tell(worker, wanted.serial, LOST, f"{wanted.node} {why}")
            return
        program = _Program(next(self._numbers), worker, wanted.serial, wanted.node)
        name = f"{worker.name}/{wanted.node}"
        log_file = self._logs.path(wanted.node, f"ranks-{wanted.node}-of-{worker.node}-{worker.slot}.log")
        pinned = link.cpus.pinned
        order = Guest(name, log_file, place.cpus, pinned, place.gpus, wanted.argv, wanted.cwd, wanted.environment)
        self._programs[program.number] = program
        parts = [messages.framed(order, program.number)]
        if (limit := self._limit(wanted.task)) is not None:
            parts.append(frames.frame(Kind.LIMIT_MEMORY, program.number, frames.SIZE.pack(limit)))
        self._write(wanted.node, parts)

    def ended(self, number: WorkerNumber, ended: WorkerEnded) -> bool:
        """Something has ended on a node; return whether that is dealt with: a program, or a worker that has some."""
        program = self._programs.pop(number, None)
        if program is not None and ended.reason == MEMORY_LIMIT:
            self._over[program.owner.number] = ended
            self._write(program.owner.node, [frames.frame(Kind.KILL, program.owner.number)])
        if program is not None:
            self._tell(program.owner, program.serial, ended.status, ended.reason or ended.tail)
            self._release(program.owner.number)
            return True
        if (over := self._over.pop(number, None)) is not None:
            ended = ended._replace(reason=over.reason, peak_memory=over.peak_memory, tail=over.tail)
        elif not self._of(number):
            return number >= FIRST
        self._ends[number] = ended
        self._kill(self._of(number))
        self._release(number)
        return True

    def lost(self, node: str, how: str = "was lost") -> None:
        """A node has gone, and with it its programs and those that its workers have elsewhere."""
        for program in list(self._programs.values()):
            if program.owner.node == node:
                self._ends.pop(program.owner.number, None)
                self._over.pop(program.owner.number, None)
                self._kill([program])
            if program.node == node:
                del self._programs[program.number]
                self._tell(program.owner, program.serial, LOST, f"{node} {how}")
                self._release(program.owner.number)

    def _release(self, owner: WorkerNumber) -> None:
        if owner in self._ends and not self._of(owner):
            self._deliver(owner, self._ends.pop(owner))

    def _of(self, owner: WorkerNumber) -> list[_Program]:
        return [one for one in self._programs.values() if one.owner.number == owner]

    def _kill(self, programs: Sequence[_Program]) -> None:
        for program in programs:
            self._write(program.node, [frames.frame(Kind.KILL, program.number)])

    def _tell(self, worker: Worker, serial: int, status: int, text: str) -> None:
        self._write(worker.node, [messages.framed(RanksEnded(serial, status, text), worker.number)])
