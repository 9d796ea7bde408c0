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

from hyperflow.scheduling.state import Cancel, Effect, Feed, Fork, Join, Kill, Recall, Retract, Send, TeamEffect
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
    in_team: bool


@attrs.frozen
class Returned:
    """A team will not run these."""

    team: int
    tasks: list[int]


@attrs.frozen
class Left:
    """A worker has nothing to do for its team."""

    team: int
    worker: int


Message = Answered | Skipped | Recalled | Ended | Returned | Left


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
        self.team: FakeTeam | None = None
        self.stale = 0  # what it got before it joined that was retracted: it comes to that first
        self.shift = 0  # how many of its tasks were of teams: the head does not count those

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
            self.answers.append(Skipped(self.number, task, seq - self.shift))
            return None
        self.current = task
        return task

    def finish(self, failed: bool = False) -> None:
        """End the task that it is in."""
        assert self.current is not None
        self.answers.append(Answered(self.number, self.current, self.run, failed))
        self.current = None

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.current is None and self.announced is None and not self.todo

    @property
    def leaves(self) -> bool:
        """Whether it ends by itself now."""
        return self.is_idle and (self.retired or (self.fresh and self.words[STARTED] > 0))


class FakeTeam:
    """A queue that a launcher keeps, and the workers that serve it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: deque[int] = deque()
        self.members: list[FakeWorker] = []

    def take_back(self, worker: FakeWorker) -> None:
        """Put what a worker has not announced in front again."""
        self.queue.extendleft(task for seq, task in reversed(worker.todo) if seq > worker.stale)
        worker.todo = deque(item for item in worker.todo if item[0] <= worker.stale)

    def recall(self, count: int) -> list[int]:
        """Give back the newest ones, those first that no worker has in hand."""
        if count > len(self.queue):
            for worker in self.members:
                self.take_back(worker)
        return [self.queue.pop() for _ in range(min(count, len(self.queue)))]

    def cancel(self, first: int, count: int) -> list[int]:
        """Drop these, and kill who is in one of them."""
        gone = range(first, first + count)
        for worker in self.members:
            if worker.current in gone or (worker.announced is not None and worker.announced[1] in gone):
                worker.killed = True
            if any(task in gone for seq, task in worker.todo if seq > worker.stale):
                self.take_back(worker)
        dropped = [task for task in self.queue if task in gone]
        self.queue = deque(task for task in self.queue if task not in gone)
        return dropped


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
        self.teams: dict[int, FakeTeam] = {}

    def read_order(self, meanwhile: Callable[[FakeWorker], None]) -> None:
        """Carry out the next order; `meanwhile` may let the worker go on while something is retracted from it."""
        order = self.orders.popleft()
        if isinstance(order, TeamEffect):
            self._read_team_order(order)
            return
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
            below, shift = order.below, worker.shift
            self.messages.append(Recalled(number, page.retract(below + shift) - shift, below))
        elif isinstance(order, Kill):
            worker.killed = True
        else:
            assert worker.current is None
            retracted = range(worker.words[FROM], worker.words[BELOW])
            assert all(seq in retracted for seq, _ in worker.todo)  # it comes to them before it leaves
            worker.retired = True

    def _read_team_order(self, order: TeamEffect) -> None:
        number = order.team.number
        team = self.teams.setdefault(number, FakeTeam(number))
        if isinstance(order, Join):
            for one in order.workers:
                worker = self.workers.get(one.number)
                if worker is not None:  # else it ended meanwhile
                    assert worker.current is None
                    worker.team, worker.stale = team, worker.received
                    team.members.append(worker)
        elif isinstance(order, Feed):
            team.queue.extend(order.batch.numbers)
        elif isinstance(order, Recall):
            self.messages.append(Returned(number, team.recall(order.most)))
        else:
            assert isinstance(order, Cancel)
            for first, count in order.ranges:
                self.messages.append(Returned(number, team.cancel(first, count)))

    def hand(self, worker: FakeWorker, count: int) -> bool:
        """Give a worker that serves a team what it has room for, or let it leave; return whether there was a reason."""
        team = worker.team
        if team is None or not worker.is_idle or worker.killed or worker.answers:
            return False
        for _ in range(min(count, len(team.queue))):
            worker.received += 1
            worker.shift += 1
            worker.todo.append((worker.received, team.queue.popleft()))
        if not worker.todo:
            self._leave(worker)
            self.messages.append(Left(team.number, worker.number))
        return True

    def _leave(self, worker: FakeWorker) -> None:
        assert worker.team is not None
        worker.team.members.remove(worker)
        worker.team = None

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
        started, team = worker.words[STARTED] - worker.shift, worker.team
        if team is not None:
            team.take_back(worker)
            self._leave(worker)
        self.messages.append(Ended(worker.number, started, within, ran, worker.killed, team is not None))


def at_work(nodes: Iterable[FakeNode]) -> Iterator[tuple[FakeNode, FakeWorker]]:
    """Yield each worker that is in a task."""
    for node in nodes:
        for worker in node.workers.values():
            if worker.current is not None:
                yield node, worker
