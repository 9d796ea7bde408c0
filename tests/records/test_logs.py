"""What evaluations print reaches who started the run, and `hyperflow logs`, with call, worker and time."""

import asyncio
import contextlib
import io
import os
import re
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.cli.main import command_line
from hyperflow.events import reader
from hyperflow.events.summary import summarise
from hyperflow.head import echo as shown_echo
from hyperflow.program import ProgramInfo
from tests.helpers import wait_until
from tests.support import Gate, local, wait_at

TyPed = Callable[..., tuple[int, str]]

ESCAPE = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TyPed:
    """Type a command beside `hyperflow-runs` and return its exit code and all that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(list(words))
        seen = capfd.readouterr()
        return int(str(ended.value.code)), seen.out + seen.err

    return run


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What the program has said on standard error."""
    return lambda: capsys.readouterr().err


def talks(x: int) -> int:
    """Print, warn, start a program, a thread and a forked child that print."""
    print("printed", x)
    warnings.warn("careful", stacklevel=1)
    subprocess.run(["echo", "of a program"], check=True)
    thread = threading.Thread(target=print, args=("of a thread",))
    thread.start()
    thread.join()
    pid = os.fork()
    if pid == 0:
        print("of a child")
        os._exit(0)
    os.waitpid(pid, 0)
    print(f"hostile {ESCAPE} in a line")
    print("half a line", end="")
    return x


def floods(lines: int) -> bytes:
    """Print a lot, and return something large meanwhile."""
    thread = threading.Thread(target=lambda: [print("from a thread") for _ in range(lines)])
    thread.start()
    for number in range(lines):
        print("line", number)
    thread.join()
    return b"x" * 10_000_000


def fails(x: int) -> None:
    """Print, and fail."""
    print("before the end of", x)
    raise ValueError(f"no {x}")


async def test_echo(said: Callable[[], str]) -> None:
    """Each line comes with its call and worker, whoever wrote it, and orders nothing to the terminal."""
    async with local(cpus=1, echo=True):
        assert await hf.remote_eval(talks, 7) == 7
    shown = said()
    lines = shown.splitlines()
    mark = re.compile(r"\d\d:\d\d:\d\d \[#1 talks\(7\) worker-0@\S+\] (.*)")
    texts = [match[1] for line in lines if (match := mark.fullmatch(line))]
    assert len(texts) == len(lines)
    for one in (
        "printed 7",
        "of a program",
        "of a thread",
        "of a child",
        "hostile \\x1b]0;owned\\x07\\x1b[2J in a line",
    ):
        assert texts.count(one) == 1, texts
    assert texts[-1] == "half a line"
    assert any("UserWarning: careful" in one for one in texts), texts
    assert "\x1b" not in shown


async def test_names_in_logs(typed: TyPed, tmp_path: Path) -> None:
    """Lines have the name that the program gave; a function of any name leaves them readable."""
    odd = types.FunctionType(fails.__code__, globals(), "]\x1b[2J\n" + "x" * 1_000_000)
    async with local(cpus=1, program=ProgramInfo.new(tmp_path / "hyperflow-runs")):
        with hf.using(name="scan [3]"):
            await hf.remote_eval(print, "one")
            await hf.remote_map(print, ["two", "three"], chunk_size=2)
        await hf.remote_eval(print, "four")
        await hf.remote_map(print, ["five"])
        await hf.remote_map(odd, ["six"], errors="return")
    marks = [line.partition(" [")[2] for line in typed("logs")[1].splitlines()]
    cut = ")\\x1b[2J " + "x" * 91 + "...] before the end of six"
    assert marks[:-1] == [
        *("#1 scan [3): print] one", "#2 scan [3)] two", "#2 scan [3)] three", "#3 print] four", "#4 print] five"),
    ]
    assert marks[-1] == f"#5 {cut}"
    assert [len(typed("logs", number)[1].splitlines()) for number in ("1", "2", "5")] == [1, 2, 1]


async def test_no_echo_unless_asked_for(said: Callable[[], str]) -> None:
    """Without `echo`, nothing is shown."""
    async with local(cpus=1):
        await hf.remote_eval(print, "hello")
    assert said() == ""


async def test_echo_is_bounded(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flood some lines are shown; how many are missing is said, with the command that shows them."""
    monkeypatch.setattr(shown_echo, "AT_FIRST", 20)
    monkeypatch.setattr(shown_echo, "OFTEN", 1)
    async with local(cpus=1, echo=True) as env:
        assert len(await hf.remote_eval(floods, 2000)) == 10_000_000
        assert await hf.remote_eval(len, "abc") == 3
    text = said()
    lines = text.splitlines()
    shown = sum("[#1 floods(2000) " in line for line in lines)
    told = [int(match[1]) for line in lines if (match := re.match(r"hyperflow: (\d+) lines? w", line))]
    assert shown + len(told) == len(lines)
    assert 20 <= shown <= 200
    assert shown + sum(told) == 4000
    assert f"hyperflow logs {env.program.program_id}" in text


async def test_a_standard_error_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed standard error costs the echo, not the run."""
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    async with local(cpus=1, echo=True):
        assert await hf.remote_eval(talks, 1) == 1
        assert await hf.remote_eval(talks, 2) == 2


async def test_every_opener_takes_echo(said: Callable[[], str]) -> None:
    """Jobs run with it by each way on this machine, also inline."""
    async with hf.testing.open_inline_job(echo=True):
        assert await hf.remote_eval(abs, -1) == 1
    env = await hf.start_local(cpus=1, echo=True)
    try:
        await hf.remote_eval(print, "in a cell")
    finally:
        await env.close()
    await asyncio.to_thread(lambda: hf.run_job_local(hf.remote_eval(print, "in a script"), cpus=1, echo=True))
    assert [line.partition("] ")[2] for line in said().splitlines()] == ["in a cell", "in a script"]


async def test_logs(typed: TyPed, tmp_path: Path) -> None:
    """All lines, those of one evaluation, those of failures with their errors; what is asked wrongly is told."""
    async with local(cpus=2, program=ProgramInfo.new(tmp_path / "hyperflow-runs")) as env:
        await hf.remote_eval(talks, 1)
        await hf.remote_eval(print, "of the second")
        with contextlib.suppress(ValueError):
            await hf.remote_eval(fails, 3)
        run = env.program.program_id
    code, text = typed("logs")
    assert code == 0
    assert "\x1b" not in text
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d worker-\d@\S+ \[#\d \w+\] ", line) for line in lines), lines
    assert sum(line.endswith("[#1 talks] of a program") for line in lines) == 1
    assert "wrote the unmarked lines" not in text
    for words in (["2"], [run, "2"], [str(env.program.log_dir.parent), "#2"]):
        code, text = typed("logs", *words)
        assert (code, [line.partition("] ")[2] for line in text.splitlines()]) == (0, ["of the second"])
    code, text = typed("logs", "--failed")
    first, second = text.splitlines()
    assert (code, first.endswith(": ValueError: no 3"), "of fails(3) on worker-" in first) == (0, True, True)
    assert second.endswith("[#3 fails] before the end of 3")
    assert typed("logs", "9")[1].startswith("evaluation 9 has printed nothing in ")
    assert typed("logs", "1", "2")[0] == 1
    assert typed("logs", "nobody")[0] == 1


async def test_follow(tmp_path: Path) -> None:
    """`logs -f` shows lines as they come, and ends with the run."""
    gate = Gate(tmp_path)
    async with local(cpus=1, program=ProgramInfo.new(tmp_path / "hyperflow-runs")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hyperflow", "logs", "-f"), cwd=tmp_path, stdout=-1
        )
        assert process.stdout is not None
        await hf.remote_eval(print, "the first")
        assert (await process.stdout.readline()).endswith(b"the first\n")
        waiting = hf.remote_eval(wait_at, gate.path).start()
        await gate.wait_inside()
        gate.open()
        await waiting
        await hf.remote_eval(print, "the last")
    rest, _ = await process.communicate()
    assert rest.endswith(b"the last\n")
    assert process.returncode == 0


async def test_logs_of_jobs(typed: TyPed, tmp_path: Path) -> None:
    """In a Cluster program evaluations are named by job and number."""

    @hf.job
    async def says(word: str) -> None:
        await hf.remote_eval(print, word)

    @hf.job
    async def fails_within() -> object:
        return await hf.remote_map(fails, [3], errors="return")

    async with hf.open_cluster(base_dir=tmp_path / "hyperflow-runs", local=True):
        await hf.remote_eval_job(says("one"))
        await hf.remote_eval_job(says("two"))
        await hf.remote_eval_job(fails_within())
    lines = ["one", "two", "before the end of 3"]
    assert [line.partition("] ")[2] for line in typed("logs")[1].splitlines()] == lines
    assert "  #3.1 fails(3): ValueError: no 3 on worker-0@" in typed("show")[1]
    code, text = typed("logs", "2.1")
    assert (code, "[2.#1 print] two" in text, len(text.splitlines())) == (0, True, 1)
    code, text = typed("logs", "1")
    assert (code, "JOB.NUMBER" in text) == (1, True)


async def test_echo_of_jobs(said: Callable[[], str], tmp_path: Path) -> None:
    """A Cluster program shows what its jobs print, with the number of the job; what they printed before is old."""

    @hf.job
    async def says(word: str) -> None:
        await hf.remote_eval(print, word)

    @hf.job
    async def twice() -> None:
        await hf.remote_eval(print, "again")

    async with hf.open_cluster(base_dir=tmp_path / "hyperflow-runs", local=True, echo=True) as env:
        await hf.remote_eval_job(says(f"one{ESCAPE}"))
        await hf.remote_eval_job(says("two"))
        home = env.master.run.home
    first, second = [line for line in said().splitlines() if "]" in line]
    mark = r"\d\d:\d\d:\d\d \[1\.#1 print\('one.*'\) worker-0@\S+\] one\\x1b\]0;owned\\x07\\x1b\[2J"
    assert re.fullmatch(mark, first), first
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[2\.#1 print\('two'\) worker-0@\S+\] two", second), second
    async with hf.open_cluster(resume=home, local=True, echo=True):
        await hf.remote_eval_job(twice())
    assert [line.rpartition("] ")[2] for line in said().splitlines()] == ["again"]


def works(x: int) -> int:
    """Take a while, and some memory."""
    block = bytearray(60_000_000)
    subprocess.run([sys.executable, "-S", "-c", "sum(range(4_000_000))"], check=True)
    return len(block) + x


async def test_functions_are_measured(typed: TyPed, tmp_path: Path) -> None:
    """CPU time, that of programs included, and memory of each function that takes a while are shown."""
    async with local(cpus=1, program=ProgramInfo.new(tmp_path / "hyperflow-runs")) as env:
        await hf.remote_eval(works, 1)
        await hf.remote_map(abs, range(10), chunk_size=1)
    found = summarise(reader.read(env.program.log_dir / "events.jsonl")).functions
    assert (found["works"].measured, found["works"].done, found["abs"].done) == (1, 1, 10)
    assert found["works"].cpu > 0
    assert found["works"].memory > 60_000_000
    code, text = typed("show", "--functions")
    assert code == 0
    assert any(line.startswith("works ") for line in text.splitlines()), text


def runs_a_program(gate: str, end: str) -> None:
    """Run a program that writes and waits, until it is ended."""

    async def run() -> None:
        code = f"import sys; print('partial result', flush=True); open({gate!r} + '.1', 'w'); sys.stdin.read()"
        words = [sys.executable, "-c", f"{code}; import time; time.sleep(1000)"]
        command = asyncio.ensure_future(hf.run_command(words, capture=True))
        if end == "cancelled":
            await wait_until(lambda: os.path.exists(gate + ".1"), 30, "the program")
            command.cancel()
        await command

    asyncio.run(run())


async def test_output_of_a_cancelled_program(tmp_path: Path) -> None:
    """What a program had written is in the error and in the log when it is cancelled inside the evaluation."""
    async with local(cpus=1) as env:
        with pytest.raises(hf.EvaluationExited) as failed:
            await hf.remote_eval(runs_a_program, str(tmp_path / "gate"), "cancelled")
        assert "partial result" in "\n".join(failed.value.__notes__)
        assert "  | partial result\n" in "".join(path.read_text() for path in env.program.log_dir.glob("worker-*.log"))


async def test_output_of_a_program_whose_time_is_up(tmp_path: Path) -> None:
    """The same when the evaluation's time is up, or it is cancelled from outside."""
    async with local(cpus=1) as env:
        for limit in (2.0, 8.0, 30.0):  # until the program has written something
            with pytest.raises(hf.TimeLimitExceeded) as failed:
                await hf.remote_eval(runs_a_program, str(tmp_path / "one"), "time").using(time_limit=limit)
            if (tmp_path / "one.1").exists():
                break
        assert "  | partial result" in failed.value.log_tail
        assert "partial result" in str(failed.value)
        waiting = hf.remote_eval(runs_a_program, str(tmp_path / "two"), "outside").start()
        await wait_until((tmp_path / "two.1").exists, 30, "the program")
        waiting.cancel()

        def kept() -> bool:
            logs = "".join(path.read_text() for path in env.program.log_dir.glob("worker-*.log"))
            return logs.count("  | partial result\n") == 2

        await wait_until(kept, 20, "what the second program had written")
