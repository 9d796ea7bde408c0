"""Tasks, workers, and what the scheduler may want done: the nouns of scheduler.py. Pure data."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import final

from hyperflow.fields import define, field, frozen
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
"""Names of the module: to look one up in the class takes longer than what is done with it."""


@define(eq=False)
class Past:
    """What a task has been through."""

    failed_on: set[str] = field(factory=set[str])
    """Nodes on which it failed."""
    lost: list[str] = field(factory=list[str])
    """Nodes that were lost while it was there; after the first it is a suspect."""


@final
@frozen
class Wish:
    """What a task with a past asks for; tasks that ask for the same wait in one queue."""

    cpus: int
    avoided: frozenset[str]  # nodes; if no other is large enough, they will do
    suspect: bool  # on no node where another suspect is


Request = int | Wish
"""What a task asks for: a number of CPUs, mostly."""


class Task:
    """One evaluation, as the scheduler sees it."""

    __slots__ = ("alone", "cpus", "exclusive", "fresh", "function", "number", "past", "seq", "size", "state", "worker")

    count: int = 1
    """How many evaluations it is; a Batch may be more."""

    def __init__(
        self,
        number: TaskNumber,  # its place in the order of submission
        function: DefinitionNumber,  # tasks of one function are expected to take a similar time
        cpus: int = 1,  # how many of one node it needs
        fresh: bool = False,  # it needs a process of its own
        alone: bool = False,  # nothing may be prefetched of it or behind it (it has a time limit, say)
        size: int = 0,  # bytes to send
        exclusive: bool = False,  # it must not be given to another node while a lost one may still be in it
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
        self.past: Past | None = None

    @property
    def numbers(self) -> Sequence[TaskNumber]:
        """Their numbers."""
        return (self.number,)

    @property
    def request(self) -> Request:
        """What it asks for."""
        if self.past is None:
            return self.cpus
        return Wish(self.cpus, frozenset(self.past.failed_on), bool(self.past.lost))

    def failed_on(self, node: str) -> None:
        """It has failed on a node: let another one have it next."""
        self.past = self.past or Past()
        self.past.failed_on.add(node)
        self.alone = True  # what is prefetched behind it could not choose its node

    def was_lost_on(self, node: str) -> None:
        """A node was lost while it was there."""
        self.past = self.past or Past()
        self.past.lost.append(node)
        self.alone = True

    def __repr__(self) -> str:
        return f"Task({self.number}, cpus={self.cpus}, {self.state.value})"


class Batch(Task):
    """Evaluations with consecutive numbers that differ only in their arguments; `number` and `seq` are the first one's.

    What is true of a task is true of each of them: they are started, prefetched, retracted and blamed one by one. To
    say it of many at once is what a batch is for. When something happens to one of them only, that one is made a task
    of its own. They have no past, and want nothing that Task calls fresh, alone or exclusive. `size` is that of the
    largest; `calls` and `owner` are the head's: what is to be sent, and the map.
    """

    __slots__ = ("calls", "count", "owner")

    def __init__(
        self,
        number: TaskNumber,
        function: DefinitionNumber,
        cpus: int,
        size: int,
        count: int,
        calls: object,
        owner: object,
    ) -> None:
        super().__init__(number, function, cpus, size=size)
        self.count = count
        self.calls = calls
        self.owner = owner

    @property
    def numbers(self) -> Sequence[TaskNumber]:
        return range(self.number, self.number + self.count)  # type: ignore[return-value]  # TaskNumber() takes a while

    def drop(self, count: int) -> None:
        """Leave the first ones out."""
        self.number = TaskNumber(self.number + count)
        self.count -= count
        if self.seq:
            self.seq = Seq(self.seq + count)

    def cut(self, count: int) -> Batch:
        """Take the first ones out, as a batch of their own."""
        first = Batch(self.number, self.function, self.cpus, self.size, count, self.calls, self.owner)
        first.state, first.worker, first.seq = self.state, self.worker, self.seq
        self.drop(count)
        return first

    def one(self, number: TaskNumber) -> Task:
        """Return one of them as a task of its own; this keeps it, too."""
        task = Task(number, self.function, self.cpus, size=self.size)
        task.state, task.worker = self.state, self.worker
        if self.seq:
            task.seq = Seq(self.seq + number - self.number)
        return task

    def with_next(self, other: Task) -> Batch | None:
        """Return both as one that waits, if the other one is what comes after this; they stay as they are."""
        if type(other) is not Batch or other.calls is not self.calls or other.number != self.number + self.count:
            return None
        return Batch(self.number, self.function, self.cpus, self.size, self.count + other.count, self.calls, self.owner)


@define(eq=False, shown=False)
class Worker:
    """A worker process, as the scheduler sees it."""

    number: WorkerNumber  # never used again, unlike the slot
    node: str
    slot: int  # see idle.py
    cpus: tuple[int, ...]  # ids that it is pinned to for life
    fresh: bool  # it runs one task and ends
    name: str = field(init=False)  # in logs and errors
    queue: dict[TaskNumber, Task] = field(init=False, factory=dict[TaskNumber, Task])
    """Sent and not answered, in the order in which they were sent, by the number that each had then."""
    held: int = field(init=False, default=0)  # evaluations in the queue
    has_batches: bool = field(init=False, default=False)  # or has had
    sent: Seq = field(init=False, default=NOT_SENT)  # of the task that was sent last
    load: int = field(init=False, default=0)  # bytes in the queue
    leased: bool = field(init=False, default=False)  # its CPU ids are taken out of the pool for it
    overfull: bool = field(init=False, default=False)  # the scheduler has it among those with more than one task
    retracting: bool = field(init=False, default=False)
    ending: bool = field(init=False, default=False)
    heard: int = field(init=False, default=0)  # how many answers had come from all workers when it last answered
    slow: bool = field(init=False, default=False)  # what was queued here was taken back; until it answers

    def __post_init__(self) -> None:
        self.name = f"worker-{self.slot}@{self.node}"

    @property
    def current(self) -> TaskNumber:
        """The oldest that is not answered: the one that it is in."""
        return next(iter(self.queue.values())).number

    def __repr__(self) -> str:
        return f"Worker({self.number}, {self.node}, cpus={self.cpus}, queue={self.held})"


@final
@frozen
class Fork:
    """Start this worker."""

    worker: Worker


@final
@define  # not frozen: one is made for each answer, and a frozen one takes three times as long
class Send:
    """Send these tasks to the worker, in this order."""

    worker: Worker
    tasks: list[Task]


@final
@frozen
class Retract:
    """Take back the tasks that the worker has not started, up to seq `below` (not included)."""

    worker: Worker
    below: Seq


@final
@frozen
class Kill:
    """End the worker and its process group."""

    worker: Worker


@final
@frozen
class Retire:
    """Let an idle worker end."""

    worker: Worker


Effect = Fork | Send | Retract | Kill | Retire


def is_started(task: Task) -> bool:
    """Whether a task is the one that its worker is in, or has been; not one that waits or is prefetched."""
    if task.state is State.SENT and task.worker is not None:
        return task.worker.current == task.number
    return task.state is not State.WAITING
