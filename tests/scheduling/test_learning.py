"""What is learned of a function: pure numbers, against random histories."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from hyperflow.request import Capacity, Request
from hyperflow.scheduling.learning import FEW, KEPT, LEAST, MARGIN, QUANTILE, Learned, Recent, stepped
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import CANCELLED, WAITING, Send, Task
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber

GIB = 1 << 30

sizes = st.integers(1, 1 << 44)


@given(sizes)
def test_steps_are_a_little_more(size: int) -> None:
    """At most an eighth more, or a step; and the same again."""
    found = stepped(size, least=1)

    assert size <= found <= max(size * 1.125, size + 1)
    assert stepped(found, least=1) == found
    assert stepped(size) % (1 << 20) == 0


@given(st.lists(st.integers(0, 100), max_size=2 * KEPT + 10))
def test_the_last_ones_count(values: list[int]) -> None:
    """The quantile is that of the last values, by definition; nothing while there are too few."""
    recent = Recent(values)
    last = sorted(values[-KEPT:])

    if len(last) < FEW:
        assert recent.most() is None
    else:
        most = recent.most()
        assert most is not None
        assert sum(value <= most for value in last) >= QUANTILE * len(last)
        assert most == last[math.ceil(QUANTILE * len(last)) - 1]
    assert recent.last(5) == values[-5:]


@given(st.lists(st.integers(1, 8 * GIB), min_size=1, max_size=60), st.sampled_from([1, 2, 4]))
@settings(max_examples=200)
def test_every_evaluation_that_fits_a_node_ends(peaks: list[int], cpus: int) -> None:
    """Whatever evaluations need, each gets it after a few tries; nobody gets more than a node has."""
    whole, share = 8 * GIB, cpus * GIB
    known = Learned()
    for peak in peaks:
        limit, tries = known.memory(share, whole), 1
        assert 0 < limit <= whole
        while peak > limit:
            again = known.more(limit, peak, 1.0, share, whole)
            assert again is not None
            assert limit < again <= whole
            limit, tries = again, tries + 1
        known.ended(peak, 1.0, limit)
        assert tries <= 2 + math.log2(whole / LEAST)

    assert known.exceeded == 0 or max(peaks) > LEAST
    assert known.used <= known.given


def test_a_whole_node_is_all() -> None:
    """What needs more than a node is not tried again."""
    known = Learned()

    assert known.more(4 * GIB, 5 * GIB, 1.0, GIB, 8 * GIB) == 8 * GIB
    assert known.more(8 * GIB, 9 * GIB, 1.0, GIB, 8 * GIB) is None
    assert known.exceeded == 1


def test_what_was_needed_is_given_with_a_margin() -> None:
    """A share at first, then what the last ones needed, also when that is less; and what is seen is not tried again."""
    known = Learned()
    assert known.memory(GIB, 8 * GIB) == GIB
    again = known.more(GIB, GIB + 1, 1.0, GIB, 8 * GIB)
    assert again == 2 * GIB
    assert known.memory(GIB, 8 * GIB) == 2 * GIB, "others start with what the first one turned out to need"
    for _ in range(FEW):
        known.ended(100 << 20, 30.0, GIB)

    assert (100 << 20) * MARGIN <= known.memory(GIB, 8 * GIB) <= (100 << 20) * MARGIN * 1.125
    assert 30 * MARGIN <= known.min_time() <= 30 * MARGIN * 1.125
    assert Learned().min_time() == 0
    kept = Learned(known.peaks.last(50), known.seconds.last(50))
    assert kept.memory(GIB, 8 * GIB) == known.memory(GIB, 8 * GIB)


@given(st.integers(LEAST, 4 * GIB), st.floats(0.0, 0.5), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_few_are_killed_and_little_is_wasted(size: int, spread: float, random: object) -> None:
    """Of evaluations whose needs differ by up to a half, few are killed, and most of what is given comes to use."""
    known, whole, share = Learned(), 16 * GIB, GIB
    uniform = random.uniform  # type: ignore[attr-defined]
    for _ in range(300):
        peak, limit = int(size * uniform(1 - spread, 1)), known.memory(share, whole)
        while peak > limit:
            again = known.more(limit, peak, 1.0, share, whole)
            assert again is not None
            limit = again
        known.ended(peak, 1.0, limit)

    assert known.exceeded <= 10
    assert known.used > 0.45 * known.given


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.booleans()), min_size=1, max_size=40), st.data())
@settings(max_examples=100)
def test_asking_again_loses_nothing(asked: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Each that waits is started once, and those that ask for the same in the order of their numbers."""
    scheduler = Scheduler()
    scheduler.add_node("n", range(4), Capacity(memory=4 * GIB))
    tasks: list[Task] = []
    for number, (cpus, memory, cancelled) in enumerate(asked, 1):
        task = Task(TaskNumber(number), DefinitionNumber(1), cpus, request=Request(cpus, memory=memory * GIB))
        scheduler.submit(task)
        tasks.append(task)
        if cancelled:
            scheduler.cancel(task)
    started: list[Task] = []
    while scheduler.waiting or scheduler.sent:
        waiting = [task for task in tasks if task.state is WAITING]
        chosen = data.draw(st.lists(st.sampled_from(waiting), unique_by=id)) if waiting else []
        scheduler.ask_again([task for task in chosen if task.cpus == 1], Request(1, memory=GIB))
        new = [task for effect in scheduler.schedule() if type(effect) is Send for task in effect.tasks]
        assert new
        started += new
        for task in new:
            assert task.worker is not None
            scheduler.answered(task.worker.number, task.number, 1.0)
    assert {task.number for task in started} == {task.number for task in tasks if task.state is not CANCELLED}
    assert len(started) == len(set(started))
    scheduler.settle()
    assert scheduler.pool.nodes["n"].asked_memory == 0
