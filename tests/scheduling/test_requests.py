"""What is asked for beside CPUs, rule by rule. (`tests/model/resources.py` plays random histories.)"""

from __future__ import annotations

from typing import Any

import pytest

from hyperflow.errors import ImpossibleRequest
from hyperflow.request import Capacity, Request
from hyperflow.scheduling.order import LEVEL_SECONDS
from hyperflow.scheduling.placement import choose_cpus, choose_gpus, near_to
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Fork, Kill, Retire, Send, Task

SOCKETS = ((frozenset({0, 1, 2}), frozenset({"0"})), (frozenset({3, 4, 5, 6}), frozenset({"1", "2"})))
FREE = 1_000_000


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def submit(to: Scheduler, number: int, **asks: Any) -> Task:
    """Submit a task."""
    task = Task(number, 1, request=Request(**asks))
    to.submit(task)
    return task


def sent(to: Scheduler) -> list[int]:
    """Return what is sent, in that order."""
    return [task.number for effect in to.schedule() if isinstance(effect, Send) for task in effect.tasks]


def end(to: Scheduler, task: Task) -> None:
    """A task has its result."""
    assert task.worker is not None
    assert to.answered(task.worker.number, task.number, 10.0) is task


def test_ids_come_from_one_socket() -> None:
    """The lowest of the first that has enough; with GPUs, those beside them."""
    assert choose_cpus({1, 2, 3, 4, 5}, 2, SOCKETS) == (1, 2)
    assert choose_cpus({2, 3, 4, 5}, 2, SOCKETS) == (3, 4)
    assert choose_cpus({1, 2, 4, 5}, 3, SOCKETS) == (1, 2, 4)
    assert choose_gpus({"0": FREE, "1": FREE, "2": FREE}, 2, SOCKETS, {0, 3}, 1) == ("1", "2")
    assert choose_gpus({"0": FREE, "1": FREE}, 1, SOCKETS, {3, 4}, 2) == ("1",)
    assert near_to(("1",), SOCKETS) == {3, 4, 5, 6}
    assert choose_cpus({0, 4, 5}, 2, SOCKETS, near_to(("1",), SOCKETS)) == (4, 5)
    assert choose_cpus({0, 1, 4}, 2, SOCKETS, near_to(("1",), SOCKETS)) == (0, 4)


def test_a_share_goes_where_others_are() -> None:
    """Halves fill one GPU before the next one; a whole one needs a free one, of three thirds nothing is left over."""
    it = Scheduler()
    it.add_node("a", range(8), Capacity(gpus=("0", "1")))
    halves = [submit(it, number, gpus=0.5) for number in (1, 2)]
    whole = submit(it, 3, gpus=1)
    thirds = [submit(it, number, gpus=1 / 3) for number in (4, 5, 6)]
    assert sent(it) == [1, 2, 3]
    assert [task.places[0].gpus for task in (*halves, whole)] == [("0",), ("0",), ("1",)]
    end(it, whole)
    assert sent(it) == [4, 5, 6]
    assert {task.places[0].gpus for task in thirds} == {("1",)}


def test_a_worker_keeps_its_gpus() -> None:
    """It is used again for the same; one that has touched a GPU is told to leave when others get that."""
    it = Scheduler()
    it.add_node("a", range(2), Capacity(gpus=("0",)))
    first = submit(it, 1, gpus=1)
    sent(it)
    worker = first.worker
    end(it, first)
    second = submit(it, 2, gpus=1)
    assert sent(it) == [2]
    assert second.worker is worker
    end(it, second)
    share = submit(it, 3, gpus=0.5)
    assert sent(it) == [3]
    assert share.worker is not worker
    assert it.states["idle"] == 1  # it has been told, and has not ended


def test_who_has_touched_a_gpu_leaves_first() -> None:
    """Also one that is for the same, and cannot be used because its CPU is taken; the order comes before the fork."""
    it = Scheduler()
    it.add_node("a", range(2), Capacity(gpus=("0",)))
    first = submit(it, 1, gpus=1)
    assert sent(it) == [1]
    worker = first.worker
    assert worker is not None
    end(it, first)
    it.schedule()
    it.pool.take("a", worker.cpus)  # a plain one has its CPU
    second = submit(it, 2, gpus=1)
    effects = it.schedule()
    assert second.worker is not worker
    assert [type(effect) for effect in effects] == [Retire, Fork, Send]


def test_memory_of_others() -> None:
    """Who asks for more than a share leaves fewer CPUs for the others; who waits for a GPU keeps no CPU of them."""
    it = Scheduler()
    it.add_node("a", range(4), Capacity(memory=100, gpus=("0",)))
    large = submit(it, 1, memory=60)
    submit(it, 2, gpus=1)
    submit(it, 3, gpus=1)
    for number in (4, 5, 6):
        it.submit(Task(number, 1))
    assert sent(it) == [1, 2]  # 15 bytes are left, and number 3 is to have a CPU and its share
    end(it, large)
    assert sent(it) == [4, 5]


def test_gangs_are_whole() -> None:
    """All nodes or none; the loss of one ends all of it, on which it waits until its worker has ended."""
    it = Scheduler()
    for name in "abc":
        it.add_node(name, range(2))
    it.submit(Task(1, 1, 2))
    gangs = [submit(it, number, nodes=2, cpus=2) for number in (2, 3)]
    it.submit(Task(4, 1))
    assert sent(it) == [1, 2]  # the fourth would be in the way of the third
    (first, _), worker = gangs[0].places, gangs[0].worker
    assert len({place.node for place in gangs[0].places}) == 2
    lost = next(place.node for place in gangs[0].places if place.node != first.node)
    back, impossible = it.lose_node(lost)
    assert (back, impossible) == ([gangs[0]], [])
    assert [effect.worker for effect in it.schedule() if isinstance(effect, Kill)] == [worker]
    assert worker is not None
    assert it.ended(worker.number, worker.sent) == (None, [])
    assert it.pool.free == 2
    with pytest.raises(ImpossibleRequest, match=r"nodes=3.: there are 2 nodes"):
        submit(it, 5, nodes=3)


def test_time_and_order() -> None:
    """Nothing starts where too little time is left; what waits too long for that is refused; an hour is one level."""
    clock = Clock()
    it = Scheduler(clock)
    it.add_node("a", range(1), Capacity(ends=100.0))
    it.add_node("b", range(1))
    long = submit(it, 1, min_time=200)
    late = submit(it, 2, min_time=500)
    assert sent(it) == [1]
    assert long.places[0].node == "b"
    assert it.waits_for_time
    assert it.lose_node("b")[1] == [long, late]
    clock.now = 95.0
    with pytest.raises(ImpossibleRequest, match=r"min_time=10.: the node that lasts longest has 5 s left"):
        submit(it, 3, min_time=10)

    it = Scheduler(clock)
    it.add_node("a", range(1))
    (running,) = [submit(it, 1, priority=9)]
    it.submit(Task(2, 1))
    assert sent(it) == [1]
    clock.now += 2 * LEVEL_SECONDS
    submit(it, 3, priority=2)
    submit(it, 4, priority=3)
    end(it, running)
    assert sent(it) == [4]


def test_tokens_come_back_once() -> None:
    """Whatever the end; the oldest that waits for many keeps those that are free."""
    it = Scheduler()
    it.set_tokens({"t": 2})
    it.add_node("a", range(4))
    one = submit(it, 1, resources=(("t", 1),))
    both = submit(it, 2, resources=(("t", 2),))
    submit(it, 3, resources=(("t", 1),))
    it.submit(Task(4, 1))
    assert sent(it) == [1, 4]
    assert one.worker is not None
    within, _ = it.ended(one.worker.number, one.seq)
    assert within is one
    assert sent(it) == [2]
    it.cancel(both)
    assert both.worker is not None
    it.schedule()
    it.ended(both.worker.number, both.seq)
    assert sent(it) == [3]
    assert it.pool.tokens["t"].free == 1
    with pytest.raises(ImpossibleRequest, match="nobody has declared 'u'; there are: t"):
        submit(it, 5, resources=(("u", 1),))
