"""The ledger: what the kernel says about who works on what, and what a killed process leaves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger, value_of, work
from tests.imports import TOP

WORKING = """
import sys
from pathlib import Path
from tests.chaos.ledger import Ledger
with Ledger(Path(sys.argv[1])).working(int(sys.argv[2]), 1):
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Give the test an empty ledger in the program's first turn."""
    monkeypatch.setenv("CHAOS_TURN", "0")
    return Ledger(tmp_path)


@contextmanager
def other(ledger: Ledger, key: int) -> Iterator[subprocess.Popen[str]]:
    """Hold another process that works on a key, on a host with one seat."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(ledger.place), str(key)],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "at work\n"
        try:
            yield process
        finally:
            process.kill()


def told(ledger: Ledger, key: int) -> list[str]:
    """Return what the lines of a key say."""
    return [entry.what for entry in ledger.entries() if entry.key == key]


def test_alone(ledger: Ledger) -> None:
    """A task alone starts and ends; its value is that of its key."""
    assert work(str(ledger.place), 3, 0, seats=1) == value_of(3)
    assert told(ledger, 3) == ["start", "end"]


def test_the_same_key_twice(ledger: Ledger) -> None:
    """Who comes second writes that down."""
    with other(ledger, 3):
        work(str(ledger.place), 3, 0, seats=2)

    assert told(ledger, 3) == ["start", "taken", "start", "end"]


def test_more_than_there_are_seats(ledger: Ledger) -> None:
    """Who finds no seat writes that down."""
    with other(ledger, 3):
        work(str(ledger.place), 4, 0, seats=1)

    assert told(ledger, 4) == ["crowded", "start", "end"]


def test_a_killed_task_holds_nothing(ledger: Ledger) -> None:
    """Its key and its seat are free, and it has no end."""
    with other(ledger, 3) as process:
        process.kill()
        process.wait()
        work(str(ledger.place), 3, 0, seats=1)

    assert told(ledger, 3) == ["start", "start", "end"]
