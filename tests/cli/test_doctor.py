"""The doctor where there is no Slurm: on a laptop, say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperflow.cli.doctor import NOT_CONFIGURED, sqlite
from hyperflow.cli.main import command_line


@pytest.fixture(autouse=True)
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be on a machine without Slurm and without configuration, in an empty directory."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "HYPERFLOW_")) and name != "HYPERFLOW_TEST_RUN":
            monkeypatch.delenv(name)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def doctor(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run `hyperflow doctor --json`; return its exit code and what it printed."""
    with pytest.raises(SystemExit) as ended:
        command_line()(["doctor", "--json", *words])
    code = ended.value.code
    assert isinstance(code, int)
    return code, json.loads(capfd.readouterr().out)


def statuses(told: dict[str, Any]) -> dict[str, str]:
    """Return the status of each check."""
    return {check["check"]: check["status"] for check in told["checks"]}


@pytest.mark.process
def test_without_slurm(laptop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What concerns Slurm is skipped, the rest is well, the exit code is 0, and nothing is left behind."""
    code, told = doctor(capfd)

    assert code == 0
    assert told["ok"] is True
    skipped = {"Slurm", "allocation", "nodes"}
    made = {"configuration", "run directory", "SQLite", "Python", "CPUs", "GPUs", "memory"}
    assert statuses(told) == {**dict.fromkeys(skipped, "skipped"), **dict.fromkeys(made, "ok")}
    python = next(check for check in told["checks"] if check["check"] == "Python")
    assert python["data"]["greeting"]["python"] == sys.version.split()[0]
    assert sorted(path.name for path in laptop.iterdir()) == ["bin"]


@pytest.mark.process
def test_a_run_directory_that_is_there_stays(laptop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What was there before the doctor came is there afterwards, and nothing else."""
    runs = laptop / "deep" / "runs"
    runs.mkdir(parents=True)
    (runs / "earlier").touch()

    assert doctor(capfd, "--run-dir", str(runs))[0] == 0
    assert [path.name for path in runs.iterdir()] == ["earlier"]


@pytest.mark.process
def test_a_run_directory_that_cannot_be(laptop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be written that is the failure; what would need the directory is skipped."""
    (laptop / "file").touch()
    code, told = doctor(capfd, "--run-dir", "file/runs")

    assert code == 1
    assert statuses(told)["run directory"] == "failed"
    assert statuses(told)["SQLite"] == "skipped"
    assert statuses(told)["Python"] == "ok"


@pytest.mark.process
def test_a_configuration_that_cannot_be_read(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt setting is a failed check with its place; the others are made all the same."""
    monkeypatch.setenv("HYPERFLOW_TRANSPROT", "ssh")
    code, told = doctor(capfd)

    assert code == 1
    assert "HYPERFLOW_TRANSPROT" in told["checks"][0]["detail"]
    assert statuses(told)["Python"] == "ok"


@pytest.mark.process
def test_slurm_that_does_not_answer(
    laptop: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sinfo that fails, or a job's variables that contradict each other, are failures; no process stays."""
    sinfo = laptop / "bin" / "sinfo"
    failing = f'{shutil.which("sleep")} 1000 & echo "no controller" >&2; exit 1'
    sinfo.write_text(f"#!/bin/sh\ncase $1 in --version) echo slurm 23.11;; *) {failing};; esac\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    code, told = doctor(capfd)

    assert code == 1
    assert statuses(told)["Slurm"] == statuses(told)["allocation"] == "failed"
    assert "no controller" in told["checks"][1]["detail"]
    assert "SLURM_JOB_NODELIST" in told["checks"][2]["detail"]


@pytest.mark.process
def test_slurm_that_is_merely_installed(laptop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where Slurm's commands are but no configuration, this is no part of a cluster, and nothing has failed."""
    sinfo = laptop / "bin" / "sinfo"
    sinfo.write_text(f'#!/bin/sh\necho "sinfo: fatal: {NOT_CONFIGURED}" >&2; exit 1\n')
    sinfo.chmod(0o755)
    code, told = doctor(capfd)

    assert (code, statuses(told)["Slurm"]) == (0, "skipped")


def test_a_list_of_nodes_that_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    """A mistake in --nodes is shown where it is, and is no success."""
    with pytest.raises(SystemExit) as ended:
        command_line()(["doctor", "--nodes", "node[1"])

    assert ended.value.code == 1
    assert "this bracket is never closed" in capfd.readouterr().err


def test_as_a_module(laptop: Path) -> None:
    """`python -m hyperflow doctor` prints for people, and the last line says how it went."""
    done = subprocess.run(
        [sys.executable, "-m", "hyperflow", "doctor"], capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": nothing failed.\n")
    assert "run_job_local()" in done.stdout
    assert done.stderr == ""


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    """If SQLite does not work in a directory, the error is told, and where else a database may be kept."""
    (tmp_path / "results.sqlite").write_text("not a database " * 20)
    check = sqlite(tmp_path)

    assert check.status == "failed"
    assert "not a results database" in check.detail
    assert "ProgramInfo.new(DIR, database=FILE)" in check.fix
