"""The harness: in which order it tries cases, and what it makes of one that fails by itself."""

import itertools
import random
from pathlib import Path
from typing import NoReturn

import pytest

from tests.chaos import harness
from tests.chaos.case import Case, NotRun
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

CASES = [*(Case("large", str(number)) for number in range(20)), *(Case("small", str(number)) for number in range(2))]


def first(count: int, seed: str) -> list[tuple[str, str]]:
    """Return titles and seeds of what comes first."""
    return [(case.title, seed) for case, seed in itertools.islice(harness.in_turn(CASES, seed), count)]


def test_an_order_is_repeated_by_its_seed() -> None:
    """Another seed gives another one."""
    assert first(30, "a") == first(30, "a")
    assert first(30, "a") != first(30, "b")


def test_tables_take_turns() -> None:
    """A small table does not wait for a large one; all cases come before one comes again, with another seed."""
    titles = [title for title, _ in first(22, "a")]

    assert sum(title.startswith("small") for title in titles[:4]) == 2
    assert set(titles) == {case.title for case in CASES}
    assert {seed for _, seed in first(44, "a")} == {"a.0", "a.1"}


def no_such_disk(place: Path, workload: Workload, rng: random.Random) -> NoReturn:
    """Be a world that this machine does not have."""
    raise NotRun("no disk here")


def broken_world(place: Path, workload: Workload, rng: random.Random) -> Run:
    """Be a world that fails."""
    raise ZeroDivisionError


def test_what_cannot_be_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It counts as not run, with the reason, and leaves nothing."""
    monkeypatch.setitem(harness.WORLDS, "local", no_such_disk)
    result = harness.try_one(CASES[0], "a", tmp_path)

    assert (result.not_run, list(result.broken)) == ("no disk here", [])
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is as bad as a broken promise, and its evidence is kept."""
    monkeypatch.setitem(harness.WORLDS, "local", broken_world)
    result = harness.try_one(CASES[0], "a", tmp_path)

    assert [broken.promise for broken in result.broken] == [Promise.SETTLED]
    assert "ZeroDivisionError" in result.details()
    assert result.evidence is not None
    assert result.evidence.exists()


def test_time_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is begun any more."""
    monkeypatch.setitem(harness.WORLDS, "local", broken_world)

    assert harness.try_many(CASES, "a", 0, 2, tmp_path, lambda result: None) == []
