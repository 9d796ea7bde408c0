"""`hyperflow tasks`, `output` and `wait` on real arrays: that have ended, that run, and that were killed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from hyperflow.cli.main import command_line
from tests.helpers import block_until

COMMAND = [sys.executable, "-m", "hyperflow"]


class Place:
    """A directory in which people type."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def type(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[bytes]:
        """Run a command, and look at its exit code; what only reads runs here, which spares a start of Python."""
        if words[0] in ("tasks", "output", "wait"):
            done = self._here(words)
        else:
            done = subprocess.run([*COMMAND, *words], check=False, cwd=self.home, capture_output=True, timeout=50)
        assert code is None or done.returncode == code, (words, done.returncode, done.stdout[-500:], done.stderr)
        return done

    def _here(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        code: Any = 0
        with chdir(self.home), redirect_stdout(out), redirect_stderr(err):
            try:
                command_line(words)(list(words))
            except SystemExit as end:
                code = end.code or 0
        written = [stream.buffer.getvalue() for stream in (out, err)]  # type: ignore[attr-defined]
        return subprocess.CompletedProcess(list(words), code, *written)

    def array(self, count: int, script: str, *words: str, code: int = 0) -> None:
        """Run an array of shell scripts, in which `{n}` is the number."""
        self.type("array", "--range", f"1-{count}", "--local", *words, "--", "/bin/sh", "-c", script, code=code)

    @contextmanager
    def running(self, count: int, script: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """The same, while the scope lasts."""
        line = [*COMMAND, "array", "--range", f"1-{count}", "--local", *words, "--", "/bin/sh", "-c", script]
        process = subprocess.Popen(line, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)

    def tasks(self, *words: str) -> list[dict[str, Any]]:
        """Return what `tasks --json` says; nothing while there is no array."""
        done = self.type("tasks", *words, "--json", code=None)
        return [json.loads(line) for line in done.stdout.splitlines()] if done.returncode == 0 else []

    def until(self, state: str, number: int = 1) -> None:
        """Wait until a task is in a state."""
        block_until(
            lambda: any(task["number"] == number and task["state"] == state for task in self.tasks()),
            30,
            f"task {number} is {state}",
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty one."""
    return Place(tmp_path)


def test_an_array_that_has_ended(place: Place) -> None:
    """All that is told of its tasks, in all forms; the newest run is meant."""
    place.array(12, "echo out {n}; echo err {n} >&2; test {n} -ne 7", code=1)
    tasks = place.tasks()
    assert [task["number"] for task in tasks] == list(range(1, 13))
    assert [task["number"] for task in tasks if task["state"] == "done"] == [n for n in range(1, 13) if n != 7]
    (failed,) = place.tasks("--failed")
    assert failed == {
        **failed,
        "number": 7,
        "name": "",
        "state": "failed",
        "exit_code": 1,
        "tries": 1,
        "error": "err 7",
        "out": 6,
        "err": 6,
    }
    assert failed["command"] == ["/bin/sh", "-c", "echo out 7; echo err 7 >&2; test 7 -ne 7"]
    assert failed["seconds"] > 0
    assert failed["memory"] > 0
    assert failed["node"]
    rows = list(csv.DictReader(io.StringIO(place.type("tasks", "--csv").stdout.decode())))
    assert [row["exit_code"] for row in rows] == ["1" if n == 7 else "0" for n in range(1, 13)]
    table = place.type("tasks", "--state", "failed").stdout.decode().splitlines()
    assert len(table) == 2
    assert table[1].split()[:3] == ["7", "failed", "1"]
    assert place.type("output").stdout == b"".join(b"out %d\n" % n for n in range(1, 13))
    assert place.type("output", "3,9-11").stdout == b"out 3\nout 9\nout 10\nout 11\n"
    assert place.type("output", "failed", "--stderr").stdout == b"err 7\n"
    assert b"11 done, 1 failed" in place.type("wait", code=1).stderr


def test_what_is_typed_wrong(place: Place) -> None:
    """Each is refused with what would be right."""
    place.array(2, "true")
    assert b"numbers 1 to 2" in place.type("output", "3", code=1).stderr
    assert b"waiting, running, done" in place.type("tasks", "--state", "ended", code=1).stderr
    assert b"shows one task" in place.type("output", "1-2", "--follow", code=1).stderr
    assert b"TASKS are numbers" in place.type("output", "a", "b", code=1).stderr
    assert b"choose one" in place.type("tasks", "--json", "--csv", code=1).stderr
    assert b"--timeout" in place.type("wait", "--timeout", "soon", code=1).stderr
    (run,) = (place.home / "hyperflow-runs").iterdir()
    assert place.type("output", run.name, "1").stdout == b""
    assert place.type("output", str(run), "1").stdout == b""
    (run / "array").rename(run / "gone")
    assert b"no run of `hyperflow array`" in place.type("tasks", code=1).stderr


def test_a_reader_that_goes_away(place: Place) -> None:
    """`hyperflow output | head` ends quietly."""
    place.array(40, "seq 1 20000")
    line = f"{sys.executable} -m hyperflow output | head -n 1"
    done = subprocess.run(line, shell=True, check=False, cwd=place.home, capture_output=True, timeout=50)
    assert (done.stdout, done.stderr) == (b"1\n", b"")


def test_an_array_that_runs(place: Place) -> None:
    """What runs and what waits is told; output is followed as it grows; then the array is waited for."""
    script = "echo begun; while ! test -e go; do sleep 0.05; done; echo ended; test {n} = 1 || echo late"
    with place.running(30, script, "--cpus", str(os.cpu_count() or 1)):
        place.until("running")
        tasks = place.tasks()
        assert [task["state"] for task in tasks] == ["running"] + ["waiting"] * 29
        assert tasks[0]["node"]
        assert b"waiting" in place.type("output", "30", code=1).stderr
        assert place.type("wait", "--timeout", "0.5", code=124).returncode == 124
        line = [*COMMAND, "output", "1", "-f"]
        with subprocess.Popen(line, cwd=place.home, stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline() == b"begun\n"
            (place.home / "go").touch()
            assert follower.stdout.read() == b"ended\n"
            assert follower.wait(20) == 0
        assert b"30 done" in place.type("wait").stderr
    assert place.type("output", "30").stdout == b"begun\nended\nlate\n"


def test_an_array_that_was_killed(place: Place) -> None:
    """What had run is there, nothing is said to run, and what had not is named."""
    with place.running(3, "echo {n}; test {n} = 1 || sleep 100", "--cpus", str(os.cpu_count() or 1)) as process:
        place.until("running", 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [task["state"] for task in place.tasks()] == ["done", "waiting", "waiting"]
    assert place.type("output", "1-2").stdout == b"1\n2\n"
    done = place.type("output", "3", code=1)
    assert (done.stdout, done.stderr) == (b"", b"hyperflow: task 3 is waiting: it has not run\n")
    assert b"killed" in place.type("wait", code=1).stderr
    assert place.type("output", "2", "--follow", code=1).stdout == b"2\n"


def test_a_task_that_is_retried_while_it_is_followed(place: Place) -> None:
    """The next try is shown, and said to be one."""
    script = (
        "echo try; if mkdir tried; then while ! test -e fail; do sleep 0.05; done; exit 1; fi; "
        "while ! test -e go; do sleep 0.05; done"
    )
    with place.running(1, script, "--retries", "1"):
        place.until("running")
        line = [*COMMAND, "output", "1", "-f"]
        with subprocess.Popen(line, cwd=place.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            assert follower.stderr is not None
            assert follower.stdout.readline() == b"try\n"
            (place.home / "fail").touch()
            assert follower.stdout.readline() == b"try\n"
            (place.home / "go").touch()
            assert follower.stderr.read() == b"hyperflow: task 1 is tried again\n"
            assert follower.wait(20) == 0
        place.type("wait")
    assert place.tasks()[0]["tries"] == 2


def test_waiting_for_a_program_that_is_no_array(place: Place) -> None:
    """It has come to its end, or it has failed."""
    program = """
import sys, hyperflow as hf
@hf.job
async def job(): return await hf.remote_eval(int, sys.argv[1])
hf.run_job_local(job(), cpus=1, program=hf.ProgramInfo.new("hyperflow-runs"))
"""
    subprocess.run([sys.executable, "-c", program, "7"], cwd=place.home, check=True, capture_output=True)
    assert b"finished" in place.type("wait").stderr
    (first,) = (place.home / "hyperflow-runs").iterdir()
    subprocess.run([sys.executable, "-c", program, "x"], cwd=place.home, check=False, capture_output=True)
    (second,) = {*(place.home / "hyperflow-runs").iterdir()} - {first}  # begun in the same second, maybe
    assert b"failed" in place.type("wait", second.name, code=1).stderr


def test_four_thousand_tasks(place: Place) -> None:
    """They leave few files, and are told one by one."""
    place.array(4_000, "echo {n}; exit $(( {n} % 100 == 0 ))", code=1)
    assert sum(len(files) for _, _, files in os.walk(place.home)) < 50
    assert [task["number"] for task in place.tasks("--failed")] == list(range(100, 4_001, 100))
    assert place.type("output").stdout == b"".join(b"%d\n" % n for n in range(1, 4_001))


def test_output_of_another_array(place: Place) -> None:
    """A task that has not run has written nothing, whatever an earlier array has in the database it began with."""
    place.array(2, "echo earlier {n}")
    (earlier,) = place.home.glob("hyperflow-runs/*/results.sqlite")
    (place.home / "tasks.toml").write_text(
        '[[task]]\nname = "a"\ncommand = ["false"]\n[[task]]\ncommand = ["echo", "later"]\nafter = ["a"]\n'
    )
    place.type("array", "tasks.toml", "--local", "--database", str(earlier), code=1)
    done = place.type("output", "2", code=1)
    assert (done.stdout, b"it has not run" in done.stderr) == (b"", True)
