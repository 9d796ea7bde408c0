"""What does an external program cost that is started by an evaluation?"""

import os
import shutil
import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import hyperqueue_client, hyperqueue_run, opened
from benchmarks.work import WORKERS, true

COMMANDS = 2000
FEWER = {"Work-Queue": 100}
PEERS_TOO = ("ProcessPoolExecutor", "multiprocessing", "loky", "mpire", "Work-Queue")


async def run_true() -> int:
    """Run the program from a worker."""
    return (await hf.run_command(["true"])).returncode


@hf.job
async def commands() -> Figures:
    """Run one program in each evaluation, all side by side."""
    count = harness.scaled(COMMANDS)
    began = time.perf_counter()
    codes = await hf.replicate_concurrently(count, hf.remote_eval(run_true))
    seconds = time.perf_counter() - began
    assert codes == [0] * count
    return {"value": seconds / count * 1e3}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(commands)


def hyperqueue() -> Figures:
    """Run a job of many tasks, without files for their output."""
    from hyperqueue import Job

    count = harness.scaled(COMMANDS)
    with hyperqueue_client() as client:
        warm = Job()
        warm.program(["true"], stdout=None, stderr=None)
        hyperqueue_run(client, warm)
        began = time.perf_counter()
        job = Job()
        for _ in range(count):
            job.program(["true"], stdout=None, stderr=None)
        hyperqueue_run(client, job)
        return {"value": (time.perf_counter() - began) / count * 1e3}


def spawn_often(count: int) -> int:
    """Run the program again and again, and return how often it failed."""
    path = shutil.which("true") or ""
    failed = 0
    for _ in range(count):
        pid = os.posix_spawn(path, ["true"], os.environ)
        failed += os.waitpid(pid, 0)[1] != 0
    return failed


def posix_spawn() -> Figures:
    """Do nothing else, in two processes."""
    count = harness.scaled(COMMANDS)
    with opened("multiprocessing") as there:
        began = time.perf_counter()
        failed = there.each(spawn_often, [count // WORKERS] * WORKERS)
        seconds = time.perf_counter() - began
    assert sum(failed) == 0
    return {"value": seconds / count * 1e3}


def peer(name: str) -> Figures:
    """Call subprocess.run in each evaluation."""
    count = harness.scaled(FEWER.get(name, COMMANDS))
    with opened(name) as there:
        began = time.perf_counter()
        codes = there.each(true, range(count))
        seconds = time.perf_counter() - began
    assert codes == [0] * count
    return {"value": seconds / count * 1e3}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest."""
    return medians["hyperflow"]["value"] < min(harness.peers(medians, "posix_spawn").values())


QUESTION = Question(
    key="commands",
    title="the external program `true`, one in each evaluation",
    unit="ms each",
    better="lower",
    goal="ahead of every peer",
    contestants={
        "hyperflow": "benchmarks.commands:hyperflow",
        "posix_spawn": "benchmarks.commands:posix_spawn",
        "HyperQueue": "benchmarks.commands:hyperqueue",
        **{name: f"benchmarks.commands:peer {name}" for name in PEERS_TOO},
    },
    reached=reached,
    rounds=3,
)
