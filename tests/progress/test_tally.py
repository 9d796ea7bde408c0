"""How evaluations are counted by group, and what is told of many."""

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperflow.progress import tally
from hyperflow.progress.tally import (
    MOST_SAMPLED,
    OTHERS,
    Counts,
    Course,
    Group,
    Snapshot,
    Tally,
    courses,
    fewer,
    length,
)


@attrs.frozen
class Map:
    """A map that runs."""

    title: str
    ended: int
    total: int | None


def finished(counted: Tally, name: str, count: int = 1) -> None:
    """Submit evaluations that end at once."""
    counted.submitted(name, count)
    for _ in range(count):
        counted.of[name].ended(0.5)


def test_a_group() -> None:
    """What neither runs nor has ended waits; there are never fewer than none."""
    group = Group("f", submitted=10, done=3, failed=2, cancelled=1, running=1)
    assert (group.ended, group.waiting, group.alive) == (6, 3, True)
    assert Group("f", submitted=1, running=2).waiting == 0  # a straggler has a copy
    assert not Group("f", submitted=1, done=1).alive


def test_memory_follows_what_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that have ended are joined when there are many, and nothing is lost; those that are alive stay."""
    monkeypatch.setattr(tally, "MOST_ENDED", 10)
    counted = Tally()
    counted.submitted("alive", 1)
    for number in range(1000):
        finished(counted, f"scan {number}")
        assert len(counted.of) < 40
    assert counted.of["alive"].alive()
    counted.of["alive"].failed += 1
    assert sum(counts.done for counts in counted.of.values()) == 1000
    assert counted.of[OTHERS].done > 900


def test_a_snapshot() -> None:
    """It has all groups in the order in which they came, and survives the way through JSON, newer members included."""
    counted = Tally()
    finished(counted, "f", 3)
    counted.submitted("g", 2)
    counted.maps.add(Map("map of g", 1, 5))
    stands = counted.snapshot({"g": 1}, cpus=4, busy=1, nodes=1)
    assert stands.groups == (Group("f", 3, 3), Group("g", 2, running=1))
    assert (stands.courses, stands.alive) == ((Course("map of g", 1, 5),), True)
    data = json.loads(json.dumps(stands.to_json())) | {"new": 1}
    data["groups"][0]["new"] = 1
    assert Snapshot.from_json(data) == stands


def test_what_has_come_since() -> None:
    """Only that is counted; groups of which nothing has come are left out; joined ones do not become negative."""
    earlier = Snapshot((Group("f", 3, 3), Group("g", 2, 1, 1), Group("h", 5, 5)))
    now = Snapshot((Group("f", 3, 3), Group("g", 5, 2, 1, 0, 1), Group("h", 1, 1), Group("new", 1, 1)))
    assert now.since(earlier).groups == (Group("g", 3, 1, 0, 0, 1), Group("new", 1, 1))


def test_many_groups_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are alive are told apart first."""
    monkeypatch.setattr(tally, "MOST_TOLD", 3)
    groups = [Group("a", 9, 9), Group("b", 2, 1), Group("c", 1, 1), Group("d", 1, 0)]
    assert fewer(groups) == (Group("b", 2, 1), Group("d", 1, 0), Group(OTHERS, 10, 10))
    assert fewer(groups[:3]) == tuple(groups[:3])
    assert len(courses([Map(str(number), 0, 1) for number in range(5)])) == 3


def test_maps_of_one_title_are_one() -> None:
    """Nested maps are many; where one has no known length, all have none."""
    maps = [Map("f", 1, 10), Map("f", 2, 10), Map("g", 1, None), Map("g", 1, 5)]
    assert courses(maps) == (Course("f", 3, 20), Course("g", 2, None))


def test_lengths() -> None:
    """An iterator has none, nor what fails to tell it."""

    class Liar:
        def __len__(self) -> int:
            raise OSError("no")

    assert [length(xs) for xs in ([1, 2], range(3), iter([1]), Liar())] == [2, 3, None, None]


@given(st.lists(st.lists(st.floats(0, 100, width=32), min_size=1, max_size=700), max_size=12))
@settings(max_examples=30)
def test_what_a_function_has_used(parts: list[list[float]]) -> None:
    """Sums are of all; quantiles are those of a sample that is evenly spread, however the seconds come."""
    counts, whole = Counts(), list[float]()
    for part in parts:
        for seconds in part:
            counts.ended(seconds)
        whole += part
        counts.settle()
    found = counts.statistics()

    assert (found.done, found.longest) == (len(whole), max(whole, default=0.0))
    assert found.seconds == pytest.approx(sum(whole))
    step = len(whole) // max(len(found.sample), 1)
    assert list(found.sample) == whole[:: 1 << max(step.bit_length() - 1, 0)][: len(found.sample)]
    assert len(found.sample) >= min(len(whole), MOST_SAMPLED // 2)
    assert len(found.sample) < MOST_SAMPLED


def test_statistics_of_a_function() -> None:
    """What was measured is added up; of memory, the most counts. Groups that are joined lose nothing."""
    one, other = Counts(), Counts()
    one.usage.used(1.0, 100, 10, 20)
    one.usage.used(2.0, 50, 1, 2)
    other.usage.used(3.0, 200, 5, 5)
    other.ended(4.0)
    other.usage.short += 0.5
    one.join(other)
    found = one.statistics()

    assert (found.cpu, found.memory, found.read, found.written, found.measured) == (6.5, 200, 16, 27, 3)
    assert (found.done, found.seconds, found.median) == (1, 4.0, 4.0)
