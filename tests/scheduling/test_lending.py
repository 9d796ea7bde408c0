"""Accounts that grow and shrink: what is lent is used, what is asked back leaves, and nothing that runs is ended."""

from __future__ import annotations

import re

import pytest

from hyperflow.errors import ImpossibleRequest
from hyperflow.request import Capacity, NodeKind, Request, Want
from hyperflow.scheduling.lending import Returned
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Batch, Fork, Kill, Recall, Retire, Retract, Send, Task
from hyperflow.wire.numbers import Seq, TaskNumber
from tests.scheduling.test_scheduler import QUICK, sent, submit

pytestmark = pytest.mark.unit


class Pool:
    """A scheduler, and what has left its accounts."""

    def __init__(self, *cpus: int, memory: int = 0, gpus: tuple[str, ...] = ()) -> None:
        self.scheduler = Scheduler()
        self.returned: list[Returned] = []
        self.scheduler.lending.on_returned = self.returned.append
        self.scheduler.add_node("a", cpus, Capacity(gpus=gpus, memory=memory))

    def end(self, *numbers: int) -> None:
        """Have tasks with these numbers answered."""
        for number in numbers:
            (worker,) = [one for one in self.scheduler.workers.values() if number in one.queue]
            assert self.scheduler.answered(worker.number, number, 1.0) is not None

    @property
    def ids(self) -> set[int]:
        """The CPUs that are lent now."""
        return set(self.scheduler.pool.nodes["a"].ids)

    @property
    def cpus_back(self) -> list[int]:
        """Those that have left."""
        return [cpu for each in self.returned for cpu in each.cpus]


def test_what_is_lent_is_used_at_once() -> None:
    """A node of which nothing is lent gives nothing out; what is lent to it later starts what waits."""
    it = Pool()
    it.scheduler.may_come([NodeKind("main", 4)])
    submit(it.scheduler, 1, 3)
    assert sent(it.scheduler) == []
    it.scheduler.lend("a", (4, 5))
    assert sent(it.scheduler) == [1, 2]
    assert it.scheduler.pool.total == 2
    with pytest.raises(ValueError, match=r"has CPUs \[5\] already"):
        it.scheduler.lend("a", (5, 6))


def test_what_is_free_leaves_at_once() -> None:
    """Free CPUs leave at once; the node goes on with the others."""
    it = Pool(0, 1, 2, 3)
    submit(it.scheduler, 1, 1)
    assert sent(it.scheduler) == [1]
    it.scheduler.reclaim("a", 2)
    assert it.cpus_back == [2, 3]
    submit(it.scheduler, 2, 3)
    assert sent(it.scheduler) == [2]
    assert (it.scheduler.pool.total, it.scheduler.pool.largest) == (2, 2)


def test_the_rest_leaves_as_evaluations_end() -> None:
    """While CPUs are owed nothing starts; each leaves when its evaluation ends, and none is ended for it."""
    it = Pool(0, 1, 2)
    submit(it.scheduler, 1, 9)
    assert sent(it.scheduler) == [1, 2, 3]
    it.scheduler.reclaim("a", 2)
    assert it.cpus_back == []
    it.end(2)
    effects = it.scheduler.schedule()
    assert it.cpus_back == [1]
    assert [type(effect) for effect in effects] == [Retire]  # the worker that is pinned to it
    it.end(1)
    assert sent(it.scheduler) == []
    assert it.cpus_back == [1, 0]
    it.end(3)
    assert sent(it.scheduler) == [4]  # it is in use again
    assert it.ids == {2}


def test_drained_and_owing() -> None:
    """A node that was drained meanwhile is not taken back into use when all has come that it owed."""
    it = Pool(0, 1)
    submit(it.scheduler, 1, 3)
    assert sent(it.scheduler) == [1, 2]
    it.scheduler.reclaim("a", 1)
    it.scheduler.put_aside("a")
    it.end(1, 2)
    assert sent(it.scheduler) == []
    assert it.cpus_back == [1]
    it.scheduler.take_back("a")
    assert sent(it.scheduler) == [3]


def test_what_is_queued_comes_back() -> None:
    """What was prefetched at workers, and what teams have in reserve, is taken back from a node that owes CPUs."""
    it = Pool(0, 1)
    it.scheduler._estimates.learn(1, QUICK)
    submit(it.scheduler, 1, 20)
    it.scheduler.schedule()
    it.scheduler.reclaim("a", 1)
    assert any(isinstance(effect, Retract) for effect in it.scheduler.schedule())

    class Calls:
        alike, owner = "", object()

    other = Pool(0, 1)
    other.scheduler.submit_batch(Batch(1, 1, 1, 100, 50, Calls()))
    other.scheduler.schedule()
    other.scheduler.reclaim("a", 1)
    assert any(isinstance(effect, Recall) for effect in other.scheduler.schedule())


def test_memory_moves_with_cpus() -> None:
    """Memory goes with the CPUs, but none that somebody has asked for."""
    it = Pool(0, 1, 2, 3, memory=4000)
    it.scheduler.submit(Task(1, 1, request=Request(1, memory=2500)))
    assert sent(it.scheduler) == [1]
    it.scheduler.reclaim("a", 3)
    assert [(each.cpus, each.memory) for each in it.returned] == [((3,), 1000)]
    assert it.scheduler.pool.nodes["a"].capacity.memory == 3000
    it.end(1)
    it.scheduler.schedule()
    assert sum(each.memory for each in it.returned) == 3000
    it.scheduler.lend("a", (1, 2), memory=2000)
    assert it.scheduler.pool.nodes["a"].capacity.memory == 3000


def test_gpus_that_nobody_has() -> None:
    """A GPU is given back if nobody has any of it; one that is in use stays."""
    it = Pool(0, 1, 2, gpus=("0", "1"))
    it.scheduler.submit(Task(1, 1, request=Request(1, gpus=1.0)))
    assert sent(it.scheduler) == [1]
    it.scheduler.reclaim("a", 1, ("0", "1"))
    assert [each.gpus for each in it.returned] == [("1",)]
    it.scheduler.lend("a", (), ("1",))
    assert it.scheduler.pool.gpus == (2, 1.0)


def test_speculative_ones_give_way() -> None:
    """A speculative evaluation is ended for what is asked back, and waits again."""
    it = Pool(0, 1)
    guess = Task(1, 1, request=Request(1, speculative=True))
    it.scheduler.submit(guess)
    (worker,) = [effect.worker for effect in it.scheduler.schedule() if isinstance(effect, Fork)]
    it.scheduler.reclaim("a", 2)
    assert [type(effect) for effect in it.scheduler.schedule()] == [Kill]
    assert it.scheduler.ended(worker.number, guess.seq) == (None, [guess])
    it.scheduler.schedule()
    assert sorted(it.cpus_back) == [0, 1]


def test_what_may_come() -> None:
    """What only a node can have that may come waits; when that may not come any more, it is refused."""
    it = Scheduler()
    kinds = [NodeKind("main", 4, Capacity(("0",), 100, 600.0), most=2), NodeKind("long", 2, Capacity(ends=9000.0))]
    it.may_come(kinds)
    asks = (Request(4, nodes=2), Request(2, min_time=5000.0), Request(1, gpus=1.0), Request(4, memory=100))
    for number, request in enumerate(asks, 1):
        it.submit(Task(number, 1, request=request))
    refused = {
        Request(5): "the largest node that may come has 4 CPUs (main)",
        Request(1, gpus=2.0): "the node with the most GPUs that may come has 1 (main)",
        Request(1, min_time=1e4): "the node that may come and lasts longest has 9000 s (long)",
        Request(4, nodes=3): "using(cpus=4, nodes=3): 2 nodes like that may come at a time",
        Request(1, gpus=1.0, min_time=900.0): "no node that may come has all of that",
    }
    for request, words in refused.items():
        with pytest.raises(ImpossibleRequest) as caught:
            it.submit(Task(9, 1, request=request))
        assert words in str(caught.value)
    other = Scheduler()
    other.may_come([NodeKind("main", 4, Capacity(memory=100))])
    for request, words in {
        Request(1, gpus=1.0): "none may come that has a GPU",
        Request(1, memory=200): "the largest node that may come has 100 (main)",
    }.items():
        with pytest.raises(ImpossibleRequest, match=re.escape(words)):
            other.submit(Task(9, 1, request=request))
    assert [task.number for task in it.may_come(kinds[1:])] == [1, 3, 4]
    assert [task.number for task in it.may_come([])] == [2]
    with pytest.raises(ImpossibleRequest, match="no node is up, and none may come"):
        it.submit(Task(9, 1))


def test_what_waits() -> None:
    """For who brings nodes: how many wait that ask for the same, and how long they take, as far as that is known."""
    moments = iter([10.0, 17.0, 20.0])
    it = Scheduler(lambda: now)
    it.set_tokens({"licence": 2})
    now = next(moments)
    it.add_node("a", range(2))
    it._estimates.learn(1, 3.0)
    submit(it, 1, 4)
    submit(it, 5, 9, function=2)
    for number in range(10, 14):
        it.submit(Task(number, 1, request=Request(1, resources=(("licence", 1),))))
    it.submit(Task(14, 1, request=Request(1, speculative=True)))
    it.schedule()
    licence = Request(1, resources=(("licence", 1),))
    assert it.demand() == [Want(Request(1), 2, 3.0), Want(Request(1), 5, None), Want(licence, 2, 3.0)]
    for worker in list(it.workers.values()):
        it.answered(worker.number, worker.current, 3.0)
    it.schedule()
    for worker in list(it.workers.values()):
        it.answered(worker.number, worker.current, 3.0)
    it.schedule()  # now two of the other function run
    assert it.demand()[0] == Want(Request(1), 3, None)
    now = next(moments)
    assert it.demand()[0] == Want(Request(1), 3, 7.0)
    it.pause()
    assert it.demand() == []


def test_many_wait() -> None:
    """Of a long queue only the ends are looked at, and the numbers are scaled."""
    it = Scheduler()
    it.may_come([NodeKind("main", 1)])
    submit(it, 1, 5000)
    submit(it, 5001, 10_000, function=2)
    assert it.demand() == [Want(Request(1), 5000, None), Want(Request(1), 5000, None)]


def test_released() -> None:
    """What was on a node that is released waits again without a past; of several nodes, its worker ends first."""
    it = Scheduler()
    it.add_node("a", range(1))
    it.add_node("b", range(1))
    it.submit(Task(1, 1, request=Request(1, nodes=2)))
    it.submit(Task(2, 1))
    it.submit(Task(3, 1, exclusive=True))
    effects = it.schedule()
    (task,) = [task for effect in effects if isinstance(effect, Send) for task in effect.tasks]
    worker = task.worker
    assert worker is not None
    other = "b" if worker.node == "a" else "a"
    it.may_come([NodeKind("main", 1, most=2)])
    assert it.lose_node(other, blamed=False) == ([], [])
    it.add_node(other, range(1))  # the same name comes again, and has given nothing to that worker
    it.ended(worker.number, task.seq)
    assert it.pool.free == 2
    assert sent(it) == [1]
    assert task.past is None
    (held,) = [one for one in it.workers.values() if one.queue]
    it.may_come([])
    (gang,) = [one for one in it.workers.values() if one.elsewhere]
    assert it.lose_node(gang.elsewhere[0].node, blamed=False) == ([], [task])  # one node is left: that is not enough
    it.ended(gang.number, Seq(1))
    assert sent(it) == [2]
    (held,) = [one for one in it.workers.values() if one.queue]
    it.answered(held.number, TaskNumber(2), 1.0)
    assert sent(it) == [3]
    (alone,) = it.withhold(held.node, blamed=False)
    assert (alone.number, alone.past) == (3, None)
    it.may_come([NodeKind("main", 1)])
    it.lose_node(held.node, blamed=False)
    it.resubmit(alone)
    assert sent(it) == []
    it.add_node(held.node, range(1))
    assert sent(it) == [3]
