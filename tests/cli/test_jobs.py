"""Commands about jobs without a master: which run is meant, what its files say, and what is answered otherwise."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.cli import runs
from hyperflow.cli.main import app
from hyperflow.errors import ConfigurationError


@hf.job
async def fails(x: int) -> int:
    """Raise an error."""
    raise ValueError(f"no {x}")


async def finished_run(base_dir: Path) -> Path:
    """Make a run in which one job has failed and one is done; return its directory."""
    async with hf.open_cluster(base_dir=base_dir, local=True, on_error="raise") as env:
        with pytest.raises(ValueError, match="no 3"):
            await hf.remote_eval_job(fails(3))
        await hf.remote_eval(abs, -1)
        return env.master.run.home


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Type a command in an empty directory; get its exit code and all that it said."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(words))
        seen = capfd.readouterr()
        return int(str(ended.value.code)), seen.out + seen.err

    return run


async def test_files_tell_without_a_master(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """`list`, `why` and `runs` answer from the files; what would need a master says so, with exit code 3."""
    home = await finished_run(tmp_path / "hyperflow-runs")

    code, text = typed("list")
    assert code == 0
    assert "exception: ValueError: no 3" in text
    assert "1 failed, 1 done" in text
    assert "no master runs on this run; this is from its files, as the last master left them. To go on: " in text
    code, text = typed("why", "1")
    assert (code, "ValueError: no 3" in text, "hyperflow resume" in text) == (0, True, True)
    assert typed("why", "9") == (1, f"hyperflow: {home} has no job 9; it has 1, 2\n")
    code, text = typed("runs")
    assert (code, "1 failed, 1 done" in text, home.name in text) == (0, True, True)
    for words in (["cancel", "1"], ["give-up", "--all"]):
        code, text = typed(*words)
        assert (code, "only a master can do that" in text) == (3, True)


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
        run.why(1)


def test_a_program_that_is_not_there_cannot_be_resumed(typed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """A run of a notebook, or of a script that was removed, says how to go on."""
    made(tmp_path / "hyperflow-runs", "run")
    code, text = typed("resume")
    assert (code, "start its program with resume=" in text) == (1, True)
