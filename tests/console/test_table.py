"""The table of jobs: every width, any number of jobs, hostile names."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from hyperflow.console.table import counts_in_words, jobs_table, print_table, shown
from hyperflow.master.lifecycle import State
from hyperflow.master.view import JobView, Progress
from hyperflow.saying import age


def job(number: int, state: State, name: str = "f(1)", cause: str = "") -> JobView:
    """Return a job."""
    return JobView(number, name, state, 4711, "", "node1", Progress(1, 2, 30, 4), cause, 0.0, 1, Path("/x"))


@pytest.mark.parametrize("width", [20, 30, 40, 60, 89, 90, 200])
def test_every_width(width: int) -> None:
    """No line is longer than the terminal, and from 40 columns on each job has one line with its state."""
    jobs = [job(n, state, "find[bold](" + "x" * 300, "exception: a\nb" * 50) for n, state in enumerate(State, 1)]
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=True, color_system=None).print(jobs_table(jobs, 99.0, width=width))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 40:
        assert len(lines) == len(jobs) + 1
        for line, one in zip(lines[1:], jobs, strict=True):
            assert re.match(rf"\s*{one.number}  fi.* {one.state} .* 30/2/4", line)


@pytest.mark.parametrize("width", [60, 80])
def test_calls_of_one_function_look_different(width: int) -> None:
    """A call that is too long is cut in its middle, because calls of one function often differ at their ends."""
    names = [f"simulate(Grid(low=0.0, high=10.0, count=20001), seed={n})" for n in range(3)]
    jobs = [job(n, State.HELD, name, "exception: no convergence") for n, name in enumerate(names)]
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(jobs_table(jobs, 99.0, width=width))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for n, line in enumerate(lines[1:]):
        assert re.match(rf"{n}  simul.*….*={n}\)", line), line
    wide = [job(1, State.HELD, "計算" * 40 + "(1)")]
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(jobs_table(wide, 99.0, width=width))
    assert re.search(r"計.*….*\(1\) +held", output.getvalue())


def test_a_pipe_gets_everything() -> None:
    """Into a pipe goes all of it, without colours, one line for each job."""
    output = io.StringIO()
    long = "name-" + "x" * 400
    print_table(jobs_table([job(1, State.HELD, long, "time limit: " + "y" * 300)], 3700.0, width=1000), output)
    heading, line = output.getvalue().splitlines()
    assert heading.split() == ["#", "job", "state", "Slurm", "nodes", "or", "reason", "done/run/fail", "since"]
    assert line.split() == ["1", long, "held", "4711", "time", "limit:", "y" * 300, "30/2/4", "1:01", "h"]


def test_little_room_is_for_what_matters() -> None:
    """With room for some, those that need somebody and those that run are shown, in the order of their numbers."""
    states = [State.DONE, State.NEW, State.RUNNING, State.DONE, State.HELD, State.QUEUED]
    jobs = [job(number, state) for number, state in enumerate(states, 1)]
    assert [one.number for one in shown(jobs, 3)] == [3, 5, 6]
    assert shown(jobs, 6) == shown(jobs, None) == jobs


def test_words() -> None:
    """Counts and times for people."""
    assert counts_in_words([State.DONE, State.HELD, State.DONE]) == "1 held, 2 done"
    assert counts_in_words([]) == "no jobs yet"
    assert [age(s) for s in (-1, 59.9, 60, 3599, 3600, 86399, 200_000)] == [
        *("0 s", "59 s", "1 min", "59 min", "1:00 h", "23:59 h", "2 d 7 h")
    ]
