"""programs/hello_world.py: one greeting from every CPU."""

import os
import re
from pathlib import Path

from tests.programs.runs import run


def test_every_cpu_greets(tmp_path: Path) -> None:
    """Each CPU that the program may use greets once, from a worker of its own, and nothing is left behind."""
    lines = run("hello_world.py", cwd=tmp_path).stdout.splitlines()

    found = [re.fullmatch(r"Hello (\d+) from worker-(\d+)@\S+, CPU (\d+)", line) for line in lines]
    assert all(found)
    numbers, workers, cpus = zip(*(one.groups() for one in found if one), strict=True)
    assert [int(number) for number in numbers] == list(range(len(lines)))
    assert len(set(workers)) == len(set(cpus)) == len(lines)
    assert {int(cpu) for cpu in cpus} <= os.sched_getaffinity(0)
    assert not list(tmp_path.iterdir())


def test_help(tmp_path: Path) -> None:
    """--help says what it does."""
    assert "hello from every CPU" in run("hello_world.py", "--help", cwd=tmp_path).stdout
