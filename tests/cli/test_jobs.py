"""Commands about jobs without a master: which run is meant, what its files say, and what is answered otherwise."""

import asyncio
import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.cli import runs
from hyperflow.cli.main import command_line
from hyperflow.errors import ConfigurationError
from hyperflow.master import rundir
from hyperflow.master.lifecycle import Epoch
from hyperflow.slurm import client, queue
from tests import support
from tests.helpers import block_until

ABOUT = "about this: hyperflow docs ConfigurationError\n"
"""The last line of what cannot be done."""


@hf.job
async def fails(x: int) -> int:
    """Raise an error."""
    raise ValueError(f"no {x}")


async def finished_run(base_dir: Path, failed: bool = False) -> Path:
    """Make a run in which one job has failed and one is done; return its directory."""
    home = base_dir
    with contextlib.suppress(KeyError):
        async with hf.open_cluster(base_dir=base_dir, local=True, on_error="raise") as env:
            home = env.master.run.home
            with pytest.raises(ValueError, match="no 3"):
                await hf.remote_eval_job(fails(3))
            await hf.remote_eval(abs, -1).using(sbatch=hf.SbatchOptions())
            if failed:
                raise KeyError
    return home


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Type a command in an empty directory; get its exit code and all that it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            command_line()(list(words))
        seen = capfd.readouterr()
        return int(str(ended.value.code)), seen.out + seen.err

    return run


async def test_files_tell_without_a_master(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """`list`, `why` and `runs` answer from the files; what would need a master says so, with exit code 3."""
    home = await finished_run(tmp_path / "hyperflow-runs", failed=True)

    code, text = typed("list")
    assert code == 0
    assert "exception: ValueError: no 3" in text
    assert "1 failed, 1 done" in text
    assert "no master runs on this run; this is from its files, as the last master left them. To go on: " in text
    code, text = typed("why", "1")
    assert (code, "ValueError: no 3" in text) == (0, True)
    todo = "to go on: change the code if it has to be changed. Then: hyperflow retry 1, then hyperflow resume\n"
    assert text.splitlines(keepends=True)[-2].strip(" ") == todo
    assert typed("why", "9") == (1, f"hyperflow: {home} has no job 9; it has 1, 2\n{ABOUT}")
    code, text = typed("runs")
    assert (code, "1 failed, 1 done" in text, home.name in text) == (0, True, True)
    assert typed("why")[1] == typed("why", "1")[1]  # the one that has failed
    with_states(home, failed="held")
    assert typed("why")[1].startswith("job 1, fails(3): held\n")
    with_states(home, held="failed")
    assert "  on this machine (--local), attempt 1\n" in typed("why", "1")[1]
    for words in (["list"], ["why", "1"], ["why", "2"]):
        assert "Slurm" not in typed(*words)[1]
    code, text = typed("give-up", "--all")
    assert (code, "only a master can do that" in text) == (3, True)
    assert typed("cancel", "1") == (1, f"hyperflow: job 1, fails(3) is failed; there is nothing to cancel\n{ABOUT}")
    assert typed("cancel", "--all") == (1, f"hyperflow: no job of {home} is queued or running\n{ABOUT}")


def with_states(home: Path, **states: str) -> None:
    """Change the states of jobs in their files."""
    for path in home.glob("jobs/*/job.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "state": states.get(record["state"], record["state"])}))


async def test_why_of_which_job(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Without a number it is the job that is held; several are listed, and where none is, that is said."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    with_states(home, failed="held", done="held")
    code, text = typed("why")
    assert (code, text) == (
        1,
        f"hyperflow: 2 jobs are held; say which:\n  hyperflow why 1  # fails(3)\n  hyperflow why 2  # abs(-1)\n{ABOUT}",
    )
    with_states(home, held="done")
    assert typed("why") == (
        1,
        f"hyperflow: no job is held or has failed; say which one: hyperflow why NUMBER, as `list` has it\n{ABOUT}",
    )
    for words in (["list"], ["nodes"]):
        assert typed(*words, "--run", str(home)) == typed(*words, str(home))


async def test_a_finished_run_has_nothing_to_resume(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Its `list` and `why` say that it has finished, and not what to type to go on; resumed, it is open again."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    for words in (["list"], ["why", "1"], ["why", "2"]):
        code, text = typed(*words)
        assert (code, "the program has finished; this is from its files" in text) == (0, True), text
        assert "o go on" not in text
        assert "resume" not in text
    with pytest.raises(KeyError):
        async with hf.open_cluster(resume=home, local=True):
            raise KeyError
    assert "To go on: hyperflow resume" in typed("list")[1]


def on_terminal(columns: int, directory: Path, *words: str) -> list[str]:
    """Type a command on a terminal of this width; get the lines that it shows."""
    command = [sys.executable, "-m", "hyperflow", *words]
    names = {name: value for name, value in support.environment(TERM="xterm").items() if name != "COLUMNS"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    with subprocess.Popen(command, cwd=directory, env=names, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(ours, 65536):
                shown += data
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown.decode()).splitlines()


async def test_lists_fit_the_width(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Tables are cut where nothing is typed, sentences are broken between words; in a file lines are whole."""
    home = await finished_run(tmp_path / "hyperflow-runs", failed=True)
    assert max(map(len, typed("list")[1].splitlines())) > 130
    for columns, words in ((50, "list"), (80, "list"), (100, "list"), (50, "runs"), (80, "runs")):
        lines = await asyncio.to_thread(on_terminal, columns, tmp_path, words)
        assert max(len(line) for line in lines if "hyperflow-runs/" not in line) <= columns, lines
        assert any(home.name in line for line in lines), lines


FAKE = """#!/bin/sh
echo "$0 $*" >> {log}
case $0 in
    *squeue) cat {queue} ;;
esac
"""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands into PATH that answer as Slurm's; return the directory with what they print and were asked."""
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sacct"):
        (place / name).write_text(FAKE.format(log=place / "log", queue=place / "queue"))
        (place / name).chmod(0o700)
    (place / "queue").touch()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def with_slurm(home: Path, **states: str) -> None:
    """Make jobs of a run on this machine look like those that a killed master has left with Slurm."""
    about = home / "program.json"
    told = json.loads(about.read_text())
    told.pop("finished")
    about.write_text(json.dumps({**told, "local": False}))
    for number, state in states.items():
        path = home / "jobs" / number.lstrip("_") / "job.json"
        attempt = {"number": 2, "token": f"token-{number.lstrip('_')}", "batch_id": 77, "restarts": 0}
        path.write_text(json.dumps({**json.loads(path.read_text()), "state": state, "attempts": [attempt]}))


@pytest.mark.process
@pytest.mark.parametrize("words", [["--all"], ["1"]])
async def test_cancel_without_a_master(
    words: list[str], typed: Callable[..., tuple[int, str]], tmp_path: Path, fake_slurm: Path
) -> None:
    """Jobs are found at Slurm by their tokens, not by numbers that others may have by now; then they are held."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    with_slurm(home, _1="running")
    separator = queue.SEPARATOR
    (fake_slurm / "queue").write_text(
        separator.join(["4711", "RUNNING", "None", "node1", "0", "0:0", "fails token-1"]) + "\n"
        + separator.join(["77", "RUNNING", "None", "node1", "0", "0:0", "another token-of-others"]) + "\n"
    )  # fmt: skip
    code, text = await asyncio.to_thread(typed, "cancel", *words)
    assert (code, "job 1, fails(3): held (cancelled: it was cancelled by" in text) == (0, True), text
    assert "they were ended at Slurm, and are held" in text
    asked = (fake_slurm / "log").read_text()
    assert [line.split("/")[-1] for line in asked.splitlines() if "scancel" in line] == ["scancel 4711"]
    assert "1 held, 1 done" in typed("list")[1]
    assert typed("cancel", "--all")[0] == 1


@pytest.mark.process
@pytest.mark.parametrize("outcome", [rundir.CUT_OFF, rundir.ERROR, rundir.VALUE])
async def test_a_job_that_leaves_a_result_when_it_is_cancelled(
    outcome: str, typed: Callable[..., tuple[int, str]], tmp_path: Path, fake_slurm: Path
) -> None:
    """The signal makes a quick job write a result before the command looks again: it is held like the others."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    with_slurm(home, _1="running", _2="running")
    job = rundir.JobDirectory(home / "jobs" / "1")
    job.write_result(Epoch(2), 77, outcome, b"")
    job.result(Epoch(2)).rename(fake_slurm / "result")
    separator = queue.SEPARATOR
    (fake_slurm / "queue").write_text(
        "".join(f"{separator.join([n, 'RUNNING', 'None', 'node1', '0', '0:0', f'f token-{n}'])}\n" for n in "12")
    )
    with (fake_slurm / "scancel").open("a") as script:
        script.write(f"[ -e {fake_slurm}/result ] && mv {fake_slurm}/result {job.result(Epoch(2))}\nexit 0\n")
    code, text = await asyncio.to_thread(typed, "cancel", "--all")
    assert code == 0, text
    assert job.results()[-1] == Epoch(2)
    assert re.findall(r"job (\d), .*: held \(cancelled: ", text) == ["1", "2"]
    assert "2 held" in typed("list")[1]
    assert "job 1, fails(3): new" in typed("retry", "1")[1]


@pytest.mark.process
@pytest.mark.usefixtures("fake_slurm")
async def test_cancel_leaves_jobs_that_had_ended(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A result that was there before stays for the next master, and that is said; one that was cut off is none."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    with_slurm(home, _1="running", _2="running")
    rundir.JobDirectory(home / "jobs" / "1").write_result(Epoch(2), 77, rundir.CUT_OFF, b"")
    rundir.JobDirectory(home / "jobs" / "2").write_result(Epoch(2, 1), 77, rundir.VALUE, b"")  # of a later start
    code, text = await asyncio.to_thread(typed, "cancel", "--all")
    assert (code, re.findall(r"job (\d), .*: held ", text)) == (0, ["1"]), text
    assert "they were ended at Slurm, and are held; job 2 had left a result before, which waits for" in text
    code, text = await asyncio.to_thread(typed, "cancel", "2")
    assert (code, "; job 2 had left a result before, which waits for the next master: hyperflow resume" in text) == (
        0,
        True,
    ), text
    assert "ended at Slurm" not in text
    assert "1 held, 1 running" in typed("list")[1]


@pytest.mark.process
async def test_cancel_without_slurm_either(
    typed: Callable[..., tuple[int, str]], tmp_path: Path, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Slurm cannot be asked, nothing is noted, and the command does not wait for long."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    with_slurm(home, _1="running")
    (fake_slurm / "squeue").write_text(
        "#!/bin/sh\necho 'squeue: error: Unable to contact slurm controller' >&2; exit 1\n"
    )
    monkeypatch.setattr(runs, "SLURM_SECONDS", 0.0)
    code, text = await asyncio.to_thread(typed, "cancel", "--all")
    assert (code, "Unable to contact slurm controller" in text) == (1, True), text
    assert "1 running, 1 done" in typed("list")[1]


EDITED = """
import hyperflow as hf, os, time

@hf.job
async def work(x: int) -> str:
    if os.path.exists("fail"):
        raise ValueError("not yet")
    return "old"

@hf.cluster
async def program() -> str:
    return await hf.remote_eval_job(work(1))

hf.main(program)
"""


def test_a_retry_of_an_edited_program(tmp_path: Path) -> None:
    """The running program has its old code: that is said, with what to type; --restart runs the new code."""
    (tmp_path / "fail").touch()

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hyperflow", *words]
        run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=50, check=False)
        done: subprocess.CompletedProcess[str] = run(command, cwd=tmp_path, env=support.environment())
        return done

    with support.start_script(tmp_path, EDITED, ["--local"]) as started:
        block_until(lambda: "1 held" in typed("list").stdout, 20, "it is held")
        assert "edited" not in typed("retry", "1").stdout
        block_until(lambda: "1 held" in typed("list").stdout, 20, "it is held")
        (tmp_path / "fail").unlink()
        new = EDITED.replace('"old"', '"new"').replace("if os", "if False and os")
        (tmp_path / "script.py").write_text(new)
        (tmp_path / "fail").touch()
        told = typed("why", "1").stdout
        assert told.endswith("If the code has to be changed, change it, and type: hyperflow retry 1 --restart\n"), told
        assert "hyperflow resume" not in told
        text = typed("retry", "1").stdout
        assert f"note: {tmp_path / 'script.py'} was edited after the program started" in text
        assert "type: hyperflow retry 1 --restart" in text
        block_until(lambda: "1 held" in typed("list").stdout, 20, "it is held")
        assert "there is no job 7" in typed("retry", "7", "--restart").stderr
        assert started.poll() is None
        done = typed("retry", "1", "--restart")
        assert (done.returncode, done.stdout) == (0, "new\n"), done.stderr
        told = typed("why", "1").stdout
        assert "ValueError" not in told, told  # that of the attempts before
        assert started.wait(20) == 128 + signal.SIGTERM


async def test_a_lone_evaluation_in_a_cluster(tmp_path: Path) -> None:
    """It would be a Slurm job of its own: refused with what to write, unless it is asked for."""
    asked = hf.SbatchOptions(time="1:00:00")
    async with hf.open_cluster(base_dir=tmp_path, local=True, sbatch=asked) as env:
        for flow in (hf.remote_eval(abs, -1), hf.remote_eval(abs, -1).using(cpus=2)):
            with pytest.raises(hf.MisuseError) as caught:
                await flow
            assert "async def my_job(...): return await hyperflow.remote_eval(abs, -1)" in str(caught.value)
            assert "await hyperflow.remote_eval_job(my_job(...))" in str(caught.value)
            assert "hyperflow.remote_eval(abs, -1).using(sbatch=hyperflow.SbatchOptions(" in str(caught.value)
        with pytest.raises(hf.MisuseError, match="put it into a @job"):
            await hf.remote_map(abs, [-1])
        assert env.master.jobs() == []
        assert await hf.remote_eval(abs, -1).using(sbatch=asked) == 1
        with hf.using(sbatch=hf.SbatchOptions()):
            assert await hf.remote_eval(abs, -2) == 2


@pytest.mark.process
async def test_no_usable_slurm(fake_slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new program says so in one line, with what to type, and holds nothing; with Slurm, it begins."""
    monkeypatch.setattr(client, "CHECK_PAUSES", ())
    said = "squeue: error: resolve_ctls_from_dns_srv: Unknown host\nsqueue: error: fetch_config: failed"
    (fake_slurm / "squeue").write_text(f"#!/bin/sh\necho '{said}' >&2; exit 1\n")
    with pytest.raises(
        ConfigurationError, match=r"no usable Slurm here: .*--local, or open_cluster\(local=True\)"
    ) as it:
        async with hf.open_cluster(base_dir=tmp_path / "runs"):
            pass
    assert len(str(it.value).splitlines()) == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="there is no sbatch or squeue or scancel in PATH"):
        async with hf.open_cluster(base_dir=tmp_path / "runs"):
            pass
    assert not (tmp_path / "runs").exists()


async def test_retry_without_a_master(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """It is noted for the next master, which submits what had failed for good; what cannot be is refused as a whole."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    for words, complaint in (
        (["1", "2"], " is done: it need not be retried"),
        (["1", "9"], "there is no job 9"),
        (["1", "--mem", "plenty"], "a whole number with a unit is needed"),
    ):
        code, text = typed("retry", *words)
        assert (code, complaint in text) == (1, True), text
        assert "1 failed, 1 done" in typed("list")[1]
    code, text = typed("retry", "--all", "--mem", "8G")
    assert (code, "job 1, fails(3): new" in text, "hyperflow resume" in text) == (0, True, True), text
    async with hf.open_cluster(resume=home, local=True, on_error="raise") as env:
        with pytest.raises(ValueError, match="no 3"):
            await hf.remote_eval_job(fails(3))
        assert env.master.jobs()[0].attempts == 2
    assert json.loads((home / "jobs" / "1" / "job.json").read_text())["options"]["mem"] == "8G"


def test_calls_that_are_no_longer_made(
    typed: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a program runs, `list` names the jobs of an earlier start that it has not asked for."""

    class Master:
        def get(self, _: str) -> dict[str, Any]:
            return {"jobs": [], "unmatched": [1, 3]}

    made(tmp_path / "hyperflow-runs", "run")
    monkeypatch.setattr("hyperflow.cli.jobs.contact", lambda _: Master())
    assert "not asked for by the program so far (was it edited?): 1, 3\n" in typed("list")[1]


async def test_json(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """--json has the same for programs."""
    home = await finished_run(tmp_path / "hyperflow-runs")
    listed = json.loads(typed("list", "--json")[1])
    assert (listed["master"], listed["run"]) == (False, str(home))
    assert [(job["number"], job["state"], job["progress"]["failed"]) for job in listed["jobs"]] == [
        (1, "failed", 0),
        (2, "done", 0),
    ]
    (run,) = json.loads(typed("runs", "--json")[1])["runs"]
    assert (run["program"], run["local"], run["host"]) == (home.name, True, None)
    why = json.loads(typed("why", "1", "--json")[1])
    assert "ValueError" in why["why"]
    assert "ValueError: no 3" in why["traceback"]


async def test_a_master_on_another_host(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Files are read from anywhere; what only the master can do is told with the line to type."""
    base = tmp_path / "hyperflow-runs"
    async with hf.open_cluster(base_dir=base, local=True) as env:
        lock = env.master.run.home / "master.lock"
        before = lock.read_text()
        lock.write_text(before.replace(f'"{socket.gethostname()}"', '"login2"'))
        code, text = typed("list")
        assert (code, "ssh login2 " in text) == (0, True)
        code, text = typed("cancel", "3")
        assert code == 1
        assert f"the master of this run is process {os.getpid()} on login2" in text
        assert f"--run {env.master.run.home}" in text
        code, text = typed("resume")
        assert (code, "on login2 is the master" in text) == (1, True)
        lock.write_text(before)


def test_say_which_jobs(typed: Callable[..., tuple[int, str]]) -> None:
    """Numbers or --all: one of the two; without a run, that is said."""
    for words in (["retry"], ["retry", "1", "--all"], ["cancel"]):
        code, text = typed(*words)
        assert (code, "say which jobs" in text) == (1, True)
    code, text = typed("list")
    assert (code, "there are no runs in" in text) == (1, True)


def made(base_dir: Path, *names: str) -> None:
    """Make runs without jobs."""
    for name in names:
        (base_dir / name).mkdir(parents=True)
        text = json.dumps({"program_id": name, "argv": ["p.py", "--resume=x", "a", "--resume", "y", "--n", "1"]})
        (base_dir / name / "program.json").write_text(text)


def test_which_run(tmp_path: Path) -> None:
    """The newest one, an id, the beginning of one, a directory; what is ambiguous or missing is an error."""
    made(tmp_path, "20260101-000000-aaa", "20260101-000000-aaabbb", "20260202-000000-ccc")
    (tmp_path / "20270101-unfinished").mkdir()
    assert runs.find(None, tmp_path).home.name == "20260202-000000-ccc"
    assert runs.find("202602", tmp_path).home.name == "20260202-000000-ccc"
    assert runs.find("20260101-000000-aaa", tmp_path).home.name == "20260101-000000-aaa"
    assert runs.find(str(tmp_path / "20260101-000000-aaa"), Path("/nowhere")).home.name == "20260101-000000-aaa"
    with pytest.raises(ConfigurationError, match="2 runs begin with '20260101'"):
        runs.find("20260101", tmp_path)
    with pytest.raises(ConfigurationError, match="hyperflow runs"):
        runs.find("2025", tmp_path)
    with pytest.raises(ConfigurationError, match="no runs in /nowhere"):
        runs.find(None, Path("/nowhere"))


def test_the_command_line_without_resume(tmp_path: Path) -> None:
    """What is started again is what was typed first, however often it was resumed."""
    made(tmp_path, "run")
    assert runs.find(None, tmp_path).command == ["p.py", "a", "--n", "1"]


def test_damaged_jobs_are_left_out(tmp_path: Path) -> None:
    """A job whose file cannot be read does not hide the others."""
    made(tmp_path, "run")
    (tmp_path / "run" / "jobs" / "1").mkdir(parents=True)
    (tmp_path / "run" / "jobs" / "1" / "job.json").write_text("{")
    run = runs.find(None, tmp_path)
    assert run.jobs() == []
    with pytest.raises(ConfigurationError, match="damaged"):
        run.why(1, running=False)


def test_a_program_that_is_not_there_cannot_be_resumed(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A run of a notebook, or of a script that was removed, says how to go on."""
    made(tmp_path / "hyperflow-runs", "run")
    code, text = typed("resume")
    assert (code, "start its program with resume=" in text) == (1, True)
