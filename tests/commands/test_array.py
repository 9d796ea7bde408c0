"""`hyperflow array --local`, as it is typed: what runs, how it ends, how it goes on, and what is refused."""

import ast
import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from tests.commands.typing_commands import SHOW, numbers, run_of, start_of, type_in, typing
from tests.helpers import alive, block_until

pytestmark = pytest.mark.process

ADD = ["sh", "-c", 'echo $1 >> "$0"']
"""Adds a number to a file: the first argument, and the second one."""

ODD = [
    "a b",
    "'",
    '"',
    "$(id)",
    "`id`",
    "-n",
    "--local",
    "--",
    "*",
    "é",
    "a\\b",
    "{{n}}",
    " ",
    "\t",
    "#",
    "~",
    ";ls",
    "\r x",
]
"""Lines that a shell, or an option parser, would make something else of."""


def outputs(place: Path, run: str = "") -> str:
    """Return what all tasks of the newest run have written."""
    typed = type_in(place, "output", run or run_of(place).name)
    assert typed.code == 0, typed.err
    return typed.out


def test_lines_arrive(tmp_path: Path) -> None:
    """Each line is one argument, byte for byte; so are the words behind `--`, options and hyphens included."""
    (tmp_path / "lines").write_text("\n".join(ODD) + "\n")
    words = ["--local", "--", "-x", "--help", "{{}}", "", "x{line}y", "{n}", "$HOME", "a\nb"]
    typed = type_in(tmp_path, "array", "--each-line", "lines", "--local", "--", *SHOW, *words)
    assert typed.code == 0, typed.err
    found = [ast.literal_eval(line) for line in outputs(tmp_path).splitlines()]
    assert found == [
        [
            *(b"--local", b"--", b"-x", b"--help", b"{}", b""),
            *(f"x{line}y".encode(), str(number).encode(), b"$HOME", b"a\nb"),
        ]
        for number, line in enumerate(ODD, 1)
    ]


def test_objects_arrive(tmp_path: Path) -> None:
    """Members of objects arrive as arguments, line breaks included, from standard input, too."""
    objects = '{"x": "a\\nb", "y": 1.50, "z": true}\n{"x": "", "y": -1, "z": false}\n'
    typed = type_in(
        tmp_path, "array", "--each-json", "-", "--local", "--", *SHOW, "{json.x}", "{json.y}{json.z}", text=objects
    )
    assert typed.code == 0, typed.err
    found = [ast.literal_eval(line) for line in outputs(tmp_path).splitlines()]
    assert found == [[b"a\nb", b"1.5true"], [b"", b"-1false"]]


def test_what_each_task_is_given(tmp_path: Path) -> None:
    """Variables, the directory and standard input are as they were asked for, with placeholders."""
    for number in (1, 2):
        (tmp_path / f"d{number} x").mkdir()
        (tmp_path / f"d{number} x" / "in").write_text(f"read {number}")
    given = (
        "--env",
        "A={n}=b",
        "--env",
        "HERE",
        "--cwd",
        "d{n} x",
        "--stdin",
        "in",
        "--retries",
        "1",
        "--name",
        "mine",
    )
    words = ("--", "sh", "-c", 'echo "$A $HERE $(basename "$PWD") $(cat)"')
    typed = type_in(tmp_path, "array", "--range", "1-2", "--local", *given, *words, HERE="{n}")
    assert typed.code == 0, typed.err
    assert outputs(tmp_path) == "1=b {n} d1 x read 1\n2=b {n} d2 x read 2\n"


@pytest.mark.timeout(120)  # many commands, one after the other
def test_exit_codes_and_retry(tmp_path: Path) -> None:
    """Failures are counted and told, with what to type; what is retried is what has failed, and each is done once."""
    command = ("sh", "-c", "test -e ok || test {n} -gt 3 && echo {n} >> ran")
    typed = type_in(tmp_path, "array", "--range", "1-10", "--local", "--", *command)
    home = run_of(tmp_path)
    assert typed.code == 1
    assert "7 done, 3 failed" in typed.err
    assert f"hyperflow retry {home.name} --tasks failed" in typed.err
    assert start_of(home).exit_code == 1
    (tmp_path / "ok").touch()
    typed = type_in(tmp_path, "retry", home.name, "--tasks", "2")
    assert (typed.code, numbers(tmp_path / "ran")) == (0, [2, *range(4, 11)]), typed.err
    assert "2 left" in typed.err
    typed = type_in(tmp_path, "retry", home.name, "--tasks", "failed")
    assert (typed.code, numbers(tmp_path / "ran")) == (0, [*range(1, 11)]), typed.err
    typed = type_in(tmp_path, "resume", home.name)
    assert (typed.code, numbers(tmp_path / "ran")) == (0, [*range(1, 11)]), typed.err
    assert "10 done (10 of them before)" in typed.err


def test_max_failed(tmp_path: Path) -> None:
    """After so many failures the rest is cancelled, what runs is ended; resumed, it runs."""
    (tmp_path / "bad").touch()
    command = ("sh", "-c", "test {n} -gt 2 && test -e bad && exec sleep 100; test ! -e bad && echo {n} >> ran")
    typed = type_in(tmp_path, "array", "--range", "1-500", "--local", "--max-failed", "1", "--", *command)
    counts = start_of(run_of(tmp_path)).counts
    assert typed.code == 1
    assert counts is not None
    assert counts.failed >= 1
    assert (counts.done, counts.failed + counts.cancelled) == (0, 500)
    (tmp_path / "bad").unlink()
    typed = type_in(tmp_path, "resume")
    assert typed.code == 0, typed.err
    assert numbers(tmp_path / "ran") == [*range(1, 501)]


def test_retries(tmp_path: Path) -> None:
    """A task that fails is tried again, as often as was asked for; a time limit is a failure."""
    typed = type_in(
        tmp_path, "array", "--range", "1-3", "--local", "--retries", "2", "--",
        "sh", "-c", "echo {n} >> tried; test {n} != 2 || test $(grep -c 2 tried) = 3",
    )  # fmt: skip
    assert typed.code == 0, typed.err
    assert numbers(tmp_path / "tried") == [1, 2, 2, 2, 3]
    typed = type_in(tmp_path, "array", "--range", "1", "--local", "--time-limit", "1s", "--", "sleep", "100")
    assert typed.code == 1
    assert "1 failed" in typed.err


def killed_half_way(place: Path, *words: str) -> None:
    """Type a command, and kill all of its session when fifty tasks have run."""
    ran = place / "ran"
    with typing(place, *words) as process:
        block_until(lambda: ran.exists() and len(ran.read_text().split()) >= 50, 40, "fifty have run")
        below = [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _session(int(pid)) == process.pid]
        assert process.pid in below
        for pid in below:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    block_until(lambda: not any(map(alive, below)), 20, "all have gone")


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


@pytest.mark.timeout(120)  # many commands, one after the other
def test_killed_and_resumed(tmp_path: Path) -> None:
    """After kill -9 of everything, what was recorded is not run again; of the rest, only what ran may run twice."""
    words = (
        "--range",
        "1-400",
        "--local",
        "--progress",
        "--",
        "sh",
        "-c",
        "echo {n} >> ran; sleep 0.005; echo {n} >> ended",
    )
    killed_half_way(tmp_path, "array", *words)
    before = numbers(tmp_path / "ended")
    assert 0 < len(before) < 400
    known = type_in(tmp_path, "tasks", run_of(tmp_path).name, "--json").out.count('"done"')
    typed = type_in(tmp_path, "resume")
    assert typed.code == 0, typed.err
    assert f"400 done ({known} of them before)" in typed.err
    ended = numbers(tmp_path / "ended")
    assert set(ended) == set(range(1, 401))
    twice = len(ended) - 400
    assert twice <= len(before) - known, "what was recorded has run again"


@pytest.mark.timeout(120)  # many commands, one after the other
def test_live_run_is_not_retried(tmp_path: Path) -> None:
    """A run that is alive is left alone, and what to type is said; `--detach` leaves it, `wait` comes back to it."""
    go = tmp_path / "go"
    wait = ("sh", "-c", "until test -e go; do sleep 0.05; done; exit {n}")
    typed = type_in(tmp_path, "array", "--range", "0-1", "--local", "--detach", "--", *wait)
    assert typed.code == 0, typed.err
    name = typed.out.strip()
    assert name == run_of(tmp_path).name
    try:
        for words in (("retry", name, "--tasks", "failed"), ("resume", name)):
            refused = type_in(tmp_path, *words)
            assert refused.code == 1
            assert f"hyperflow wait {name}" in refused.err
    finally:
        go.touch()
    typed = type_in(tmp_path, "wait", name)
    assert typed.code == 1, typed.err
    assert type_in(tmp_path, "retry", name, "--tasks", "1").code == 0
    assert "array --range 0-1" in type_in(tmp_path, "runs").out


GRAPH = """
[[task]]
name = "first"
command = ["sh", "-c", "test -e ok && echo 1 >> ran"]
[[task]]
name = "behind it"
command = ["sh", "-c", "echo 2 >> ran"]
after = ["first"]
[[task]]
command = ["sh", "-c", "test $(wc -l < ran) = 3 && echo 3 >> ran"]
after = ["behind it", 4]
cpus = 2
env = { A = "b" }
[[task]]
command = ["sh", "-c", "echo 4 >> ran"]
retries = 1
"""


def test_graph(tmp_path: Path) -> None:
    """Tasks run in their order; what comes after a failure is skipped, and runs when that is done."""
    (tmp_path / "tasks.toml").write_text(GRAPH)
    typed = type_in(tmp_path, "array", "tasks.toml", "--local")
    assert typed.code == 1
    assert "1 done, 1 failed, 2 skipped" in typed.err
    shown = type_in(tmp_path, "tasks", "--state", "skipped")
    assert "has failed" in shown.out
    assert "Error" not in shown.out
    shown = type_in(tmp_path, "output")
    assert shown.err == "hyperflow: 2 of 4 tasks have not run, or have written nothing yet; hyperflow tasks says more\n"
    (tmp_path / "ok").touch()
    typed = type_in(tmp_path, "retry", "--tasks", "failed")
    assert typed.code == 0, typed.err
    assert (tmp_path / "ran").read_text().split() == ["4", "1", "2", "3"]


def test_input_that_has_changed(tmp_path: Path) -> None:
    """A task whose input has other content runs again, others do not; outputs come home."""
    for number in (1, 2):
        (tmp_path / f"in {number}").write_text(f"{number}")
    (tmp_path / "names").write_text("in 1\nin 2\n")
    files = ("--input", "{line}", "--output", "out {n}")
    command = ("sh", "-c", 'cat "$0" > "$1"; echo {n} >> "$2"', "{line}", "out {n}", str(tmp_path / "ran"))
    typed = type_in(tmp_path, "array", "--each-line", "names", "--local", *files, "--", *command)
    assert typed.code == 0, typed.err
    (tmp_path / "in 2").write_text("other")
    typed = type_in(tmp_path, "resume")
    assert typed.code == 0, typed.err
    assert numbers(tmp_path / "ran") == [1, 2, 2]
    assert [(tmp_path / f"out {number}").read_text() for number in (1, 2)] == ["1", "other"]


def test_dry_run(tmp_path: Path) -> None:
    """The first commands are printed as a shell takes them; nothing is made."""
    words = ("array", "--range", "5-30", "--local", "--env", "A=b c", "--dry-run", "--", "echo", "{n}", "it's", "a b")
    typed = type_in(tmp_path, *words)
    assert typed.code == 0, typed.err
    first, *others = typed.out.splitlines()
    assert shlex.split(first) == ["env", "A=b c", "echo", "5", "it's", "a b"]
    assert len(others) == 10
    assert others[-1] == "# 26 tasks; nothing has run"
    assert not (tmp_path / "hyperflow-runs").exists()


def test_programs_and_files_that_are_not_there(tmp_path: Path) -> None:
    """All that is missing is told at once: up to ten things, and how many more."""
    (tmp_path / "lines").write_text("".join(f"./program {number}\n" for number in range(25)))
    (tmp_path / "plain").touch()
    typed = type_in(tmp_path, "array", "--each-line", "lines", "--local", "--stdin", "none", "--", "{line}")
    assert typed.code == 2
    assert "task 1: the program" in typed.err
    assert "task 1: the input (stdin)" in typed.err
    assert "and 16 more" in typed.err
    assert len(typed.err.splitlines()) == 11 + 1  # and where to read about it
    typed = type_in(tmp_path, "array", "--range", "1", "--local", "--", "./plain")
    assert "chmod +x" in typed.err
    typed = type_in(tmp_path, "array", "--range", "1", "--local", "--", "plain")
    assert "write ./plain" in typed.err
    assert not (tmp_path / "hyperflow-runs").exists()
    typed = type_in(tmp_path, "array", "--range", "1", "--local", "--no-check", "--", "./plain")
    assert typed.code == 1
    assert "1 failed" in typed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--range", "1-3", "--", "true"], "say where the tasks are to run: --local"),
        (["--local", "--", "true"], "say what the tasks are: --each-line FILE"),
        (["--range", "1", "--local"], "the command is missing; write it behind --"),
        (["--range", "1", "--local", "--"], "the command is missing"),
        (["--range", "1", "--local", "./a", "{n}"], "the command stands behind --; write: hyperflow array ... -- ./a"),
        (["a.toml", "b.toml", "--local", "--", "true"], "'b.toml' belongs to no option, and there is one file"),
        (["tasks.toml", "--range", "1", "--local"], "does 'tasks.toml' begin the command? That stands behind --"),
        (["tasks.toml", "--local", "--", "true"], "leave out what is behind --"),
        (["tasks.toml", "--local", "--cwd", "x"], "each [[task]] of a file says that for itself"),
        (["--range", "1", "--each-line", "x", "--local", "--", "true"], "--each-line and --range: say one of them"),
        (["--range", "1", "--local", "--pool", "x", "--", "true"], "--local and --pool are two places"),
        (["--range", "1", "--local", "--nodes", "2", "--", "true"], "--nodes asks Slurm for something"),
        (["--range", "1", "--local", "--", "echo", "{line}"], "{line} in '{line}' is no placeholder here"),
        (["--range", "1", "--local", "--env", "NOT_THERE", "--", "true"], "there is no such variable here"),
        (["--range", "1", "--local", "--env", "=x", "--", "true"], "write NAME=VALUE"),
        (["--range", "1", "--local", "--max-failed", "0", "--", "true"], "--max-failed 0"),
        (["--range", "1", "--local", "--memory", "much", "--", "true"], "a size is needed"),
        (["--range", "1", "--local", "--time-limit", "long", "--", "true"], "a duration is needed"),
        (["--range", "1", "--local", "--cwd", "none", "--", "true"], "there is no directory"),
        (["--range", "1", "--local", "--output", "../x", "--", "true"], "has to be below the task's directory"),
        (["--range", "1", "--local", "--input", "*.dat", "--", "true"], "a pattern is no file"),
        (["--range", "1", "--local", "--database", "none", "--", "true"], "there is no such file"),
        (["--range", "1-2", "--pool", "no-such-pool", "--", "true"], "no-such-pool"),
    ],
)
def test_refused(tmp_path: Path, words: list[str], said: str) -> None:
    """What contradicts itself is refused with what to type; nothing is made."""
    typed = type_in(tmp_path, "array", *words, HYPERFLOW_STATE_DIR=str(tmp_path / "state"))
    assert typed.code == 2, typed
    assert said in re.sub(r"\s+", " ", typed.err)
    assert "Traceback" not in typed.err
    assert not (tmp_path / "hyperflow-runs").exists()


def test_more_than_there_is(tmp_path: Path) -> None:
    """Who asks for more CPUs than there are is told to ask for less, and not to go on with the same."""
    typed = type_in(tmp_path, "array", "--range", "1-3", "--cpus", "5000", "--local", "--", "true")
    assert typed.code == 2, typed
    assert "ask for less (--cpus" in typed.err
    assert "resume" not in typed.err


def test_many_tasks_leave_few_files(tmp_path: Path) -> None:
    """Two thousand tasks, a hundred of which fail, leave a few files."""
    typed = type_in(tmp_path, "array", "--range", "1-2000", "--local", "--", "sh", "-c", "test $(({n} % 20)) != 0")
    assert "1,900 done, 100 failed" in typed.err
    left = [path for path in run_of(tmp_path).rglob("*") if path.is_file()]
    assert len(left) < 50, sorted(map(str, left))


def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends what runs, says what to type, and counts as nobody's failure."""
    with typing(
        tmp_path, "array", "--range", "1-4", "--local", "--", "sh", "-c", "echo {n} >> ran; test -e ok || sleep 99"
    ) as it:
        block_until((tmp_path / "ran").exists, 40, "one runs")
        os.kill(it.pid, signal.SIGINT)
        assert it.wait(30) == 130
    assert "interrupted" in start_of(run_of(tmp_path)).error
    (tmp_path / "ok").touch()
    typed = type_in(tmp_path, "resume")
    assert typed.code == 0, typed.err
    assert "4 done" in typed.err
    assert "of them before" not in typed.err


def test_retry_of_what_is_no_job(tmp_path: Path) -> None:
    """Who names a run without --tasks is told what to type."""
    typed = type_in(tmp_path, "retry", "some-run")
    assert typed.code == 1
    assert "hyperflow retry some-run --tasks failed" in typed.err
