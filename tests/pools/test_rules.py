"""Tests of the rules of allocations: by example, and in random histories with a pretended Slurm."""

import random
from collections.abc import Callable, Iterator

import attrs
import pytest

from hyperflow.pools import rules as module
from hyperflow.pools.allocation import Allocation, BringUp, DrainNodes, GiveBack, Order, Place, Submit
from hyperflow.pools.kinds import Kind
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.rules import Rules
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions

SMALL = SbatchOptions(ntasks_per_node=4, time="1:00:00")
OTHER = SbatchOptions(ntasks_per_node=8, time="1:00:00", partition="other")

RUNNING = BatchState("running", "RUNNING", nodes="node1")
PENDING = BatchState("pending", "PENDING", reason="Priority")
CANCELLED = BatchState("ended", "CANCELLED")
FAILED = BatchState("ended", "FAILED", exit_code=3)
TIMEOUT = BatchState("ended", "TIMEOUT")


def _rules(*kinds: SbatchOptions, **limits: float) -> Rules:
    chosen = kinds or (SMALL,)
    tokens = iter(range(10_000))
    return Rules(
        NodePool(list(chosen), **limits),  # type: ignore[arg-type]
        [Kind.of(number, each) for number, each in enumerate(chosen)],
        token=lambda: f"token{next(tokens)}",
    )


def _submitted(rules: Rules, now: float = 0.0) -> Allocation:
    (order,) = [each for each in rules.orders(now, [1] * len(rules.kinds)) if isinstance(each, Submit)]
    rules.submitted(order.allocation, 100 + order.allocation.number, now)
    return order.allocation


def _up(rules: Rules, now: float = 0.0, ends: float | None = None) -> Allocation:
    it = _submitted(rules, now)
    rules.slurm_says(it, RUNNING, now)
    rules.started(it, [Place("node1", 4)], ends, now)
    (order,) = rules.orders(now, [0])
    assert isinstance(order, BringUp)
    rules.node_up(it, order.place, now)
    return it


def _state(it: Allocation) -> str:
    """Return its state; for the type checker, anything may have changed it."""
    return it.state


def test_a_life() -> None:
    """Submitted, pending, started, up; drained and given back when it was idle for long enough; ended."""
    rules = _rules(idle_timeout=10, max_queued=1)
    it = _up(rules, 5.0)
    assert it.state == "up"
    rules.looked(it, lambda _: True, 8.0)
    assert not rules.orders(30.0, [0])
    rules.looked(it, lambda _: False, 30.0)
    assert not rules.orders(39.0, [0])
    (order,) = rules.orders(40.0, [0])
    assert isinstance(order, DrainNodes)
    (given,) = rules.orders(40.0, [0])
    assert given == GiveBack(it, "idle timeout")
    assert not rules.orders(41.0, [0])
    rules.slurm_says(it, CANCELLED, 42.0)
    assert (_state(it), it.cause) == ("ended", "idle timeout")
    assert not rules.allocations
    assert not rules.held


def test_limits() -> None:
    """No more than may be queued, nor than there may be."""
    rules = _rules(max_allocations=3, max_queued=2)
    orders = rules.orders(0.0, [9])
    assert [type(order) for order in orders] == [Submit, Submit]
    for order in orders:
        rules.submitted(order.allocation, order.allocation.number, 0.0)
        rules.slurm_says(order.allocation, RUNNING, 0.0)
    assert len(rules.orders(0.0, [9])) == 1
    assert not rules.orders(0.0, [9])


def test_some_are_kept() -> None:
    """So many as are to be kept are there without work, and stay."""
    rules = _rules(min_allocations=1, idle_timeout=1)
    it = _up(rules)
    rules.looked(it, lambda _: False, 0.0)
    assert not rules.orders(1000.0, [0])


def test_refused() -> None:
    """A kind that Slurm refuses is held, and another one goes on; resuming tries again."""
    rules = _rules(SMALL, OTHER, max_queued=1)
    (order,) = rules.orders(0.0, [1, 0])
    rules.refused(order.allocation, "invalid account", 0.0)
    assert rules.held == {0: "invalid account"}
    (order,) = rules.orders(0.0, [1, 1])
    assert order.allocation.kind == 1
    rules.submitted(order.allocation, 7, 0.0)
    rules.slurm_says(order.allocation, RUNNING, 1.0)
    rules.resume()
    (order,) = rules.orders(2.0, [1, 1])
    assert order.allocation.kind == 0


@pytest.mark.parametrize("how", ["failed", "node", "silent"])
def test_held_after_three(how: str) -> None:
    """Three in a row that bring no node up hold their kind, with what the last one said; cancelled ones count not."""
    rules = _rules()
    now = 0.0
    for _ in range(2):
        rules.slurm_says(_submitted(rules), CANCELLED, 0.0)
    for _ in range(3):
        assert not rules.held
        it = _submitted(rules, now)
        rules.slurm_says(it, RUNNING, now)
        match how:
            case "failed":
                rules.slurm_says(it, FAILED, now)
            case "node":
                rules.started(it, [Place("node1", 4)], None, now)
                (order,) = rules.orders(now, [0])
                assert isinstance(order, BringUp)
                rules.node_failed(it, order.place, "no python there", now)
                (given,) = rules.orders(now, [0])
                assert isinstance(given, GiveBack)
                rules.slurm_says(it, CANCELLED, now)
            case _:
                now += module.SILENCE
                (given,) = rules.orders(now, [0])
                assert isinstance(given, GiveBack)
                rules.slurm_says(it, CANCELLED, now)
    said = {"failed": "exit code 3", "node": "no python there", "silent": "nothing was heard of it"}[how]
    assert said in rules.held[0]
    assert not rules.orders(now, [5])


def test_adopted() -> None:
    """What an earlier process has left counts, and is withdrawn if it is not needed; what had ended by then counts not
    as a failure."""
    rules = _rules(max_allocations=4, max_queued=1)
    for number in range(3):
        rules.slurm_says(rules.adopt(number + 5, 0, f"old{number}", number, 0.0), FAILED, 0.0)
    assert not rules.held
    it = rules.adopt(3, 0, "older", 9, 0.0)
    rules.slurm_says(it, PENDING, 0.0)
    assert not rules.orders(0.0, [1])
    rules.slurm_says(it, RUNNING, 0.0)
    (order,) = rules.orders(0.0, [2])
    assert order.allocation.number == 8


def test_hopeless() -> None:
    """What Slurm cannot start as it is, for minutes, is withdrawn, and its kind held."""
    rules = _rules()
    it = _submitted(rules)
    hopeless = attrs.evolve(PENDING, reason="PartitionTimeLimit", hopeless="Slurm cannot start it as it is")
    rules.slurm_says(it, hopeless, 0.0)
    assert not rules.orders(module.HOPELESS - 1, [1])
    (order,) = rules.orders(module.HOPELESS, [1])
    assert isinstance(order, GiveBack)
    assert "PartitionTimeLimit" in rules.held[0]


def test_ebb() -> None:
    """What waits at Slurm and is not needed any more is withdrawn, but not at once."""
    rules = _rules()
    it = _submitted(rules)
    rules.slurm_says(it, PENDING, 0.0)
    assert not rules.orders(10.0, [0])
    assert not rules.orders(20.0, [1])
    assert not rules.orders(30.0, [0])
    assert not rules.orders(30.0 + module.EBB - 1, [0])
    (order,) = rules.orders(30.0 + module.EBB, [0])
    assert isinstance(order, GiveBack)


def test_its_end() -> None:
    """Near its end it is drained, and stays as long as something runs there; at the very end that goes back."""
    rules = _rules()
    it = _up(rules, ends=3600.0)
    rules.looked(it, lambda _: True, 0.0)
    assert not rules.orders(3539.0, [0])
    (order,) = rules.orders(3541.0, [0])
    assert order == DrainNodes(it, "time limit")
    assert not rules.orders(3590.0, [0])
    (given,) = rules.orders(3597.0, [0])
    assert isinstance(given, GiveBack)


def test_a_node_is_lost() -> None:
    """It is tried again, some times; an allocation without a node is given back, and is no reason to hold its kind."""
    rules = _rules()
    it = _up(rules)
    now = 0.0
    (place,) = it.places.values()
    for _ in range(module.TRIES - 1):
        rules.node_failed(it, place, "it was lost", now)
        assert not rules.orders(now, [0])
        now += module.TRY_PAUSE
        (order,) = rules.orders(now, [0])
        assert order == BringUp(it, place)
        rules.node_up(it, place, now)
    rules.node_failed(it, place, "it was lost", now)
    (given,) = rules.orders(now, [0])
    assert isinstance(given, GiveBack)
    rules.slurm_says(it, CANCELLED, now)
    assert not rules.held


def test_a_smaller_pool() -> None:
    """Fewer are allowed: first goes what waits, then what is idle; what is busy is drained, and not ended."""
    rules = _rules(max_queued=9)
    busy, idle = _up(rules), _up(rules)
    waiting = _submitted(rules)
    rules.looked(busy, lambda _: True, 1.0)
    rules.looked(idle, lambda _: False, 1.0)
    rules.limits = rules.limits.changed(max_allocations=2)
    assert [order.allocation for order in rules.orders(1.0, [0])] == [waiting]
    rules.limits = rules.limits.changed(max_allocations=1)
    order, given = rules.orders(1.0, [0])
    assert order == DrainNodes(idle, "the pool became smaller")
    assert given == GiveBack(idle, "the pool became smaller")
    assert _state(busy) == "up"


def test_little_work() -> None:
    """Where others have had room for the work of an allocation for as long as it would have to be idle, it is drained,
    also while it is busy, and then given back."""
    rules = _rules(idle_timeout=10)
    first, second = _up(rules), _up(rules)
    for now in (0.0, 5.0):
        rules.looked(first, lambda _: True, now)
        rules.looked(second, lambda _: True, now)
        rules.has_spare(6, now)
        assert not rules.orders(now, [0])
    rules.has_spare(3, 8.0)
    rules.has_spare(4, 9.0)
    assert not rules.orders(11.0, [0])
    (order,) = rules.orders(19.0, [0])
    assert order == DrainNodes(second, "other allocations have room for its work")
    rules.has_spare(4, 19.0)
    assert not rules.orders(40.0, [0])


def test_clocks_differ() -> None:
    """Where Slurm's clock is not ours, an allocation lasts as long as its limit says; one taken over may end soon."""
    for ends in (-7200.0, 3.0, 10_000.0):
        rules = _rules()
        assert _up(rules, ends=ends).ends == 3590.0
        it = rules.adopt(7, 0, "x", 107, 0.0)
        rules.started(it, [Place("node2", 4)], ends, 0.0)
        assert it.ends == ends
    assert _up(_rules(), ends=3605.0).ends == 3605.0
    assert _up(_rules(), ends=100.0).ends == 100.0


def test_kept_for_several() -> None:
    """While something waits for several nodes at a time, one that is up is not given back, if others may come."""
    rules = _rules(idle_timeout=10)
    it = _up(rules)
    rules.gathering = {0}
    rules.looked(it, lambda _: False, 0.0)
    assert not rules.orders(20.0, [0])
    rules.pause()  # no other one comes
    assert rules.orders(20.0, [0])[0] == DrainNodes(it, "idle timeout")


def test_two_of_one_machine() -> None:
    """Nodes of two allocations on one machine have two names, and others than a host has."""
    rules = _rules()
    first, second = _up(rules), _up(rules)
    names = [(place.name, place.host) for it in (first, second) for place in it.places.values()]
    assert names == [("node1", "node1"), ("node1.102", "node1")]
    rules = _rules()
    rules.limits = rules.limits.changed(hosts={"node1": 2})
    assert list(_up(rules).places) == ["node1.101"]


class _History:
    """A random history: a pretended Slurm, nodes, work, and people; the promises are checked at each order."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        kinds = (SMALL, OTHER)[: self.random.randint(1, 2)]
        self.rules = _rules(
            *kinds,
            max_allocations=self.random.randint(1, 5),
            max_queued=self.random.randint(1, 3),
            min_allocations=0,
            idle_timeout=self.random.choice([1, 20, 100]),
        )
        self.now = 0.0
        self.jobs: dict[int, BatchState] = {}  # what Slurm really has
        self.of: dict[int, Allocation] = {}
        self.busy: set[tuple[int, str]] = set()
        self.trying: list[BringUp] = []
        self.submitting: list[Allocation] = []
        self.ordered: set[tuple[str, int]] = set()
        self.need = [0] * len(kinds)

    def play(self) -> None:
        for _ in range(self.random.randint(20, 150)):
            self.random.choice([*self.events()])()
            self.turn()
        self.end()

    def events(self) -> Iterator[Callable[[], None]]:
        yield from (self.wait, self.wait, self.wants, self.work, self.work)
        yield from (self.sbatch, self.starts, self.starts, self.holder, self.holder, self.node, self.node)
        yield from (self.loses, self.cancels, self.fails, self.people)

    def turn(self) -> None:
        rules = self.rules
        for job, it in self.of.items():
            if it.number in rules.allocations and self.random.random() < 0.7:  # squeue has told
                rules.slurm_says(it, self.jobs[job], self.now)
        for it in [*rules.allocations.values()]:
            if it.state in ("up", "draining"):
                rules.looked(it, lambda name, it=it: (it.number, name) in self.busy, self.now)  # type: ignore[misc]
        rules.has_spare(self.random.choice([0, 4, 100]), self.now)
        for order in rules.orders(self.now, self.need):
            self.check(order)
            self.obey(order)

    def check(self, order: Order) -> None:
        rules, it = self.rules, order.allocation
        match order:
            case Submit():
                assert len(rules.allocations) <= rules.limits.max_allocations
                assert len(rules.of("submitting", "pending")) <= rules.limits.max_queued
                assert not rules.paused
                assert it.kind not in rules.held
                assert ("submit", it.number) not in self.ordered
                self.ordered.add(("submit", it.number))
            case GiveBack():
                assert ("back", it.number) not in self.ordered
                self.ordered.add(("back", it.number))
                over = it.ends is not None and self.now >= it.ends - module.LAST
                lost = all(place.state in ("failed", "lost") for place in it.places.values())
                assert over or lost or not any(number == it.number for number, _ in self.busy)
            case BringUp(_, place):
                assert place.state == "trying"
                assert it.state in ("starting", "up")
            case _:
                pass

    def obey(self, order: Order) -> None:
        match order:
            case Submit(it):
                self.submitting.append(it)
            case BringUp():
                self.trying.append(order)
            case GiveBack(it, _):
                self.busy = {each for each in self.busy if each[0] != it.number}
                if it.slurm_job is not None:
                    self.finish(it.slurm_job, CANCELLED)
            case _:
                pass

    def finish(self, job: int, state: BatchState) -> None:
        if not self.jobs[job].final:
            self.jobs[job] = state
            self.busy = {each for each in self.busy if each[0] != self.of[job].number}

    # ---- events -------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        self.now += self.random.choice([0.3, 5.0, 40.0, 400.0])
        for job, it in self.of.items():
            if it.ends is not None and self.now >= it.ends:
                self.finish(job, TIMEOUT)

    def wants(self) -> None:
        self.need = [self.random.choice([0, 0, 1, 3, 20]) for _ in self.need]

    def sbatch(self) -> None:
        if self.submitting:
            it = self.submitting.pop(0)
            match self.random.random():
                case chance if chance < 0.8:
                    job = 1000 + it.number
                    self.jobs[job], self.of[job] = PENDING, it
                    self.rules.submitted(it, job, self.now)
                case chance if chance < 0.9:
                    self.rules.refused(it, "no", self.now)
                case _:
                    self.rules.not_submitted(it, "disk full", self.now)

    def starts(self) -> None:
        for job, state in self.jobs.items():
            if state == PENDING:
                self.jobs[job] = RUNNING
                return

    def holder(self) -> None:
        for job, it in self.of.items():
            if self.jobs[job] == RUNNING and it.state in ("pending", "starting") and not it.places:
                names = [f"node{number}" for number in range(self.random.randint(1, 2))]
                ends = self.now + self.random.choice([100.0, 3600.0])
                self.rules.started(it, [Place(name, 4) for name in names], ends, self.now)
                return

    def node(self) -> None:
        if self.trying:
            it, place = self.trying.pop(0)
            if it.state in ("starting", "up") and self.random.random() < 0.7:
                self.rules.node_up(it, place, self.now)
            else:
                self.rules.node_failed(it, place, "no", self.now)

    def loses(self) -> None:
        for it in self.rules.of("up"):
            if it.up:
                place = self.random.choice(it.up)
                self.busy.discard((it.number, place.name))
                self.rules.node_failed(it, place, "lost", self.now)
                return

    def work(self) -> None:
        if self.busy and self.random.random() < 0.5:
            self.busy.pop()
            return
        for it in self.rules.of("up"):
            for place in it.up:
                self.busy.add((it.number, place.name))

    def cancels(self) -> None:
        if self.jobs:
            self.finish(self.random.choice([*self.jobs]), CANCELLED)

    def fails(self) -> None:
        if self.jobs:
            self.finish(self.random.choice([*self.jobs]), FAILED)

    def people(self) -> None:
        match self.random.randint(0, 3):
            case 0:
                self.rules.pause()
            case 1:
                self.rules.resume()
            case 2:
                most = self.random.randint(1, 5)
                self.rules.limits = self.rules.limits.changed(max_allocations=most)
            case _:
                pass

    def end(self) -> None:
        """Nothing waits any more: sooner or later nothing is left."""
        self.need = [0] * len(self.need)
        for _ in range(200):
            self.busy.clear()
            self.now += 20.0
            self.sbatch()
            self.starts()
            self.holder()
            self.node()
            self.turn()
        assert not self.rules.allocations, self.rules.allocations
        assert all(state.final for state in self.jobs.values())


@pytest.mark.parametrize("part", range(3))
def test_random_histories(part: int) -> None:
    """Whatever happens, in whatever order: the limits hold, nothing is ended that runs, and everything ends."""
    for seed in range(part * 100, part * 100 + 100):
        try:
            _History(seed).play()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
