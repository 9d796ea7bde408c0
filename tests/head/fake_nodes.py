"""Node launchers and workers that only pretend: the other end of the scheduler, for random histories.

Everything that can happen in another order than the scheduler would like is a step of its own here: a launcher reads
an order, a worker starts a task or ends it, a launcher reads a worker's answers, the head reads a message. Streams
keep their order; nothing else does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import attrs

from hyperflow.scheduling.scheduler import Effect, Fork, Kill, Retire, Retract, Send, Task


@attrs.frozen
class Answered:
    """A worker ended a task."""

    worker: int
    task: int


@attrs.frozen
class Skipped:
    """A worker came to a task that was retracted."""

    worker: int
    task: int
    seq: int


@attrs.frozen
class Recalled:
    """A launcher took tasks back."""

    worker: int
    boundary: int
    below: int


@attrs.frozen
class Ended:
    """A worker has gone; `within` is the number of the task that it really was in."""

    worker: int
    started: int
    within: int | None
    killed: bool


Message = Answered | Skipped | Recalled | Ended


class FakeWorker:
    """A worker process, and the page of memory that it shares with its launcher."""

    def __init__(self, number: int, fresh: bool) -> None:
        self.number = number
        self.fresh = fresh
        self.todo: deque[tuple[int, int]] = deque()  # (seq, task number)
        self.received = 0
        self.started = 0
        self.current: int | None = None
        self.recall_from = 0
        self.recall_below = 0
        self.answers: list[Message] = []  # sent, and not read by the launcher
        self.killed = False
        self.retired = False

    @property
    def can_start(self) -> bool:
        """Whether it would take its next task."""
        return self.current is None and bool(self.todo)

    def start(self) -> int | None:
        """Take the next task: return its number if it really runs now."""
        seq, task = self.todo.popleft()
        self.started = seq
        if self.recall_from <= seq < self.recall_below:
            self.answers.append(Skipped(self.number, task, seq))
            return None
        self.current = task
        return task

    def finish(self) -> None:
        """End the task that it is in."""
        assert self.current is not None
        self.answers.append(Answered(self.number, self.current))
        self.current = None

    @property
    def leaves(self) -> bool:
        """Whether it ends by itself now."""
        return self.current is None and not self.todo and (self.retired or (self.fresh and self.started > 0))


class FakeNode:
    """A launcher with its workers: orders come in, messages go out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: deque[Effect] = deque()
        self.messages: deque[Message] = deque()
        self.workers: dict[int, FakeWorker] = {}
        self.settling: Retract | None = None  # a retraction that was written into the page and not reported yet

    def read_order(self) -> None:
        """Carry out the next order, or report the retract that has settled."""
        if self.settling is not None:
            retract, self.settling = self.settling, None
            if worker := self.workers.get(retract.worker.number):
                self.messages.append(Recalled(worker.number, worker.started + 1, retract.below))
            return
        order = self.orders.popleft()
        number = order.worker.number
        if isinstance(order, Fork):
            assert number not in self.workers
            self.workers[number] = FakeWorker(number, order.worker.fresh)
            return
        worker = self.workers.get(number)
        if worker is None:
            return  # it ended meanwhile
        if isinstance(order, Send):
            for task in order.tasks:
                worker.received += 1
                worker.todo.append((worker.received, task.number))
        elif isinstance(order, Retract):
            worker.recall_below = order.below
            worker.recall_from = worker.started + 1
            self.settling = order
        elif isinstance(order, Kill):
            worker.killed = True
        else:
            assert isinstance(order, Retire)
            assert worker.current is None
            assert not worker.todo
            worker.retired = True

    def read_answers(self, worker: FakeWorker) -> None:
        """Pass on what a worker has sent."""
        self.messages.extend(worker.answers)
        worker.answers.clear()

    def end(self, worker: FakeWorker) -> None:
        """The worker's process ends: by itself, by a crash or because it was killed."""
        del self.workers[worker.number]
        self.read_answers(worker)
        self.messages.append(Ended(worker.number, worker.started, worker.current, worker.killed))

    @property
    def quiet(self) -> bool:
        """Whether nothing is under way between this node and the head."""
        return not (self.orders or self.messages or self.settling or any(w.answers for w in self.workers.values()))


def tasks_of(nodes: Iterator[FakeNode]) -> Iterator[tuple[FakeWorker, int]]:
    """Yield each task that a worker is in."""
    for node in nodes:
        for worker in node.workers.values():
            if worker.current is not None:
                yield worker, worker.current


def numbers(tasks: list[Task]) -> list[int]:
    """Return the tasks' numbers."""
    return [task.number for task in tasks]
