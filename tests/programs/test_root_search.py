"""programs/root_search.py: right brackets, nothing computed twice, clear errors before any work."""

import math
import re
import subprocess
from fractions import Fraction
from pathlib import Path

import pytest

from tests.helpers import block_until
from tests.programs.runs import command, figures, run, surroundings

ROW = re.compile(r"([234])  (\S+) +(\S+) +(\S+) +\S+e[+-]\d+")
LINES_OF_RESULTS = 11  # a heading, three rows for each n, the checks


def counts(output: str) -> tuple[int, int]:
    """Return how many evaluations ran, and how many results were found in the database."""
    numbers = figures(output)
    return int(numbers["evaluations"].split()[0]), int(numbers["from database"])


def rows(output: str) -> list[tuple[int, float, float, float]]:
    """Return the table: n, x, low, high."""
    found = ROW.findall(output)
    return [(int(n), float(x), float(low), float(high)) for n, x, low, high in found]


def newest_run(directory: Path) -> Path:
    """Return the directory of the newest run."""
    return max((directory / "hyperflow-runs").iterdir())


def test_second_run_computes_nothing(tmp_path: Path) -> None:
    """The first run evaluates every n and x, one with its database none; both give the same brackets, right ones."""
    words = ("--local", "--points", "101", "--x-min", "0.5", "--x-max", "20", "--eps", "1e-9")
    first = run("root_search.py", *words, cwd=tmp_path).stdout
    database = newest_run(tmp_path) / "results.sqlite"
    second = run("root_search.py", *words, "--database", database, cwd=tmp_path).stdout

    assert counts(first) == (303, 0)
    assert figures(second)["evaluations"].strip() == "0: nothing was left to compute"
    assert figures(second)["from database"] == "303"
    assert first.splitlines()[:LINES_OF_RESULTS] == second.splitlines()[:LINES_OF_RESULTS]
    assert "303 of 303 brackets checked and right" in first
    assert [(n, x) for n, x, _, _ in rows(first)] == [(n, x) for n in (2, 3, 4) for x in (0.5, 10.25, 20.0)]
    for n, x, low, high in rows(first):
        assert Fraction(low) ** n <= Fraction(x) <= Fraction(high) ** n
        assert high - low <= 1e-9


def test_more_points_compute_only_what_is_new(tmp_path: Path) -> None:
    """Points of an earlier run are found in its database among new ones."""
    run("root_search.py", "--local", "--points", "11", cwd=tmp_path)
    database = newest_run(tmp_path) / "results.sqlite"
    finer = run("root_search.py", "--local", "--points", "21", "--database", database, cwd=tmp_path).stdout

    assert counts(finer) == (30, 33)


def test_killed_run_goes_on(tmp_path: Path) -> None:
    """What was recorded when the program was killed is not computed again."""
    words = ("--local", "--points", "2001")

    def recorded() -> int:
        files = tmp_path.glob("hyperflow-runs/*/jobs/*/results.*.sqlite*")
        return sum(file.stat().st_size for file in files)

    with subprocess.Popen(
        command("root_search.py", *words),
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        block_until(lambda: recorded() > 150_000, 20, "results on the disk", state=recorded)
        process.kill()
    output = run("root_search.py", *words, "--resume", newest_run(tmp_path).name, cwd=tmp_path).stdout

    computed, found = counts(output)
    assert computed + found == 6003
    assert 0 < found < 6003
    assert "6003 of 6003 brackets checked and right" in output


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("--x-max", "0", "--points", "3"), 0.0),
        (("--x-min", "1e-320", "--x-max", "1e-310", "--points", "3", "--eps", "1e-300"), 1e-310),
        (("--x-max", "1.7e308", "--points", "3", "--eps", "1e-300"), 1.7e308),
        (("--x-min", "0.25", "--x-max", "0.5", "--points", "1"), 0.25),
    ],
)
def test_extreme_points_have_right_brackets(tmp_path: Path, words: tuple[str, ...], last: float) -> None:
    """Zero, numbers below 1, the smallest and the largest; eps below the distance of floats gives neighbours."""
    output = run("root_search.py", "--local", *words, cwd=tmp_path).stdout

    assert rows(output)[-1][:2] == (4, last)
    for n, x, low, high in rows(output):
        assert Fraction(low) ** n <= Fraction(x) <= Fraction(high) ** n
        assert high - low <= 1e-12 or math.nextafter(low, math.inf) == high


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--x-min", "-1"), "--x-min -1: a number of at least 0"),
        (("--x-min", "nan"), "--x-min nan: a number of at least 0"),
        (("--x-min", "3", "--x-max", "2"), "--x-max 2: a number of at least --x-min = 3"),
        (("--x-max", "inf"), "--x-max inf"),
        (("--points", "0"), "--points 0: at least 1"),
        (("--points", "many"), '"many"'),
        (("--eps", "0"), "--eps 0: a positive number"),
        (("--eps", "nan"), "--eps nan: a positive number"),
        (("--max-jobs", "0"), "--max-jobs"),
        (("--nonsense",), "--nonsense"),
        (("--base-dir", "/proc/nothing"), "cannot write in /proc/nothing"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    """What makes no sense is told in one line, with exit code 2, and nothing is made."""
    ended = run("root_search.py", "--local", *words, cwd=tmp_path, code=2)

    assert complaint in ended.stderr
    assert ended.stderr.startswith("root_search.py: ")
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout
    assert not list(tmp_path.iterdir())


def test_help_tells_every_option(tmp_path: Path) -> None:
    """--help names the options with their defaults, and needs nothing."""
    output = run("root_search.py", "--help", cwd=tmp_path).stdout

    assert all(f"--{name}" in output for name in ("x-min", "x-max", "points", "eps", "local", "base-dir"))
    assert "5001" in output
    assert not list(tmp_path.iterdir())
