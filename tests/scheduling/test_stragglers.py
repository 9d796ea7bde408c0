"""Which evaluations are stragglers, by pure rules: the clock is the test's."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hyperflow.scheduling.scheduler import Scheduler, Task
from hyperflow.scheduling.stragglers import LEAST_SECONDS, MOST_SAMPLES, SAMPLES, Stragglers, Times

F = "f"


def watching(count: int, factor: float = 3.0) -> tuple[Stragglers, list[Task]]:
    """Return tasks of one function that run since 100.0, each on its own CPU."""
    scheduler, it = Scheduler(), Stragglers()
    scheduler.add_node("a", range(count))
    tasks = [Task(number, 1, alone=True) for number in range(1, count + 1)]
    for task in tasks:
        scheduler.submit(task)
        it.watch(task, F, factor)
    it.sent(scheduler.schedule(), 100.0)
    return it, tasks


def due(it: Stragglers, now: float) -> list[int]:
    """Return the numbers of the stragglers."""
    return [straggler.task.number for straggler in it.due(now)]


def test_enough_must_be_known() -> None:
    """Nothing is a straggler before ten evaluations of its function have ended."""
    it, tasks = watching(SAMPLES + 1)
    for task in tasks[: SAMPLES - 1]:
        it.answered(task.number, 1.0)
    assert due(it, 1e9) == []
    it.answered(tasks[SAMPLES - 1].number, 1.0)
    assert due(it, 103.0) == []
    assert due(it, 103.01) == [SAMPLES + 1]
    assert list(it.watched) == list(it.running) == [SAMPLES + 1]
    it.forget(SAMPLES + 1)
    assert due(it, 1e9) == []
    assert not it.watched
    assert not it.running


def test_the_worst_first() -> None:
    """Stragglers come by how much they exceed their time, each by its own factor."""
    it, tasks = watching(3)
    it.watch(tasks[2], F, 1.5)
    it.running[tasks[2].number] = it.watched[tasks[2].number]
    it.watched[tasks[2].number].since = 100.0
    for _ in range(20):
        it.took(F, 1.0)
    it.running[tasks[1].number].since = 99.0
    assert due(it, 103.5) == [3, 2, 1]
    assert due(it, 102.5) == [3, 2]


def test_what_takes_a_moment_is_no_straggler() -> None:
    """However quick the others are."""
    it, _ = watching(1)
    for _ in range(20):
        it.took(F, 1e-6)
    assert due(it, 100.0 + LEAST_SECONDS) == []
    assert due(it, 100.01 + LEAST_SECONDS) == [1]


def test_others_do_not_count() -> None:
    """Each function has its own times; what nobody watches is not noted."""
    it, _ = watching(1)
    for _ in range(20):
        it.took("other", 0.1)
    it.answered(7, 1.0)
    scheduler = Scheduler()
    scheduler.add_node("a", range(1))
    scheduler.submit(Task(7, 1))
    it.sent(scheduler.schedule(), 0.0)
    assert due(it, 1e9) == []
    assert list(it.running) == [1]


def test_sent_again() -> None:
    """An evaluation that waits again is no straggler; started again, its time begins anew."""
    scheduler, it = Scheduler(), Stragglers()
    scheduler.add_node("a", range(1))
    (task,) = (Task(1, 1, alone=True),)
    scheduler.submit(task)
    it.watch(task, F, 1.0)
    it.sent(scheduler.schedule(), 100.0)
    for _ in range(20):
        it.took(F, 1.0)
    assert due(it, 102.0) == [1]
    assert task.worker is not None
    scheduler.answered(task.worker.number, task.number, 1.0)
    scheduler.resubmit(task)
    assert due(it, 102.0) == []
    it.sent(scheduler.schedule(), 102.0)
    assert due(it, 102.5) == []
    assert due(it, 103.5) == [1]


@given(st.integers(0, 3 * MOST_SAMPLES), st.integers(0, 1000))
@example(2 * MOST_SAMPLES, 0)
def test_quantile(count: int, seed: int) -> None:
    """It is what 95 of 100 of the last samples do not exceed, some of which are equal."""
    chance = random.Random(seed)
    samples = [round(chance.expovariate(1.0), 1) for _ in range(count)]
    times = Times()
    for seconds in samples:
        times.add(seconds)
    last = sorted(samples[-MOST_SAMPLES:])
    found = times.quantile()
    if len(last) < SAMPLES:
        assert found is None
    else:
        assert found == last[math.ceil(0.95 * len(last)) - 1]
        assert sum(one <= found for one in last) >= 0.95 * len(last)


@pytest.mark.parametrize("count", [10, 20, 100])
def test_quantile_of_few(count: int) -> None:
    """Of ten it is the largest, of a hundred the 95th."""
    times = Times()
    for seconds in range(1, count + 1):
        times.add(seconds)
    assert times.quantile() == {10: 10, 20: 19, 100: 95}[count]
