"""`hyperflow.main` and the commands about jobs, on a real Slurm: from the login host, as a user types them."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import Command
from tests.helpers import block_until
from tests.imports import TOP

NEEDED = {"PYTHONPATH": str(TOP)}

PROGRAM = """
import asyncio, os, subprocess
import hyperflow as hf

@hf.job
async def needs_time(x: int) -> str:
    '''Take longer than a short time limit.'''
    told = subprocess.run(["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]], capture_output=True, text=True)
    if "TimeLimit=00:30:00" not in told.stdout:
        raise TimeoutError("half an hour is needed")
    return f"{x} done on {await hf.remote_eval(lambda: os.uname().nodename)}"

@hf.job
async def waits(path: str) -> str:
    while not os.path.exists(path):
        await asyncio.sleep(0.05)
    return "found"

@hf.cluster
async def short(x: int) -> str:
    return await hf.remote_eval_job(needs_time(x)).using(sbatch=hf.SbatchOptions(time="2"))

@hf.cluster
async def wait(path: str) -> str:
    return await hf.remote_eval_job(waits(path))

def program(*, x: int = 0, path: str = "") -> hf.Cluster[str]:
    '''One job: it needs time, or a file.'''
    return wait(path) if path else short(x)

hf.main(program)
"""


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Path:
    """Return a directory that the nodes see, with the program in it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@contextmanager
def program(cluster: Cluster, place: Path, *words: str) -> Iterator[Command]:
    """Have the program running on the login host."""
    argv = [sys.executable, "program.py", *words]
    with cluster.login.start(argv, cwd=place, env=NEEDED) as started:
        yield started


def hyperflow(cluster: Cluster, place: Path, *words: str, host: str = "", code: int = 0) -> str:
    """Type a command on the login host, or on another one; return what it printed."""
    where = cluster.nodes[host] if host else cluster.login
    argv = [sys.executable, "-m", "hyperflow", *words]
    done = where.run(argv, cwd=place, env=NEEDED, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def states(cluster: Cluster, place: Path) -> list[str]:
    """Return the states of all jobs of the newest run."""
    argv = [sys.executable, "-m", "hyperflow", "list", "--json"]
    done = cluster.login.run(argv, cwd=place, env=NEEDED, check=False)
    told: dict[str, Any] = json.loads(done.stdout or '{"jobs": []}')
    return [job["state"] for job in told["jobs"]]


def wait_for_state(cluster: Cluster, place: Path, state: str) -> None:
    """Wait until the one job of the newest run is in a state."""

    def seen() -> list[str]:
        return states(cluster, place)

    block_until(lambda: seen() == [state], 40, f"the job is {state}", state=seen)


def test_a_held_job_is_retried_with_more_time(cluster: Cluster, place: Path) -> None:
    """A job that fails is held and listed; `why` has its error; retried with more time it succeeds."""
    with program(cluster, place, "--x", "7") as started:
        wait_for_state(cluster, place, "held")
        listed = hyperflow(cluster, place, "list")
        assert "needs_time(7)" in listed
        assert "exception: TimeoutError: half an hour is needed" in listed
        told = hyperflow(cluster, place, "why", "1")
        assert "hyperflow retry 1" in told
        assert "attempt 1" in told
        assert "from its files" in hyperflow(cluster, place, "list", host="node2")
        # The order travels to the login host.
        assert "job 1, needs_time(7): " in hyperflow(cluster, place, "retry", "1", "--time", "30", host="node2")
        output, errors = started.communicate(timeout=40)
    assert started.returncode == 0, errors
    assert output.startswith("7 done on node")
    (run,) = (place / "hyperflow-runs").iterdir()
    assert "#SBATCH --time=30\n" in (run / "jobs" / "1" / "script.sh").read_text()


def test_an_interrupted_program_leaves_its_jobs(cluster: Cluster, place: Path) -> None:
    """After SIGINT the job stays with Slurm; resumed, the program finds it, and it has run once."""
    with program(cluster, place, "--path", str(place / "file")) as started:
        wait_for_state(cluster, place, "running")
        started.signal(signal.SIGINT)
        errors = started.communicate(timeout=40)[1]
    assert started.returncode == 130, errors
    assert "1 job left with Slurm; to go on: hyperflow resume" in errors
    (number,) = cluster.slurm.squeue()
    (place / "file").touch()
    assert hyperflow(cluster, place, "resume").splitlines()[-1] != ""
    (run,) = (place / "hyperflow-runs").iterdir()
    record = json.loads((run / "jobs" / "1" / "job.json").read_text())
    assert [attempt["batch_id"] for attempt in record["attempts"]] == [number]
    assert record["state"] == "done"


def test_cancelling_ends_the_jobs(cluster: Cluster, place: Path) -> None:
    """With --on-interrupt cancel nothing is left with Slurm; `cancel` holds a job, `give-up` ends the program."""
    words = ("--path", str(place / "never"))
    with program(cluster, place, *words, "--on-interrupt", "cancel") as started:
        wait_for_state(cluster, place, "running")
        started.signal(signal.SIGINT)
        assert "1 job cancelled" in started.communicate(timeout=40)[1]
    block_until(lambda: not cluster.slurm.squeue(), 20, "the job has gone")
    with program(cluster, place, *words) as started:
        wait_for_state(cluster, place, "running")
        assert "held (cancelled" in hyperflow(cluster, place, "cancel", "1")
        block_until(lambda: not cluster.slurm.squeue(), 20, "the job has gone")
        hyperflow(cluster, place, "give-up", "--all")
        errors = started.communicate(timeout=40)[1]
    assert started.returncode == 1
    assert "JobCancelled" in errors
