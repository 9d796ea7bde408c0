"""`hyperflow array` on a real Slurm: in jobs of its own, on a pool that grows, within an allocation, left alone."""

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.cluster import Cluster
from tests.commands.typing_commands import numbers, run_of, start_of
from tests.helpers import block_until
from tests.imports import TOP

NEEDED = {"PYTHONPATH": str(TOP)}

COMMAND = ("--", "sh", "-c", "echo {n} >> ran; hostname > host{n}; test {n} -gt 0")


class Typed(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


def typed(cluster: Cluster, place: Path, *words: str) -> Typed:
    """Type a command on the login host."""
    argv = [sys.executable, "-m", "hyperflow", *words]
    done = cluster.login.run(argv, cwd=place, env=NEEDED, check=False)
    return Typed(done.returncode, done.stdout, done.stderr)


def hosts(place: Path) -> set[str]:
    """Return where tasks have run."""
    return {file.read_text().strip() for file in place.glob("host*")}


def test_one_job(cluster: Cluster, tmp_path: Path) -> None:
    """In one Slurm job of two nodes all tasks run, what fails is told, and retried in another job."""
    asked = ("--nodes", "2", "--ntasks-per-node", "1", "--time", "5")
    ran = typed(cluster, tmp_path, "array", "--range", "0-40", *asked, *COMMAND)
    assert ran.code == 1, ran.err
    assert "40 done, 1 failed" in ran.err
    assert numbers(tmp_path / "ran") == [*range(41)]
    home = run_of(tmp_path)
    assert typed(cluster, tmp_path, "retry", home.name, "--tasks", "failed").code == 1
    assert numbers(tmp_path / "ran") == [0, *range(41)]
    assert len(list((home / "jobs").iterdir())) == 2
    assert typed(cluster, tmp_path, "output", home.name, "1").code == 0


def test_several_jobs(cluster: Cluster, tmp_path: Path) -> None:
    """Two Slurm jobs share the tasks; resumed, what is done is not done again."""
    ran = typed(cluster, tmp_path, "array", "--range", "1-21", "--jobs", "2", "--time", "5", *COMMAND)
    assert ran.code == 0, ran.err
    assert "21 done" in ran.err
    assert len(list((run_of(tmp_path) / "jobs").iterdir())) == 2
    again = typed(cluster, tmp_path, "resume")
    assert again.code == 0, again.err
    assert "21 done (21 of them before)" in again.err
    assert numbers(tmp_path / "ran") == [*range(1, 22)]


def test_elastic(cluster: Cluster, tmp_path: Path) -> None:
    """Allocations come for the tasks, and have gone afterwards."""
    ran = typed(cluster, tmp_path, "array", "--range", "1-30", "--elastic", "2", "--time", "5", *COMMAND)
    assert ran.code == 0, ran.err
    assert numbers(tmp_path / "ran") == [*range(1, 31)]
    assert hosts(tmp_path) <= set(cluster.nodes)
    block_until(lambda: not cluster.slurm.squeue(), 30, "the allocations have gone")


def test_within_an_allocation(cluster: Cluster, tmp_path: Path) -> None:
    """In a batch script the tasks run on all nodes of it, and the exit code is the script's."""
    words = [sys.executable, "-m", "hyperflow", "array", "--range", "0-20", *COMMAND]
    script = f"#!/bin/sh\nexport PYTHONPATH={shlex.quote(str(TOP))}\nexec {shlex.join(words)}\n"
    number = cluster.slurm.sbatch(script, cwd=tmp_path, nodes=2, ntasks_per_node=1)
    assert cluster.slurm.wait_for(number)["JobState"] == "FAILED"
    assert numbers(tmp_path / "ran") == [*range(21)]
    assert start_of(run_of(tmp_path)).exit_code == 1
    refused = typed(cluster, tmp_path, "resume")
    assert refused.code != 0
    assert "allocation" in refused.err


@pytest.mark.timeout(120)
def test_detached(cluster: Cluster, tmp_path: Path) -> None:
    """A detached array goes on when the command has ended, and `wait` comes back to it."""
    command = ("--", "sh", "-c", "until test -e go; do sleep 0.05; done; exit {n}")
    left = typed(cluster, tmp_path, "array", "--range", "0-1", "--nodes", "1", "--time", "5", "--detach", *command)
    assert left.code == 0, left.err
    name = left.out.strip()
    block_until(lambda: "RUNNING" in cluster.slurm.squeue().values(), 40, "the job runs")
    refused = typed(cluster, tmp_path, "retry", name, "--tasks", "failed")
    assert refused.code == 1
    assert f"hyperflow wait {name}" in refused.err
    (tmp_path / "go").touch()
    waited = typed(cluster, tmp_path, "wait", name)
    assert waited.code == 1, waited
    assert start_of(run_of(tmp_path)).exit_code == 1


def test_driver_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """When the driver is killed its Slurm job goes on; resumed, it is taken over, and each task has run once."""
    command = ("--", "sh", "-c", "until test -e go; do sleep 0.05; done; echo {n} >> ran")
    words = [sys.executable, "-m", "hyperflow", "array", "--range", "1-9", "--nodes", "1", "--time", "5", *command]
    with cluster.login.start(words, cwd=tmp_path, env=NEEDED) as started:
        block_until(lambda: "RUNNING" in cluster.slurm.squeue().values(), 40, "the job runs")
        started.kill()
        started.communicate(timeout=20)
    (tmp_path / "go").touch()
    ran = typed(cluster, tmp_path, "resume")
    assert ran.code == 0, ran.err
    assert "9 done" in ran.err
    assert numbers(tmp_path / "ran") == [*range(1, 10)]
    assert len(list((run_of(tmp_path) / "jobs").iterdir())) == 1
