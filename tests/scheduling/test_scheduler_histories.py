"""Random histories: whatever happens in whatever order, the scheduler's guarantees hold after every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hyperflow.errors import ImpossibleRequest
from hyperflow.scheduling.scheduler import Fork, Kill, Retire, Retract, Scheduler, Send, Task
from hyperflow.scheduling.state import State
from tests.head.fake_nodes import Answered, Ended, FakeNode, FakeWorker, Message, Recalled, Skipped, tasks_of

DURATIONS = {1: 2e-6, 2: 2e-4, 3: 0.01, 4: 0.5}
"""Seconds that each function takes: queued a thousand deep, a few deep, one ahead, never."""


class Histories(RuleBasedStateMachine):
    """A scheduler, the nodes at the other end of its effects, and what the tests remember of the tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.nodes: dict[str, FakeNode] = {}
        self.sizes: dict[str, int] = {}
        self.tasks: dict[int, Task] = {}
        self.open: set[int] = set()  # submitted, and neither ended nor cancelled
        self.aside: set[str] = set()
        self.names = 0
        self.flushed = True
        self.promise: tuple[int, int] | None = None  # the oldest waiting task, and the best that any node offered it

    # ---- what can happen ----------------------------------------------------------------------------------------

    @initialize(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def begin(self, sizes: list[int]) -> None:
        for cpus in sizes:
            self.add_node(cpus)
        for function in DURATIONS:  # so that their times are known, and more is prefetched from now on
            self.submit(1, "", function, 1, True)
            self.workers_go_on()
            self.workers_go_on()

    @precondition(lambda self: len(self.nodes) < 4)
    @rule(cpus=st.integers(1, 5))
    def add_node(self, cpus: int) -> None:
        self.names += 1
        name = f"n{self.names}"
        self.nodes[name] = FakeNode(name)
        self.sizes[name] = cpus
        self.scheduler.add_node(name, range(10, 10 + cpus))
        self.turn()

    @rule(
        cpus=st.sampled_from([1, 1, 1, 2, 3, 4]),
        kind=st.sampled_from(["", "", "", "", "fresh", "alone"]),
        function=st.sampled_from(list(DURATIONS)),
        count=st.integers(1, 12),
        now=st.booleans(),
    )
    def submit(self, cpus: int, kind: str, function: int, count: int, now: bool) -> None:
        for _ in range(count):
            number = len(self.tasks) + 1
            task = Task(number, function, cpus, kind == "fresh", kind == "alone", size=100 * number)
            if cpus > max(self.sizes.values(), default=0):
                with pytest.raises(ImpossibleRequest):
                    self.scheduler.submit(task)
                return
            self.tasks[number] = task
            self.open.add(number)
            self.scheduler.submit(task)
        self.flushed = False
        if now:
            self.turn()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), queued=st.booleans(), now=st.booleans())
    def cancel(self, data: st.DataObject, queued: bool, now: bool) -> None:
        behind = [n for w in self.scheduler.workers.values() for n in list(w.queue)[1:] if n in self.open]
        number = data.draw(st.sampled_from(behind if queued and behind else sorted(self.open)))
        self.open.remove(number)
        self.scheduler.cancel(self.tasks[number])
        self.flushed = False
        if now:
            self.turn()

    @precondition(lambda self: any(node.orders or node.settling for node in self.nodes.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def launcher_reads_orders(self, data: st.DataObject, count: int) -> None:
        node = data.draw(st.sampled_from([n for n in self.nodes.values() if n.orders or n.settling]))
        for _ in range(count):
            if node.orders or node.settling:
                node.read_order()

    @precondition(lambda self: self.workers(lambda w: w.can_start))
    @rule(data=st.data())
    def worker_starts(self, data: st.DataObject) -> None:
        self.start(*data.draw(st.sampled_from(self.workers(lambda w: w.can_start))))

    @precondition(lambda self: self.workers(lambda w: w.current is not None))
    @rule(data=st.data())
    def worker_finishes(self, data: st.DataObject) -> None:
        _, worker = data.draw(st.sampled_from(self.workers(lambda w: w.current is not None)))
        worker.finish()

    @rule()
    def workers_go_on(self) -> None:
        """All tasks that run now end, and all that is under way arrives."""
        self.settle()
        for _, worker in self.workers(lambda w: w.current is not None):
            worker.finish()
        self.deliver_all()

    @precondition(lambda self: self.workers(lambda w: bool(w.answers)))
    @rule(data=st.data())
    def launcher_reads_answers(self, data: st.DataObject) -> None:
        node, worker = data.draw(st.sampled_from(self.workers(lambda w: bool(w.answers))))
        node.read_answers(worker)

    @precondition(lambda self: self.workers(lambda w: w.killed or w.leaves))
    @rule(data=st.data())
    def worker_ends(self, data: st.DataObject) -> None:
        node, worker = data.draw(st.sampled_from(self.workers(lambda w: w.killed or w.leaves)))
        node.end(worker)

    @precondition(lambda self: self.workers(lambda w: True))
    @rule(data=st.data())
    def worker_crashes(self, data: st.DataObject) -> None:
        node, worker = data.draw(st.sampled_from(self.workers(lambda w: True)))
        node.end(worker)

    @precondition(lambda self: any(node.messages for node in self.nodes.values()))
    @rule(data=st.data(), count=st.integers(1, 4), again=st.booleans(), now=st.booleans())
    def head_reads(self, data: st.DataObject, count: int, again: bool, now: bool) -> None:
        node = data.draw(st.sampled_from([n for n in self.nodes.values() if n.messages]))
        for _ in range(count):
            if node.messages:
                self.hear(node.messages.popleft(), again)
        self.flushed = False
        if now:
            self.turn()

    @precondition(lambda self: len(self.nodes) > 1)
    @rule(data=st.data())
    def node_is_lost(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        largest = max((cpus for other, cpus in self.sizes.items() if other != name), default=0)
        there = {
            number for number in self.open if (worker := self.tasks[number].worker) is not None and worker.node == name
        }
        del self.nodes[name], self.sizes[name]
        self.aside.discard(name)

        back, impossible = self.scheduler.lose_node(name)

        assert {t.number for t in back} | {t.number for t in impossible if t.number in there} == there
        assert all(task.cpus <= largest for task in back)
        assert all(task.past is not None and task.past.lost[-1] == name for task in back)
        assert {t.number for t in impossible} == {n for n in self.open if self.tasks[n].cpus > largest}
        self.open -= {task.number for task in impossible}
        self.promise = None
        self.turn()

    @rule(data=st.data(), back=st.booleans())
    def put_aside(self, data: st.DataObject, back: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        if back:
            self.scheduler.take_back(name)
            self.aside.discard(name)
        else:
            self.scheduler.put_aside(name)
            self.aside.add(name)
        self.promise = None
        self.turn()

    @rule()
    def rebalance(self) -> None:
        self.scheduler.rebalance()
        self.turn()

    @rule()
    def turn(self) -> None:
        for effect in self.scheduler.schedule():
            self.check_effect(effect)
            if effect.worker.node in self.nodes:
                self.nodes[effect.worker.node].orders.append(effect)
        self.flushed = True

    # ---- and what follows from it -------------------------------------------------------------------------------

    def workers(self, wanted: Any) -> list[tuple[FakeNode, FakeWorker]]:
        return [(node, w) for node in self.nodes.values() for w in node.workers.values() if wanted(w)]

    def start(self, node: FakeNode, worker: FakeWorker) -> None:
        number = worker.start()
        if number is None:
            return
        task = self.tasks[number]
        assert [w.number for w, current in tasks_of(iter(self.nodes.values())) if current == number] == [worker.number]
        assert task.state is State.CANCELLED or (task.worker is not None and task.worker.number == worker.number), (
            f"{task} runs on worker {worker.number}, but was taken away from it"
        )

    def hear(self, message: Message, again: bool) -> None:
        match message:
            case Answered(worker, number):
                node = self.scheduler.workers[worker].node
                task = self.scheduler.answered(worker, number, DURATIONS[self.tasks[number].function])
                assert (task is not None) == (number in self.open), "an answer was dropped, or given twice"
                if task is not None:
                    if again:
                        task.failed_on(node)
                    self.outcome(task, again)
            case Skipped(worker, number, seq):
                self.scheduler.skipped(worker, number, seq)
            case Recalled(worker, boundary, below):
                self.scheduler.retracted(worker, boundary, below)
            case Ended(worker, started, within, killed):
                theirs = dict(self.scheduler.workers[worker].queue)
                blamed, back = self.scheduler.ended(worker, started)
                assert (blamed.number if blamed else None) == (within if within in self.open else None)
                assert {t.number for t in back} == (theirs.keys() & self.open) - {within}
                if blamed is not None:
                    self.outcome(blamed, again or killed)

    def outcome(self, task: Task, again: bool) -> None:
        if again:
            self.scheduler.resubmit(task)
        else:
            self.open.remove(task.number)

    def check_effect(self, effect: Fork | Send | Retract | Kill | Retire) -> None:
        if isinstance(effect, Send):
            first = effect.tasks[0]
            assert effect.worker.node in self.nodes
            assert effect.worker.node not in self.aside
            if first.past is not None:
                assert len(effect.worker.queue) == 1, "something is queued with a task that chooses its node"
                others = self.in_use(first.cpus) - first.past.failed_on
                assert not others or effect.worker.node in others
            if self.promise is not None and first.number < self.promise[0]:
                self.promise = None  # something older came back, and goes first
            assert all(task.cpus == len(effect.worker.cpus) for task in effect.tasks)
            assert not (first.alone and len(effect.tasks) > 1)
            assert first.fresh == effect.worker.fresh
        if isinstance(effect, Retire):
            assert not effect.worker.queue

    # ---- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def every_cpu_is_in_one_place(self) -> None:
        pool = self.scheduler.pool
        assert pool.nodes.keys() == self.nodes.keys()
        for name, node in pool.nodes.items():
            given = [cpu for w in self.scheduler.workers.values() if w.node == name and w.leased for cpu in w.cpus]
            assert sorted([*given, *node.free]) == list(range(10, 10 + self.sizes[name]))
        assert pool.aside == self.aside
        assert pool.total == sum(self.sizes[name] for name in self.nodes.keys() - self.aside)
        assert pool.largest == max(self.sizes.values(), default=0)
        assert pool.free == sum(len(node.free) for node in pool.nodes.values() if node.name not in self.aside)

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        places: Counter[int] = Counter()
        for request, tasks in self.scheduler._queues.items():
            waiting = [task for task in tasks if task.state is State.WAITING]
            assert all(task.request == request for task in waiting)
            assert [t.number for t in waiting] == sorted(t.number for t in waiting)
            places.update(task.number for task in waiting)
        for worker in self.scheduler.workers.values():
            for number, task in worker.queue.items():
                assert task.worker is worker
                if task.state is not State.CANCELLED:
                    assert task.state is State.SENT
                    places[number] += 1
        assert places == Counter(self.open)

    @invariant()
    def counters_are_right(self) -> None:
        scheduler = self.scheduler
        states = Counter(self.tasks[number].state for number in self.open)
        assert (scheduler.waiting, scheduler.sent) == (states[State.WAITING], states[State.SENT])
        workers = list(scheduler.workers.values())
        assert scheduler._prefetched == sum(max(0, len(w.queue) - 1) for w in workers)
        assert scheduler._active == sum(w.leased for w in workers)
        assert {w.number for w in workers if len(w.queue) > 1} <= {w.number for w in scheduler._overfull}
        assert all(worker.overfull for worker in scheduler._overfull)
        assert len(set(map(id, scheduler._overfull))) == len(scheduler._overfull)
        for w in workers:
            assert w.load == sum(task.size for task in w.queue.values())
            assert w.leased or not w.queue
        for name in self.nodes:
            slots = [w.slot for w in workers if w.node == name]
            assert sorted(slots) == sorted(scheduler._idle.slots[name])
        for (name, size), idle in scheduler._idle.idle.items():
            assert all(w.node == name and len(w.cpus) == size and not w.leased for w in idle.values())

    @precondition(lambda self: self.flushed)
    @invariant()
    def nothing_waits_that_could_run(self) -> None:
        waiting = sorted((t for n in self.open if (t := self.tasks[n]).state is State.WAITING), key=lambda t: t.number)
        nodes = [node for name, node in self.scheduler.pool.nodes.items() if name not in self.aside]
        kept: set[str] | None = None  # where the oldest that does not fit may have its reservation
        for task in waiting:
            open_to_it = [node for node in nodes if node.name not in self.closed_to(task)]
            fits = {node.name for node in open_to_it if len(node.free) >= task.cpus}
            if kept is None:
                assert not fits, f"{task} waits, and fits on {fits}"
                large = [node for node in open_to_it if len(node.ids) >= task.cpus]
                if large:
                    most = max(len(node.free) for node in large)
                    kept = {node.name for node in large if len(node.free) == most}
                    self.check_promise(task, most)
            else:
                assert len(fits) - bool(fits & kept) <= 0, f"{task} waits, and fits on {fits}"
        if kept is None:
            self.promise = None

    def in_use(self, cpus: int) -> set[str]:
        return {name for name, size in self.sizes.items() if size >= cpus and name not in self.aside}

    def closed_to(self, task: Task) -> set[str]:
        """Return the nodes that a task must not have: where it failed, and as a suspect where another one is."""
        if task.past is None:
            return set()
        closed = set(task.past.failed_on) if self.in_use(task.cpus) - task.past.failed_on else set()
        return closed | (set(self.suspects()) if task.past.lost else set())

    def suspects(self) -> Counter[str]:
        """Count the suspects on each node."""
        workers = self.scheduler.workers.values()
        return Counter(w.node for w in workers for task in w.queue.values() if task.past is not None and task.past.lost)

    @invariant()
    def one_suspect_per_node(self) -> None:
        assert all(count == 1 for count in self.suspects().values())

    def check_promise(self, oldest: Task, most: int) -> None:
        """The free CPUs that the oldest is offered never become fewer: so it starts, however many are younger."""
        if self.promise is not None and self.promise[0] == oldest.number and oldest.past is None:
            assert most >= self.promise[1]
        self.promise = (oldest.number, most)

    # ---- and at the end -----------------------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        """Everything under way arrives, and no task ends meanwhile: then no CPU idles while a task is queued."""
        self.deliver_all()
        for _ in range(3):  # a worker may have started some of what was asked back
            self.scheduler.rebalance()
            self.deliver_all()
        for worker in self.scheduler.workers.values():
            if len(worker.queue) > 1:
                assert worker.node not in self.aside
                assert self.scheduler.pool.roomiest(len(worker.cpus)) is None, f"{worker} has more than it can run"
            current = self.nodes[worker.node].workers[worker.number].current
            assert current is None or current in self.open, f"{worker} runs on in {current}, which was cancelled"

    def deliver_all(self) -> None:
        self.turn()
        while self.step():
            self.turn()

    def step(self) -> bool:
        moved = False
        for node in self.nodes.values():
            while node.orders or node.settling:
                node.read_order()
                moved = True
            for worker in list(node.workers.values()):
                if worker.killed or worker.leaves:
                    node.end(worker)
                elif worker.can_start:
                    self.start(node, worker)
                elif worker.answers:
                    node.read_answers(worker)
                else:
                    continue
                moved = True
            while node.messages:
                self.hear(node.messages.popleft(), False)
                moved = True
        return moved

    def teardown(self) -> None:
        """Let everything run to its end: nothing is left, and all CPUs are free."""
        for name in sorted(self.aside):
            self.scheduler.take_back(name)
        self.aside.clear()
        self.promise = None
        self.turn()
        for _ in range(len(self.tasks) + 1):
            if self.open:
                self.workers_go_on()
        self.settle()
        assert not self.open, "these were never run"
        assert self.scheduler.pool.free == self.scheduler.pool.total
        assert not self.scheduler.unbalanced


Histories.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = Histories.TestCase
