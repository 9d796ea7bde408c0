"""The scheduler's rules, one by one. (`tests/model/scheduling.py` plays random histories.)"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.errors import ImpossibleRequest
from hyperflow.scheduling import ahead, choice, crew, overfull, reservations, waiting
from hyperflow.scheduling import ledger as engine_pool
from hyperflow.scheduling import scheduler as engine_scheduler
from hyperflow.scheduling.prefetch import PATIENCE, PREFETCH_BYTES
from hyperflow.scheduling.scheduler import (
    FORK_WORK,
    LOOKS_AT_ONCE,
    Kill,
    Scheduler,
    Send,
    Task,
    Worker,
)
from hyperflow.scheduling.state import Fork, Retire, Retract, State, is_started

PARTS = (engine_scheduler, engine_pool, ahead, choice, crew, overfull, reservations, waiting)
"""What is looked at where steps are counted."""

QUICK = 1e-6
ONE_AHEAD = 0.01
"""Seconds of a function of which one task is prefetched, and is worth retracting."""
SLOW = 10.0


def scheduler(*nodes: int) -> Scheduler:
    """Return a scheduler with nodes a, b, c... of so many CPUs."""
    made = Scheduler()
    for name, cpus in zip("abcdefgh", nodes, strict=False):
        made.add_node(name, range(cpus))
    return made


def submit(to: Scheduler, first: int, last: int, function: int = 1, **wanted: int) -> list[Task]:
    """Submit tasks with these numbers."""
    tasks = [Task(number, function, **wanted) for number in range(first, last + 1)]
    for task in tasks:
        to.submit(task)
    return tasks


def sent(to: Scheduler) -> list[int]:
    """Let it schedule, and return the numbers of the tasks that it sends."""
    return sorted(task.number for effect in to.schedule() if isinstance(effect, Send) for task in effect.tasks)


def orders(to: Scheduler) -> list[tuple[type, Worker | None]]:
    """Ask what is to be done: what each is, and its worker. (Effects are tuples, and equal to others with the same.)"""
    return [(type(each), getattr(each, "worker", None)) for each in to.schedule()]


def worker_of(task: Task) -> Worker:
    """Return the worker that has the task."""
    assert task.worker is not None
    return task.worker


def answer(to: Scheduler, task: Task, seconds: float = SLOW) -> Task | None:
    """The task's worker answers."""
    return to.answered(worker_of(task).number, task.number, seconds)


def numbers(tasks: list[Task]) -> list[int]:
    """Return the tasks' numbers."""
    return [task.number for task in tasks]


def retracts(to: Scheduler) -> list[Worker]:
    """Let it schedule, and return the workers from which it retracts."""
    return [effect.worker for effect in to.schedule() if isinstance(effect, Retract)]


def one_ahead(to: Scheduler, workers: int, cpus: int = 1) -> list[Worker]:
    """Bring so many workers of this size, which fill all nodes, to have a task that runs and one behind it."""
    (first,) = submit(to, 0, 0, cpus=cpus)
    to.schedule()
    tasks = submit(to, 1, 2 * workers, cpus=cpus)
    answer(to, first, ONE_AHEAD)
    to.schedule()
    assert [worker_of(t) for t in tasks[workers:]] == [worker_of(t) for t in tasks[:workers]]
    return [worker_of(task) for task in tasks[:workers]]


def two_deep(to: Scheduler, behind: int = 3) -> list[Task]:
    """Bring one worker with one CPU to have a task that runs (1) and others queued behind it; return them all."""
    (first,) = submit(to, 0, 0)
    to.schedule()
    tasks = submit(to, 1, behind + 1)
    answer(to, first, QUICK)
    to.schedule()
    assert [t.worker for t in tasks] == [tasks[0].worker] * (behind + 1)
    return tasks


# ---- who goes first -----------------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    """As many tasks start as there are CPUs, oldest first; the next one when a CPU comes back."""
    it = scheduler(2)
    tasks = submit(it, 1, 4)
    assert sent(it) == [1, 2]

    assert answer(it, tasks[1]) is tasks[1]
    assert tasks[1].state is State.ENDED

    assert sent(it) == [3]
    assert (it.waiting, it.sent) == (1, 2)


def test_the_emptiest_node_is_taken() -> None:
    """Tasks go where most CPUs are free."""
    it = scheduler(2, 4)
    tasks = submit(it, 1, 4)
    it.schedule()

    assert [worker_of(task).node for task in tasks] == ["b", "b", "b", "a"]


def test_a_large_request_keeps_a_node_for_itself() -> None:
    """What does not fit reserves the most promising node: younger ones go on elsewhere, and not there."""
    it = scheduler(2, 4)
    first = submit(it, 1, 6)
    it.schedule()
    submit(it, 7, 7, cpus=4)
    submit(it, 8, 9)
    small_node = [task for task in first if worker_of(task).node == "a"]
    large_node = [task for task in first if worker_of(task).node == "b"]

    for task in large_node[:3]:
        answer(it, task)
        assert sent(it) == []
    answer(it, small_node[0])
    assert sent(it) == [8]
    answer(it, large_node[3])

    assert sent(it) == [7]


def test_a_second_size_that_does_not_fit_reserves_nothing() -> None:
    """Only the oldest holds a node back; younger small ones pass a younger large one."""
    it = scheduler(4, 4)
    submit(it, 1, 2, cpus=3)
    assert sent(it) == [1, 2]
    submit(it, 3, 3, cpus=4)
    submit(it, 4, 4, cpus=2)
    submit(it, 5, 6)

    assert sent(it) == [5]


@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_large_request_is_not_starved(data: st.DataObject, sizes: list[int]) -> None:
    """However the small ones end and come again, the large one starts before each CPU has ended a few of them."""
    it = scheduler(*sizes)
    cpus = sum(sizes)
    running = deque(submit(it, 1, 2 * cpus))
    it.schedule()
    (large,) = submit(it, 1000, 1000, cpus=max(sizes))
    completions = 0
    while large.state is State.WAITING:
        at_work = [task for task in running if task.state is State.SENT]
        oldest_few = at_work[: data.draw(st.integers(1, 3))]
        answer(it, data.draw(st.sampled_from(oldest_few)))
        completions += 1
        running.extend(submit(it, 1000 + completions, 1000 + completions))
        it.schedule()

        assert completions <= 3 * cpus + max(sizes) * cpus


def test_what_was_prefetched_holds_nothing_back() -> None:
    """When the one that had reserved a node was prefetched elsewhere, younger ones start there at once."""
    it = scheduler(3)
    small, pair = submit(it, 1, 1)[0], submit(it, 2, 2, cpus=2)[0]
    it.schedule()
    pairs = submit(it, 3, 5, cpus=2)
    submit(it, 6, 6)
    answer(it, pair, QUICK)
    assert sent(it) == [3, 4]
    answer(it, small, QUICK)
    assert sent(it) == []  # 5 has reserved the node
    answer(it, pairs[0], QUICK)

    assert sent(it) == [5, 6]


# ---- what cannot be -----------------------------------------------------------------------------------------------


def test_impossible_is_refused_at_once() -> None:
    """More CPUs than the largest node has, or any at all where there is no node."""
    with pytest.raises(ImpossibleRequest, match=r"using\(cpus=3\): the largest node has 2 CPUs"):
        submit(scheduler(2, 1), 1, 1, cpus=3)
    with pytest.raises(ImpossibleRequest, match="has 2 CPUs; `cpus` counts on each node"):
        submit(scheduler(2, 1), 1, 1, cpus=3)
    with pytest.raises(ImpossibleRequest, match=r"has 2 CPUs\n"):
        submit(scheduler(2), 1, 1, cpus=3)
    with pytest.raises(ImpossibleRequest):
        submit(scheduler(), 1, 1)


def test_a_node_that_does_not_come_makes_requests_impossible() -> None:
    """What only an expected node could serve waits for it, and is given back when it does not come."""
    to = scheduler(2)
    to.pool.expect("late", 4)
    (small,) = submit(to, 1, 1)
    (large,) = submit(to, 2, 2, cpus=4)
    assert sent(to) == [small.number]

    assert to.expect_no_more("late") == [large]


def test_a_loss_makes_requests_impossible() -> None:
    """What only the lost node could serve is given back as impossible, waiting or running; the rest waits again."""
    it = scheduler(1, 4)
    (large,) = submit(it, 1, 1, cpus=4)
    it.schedule()
    (small,), (other,) = submit(it, 2, 2), submit(it, 3, 3, cpus=4)
    it.schedule()
    assert worker_of(small).node == "a"

    back, impossible = it.lose_node("b")

    assert (numbers(back), numbers(impossible)) == ([], [1, 3])
    assert (large.state, other.state) == (State.ENDED, State.ENDED)
    assert (it.waiting, it.sent, it.pool.total) == (0, 1, 1)


def test_after_a_loss_the_order_stands() -> None:
    """What comes back from several workers goes in among what waits, by its number."""
    it = scheduler(1, 2)
    tasks = submit(it, 1, 3)
    it.schedule()
    submit(it, 4, 5)
    answer(it, next(task for task in tasks if worker_of(task).node == "a"))
    assert sent(it) == [4]

    back, _ = it.lose_node("b")
    it.add_node("c", range(2))
    it.add_node("d", range(1))  # because each of them gets a node without the other

    assert len(back) == 2
    assert sent(it) == sorted([*numbers(back), 5])


def test_one_that_comes_back_waits_behind_older_ones() -> None:
    """A younger task that comes back together with others does not overtake an older one that waits."""
    it = scheduler(1, 2, 2)
    (one,), two = submit(it, 1, 1), submit(it, 2, 3, cpus=2)
    it.schedule()
    it.cancel(one)
    older, younger = submit(it, 4, 4, cpus=2)[0], submit(it, 5, 5)[0]
    it.schedule()
    assert it.waiting == 2

    it.ended(worker_of(one).number, 1)
    it.schedule()
    it.lose_node(worker_of(two[0]).node)
    it.lose_node("a")
    it.schedule()
    answer(it, two[1])

    assert sent(it) == [2]
    assert (older.state, younger.state) == (State.WAITING, State.WAITING)


# ---- workers -------------------------------------------------------------------------------------------------------


def test_workers_are_reused_by_size() -> None:
    """An idle worker takes the next request of its size; another size gets a worker of its own, another number."""
    it = scheduler(3)
    one, two = submit(it, 1, 1)[0], submit(it, 2, 2, cpus=2)[0]
    it.schedule()
    workers = worker_of(one), worker_of(two)
    assert [w.cpus for w in workers] == [(1,), (0, 1)] or [w.cpus for w in workers] == [(0,), (1, 2)]
    answer(it, one)
    answer(it, two)
    again = submit(it, 3, 3, cpus=2) + submit(it, 4, 4)

    assert not [effect for effect in it.schedule() if isinstance(effect, Fork)]
    assert [worker_of(task) for task in again] == [workers[1], workers[0]]


def test_a_fresh_task_has_a_process_of_its_own() -> None:
    """It gets no idle worker, its worker takes nothing more, and its CPUs come back when that has gone."""
    it = scheduler(1)
    (plain,) = submit(it, 1, 1)
    it.schedule()
    answer(it, plain)
    fresh = Task(2, 1, fresh=True)
    it.submit(fresh)
    it.schedule()
    worker = worker_of(fresh)
    assert worker is not worker_of(plain)

    answer(it, fresh)
    submit(it, 3, 3)
    assert sent(it) == []
    it.ended(worker.number, 1)

    assert sent(it) == [3]


def test_slots_are_used_again() -> None:
    """A worker gets the lowest slot that is free on its node, so log files stay few."""
    it = scheduler(2)
    slots: list[int] = []
    for number in range(1, 11):
        task = Task(number, 1, fresh=True)
        it.submit(task)
        it.schedule()
        slots.append(worker_of(task).slot)
        if number > 1:  # the first one stays
            answer(it, task)
            it.ended(worker_of(task).number, 1)

    assert slots == [0] + 9 * [1]


def test_idle_workers_of_odd_sizes_are_retired() -> None:
    """However many sizes alternate, a node has at most two workers for each CPU; slots are used again."""
    it = scheduler(4)
    retired = 0
    for number in range(1, 41):
        (task,) = submit(it, number, number, cpus=1 + number % 4)
        for other in submit(it, 1000 * number, 1000 * number + number % 3):
            it.cancel(other)
        for effect in it.schedule():
            if isinstance(effect, Retire):
                retired += 1
                it.ended(effect.worker.number, effect.worker.sent)
        assert len(it.workers) <= 9
        assert worker_of(task).slot < 9
        answer(it, task)
    for size in (1, 2, 3, 4):  # and with workers of one size on every CPU
        crowd = submit(it, 100 * size, 100 * size + 4 // size - 1, cpus=size)
        retired += sum(isinstance(effect, Retire) for effect in it.schedule())
        for task in crowd:
            answer(it, task)
    crowd = submit(it, 500, 503) + submit(it, 600, 601, cpus=2)
    it.schedule()

    assert len(it.workers) - retired <= 8


def test_the_oldest_idle_worker_is_retired() -> None:
    """A node has at most two workers for each CPU, those that are about to end included."""
    it = scheduler(2)
    singles = submit(it, 1, 2)
    it.schedule()
    oldest = worker_of(singles[0])
    for task in singles:
        answer(it, task)
    for number in (3, 4):
        (pair,) = submit(it, number, number, cpus=2)
        it.schedule()
        answer(it, pair)
        it.kill(worker_of(pair))
    it.schedule()
    (last,) = submit(it, 5, 5, cpus=2)

    assert orders(it) == [(Retire, oldest), (Fork, worker_of(last)), (Send, worker_of(last))]


# ---- Prefetching ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "least", "most"), [(1e-6, 500, 1000), (1e-3, 10, 16), (0.01, 1, 1), (0.5, 0, 0)])
def test_prefetched_is_what_takes_little_time(seconds: float, least: int, most: int) -> None:
    """Microseconds are queued deep, milliseconds some ahead, hundredths one, long ones not at all."""
    it = scheduler(1)
    (first,) = submit(it, 0, 0)
    it.schedule()
    submit(it, 1, 3000)
    answer(it, first, seconds)
    it.schedule()

    assert least <= it.sent - 1 <= most


def test_nothing_is_queued_behind_what_nobody_knows() -> None:
    """A function that never ended has no time yet: one task at a time."""
    it = scheduler(2)
    submit(it, 1, 10)
    assert sent(it) == [1, 2]
    assert sent(it) == []


def test_a_large_payload_is_not_queued_deep() -> None:
    """However quick the function is, a worker is sent a megabyte ahead at most, and one task more."""
    it = scheduler(1)
    (first,) = submit(it, 0, 0)
    it.schedule()
    submit(it, 1, 100, size=1 << 18)
    answer(it, first, QUICK)
    it.schedule()

    assert it.sent <= 1 + 4


def test_the_last_byte_of_the_bound_lets_one_more_task_go() -> None:
    """What is sent ahead is bounded by the bytes before the last task."""
    it = scheduler(1)
    (first,) = submit(it, 0, 0)
    it.schedule()
    submit(it, 1, 1)
    submit(it, 2, 2, size=PREFETCH_BYTES - 1)
    submit(it, 3, 3)
    answer(it, first, QUICK)

    assert sent(it) == [1, 2, 3]


def test_a_worker_without_room_does_not_keep_the_next_from_its_share() -> None:
    """Nothing is queued behind a function that nobody knows, but behind one that is known."""
    it = scheduler(2)
    (first,) = submit(it, 0, 0)
    it.schedule()
    answer(it, first, QUICK)
    submit(it, 1, 1, function=2)
    submit(it, 2, 3)

    assert sent(it) == [1, 2, 3]


def test_each_size_is_prefetched() -> None:
    """When there is nothing left of one size for the next worker, another size still has its turn."""
    it = scheduler(4)
    (first,) = submit(it, 0, 0)
    it.schedule()
    answer(it, first, QUICK)
    submit(it, 1, 2)
    submit(it, 3, 3, cpus=2)
    submit(it, 4, 4)
    submit(it, 5, 5, cpus=2)

    assert sent(it) == [1, 2, 3, 4, 5]


def test_nothing_is_queued_around_a_task_that_is_alone() -> None:
    """A task with a time limit is neither prefetched nor queued behind."""
    it = scheduler(1)
    (first,) = submit(it, 0, 0)
    it.schedule()
    limited = Task(1, 1, alone=True)
    it.submit(limited)
    submit(it, 2, 5)
    answer(it, first, QUICK)
    assert sent(it) == [1]
    answer(it, limited, QUICK)
    submit(it, 6, 6)

    assert sent(it) == [2, 3, 4, 5, 6]


def test_younger_ones_are_not_queued_past_another_size() -> None:
    """A worker is sent nothing that is younger than a waiting request of another size."""
    it = scheduler(1, 2)
    (pair,) = submit(it, 0, 0, cpus=2)
    (first,) = submit(it, 1, 1)
    it.schedule()
    it.cancel(pair)
    submit(it, 2, 2, cpus=2)
    rest = submit(it, 3, 9)
    answer(it, first, QUICK)
    assert sent(it) == [3]

    it.ended(worker_of(pair).number, 1)

    assert sent(it) == [2]
    answer(it, rest[0], QUICK)
    assert sent(it)[:2] == [4, 5]


# ---- taking back ---------------------------------------------------------------------------------------------------


def test_what_is_queued_is_retracted_when_a_cpu_is_free() -> None:
    """A task that turns out long keeps nobody waiting: what is behind it goes to the free CPU."""
    it = scheduler(1)
    tasks = two_deep(it)
    it.add_node("b", [0])
    assert it.unbalanced
    assert it.schedule() == []  # too little work to be worth it, by the estimate
    it.rebalance()

    (retract,) = it.schedule()
    assert retract == Retract(worker_of(tasks[0]), below=6)
    it.retracted(retract.worker.number, 3, 6)

    assert sent(it) == [2, 3, 4]
    assert worker_of(tasks[1]).node == "b"


def test_no_more_is_retracted_than_the_free_cpus_can_take() -> None:
    """One free CPU takes back the tasks of one worker, not of all; those on their way count."""
    it = scheduler(3)
    first = submit(it, 1, 3)
    it.schedule()
    submit(it, 4, 12)
    for task in first:
        answer(it, task, QUICK)
    it.schedule()
    assert sorted(len(worker.queue) for worker in it.workers.values()) == [3, 3, 3]

    it.add_node("b", [0])
    it.rebalance()
    it.rebalance()
    assert len([effect for effect in it.schedule() if isinstance(effect, Retract)]) == 1

    it.add_node("c", range(3))
    it.rebalance()
    assert len([effect for effect in it.schedule() if isinstance(effect, Retract)]) == 1


def test_each_free_cpu_takes_a_task_back() -> None:
    """Two free CPUs retract from two workers that have one task ahead each, and from no third one."""
    it = scheduler(3)
    workers = one_ahead(it, 3)
    it.add_node("b", range(2))

    assert retracts(it) == workers[:2]


def test_what_needs_two_cpus_counts_twice() -> None:
    """Two free CPUs retract one task that needs both, not two."""
    it = scheduler(4)
    workers = one_ahead(it, 2, cpus=2)
    it.add_node("b", range(2))

    assert retracts(it) == workers[:1]


def test_a_worker_that_has_one_task_left_is_passed_over() -> None:
    """The free CPU takes back a task of the next worker."""
    it = scheduler(2)
    workers = one_ahead(it, 2)
    it.answered(workers[0].number, 1, ONE_AHEAD)
    it.schedule()
    it.add_node("b", [0])

    assert retracts(it) == workers[1:]


def test_a_worker_whose_size_fits_nowhere_is_passed_over() -> None:
    """The free CPU is too few for the task of one worker, and takes back that of another."""
    it = scheduler(2)
    one_ahead(it, 1, cpus=2)
    it.add_node("b", [0])
    running, behind = submit(it, 10, 11)
    it.schedule()
    assert behind.worker is running.worker
    it.add_node("c", [0])

    assert retracts(it) == [worker_of(running)]


def test_a_step_looks_at_few_workers() -> None:
    """Behind many workers that are about to end, only the engine's `rebalance` finds the one with a task to retract."""
    it = scheduler(LOOKS_AT_ONCE + 1)
    *ending, last = one_ahead(it, LOOKS_AT_ONCE + 1)
    for worker in ending:
        it.kill(worker)
    it.add_node("b", [0])
    assert retracts(it) == []

    it.rebalance()

    assert retracts(it) == [last]


def test_a_step_does_not_look_at_workers_that_have_one_task() -> None:
    """However many they are, it finds at once the one that has more."""
    it = scheduler(LOOKS_AT_ONCE)
    submit(it, 100, 100 + LOOKS_AT_ONCE - 1, function=2)
    it.schedule()
    it.add_node("b", [0])
    workers = one_ahead(it, 1)
    it.add_node("c", [0])

    assert retracts(it) == workers


def test_nothing_is_retracted_for_a_cpu_that_a_large_request_waits_for() -> None:
    """A step retracts only when nothing waits."""
    it = scheduler(1)
    workers = one_ahead(it, 1)
    it.add_node("b", range(2))
    submit(it, 10, 10, function=2)
    (pair,) = submit(it, 11, 11, cpus=2)
    assert retracts(it) == []
    assert it.unbalanced

    it.cancel(pair)

    assert retracts(it) == workers


def test_an_old_skip_does_not_take_a_task_that_was_sent_again() -> None:
    """A retracted task may go to the same worker once more before that says that it skipped the first sending."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    old = {task.number: task.seq for task in tasks[1:]}
    it.add_node("b", [0])
    it.rebalance()
    it.schedule()
    it.retracted(worker.number, tasks[0].seq + 1, worker.sent + 1)
    it.schedule()
    (again,) = [task for task in tasks[1:] if task.worker is worker][:1]

    for number, seq in old.items():
        it.skipped(worker.number, number, seq)

    assert again.worker is worker
    assert (it.waiting, it.sent) == (0, 4)
    assert answer(it, again) is again


def test_the_task_a_retraction_just_missed_comes_back_by_its_skip() -> None:
    """A worker may skip a task that the retract's own answer counts as started; it waits again then."""
    it = scheduler(1)
    tasks = two_deep(it, behind=2)
    worker = worker_of(tasks[0])
    it.add_node("b", [0])
    it.rebalance()
    it.schedule()
    it.retracted(worker.number, tasks[1].seq + 1, worker.sent + 1)
    assert numbers(list(worker.queue.values())) == [1, 2]

    it.skipped(worker.number, 2, tasks[1].seq)

    assert tasks[1].state is State.WAITING
    assert numbers(list(worker.queue.values())) == [1]


def test_a_skip_tells_what_waits_again() -> None:
    """The task comes back once; one that nobody wants any more, or a skip of another sending, gives nothing."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[2])

    assert it.skipped(worker.number, tasks[1].number, tasks[1].seq + 7) == []
    assert it.skipped(worker.number, tasks[1].number, tasks[1].seq) == [tasks[1]]
    assert it.skipped(worker.number, tasks[1].number, tasks[1].seq) == []
    assert it.skipped(worker.number, tasks[2].number, tasks[2].seq) == []
    assert it.skipped(99, tasks[3].number, tasks[3].seq) == []


def test_a_retraction_ends_before_what_was_sent_after_it() -> None:
    """What comes back is from its first number to the one before its end; the caller hears what waits again."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[2])

    back = it.retracted(worker.number, tasks[1].seq, tasks[3].seq)

    assert back == [tasks[1]]
    assert list(worker.queue.values()) == [tasks[0], tasks[3]]
    assert not worker.retracting


def test_a_lost_node_leaves_nothing_of_its_workers() -> None:
    """Idle workers of a lost node get no task when a node of the same name comes back; those elsewhere go on."""
    it = scheduler(1, 1)
    first = submit(it, 1, 2)
    it.schedule()
    workers = {worker_of(task).node: worker_of(task) for task in first}
    for task in first:
        answer(it, task)

    assert it.lose_node("a") == ([], [])
    it.add_node("a", [0])
    again = submit(it, 3, 4)
    it.schedule()

    used = {worker_of(task).node: worker_of(task) for task in again}
    assert used["b"] is workers["b"]
    assert used["a"] is not workers["a"]


def test_a_loss_makes_requests_of_all_sizes_impossible() -> None:
    """Each request that was waiting for the lost node is given back."""
    it = scheduler(4, 1)
    submit(it, 1, 5)
    it.schedule()
    large = submit(it, 6, 6, cpus=2) + submit(it, 7, 7, cpus=3)

    _, impossible = it.lose_node("a")

    assert sorted(numbers(impossible)) == numbers(large)
    assert [task.state for task in large] == [State.ENDED] * 2


def test_a_killed_idle_worker_gets_nothing_more() -> None:
    """Its CPU is free, and another worker is made for it."""
    it = scheduler(1)
    (first,) = submit(it, 1, 1)
    it.schedule()
    worker = worker_of(first)
    answer(it, first)
    it.kill(worker)
    it.kill(worker)
    (second,) = submit(it, 2, 2)
    effects = it.schedule()

    assert sum(isinstance(effect, Kill) for effect in effects) == 1
    assert worker_of(second) is not worker
    assert it.ended(worker.number, 1) == (None, [])


def test_nothing_is_prefetched_while_a_retraction_is_under_way() -> None:
    """What it will bring back is not known yet."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[1])
    it.schedule()
    submit(it, 50, 50)

    assert worker.retracting
    assert sent(it) == []


def test_cancelled_twice_is_cancelled_once() -> None:
    """The second time changes nothing."""
    it = scheduler(1)
    tasks = two_deep(it)
    for _ in range(2):
        it.cancel(tasks[1])
        it.cancel(tasks[0])

    assert (it.waiting, it.sent) == (0, 2)
    assert sum(isinstance(effect, Kill) for effect in it.schedule()) == 1


def test_what_comes_back_after_its_size_was_impossible() -> None:
    """A size that no node had for a while is served again when there is one, and in order."""
    it = scheduler(2, 1)
    (first,) = submit(it, 1, 1, cpus=2)
    it.schedule()
    answer(it, first)
    submit(it, 2, 2, cpus=2)
    _, impossible = it.lose_node("a")
    it.add_node("c", [0, 1])
    it.resubmit(first)
    it.resubmit(impossible[0])

    assert sent(it) == [1]
    answer(it, first)
    assert sent(it) == [2]


# ---- cancelling ----------------------------------------------------------------------------------------------------


def test_cancelling_what_waits_costs_nothing() -> None:
    """It is dropped; nothing is sent."""
    it = scheduler(1)
    tasks = submit(it, 1, 3)
    it.schedule()
    it.cancel(tasks[1])
    assert (it.waiting, it.schedule()) == (1, [])

    answer(it, tasks[0])

    assert sent(it) == [3]


def test_cancelling_what_runs_kills_its_worker() -> None:
    """The CPUs come back when the process group has gone, not before; what was behind it goes back, unblamed."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[0])
    it.cancel(tasks[0])  # once more: nothing
    assert orders(it) == [(Kill, worker)]
    assert it.pool.free == 0

    within, back = it.ended(worker.number, tasks[0].seq)

    assert (within, numbers(back)) == (None, [2, 3, 4])
    assert sent(it) == [2, 3, 4]


def test_cancelling_what_is_queued_spares_the_worker() -> None:
    """It is retracted, with those behind it; those come again."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[2])

    assert it.schedule() == [Retract(worker, below=6)]
    it.retracted(worker.number, 3, 6)

    assert tasks[2].state is State.CANCELLED
    assert sent(it) == [2, 4]
    assert not worker.ending


def test_a_worker_is_asked_once_for_what_is_queued() -> None:
    """Not again while a retraction is under way, and not at all when it is about to end."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[1])
    it.cancel(tasks[2])
    assert it.schedule() == [Retract(worker, below=6)]

    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[0])
    it.cancel(tasks[1])
    assert orders(it) == [(Kill, worker)]


def test_a_cancelled_task_that_had_started_is_killed() -> None:
    """Even while the answer of the one before it is still under way, and the retract's answer overtakes it."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    it.cancel(tasks[1])
    it.schedule()

    it.retracted(worker.number, tasks[1].seq + 1, 6)

    assert orders(it) == [(Kill, worker)]
    assert answer(it, tasks[0]) is tasks[0]
    within, _ = it.ended(worker.number, tasks[1].seq)
    assert within is None


def test_an_answer_after_cancelling_is_dropped() -> None:
    """It came too late; and one of a worker that is no more is counted as late."""
    it = scheduler(2)
    one, two = submit(it, 1, 2)
    it.schedule()
    it.cancel(one)
    assert answer(it, one) is None
    it.ended(worker_of(two).number, 1)

    assert it.answered(2, 2, QUICK) is None
    assert it.late == 1


def test_an_answer_for_a_task_that_the_worker_has_no_more_is_late() -> None:
    """The worker goes on; each such answer is counted."""
    it = scheduler(1)
    tasks = two_deep(it)
    worker = worker_of(tasks[0])
    for task in tasks[1:3]:
        it.skipped(worker.number, task.number, task.seq)
        assert it.answered(worker.number, task.number, QUICK) is None

    assert it.late == 2
    assert answer(it, tasks[0]) is tasks[0]


# ---- blame ---------------------------------------------------------------------------------------------------------


def test_a_crash_is_charged_to_the_task_that_was_started() -> None:
    """The others that were queued there go back."""
    it = scheduler(1)
    tasks = two_deep(it)
    number = worker_of(tasks[0]).number
    answer(it, tasks[0], QUICK)

    within, back = it.ended(number, tasks[1].seq)

    assert within is tasks[1]
    assert within.state is State.ENDED
    assert numbers(back) == [3, 4]
    assert (it.waiting, it.sent, it.pool.free) == (2, 0, 1)


def test_a_crash_after_the_last_answer_is_charged_to_nobody() -> None:
    """The task that it had started was answered; what was behind it had not been started."""
    it = scheduler(1)
    tasks = two_deep(it)
    number = worker_of(tasks[0]).number
    answer(it, tasks[0], QUICK)

    within, back = it.ended(number, tasks[0].seq)

    assert (within, numbers(back)) == (None, [2, 3, 4])


def test_a_retried_task_goes_before_younger_ones() -> None:
    """It keeps its place in the order."""
    it = scheduler(1)
    tasks = submit(it, 1, 3)
    it.schedule()
    answer(it, tasks[0])
    it.resubmit(tasks[0])

    assert sent(it) == [1]


# ---- what the engine asks and decides ---------------------------------------------------------------------------


def test_refusals() -> None:
    """What fits on the largest node is not refused; what does not is refused with both numbers."""
    it = scheduler(2, 4)

    assert it.refusal(4) is None
    assert "cpus=5" in str(it.refusal(5))
    assert "4 CPUs" in str(it.refusal(5))


def test_exclusive_tasks_are_withheld() -> None:
    """From a node that may be lost only the exclusive tasks are taken, and only those that somebody still wants."""
    it = scheduler(3, 2)
    one, gone, plain = submit(it, 1, 2, exclusive=True) + submit(it, 3, 3)
    (elsewhere,) = submit(it, 4, 4, exclusive=True)
    it.schedule()
    node = worker_of(one).node
    there = [task for task in (one, gone, elsewhere) if worker_of(task).node == node]
    it.cancel(there[-1])
    wanted = there[:-1]

    assert it.withhold(node) == wanted
    assert [task.state for task in wanted] == [State.ENDED] * len(wanted)
    assert it.withhold(node) == []
    back, impossible = it.lose_node(node)
    assert not {task.number for task in (*back, *impossible)} & {task.number for task in there}
    assert it.sent == sum(task.state is State.SENT for task in (one, gone, plain, elsewhere))
    for task in wanted:
        it.resubmit(task)
    assert it.waiting == len(wanted) + len(back)


def test_forgotten_functions_are_unknown_again() -> None:
    """Nothing is prefetched behind a function whose times were forgotten."""
    it = scheduler(1)
    (first,) = submit(it, 1, 1)
    it.schedule()
    running, *behind = submit(it, 2, 4)
    answer(it, first, QUICK)
    it.forget([1, 77])
    it.schedule()

    assert running.state is State.SENT
    assert [task.state for task in behind] == [State.WAITING] * 2


def test_news_of_a_worker_that_is_no_more() -> None:
    """Whatever still comes from it changes nothing; an answer counts as late."""
    it = scheduler(1)
    (task,) = submit(it, 1, 1)
    it.schedule()
    number = worker_of(task).number
    assert it.ended(number, 0) == (None, [task])

    assert it.answered(number, 1, SLOW) is None
    assert it.skipped(number, 1, 1) == []
    assert it.retracted(number, 1, 2) == []
    assert it.ended(number, 1) == (None, [])
    assert (it.late, it.waiting, it.sent) == (1, 1, 0)


def test_nothing_starts_while_paused() -> None:
    """What is paused starts nothing, and goes on as if nothing had been when it is no longer."""
    it = scheduler(1)
    submit(it, 1, 1)
    it.paused = True
    assert it.schedule() == []
    it.paused = False
    assert sent(it) == [1]


def test_names_for_errors() -> None:
    """A task and a worker show what one looks for in a failing test or a log."""
    it = scheduler(1)
    (task,) = submit(it, 7, 7)
    it.schedule()

    assert repr(task) == f"Task(7, cpus=1, {State.SENT.value})"
    assert repr(worker_of(task)) == "Worker(1, a, cpus=(0,), queue=1)"
    assert worker_of(task).name == "worker-0@a"


# ---- scale ---------------------------------------------------------------------------------------------------------


def steps(run: Callable[[], object]) -> int:
    """Count the lines of the scheduler and its parts that run: unlike the time, always the same."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in {part.__file__ for part in PARTS}:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def large(nodes: int, more: int, seconds: float) -> tuple[Scheduler, list[Task]]:
    """Return nodes of 64 CPUs, all at work, with so many times the work of one task for each CPU behind it."""
    it = Scheduler()
    for number in range(nodes):
        it.add_node(f"n{number}", range(64))
    crowd = submit(it, 1, nodes * 64)
    it.schedule()
    crowd += submit(it, nodes * 64 + 1, (1 + more) * nodes * 64)
    for task in crowd[: nodes * 64]:
        answer(it, task, seconds)
    it.schedule()
    return it, crowd[nodes * 64 :]


def test_many_nodes_cost_no_more_than_one() -> None:
    """An answer, and what follows from it, takes as many steps on 16,000 CPUs as on 64."""

    def cost(nodes: int) -> int:
        it, crowd = large(nodes, more=4, seconds=SLOW)

        def run() -> None:
            for task in crowd[:50]:
                answer(it, task)
                it.schedule()

        return steps(run)

    assert cost(250) < 1.2 * cost(1)


def test_the_end_of_a_large_map_costs_no_more_on_many_nodes() -> None:
    """When CPUs become free and nothing waits, a step does not look at all workers that have tasks ahead."""

    def cost(nodes: int) -> int:
        it, _ = large(nodes, more=2, seconds=1e-4)
        assert it.waiting == 0

        def run() -> None:
            for worker in list(it.workers.values())[:10]:
                for number in list(worker.queue):
                    it.answered(worker.number, number, 1e-4)
                it.schedule()

        return steps(run)

    assert cost(60) < 1.2 * cost(10)


def test_ten_thousand_waiting_cost_no_more_than_a_thousand() -> None:
    """Retrying and cancelling do not look at all that wait."""

    def cost(waiting: int) -> int:
        it = scheduler(2)
        crowd = submit(it, 1, waiting)
        it.schedule()

        def run() -> None:
            for _ in range(50):
                for task in crowd[:2]:
                    answer(it, task)
                    it.resubmit(task)
                it.schedule()
            for task in crowd[-300:]:
                it.cancel(task)

        return steps(run)

    assert cost(10_000) == cost(1000)


# ---- tasks with a past, and nodes that are put aside ----------------------------------------------------------------


def test_another_try_elsewhere() -> None:
    """What failed on a node starts on another one, however free the first one is, and before what is younger."""
    it = scheduler(4, 1)
    (task,) = submit(it, 1, 1)
    it.schedule()
    busy = submit(it, 2, 5)
    it.schedule()
    assert {worker_of(t).node for t in busy[:3]} == {"a"}
    answer(it, task)
    task.failed_on("a")
    it.resubmit(task)
    submit(it, 6, 6)
    assert sent(it) == [6]
    answer(it, busy[3])
    assert sent(it) == [1]
    assert worker_of(task).node == "b"


def test_another_try_where_no_other_node_is() -> None:
    """What has failed on all nodes that are large enough runs on any of them."""
    it = scheduler(2, 1)
    (large,), (small,) = submit(it, 1, 1, cpus=2), submit(it, 2, 2)
    large.failed_on("a")
    for node in "ab":
        small.failed_on(node)
    it.cancel(large)
    it.cancel(small)
    (again,) = submit(it, 3, 3, cpus=2)
    again.failed_on("a")
    assert sent(it) == [3]


def test_one_suspect_per_node() -> None:
    """After a loss each node gets one suspect at a time, and beside it what is no suspect."""
    it = scheduler(4, 2, 2)
    tasks = submit(it, 1, 4)
    it.schedule()
    assert {worker_of(t).node for t in tasks[:2]} == {"a"}
    lost = [t.number for t in tasks if worker_of(t).node == "a"]
    others = [t for t in tasks if worker_of(t).node != "a"]
    for task in others:
        answer(it, task)
    submit(it, 10, 12)
    it.lose_node("a")
    first, second, *rest = sorted(lost)
    assert {first, second} <= set(sent(it))
    assert {worker_of(t).node for t in tasks if t.number in (first, second)} == {"b", "c"}
    assert rest
    assert all(t.past is not None and t.past.lost == ["a"] for t in tasks if t.number in lost)
    answer(it, tasks[first - 1])
    assert rest[0] in sent(it)


def test_put_aside() -> None:
    """A node that is put aside gets nothing; what was prefetched there is retracted; taken back, it is used."""
    it = scheduler(1, 1)
    one_ahead(it, 2)
    it.put_aside("a")
    assert [worker.node for worker in retracts(it)] == ["a"]
    assert it.pool.total == 1
    it.put_aside("a")
    assert retracts(it) == []
    it.take_back("a")
    assert it.pool.total == 2


def test_all_put_aside() -> None:
    """Then everything waits, and nothing is impossible that a node could run."""
    it = scheduler(2)
    it.put_aside("a")
    submit(it, 1, 3)
    submit(it, 4, 4, cpus=2)
    assert sent(it) == []
    it.take_back("a")
    assert sent(it) == [1, 2]


def test_copy() -> None:
    """A copy starts on another node if one has an idle CPU, else on the same, and not while anything waits."""
    it = scheduler(2, 1)
    task, other = submit(it, 1, 2)
    it.schedule()
    assert (worker_of(task).node, worker_of(other).node) == ("a", "a")
    copy = Task(3, 1, alone=True)
    assert it.start_copy(copy, task)
    assert worker_of(copy).node == "b"
    assert not it.start_copy(Task(4, 1, alone=True), task)
    assert sent(it) == [3]
    answer(it, other)
    copy = Task(5, 1, alone=True)
    assert it.start_copy(copy, task)
    assert worker_of(copy).node == "a"
    it.schedule()
    submit(it, 6, 6)
    assert not it.start_copy(Task(7, 1, alone=True), task)
    it.cancel(copy)
    assert [effect.worker for effect in it.schedule() if isinstance(effect, Kill)] == [worker_of(copy)]


def test_no_copy_when_nothing_is_to_start() -> None:
    """At the end of the allocation nothing is copied."""
    it = scheduler(2)
    (task,) = submit(it, 1, 1)
    it.schedule()
    it.paused = True
    assert not it.start_copy(Task(2, 1, alone=True), task)


def test_which_tasks_have_started() -> None:
    """The one that a worker is in, and those that have ended; not what waits or is prefetched."""
    s = scheduler(1)
    waiting, *_ = submit(s, 1, 1)
    assert not is_started(waiting)
    s = scheduler(1)
    tasks = two_deep(s, behind=1)
    assert [is_started(task) for task in tasks[:2]] == [True, False]
    answer(s, tasks[0])
    assert is_started(tasks[0])


# ---- many workers ------------------------------------------------------------------------------------------------


def at_work(answers_a_second: float, workers: int = 100) -> tuple[Scheduler, list[Worker]]:
    """Return a scheduler whose workers are all in a task, and give so many answers a second; the first one is done."""
    it = scheduler(workers)
    tasks = submit(it, 1, workers)
    it.schedule()
    submit(it, workers + 1, workers + 1)
    answer(it, tasks[0], workers / answers_a_second)
    it.schedule()
    return it, [worker_of(task) for task in (*tasks[1:], tasks[0])]


def a_round(it: Scheduler, workers: list[Worker], seconds: float = 0.05) -> None:
    """Each of these workers answers once."""
    for worker in workers:
        if worker.queue:
            it.answered(worker.number, next(iter(worker.queue)), seconds)
    it.schedule()


@pytest.mark.parametrize(("answers", "waiting", "ahead"), [(2000.0, 110, 11), (500.0, 110, 0), (2000.0, 104, 0)])
def test_long_tasks_are_queued_one_ahead_where_answers_are_many(answers: float, waiting: int, ahead: int) -> None:
    """Not where few answers come, which the head deals with at once, or where little waits for each worker."""
    it, workers = at_work(answers)
    submit(it, 200, 199 + waiting)

    a_round(it, workers[:99], 100 / answers)

    assert sum(len(worker.queue) == 2 for worker in workers) == ahead


def test_what_is_behind_a_long_task_goes_elsewhere_although_more_waits() -> None:
    """The oldest is not kept by a worker that has fallen behind: it comes back, and is the next to be started."""
    it, (stuck, *others) = at_work(2000.0)
    tasks = submit(it, 200, 5000)
    a_round(it, [stuck, *others])
    a_round(it, [stuck])
    behind = list(stuck.queue.values())[-1]
    rounds = 0
    while not stuck.retracting:
        a_round(it, others)
        rounds += 1
    assert PATIENCE < rounds <= 4 * PATIENCE

    it.retracted(stuck.number, behind.seq, stuck.sent + 1)
    assert behind.state is State.WAITING
    a_round(it, others)

    assert behind.worker in others
    assert len(stuck.queue) == 1, "until it has answered, nothing is queued there"
    assert it.waiting
    assert not any(task.state is State.WAITING for task in tasks[: tasks.index(behind)])


def test_what_was_queued_ahead_comes_back_at_the_end() -> None:
    """When nothing waits and CPUs become free, they get what is behind long tasks."""
    it, workers = at_work(2000.0)
    submit(it, 200, 499)
    while it.waiting:
        a_round(it, workers)
    (one, *_) = (worker for worker in workers if len(worker.queue) > 1)
    (_, behind) = one.queue.values()
    others = [worker for worker in workers if worker is not one]
    while not one.retracting:
        a_round(it, others)

    it.retracted(one.number, behind.seq, one.sent + 1)
    it.schedule()

    assert behind.worker in others


def test_what_is_started_in_one_go_is_bounded() -> None:
    """What is left is started by the next calls, in the same order; new workers count more than idle ones."""
    it = scheduler(100)
    tasks = submit(it, 1, 100)
    goes: list[list[int]] = []
    while not goes or it.unfinished:
        goes.append([task.number for e in it.schedule(10 * FORK_WORK) if isinstance(e, Send) for task in e.tasks])

    assert [number for go in goes for number in go] == numbers(tasks)
    assert {len(go) for go in goes[:-1]} == {10}
    for task in tasks:
        answer(it, task)
    it.schedule()
    submit(it, 101, 200)
    assert len(it.schedule(10 * FORK_WORK)) == 10 * FORK_WORK
    assert it.unfinished


def test_counts_of_workers_are_kept_without_a_look_at_them() -> None:
    """They are right after each step, as the model checks; here: nobody goes over the workers."""
    it = scheduler(4)
    tasks = submit(it, 1, 3)
    it.schedule()
    answer(it, tasks[0])
    it.kill(worker_of(tasks[1]))

    it.workers = NotToBeRead(it.workers)  # type: ignore[assignment]

    assert it.states == {"busy": 1, "idle": 1, "ending": 1}


class NotToBeRead(dict[Any, Any]):
    """A dictionary whose values are not to be gone over."""

    def values(self) -> Any:
        """Refuse."""
        raise AssertionError


def test_a_twin_on_a_lost_node_makes_a_suspect() -> None:
    """A task whose copy was lost with a node is a suspect where it runs, until it has ended."""
    made = scheduler(1, 1)
    (task,) = submit(made, 1, 1)
    made.schedule()
    made.was_lost(task, "b" if worker_of(task).node == "a" else "a")
    assert task.past is not None
    assert made._suspects.on == {worker_of(task).node: 1}
    answer(made, task)
    assert not made._suspects.on


def test_a_worker_that_keeps_something_is_taken_first() -> None:
    """Among idle ones, and before one that has just run out of tasks; a busy one is not waited for."""
    to = scheduler(3)
    tasks = submit(to, 1, 3)
    to.schedule()
    workers = [task.worker for task in tasks]
    assert all(workers)
    keeper = workers[0]
    assert keeper is not None
    to.keeps(keeper, {7})
    for number, worker in enumerate(workers, 1):
        assert worker is not None
        to.answered(worker.number, number, SLOW)
    (first,) = submit(to, 4, 4, function=7)
    to.schedule()
    assert first.worker is keeper
    (second,) = submit(to, 5, 5, function=7)
    to.schedule()
    assert second.worker not in (None, keeper)
    to.answered(keeper.number, 4, SLOW)
    to.schedule()
    to.keeps(keeper, ())
    (third,) = submit(to, 6, 6, function=7)
    (fourth,) = submit(to, 7, 7, function=8)
    to.schedule()
    assert third.worker is keeper  # as the one used last
    assert fourth.worker not in (None, keeper, second.worker)
