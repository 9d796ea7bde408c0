"""Tasks, workers, and what the scheduler may want done: the nouns of scheduler.py. Pure data."""

from __future__ import annotations

import enum
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, final

from hyperflow.request import Request
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


class Past:
    """What a task has been through."""

    __slots__ = ("failed_on", "lost", "worker")

    def __init__(self) -> None:
        self.failed_on: set[str] = set()
        """Nodes on which it failed."""
        self.lost: list[str] = []
        """Nodes that were lost while it was there; after the first it is a suspect."""
        self.worker: Worker | None = None
        """Who had it on another node then; it starts again when that has ended."""


Key = int | Request
"""What a task asks for, as the name of its queue: a number of CPUs, mostly."""

Size = int | tuple[int, float]
"""What a worker is for, for life: a number of CPUs, or of CPUs and GPUs."""


class Place(NamedTuple):
    """What a task has of a node."""

    node: str
    cpus: tuple[int, ...]
    gpus: tuple[str, ...] = ()


class Task:
    """One evaluation, as the scheduler sees it."""

    __slots__ = (
        "alone", "asks", "cpus", "exclusive", "fresh", "function", "number", "past", "request", "seq", "size", "state",
        "team", "worker",
    )  # fmt: skip

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
        request: Request | None = None,  # what it needs, if that is more than CPUs
    ) -> None:
        self.number = number
        self.function = function
        self.cpus = cpus
        self.fresh = fresh
        self.asks = request
        self.request: Key = cpus
        """What it asks for just now."""
        if request is None:
            self.alone = alone or fresh
        else:
            self.cpus = request.cpus
            self.request = request
            self.alone = True
        self.size = size
        self.exclusive = exclusive
        self.state = WAITING
        self.worker: Worker | None = None
        self.team: Team | None = None
        self.seq = NOT_SENT
        self.past: Past | None = None

    @property
    def numbers(self) -> Sequence[TaskNumber]:
        """Their numbers."""
        return (self.number,)

    @property
    def places(self) -> list[Place]:
        """What it has of each of its nodes, while a worker has it; that worker is on the first."""
        return [] if self.worker is None else [self.worker.place, *self.worker.elsewhere]

    def ask(self, asks: Request) -> None:
        """It asks for something else from now on."""
        self.asks = self.request = asks
        if self.past is not None:
            self._note_past(self.past)

    def failed_on(self, node: str) -> None:
        """It has failed on a node: let another one have it next."""
        self.past = self.past or Past()
        self.past.failed_on.add(node)
        self.alone = True  # what is prefetched behind it could not choose its node
        self._note_past(self.past)

    def was_lost_on(self, node: str) -> None:
        """A node was lost while it was there."""
        self.past = self.past or Past()
        self.past.lost.append(node)
        self.alone = True
        self._note_past(self.past)

    def is_wanted(self) -> None:
        """A speculative task is not speculative any more."""
        assert self.asks is not None
        asks = self.asks._replace(speculative=False)
        self.asks = None if asks == Request(self.cpus) else asks
        self.request = self.asks or self.cpus
        if self.past is not None:
            self._note_past(self.past)

    def _note_past(self, past: Past) -> None:
        asks = self.asks or Request(self.cpus)
        self.request = asks._replace(avoided=frozenset(past.failed_on), suspect=bool(past.lost))

    def __repr__(self) -> str:
        return f"Task({self.number}, cpus={self.cpus}, {self.state.value})"


class Calls(Protocol):
    """What the evaluations of a batch are called with, as the scheduler sees it; the rest of it is the head's."""

    @property
    def alike(self) -> Hashable:
        """What else has to be equal where evaluations share a team."""
        ...

    @property
    def owner(self) -> object:
        """The map that they are of."""
        ...


class Batch(Task):
    """Evaluations with consecutive numbers that differ only in their arguments; `number` is the first one's.

    What is true of a task is true of each of them: they are started, taken back and blamed one by one. To say it of
    many at once is what a batch is for. When something happens to one of them only, that one is made a task of its own.
    They have no past, and want nothing that Task calls fresh, alone or exclusive. `size` is that of the largest. A
    batch waits, or a team has it: what a worker has that is in no team is no batch.
    """

    __slots__ = ("calls", "count")

    def __init__(
        self, number: TaskNumber, function: DefinitionNumber, cpus: int, size: int, count: int, calls: Calls
    ) -> None:
        super().__init__(number, function, cpus, size=size)
        self.count = count
        self.calls = calls

    @property
    def numbers(self) -> Sequence[TaskNumber]:
        return range(self.number, self.number + self.count)  # type: ignore[return-value]  # TaskNumber() takes a while

    def part(self, number: TaskNumber, count: int) -> Batch:
        """Return some of them as a batch that waits; this one stays as it is."""
        return Batch(number, self.function, self.cpus, self.size, count, self.calls)

    def cut(self, count: int) -> Batch:
        """Take the first ones out, as a batch of their own."""
        first = self.part(self.number, count)
        self.number = TaskNumber(self.number + count)
        self.count -= count
        return first

    def one(self, number: TaskNumber) -> Task:
        """Return one of them as a task of its own; this keeps it, too."""
        task = Task(number, self.function, self.cpus, size=self.size)
        task.state, task.team = self.state, self.team
        return task

    def with_next(self, other: Task) -> Batch | None:
        """Return both as one that waits, if the other one is what comes after this; they stay as they are."""
        if type(other) is not Batch or other.calls is not self.calls or other.number != self.number + self.count:
            return None
        return self.part(self.number, self.count + other.count)


class Worker:
    """A worker process, as the scheduler sees it."""

    __slots__ = (
        "cpus", "elsewhere", "ending", "fresh", "gives_way", "gpus", "heard", "held", "keeps", "leased", "load",
        "name", "node", "number", "overfull", "queue", "request", "retracting", "sent", "size", "slot", "slow", "team",
    )  # fmt: skip

    def __init__(
        self,
        number: WorkerNumber,  # never used again, unlike the slot
        node: str,
        slot: int,  # see idle.py
        cpus: tuple[int, ...],  # ids that it is pinned to for life
        fresh: bool,  # it runs one task and ends
        gpus: tuple[str, ...] = (),  # ids that it sees, for life as well
        share: float = 0.0,  # how many they are; less than 1 if it shares one
    ) -> None:
        self.number = number
        self.node = node
        self.slot = slot
        self.cpus = cpus
        self.fresh = fresh
        self.gpus = gpus
        self.size: Size = (len(cpus), share) if gpus else len(cpus)
        self.name = f"worker-{slot}@{node}"  # in logs and errors
        self.queue: dict[TaskNumber, Task] = {}
        """Sent and not answered, in the order in which they were sent."""
        self.held = 0  # how many those are
        self.team: Team | None = None  # that it serves; then the queue above is empty
        self.sent = NOT_SENT  # of the task that was sent last
        self.load = 0  # bytes in the queue
        self.leased = False  # its CPU ids are given out to it
        self.request: Request | None = None  # what else is given out to it now
        self.elsewhere: tuple[Place, ...] = ()  # what its task has of other nodes
        self.overfull = False  # the scheduler has it among those with more than one task
        self.retracting = False
        self.ending = False
        self.gives_way = False  # it is being killed because others want what it has: its task waits again
        self.heard = 0  # how many answers had come from all workers when it last answered
        self.keeps: Collection[DefinitionNumber] = ()  # functions for which it keeps what they have asked for
        self.slow = False  # what was queued here was taken back; until it answers

    @property
    def is_alone_on_gpus(self) -> bool:
        """Whether it shares none of its GPUs."""
        return isinstance(self.size, tuple) and self.size[1] >= 1

    @property
    def place(self) -> Place:
        """What it has of its node, while it has it."""
        return Place(self.node, self.cpus, self.gpus)

    @property
    def current(self) -> TaskNumber:
        """The oldest that is not answered: the one that it is in."""
        return next(iter(self.queue.values())).number

    @property
    def is_busy(self) -> bool:
        """Whether it has tasks, or serves a team that may have some."""
        return bool(self.queue) or self.team is not None

    def __repr__(self) -> str:
        return f"Worker({self.number}, {self.node}, cpus={self.cpus}, queue={self.held})"


class Team:
    """Workers of one node that serve one queue, which their launcher keeps; as the scheduler sees it.

    Which of its tasks a worker is in only the launcher knows. It tells what has been answered, what will not run, which
    workers serve it no more, and of one that ends, which task it was in.
    """

    __slots__ = (
        "alike", "closed", "cpus", "deep", "function", "heard", "held", "in_vain", "looks", "members", "node", "number",
        "queued", "recalling", "slow",
    )  # fmt: skip

    def __init__(
        self,
        number: WorkerNumber,  # workers and teams share these numbers
        node: str,
        cpus: int,  # of each worker
        function: DefinitionNumber,
        alike: Hashable,  # its evaluations have this in common, beside the function
    ) -> None:
        self.number = number
        self.node = node
        self.cpus = cpus
        self.function = function
        self.alike = alike
        self.members: dict[WorkerNumber, Worker] = {}
        self.held: dict[TaskNumber, Task] = {}
        """Sent and not answered: the batch that each is of, or the task that it is by itself."""
        self.queued = 0  # more than there are workers; kept by Teams
        self.closed = False  # it gets nothing more
        self.recalling = False
        self.in_vain = 0  # how many looks to wait after recalls that gave nothing
        self.looks = 0  # of them, how many are left
        self.heard = 0  # how many answers had come from all workers when it last answered
        self.slow = False  # it was behind the others; until it answers
        self.deep = False  # Teams has it among those with something queued

    def __repr__(self) -> str:
        return f"Team({self.number}, {self.node}, {len(self.members)} workers, held={len(self.held)})"


@final
class Fork(NamedTuple):
    """Start this worker."""

    worker: Worker


@final
class Send:
    """Send these tasks to the worker, in this order. (No tuple: one is made for each answer, and they take longer.)"""

    __slots__ = ("tasks", "worker")

    def __init__(self, worker: Worker, tasks: list[Task]) -> None:
        self.worker = worker
        self.tasks = tasks


@final
class Retract(NamedTuple):
    """Take back the tasks that the worker has not started, up to seq `below` (not included)."""

    worker: Worker
    below: Seq


@final
class Kill(NamedTuple):
    """End the worker and its process group."""

    worker: Worker


@final
class Retire(NamedTuple):
    """Let an idle worker end."""

    worker: Worker


@final
class Join(NamedTuple):
    """Let these workers, which are idle, serve the team's queue."""

    team: Team
    workers: list[Worker]


@final
class Feed(NamedTuple):
    """Append a batch to the team's queue."""

    team: Team
    batch: Batch


@final
class Recall(NamedTuple):
    """Take back so many of the newest tasks of the team's queue, or what there is."""

    team: Team
    most: int


@final
class Cancel(NamedTuple):
    """Nobody waits for these of a team: drop them, and end the workers that are in one of them."""

    team: Team
    ranges: list[tuple[TaskNumber, int]]


WorkerEffect = Fork | Send | Retract | Kill | Retire
TeamEffect = Join | Feed | Recall | Cancel
Effect = WorkerEffect | TeamEffect


def is_started(task: Task) -> bool:
    """Whether a task is one that a worker is in, or has been, as far as is known; not one that waits or is queued."""
    if task.state is State.SENT:
        if task.worker is not None:
            return task.worker.current == task.number
        if task.team is not None:
            return task.number in islice(task.team.held, len(task.team.members))
    return task.state is not State.WAITING


def in_ranges(numbers: Iterable[TaskNumber]) -> list[tuple[TaskNumber, int]]:
    """Return ascending numbers as (first, how many)."""
    ranges: list[tuple[TaskNumber, int]] = []
    first = after = TaskNumber(0)
    for number in numbers:
        if number != after:
            if after:
                ranges.append((first, after - first))
            first = number
        after = TaskNumber(number + 1)
    if after:
        ranges.append((first, after - first))
    return ranges
