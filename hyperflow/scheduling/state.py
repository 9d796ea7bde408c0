"""Tasks, workers, and what the scheduler may want done: the nouns of scheduler.py. Pure data."""

from __future__ import annotations

import enum
from typing import final

import attrs

from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

NOT_SENT = Seq(0)
"""The seq of a task that is with no worker."""


class State(enum.Enum):
    """What a task is doing."""

    WAITING = "waiting"
    SENT = "running"
    ENDED = "ended"
    CANCELLED = "cancelled"


WAITING, SENT, ENDED, CANCELLED = State.WAITING, State.SENT, State.ENDED, State.CANCELLED
"""Looked up once: in the class, that takes longer than what is done with them."""


class Task:
    """One evaluation, as the scheduler sees it.

    Args:
        number: Its place in the order of submission.
        function: Tasks with the same number here are expected to take a similar time.
        cpus: How many CPUs of one node it needs.
        fresh: It needs a process of its own.
        alone: Nothing may be prefetched of it or behind it (it has a time limit, say).
        size: Bytes to send.
        exclusive: It must not be given to another node while a lost one may still be in it.
    """

    __slots__ = ("alone", "cpus", "exclusive", "fresh", "function", "number", "seq", "size", "state", "worker")

    def __init__(
        self,
        number: TaskNumber,
        function: DefinitionNumber,
        cpus: int = 1,
        fresh: bool = False,
        alone: bool = False,
        size: int = 0,
        exclusive: bool = False,
    ) -> None:
        self.number = number
        self.function = function
        self.cpus = cpus
        self.fresh = fresh
        self.alone = alone or fresh
        self.size = size
        self.exclusive = exclusive
        self.state = WAITING
        self.worker: Worker | None = None
        self.seq = NOT_SENT

    def __repr__(self) -> str:
        return f"Task({self.number}, cpus={self.cpus}, {self.state.value})"


class Worker:
    """A worker process, as the scheduler sees it.

    Args:
        number: Never used again, unlike the slot.
        node: Where it is.
        slot: The lowest number that was free on its node: names its log file, so that files stay few.
        cpus: The CPU ids that it is pinned to for life.
        fresh: It runs one task and ends.
    """

    __slots__ = (
        *("cpus", "ending", "fresh", "leased", "load", "overfull"),
        *("name", "node", "number", "queue", "retracting", "sent", "slot"),
    )

    def __init__(self, number: WorkerNumber, node: str, slot: int, cpus: tuple[int, ...], fresh: bool) -> None:
        self.number = number
        self.node = node
        self.slot = slot
        self.name = f"worker-{slot}@{node}"  # in logs and errors
        self.cpus = cpus
        self.fresh = fresh
        self.queue: dict[TaskNumber, Task] = {}  # sent and not answered, in the order in which they were sent
        self.sent = NOT_SENT  # the seq of the task that was sent last
        self.load = 0  # bytes in the queue
        self.leased = False  # whether its CPU ids are taken out of the pool for it
        self.overfull = False  # whether the scheduler has it among those that may have more than one task
        self.retracting = False
        self.ending = False

    def __repr__(self) -> str:
        return f"Worker({self.number}, {self.node}, cpus={self.cpus}, queue={len(self.queue)})"


@final
@attrs.frozen
class Fork:
    """Start this worker."""

    worker: Worker


@final
@attrs.frozen
class Send:
    """Send these tasks to the worker, in this order."""

    worker: Worker
    tasks: list[Task]


@final
@attrs.frozen
class Retract:
    """Take back the tasks that the worker has not started, up to seq `below` (not included)."""

    worker: Worker
    below: Seq


@final
@attrs.frozen
class Kill:
    """End the worker and its process group."""

    worker: Worker


@final
@attrs.frozen
class Retire:
    """Let an idle worker end."""

    worker: Worker


Effect = Fork | Send | Retract | Kill | Retire
