"""Node launchers and workers that only pretend: the other end of the scheduler.

Everything that can happen in another order than the scheduler would like is a step of its own here: a launcher reads
an order, a worker announces a task, looks whether it is retracted, or ends it, a launcher reads a worker's answers, the
head reads a message. A stream keeps its order and repeats nothing; it may end anywhere, and what was behind is lost.
What a launcher and a worker settle in the memory that they share is done by the real `ClaimPage`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs

from hyperflow.scheduling.scheduler import Effect, Fork, Kill, Retract, Send
from hyperflow.wire import claim_page
from hyperflow.wire.claim_page import ClaimPage

STARTED, FROM, BELOW = ClaimPage.STARTED, ClaimPage.FROM, ClaimPage.BELOW


@attrs.frozen
class Answered:
    """A worker ended a task."""

    worker: int
    task: int
    run: int
    failed: bool


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
    """A worker has gone; `within` is the task that it `ran`, or was about to look at."""

    worker: int
    started: int
    within: int | None
    ran: bool
    killed: bool


Message = Answered | Skipped | Recalled | Ended


class FakeWorker:
    """A worker process, and the page of memory that it shares with its launcher."""

    def __init__(self, number: int, fresh: bool, cpus: tuple[int, ...]) -> None:
        self.number = number
        self.fresh = fresh
        self.cpus = cpus
        self.todo: deque[tuple[int, int]] = deque()  # (seq, task number)
        self.received = 0
        self.words = [0, 0, 0]
        self.announced: tuple[int, int] | None = None  # it has not looked yet whether that is retracted
        self.current: int | None = None
        self.run = 0  # how many tasks have been run by anybody, this one included
        self.answers: list[Message] = []  # sent, and not read by the launcher
        self.killed = False
        self.retired = False

    @property
    def can_start(self) -> bool:
        """Whether it would take its next task."""
        return self.current is None and (self.announced is not None or bool(self.todo))

    def step(self) -> int | None:
        """Announce the next task, or look whether it may be run: return its number if it really runs from now on."""
        if self.announced is None:
            self.announced = self.todo.popleft()
            self.words[STARTED] = self.announced[0]
            return None
        (seq, task), self.announced = self.announced, None
        if self.words[FROM] <= seq < self.words[BELOW]:
            self.answers.append(Skipped(self.number, task, seq))
            return None
        self.current = task
        return task

    def finish(self, failed: bool = False) -> None:
        """End the task that it is in."""
        assert self.current is not None
        self.answers.append(Answered(self.number, self.current, self.run, failed))
        self.current = None

    @property
    def leaves(self) -> bool:
        """Whether it ends by itself now."""
        idle = self.current is None and self.announced is None and not self.todo
        return idle and (self.retired or (self.fresh and self.words[STARTED] > 0))


class _Seen:
    """The words of a page as a launcher sees them; between two looks the worker may go on."""

    def __init__(self, words: list[int], between: Callable[[], None]) -> None:
        self._words = words
        self._between = between

    def __getitem__(self, word: int) -> int:
        self._between()
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._between()
        self._words[word] = value


class FakeNode:
    """A launcher with its workers: orders come in, messages go out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.orders: deque[Effect] = deque()
        self.messages: deque[Message] = deque()
        self.workers: dict[int, FakeWorker] = {}

    def read_order(self, meanwhile: Callable[[FakeWorker], None]) -> None:
        """Carry out the next order; `meanwhile` may let the worker go on while something is retracted from it."""
        order = self.orders.popleft()
        number = order.worker.number
        if isinstance(order, Fork):
            assert number not in self.workers
            self.workers[number] = FakeWorker(number, order.worker.fresh, order.worker.cpus)
            return
        worker = self.workers.get(number)
        if worker is None:
            return  # it ended meanwhile
        if isinstance(order, Send):
            for task in order.tasks:
                worker.received += 1
                worker.todo.append((worker.received, task.number))
        elif isinstance(order, Retract):
            between = settled = lambda: meanwhile(worker)
            claim_page.time = SimpleNamespace(sleep=lambda _: settled())  # type: ignore[assignment]
            page: Any = object.__new__(ClaimPage)
            page.words = _Seen(worker.words, between)
            self.messages.append(Recalled(number, page.retract(order.below), order.below))
        elif isinstance(order, Kill):
            worker.killed = True
        else:
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
        ran = worker.current is not None
        within = worker.current if ran or worker.announced is None else worker.announced[1]
        self.messages.append(Ended(worker.number, worker.words[STARTED], within, ran, worker.killed))


def at_work(nodes: Iterable[FakeNode]) -> Iterator[tuple[FakeNode, FakeWorker]]:
    """Yield each worker that is in a task."""
    for node in nodes:
        for worker in node.workers.values():
            if worker.current is not None:
                yield node, worker
