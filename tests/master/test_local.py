"""Cluster programs on this machine: the same runner, the same run directory, without Slurm."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow._cluster import ClusterEnv
from hyperflow.master.batch import TAG
from hyperflow.master.lifecycle import State
from hyperflow.master.shared import Timeouts
from hyperflow.wire import processes
from tests.helpers import alive, block_until, wait_until

QUICK = Timeouts(look=0.05)
CPUS = len(os.sched_getaffinity(0))


@attrs.frozen
class Point:
    """A class that travels."""

    x: int


def square(x: int) -> int:
    """Be evaluated."""
    return x * x


@hf.memoize("squared")
def squared(x: int) -> hf.Job[int]:
    """Be recorded."""
    return hf.remote_eval(square, x)


@hf.job
async def point(x: int) -> Point:
    """Evaluate on workers."""
    return Point(sum(await hf.map_concurrently(squared, range(x))))


@hf.cluster
async def program(xs: list[int]) -> list[int]:
    """Ask for a job for each number."""
    return [found.x for found in await hf.map_concurrently(lambda x: hf.remote_eval_job(point(x)), xs)]


async def test_results(tmp_path: Path) -> None:
    """Jobs and plain evaluations give results; what they recorded is in the program's database; resume reuses all."""
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        assert await program([3, 4]) == [5, 14]
        assert await hf.remote_eval(square, 9).using(sbatch=hf.SbatchOptions()) == 81
        assert len(await env.database.lookup_all("memoize:squared:1")) == 4
        assert [str(job.state) for job in env.master.jobs()] == ["done"] * 3
        assert sum(job.progress.done for job in env.master.jobs()) >= 4
    async with hf.open_cluster(resume=env.program.program_id, base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        assert await program([3, 4]).using(retries=2) == [5, 14]  # a call is the same one whatever the options are
        assert not env.master.numbers(State.NEW, State.QUEUED, State.RUNNING)
        assert [job.attempts for job in env.master.jobs()] == [1, 1, 1]


async def test_rows_that_were_left_are_taken_later(tmp_path: Path) -> None:
    """What could not be taken over, as on a full disk, is taken by the next master."""
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        with pytest.MonkeyPatch.context() as patch:

            async def full(*_: object, **__: object) -> None:
                raise hf.DatabaseError("the disk is full")

            patch.setattr("hyperflow.master.driver.ingest", full)
            assert await program([3]) == [5]
        assert await env.database.lookup_all("memoize:squared:1") == []
    async with hf.open_cluster(resume=env.program.program_id, base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        directory = env.master.jobs()[0].directory
        await wait_until(lambda: not list(directory.glob("results.*")), 10, "the rows are taken")
        assert len(await env.database.lookup_all("memoize:squared:1")) == 3


async def test_postgresql(tmp_path: Path, server_url: str) -> None:
    """With a database on a server, jobs record there themselves, and see each other's results while they run."""
    for computed in (3, 0):
        place = hf.ProgramInfo.new(tmp_path, database=server_url)
        async with hf.open_cluster(place, local=True, timeouts=QUICK) as env:
            assert await program([3]) == [5]
            assert env.master.jobs()[0].progress.done == computed
            assert not list(env.master.run.home.glob("jobs/*/results.*"))


async def test_kinds_are_told_apart(tmp_path: Path) -> None:
    """A job awaited in a Cluster, a Cluster computation in a job, and the like: the message has the right code."""
    with pytest.raises(hf.MisuseError, match="takes a job, which runs in an allocation"):
        hf.remote_eval_job(program([1]))
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK, on_error="raise"):
        with pytest.raises(hf.MisuseError, match=r"await hyperflow\.remote_eval_job\(point\(3\)\)"):
            await point(3)
        with pytest.raises(hf.MisuseError, match=r"remote_map in a Cluster .* put it into a @job"):
            await hf.remote_map(square, [1, 2])
        with pytest.raises(hf.ConfigurationError, match=r"using\(sbatch=hyperflow\.SbatchOptions"):
            await hf.remote_eval_job(point(3)).using(sbatch="nodes=2")
    async with hf.open_local_job(cpus=1):
        with pytest.raises(hf.MisuseError, match="which asks Slurm for allocations"):
            await program([1])
        with pytest.raises(hf.MisuseError, match=r"write: await point\(3\)"):
            await hf.remote_eval_job(point(3))


async def test_memoized_cluster_functions(tmp_path: Path) -> None:
    """A memoized function keeps its kind, runs once, and its result is in the program's database."""

    @hf.memoize("whole")
    @hf.cluster
    async def whole(x: int) -> int:
        return (await hf.remote_eval_job(point(x))).x

    @hf.memoize("plain")
    def plain(x: int) -> hf.Cluster[int]:
        return hf.remote_eval_job(twice(x))

    assert isinstance(whole(1), hf.Cluster)
    assert isinstance(plain(1), hf.Cluster)
    assert isinstance(squared(1), hf.Job)
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK) as env:
        assert await hf.concurrently(whole(3), whole(3), plain(4)) == (5, 5, 8)
        assert await whole(3) == 5
        assert len(env.master.jobs()) == 2


@hf.job
async def twice(x: int) -> int:
    """Evaluate nothing."""
    return 2 * x


@hf.job
async def cpus() -> tuple[int, list[int]]:
    """Say how many CPUs there are, and which this process may use."""
    return (await hf.ask()).evaluator.cpus, sorted(os.sched_getaffinity(0))


async def test_more_cpus_than_there_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job that asks for more CPUs than the machine has still runs, with one warning; a smaller one is pinned."""
    many = hf.SbatchOptions(nodes=2, ntasks_per_node=CPUS)
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK):
        with caplog.at_level(logging.WARNING, "hyperflow"):
            found = await hf.concurrently(hf.remote_eval_job(cpus()).using(sbatch=many), hf.remote_eval_job(cpus()))
    assert [count for count, _ in found] == [2 * CPUS, 1]
    assert len(found[1][1]) == 1
    warned = [record.getMessage() for record in caplog.records if "and this machine has" in record.getMessage()]
    assert len(warned) == 1


def sleep(mark: str) -> None:
    """Leave a mark with the process's number, and sleep."""
    Path(mark).write_text(str(os.getpid()))
    time.sleep(1000)


@hf.job
async def sleeping(mark: str) -> None:
    """Evaluate something long."""
    await hf.remote_eval(sleep, mark)


async def test_cancelled_job_leaves_no_process(tmp_path: Path) -> None:
    """Cancelling the await ends the job's process, its launcher and its workers."""
    mark = tmp_path / "mark"
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True, timeouts=QUICK) as env:
        waiting = asyncio.ensure_future(hf.remote_eval_job(sleeping(str(mark))).start())
        await wait_until(lambda: mark.exists() and mark.read_text(), 20, "it sleeps", state=lambda: env.master.why(1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not alive(int(mark.read_text()))
    assert not processes.carriers(f"{TAG}={env.program.program_id}-1-1")


def breaks(x: int) -> float:
    """Raise."""
    return 1 / x


@hf.job
async def breaking(x: int) -> float:
    """Evaluate something that raises."""
    return (await hf.map_concurrently(lambda y: hf.remote_eval(breaks, y), [x]))[0]


async def test_the_traceback_of_a_job_is_told(tmp_path: Path) -> None:
    """`why` shows it, with and without a master, as text and as JSON; it is a text file beside the result."""
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK, on_error="raise") as env:
        with pytest.raises(ZeroDivisionError):
            await hf.remote_eval_job(breaking(0))
        home = env.master.run.home
        told = await asyncio.to_thread(_why, home)
        story = env.master.why(1)
        traceback = env.master.traceback(1)
    file = home / "jobs" / "1" / "error.1.0.txt"
    assert file.read_text() == traceback
    assert told["traceback"] == traceback == _why(home)["traceback"]
    assert "in breaking" in traceback
    assert "in breaks" in traceback
    assert "raised by evaluation 1 of breaks(0) on " in traceback
    assert "(raised by job 1, breaking(0); its files: " in traceback
    assert "asyncio" not in traceback
    assert traceback.count("  File ") == 2
    assert all(f"    | {line}" in story for line in traceback.splitlines())
    assert f"its traceback ({file}):" in story


def _why(home: Path) -> Any:
    """Return what `hyperflow why 1 --json` prints."""
    words = [sys.executable, "-m", "hyperflow", "why", "1", "--run", str(home), "--json"]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout)


@hf.job
async def killed() -> None:
    """End without an answer."""
    os._exit(3)


@hf.job
async def leaves(how: str) -> None:
    """End in an unusual way."""
    if how == "exit":
        sys.exit(5)
    raise Odd(1, 2)


class Odd(Exception):
    """Takes other arguments than it hands on."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


async def test_errors_of_real_processes(tmp_path: Path) -> None:
    """A process that ends without an answer, sys.exit and an exception that cannot be made anew: each has its error."""
    async with hf.open_cluster(base_dir=tmp_path, local=True, timeouts=QUICK, on_error="raise"):
        with pytest.raises(hf.JobCrashed, match="has left no result"):
            await hf.remote_eval_job(killed())
        with pytest.raises(hf.EvaluationExited, match="SystemExit"):
            await hf.remote_eval_job(leaves("exit"))
        with pytest.raises(Odd, match="1 and 2") as caught:
            await hf.remote_eval_job(leaves("odd"))
        assert any("job 3, leaves('odd')" in note for note in caught.value.__notes__)


SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from typing import Any
import hyperflow as hf
import module_beside

place = Path(sys.argv[1])

class Found:
    def __init__(self, x):
        self.x = x

def evaluate(x):
    with (place / "marks").open("a") as file:
        file.write(f"{x}\\n")
    if x == 2 and not (place / "go").exists():
        (place / "waiting").write_text(str(os.getpid()))
        time.sleep(1000)
    return Found(module_beside.square(x))

@hf.memoize("evaluate")
@hf.job
async def recorded(x: int) -> int:
    return (await hf.remote_eval(evaluate, x)).x

@hf.job
async def work(x):
    return Found(await recorded(10 * x) + (await hf.remote_eval(evaluate, x)).x)

@hf.cluster
async def main():
    found = [await hf.remote_eval_job(work(1)), await hf.remote_eval_job(work(2))]
    assert all(type(one) is Found for one in found)
    return [one.x for one in found]

async def run():
    program = hf.ProgramInfo.new(place / "runs") if len(sys.argv) < 3 else None
    async with hf.open_cluster(program, resume=None if program else sys.argv[2], local=True) as env:
        (place / "id").write_text(str(env.master.run.home))
        print(await main())

asyncio.run(run())
"""


def test_killed_master_of_local_jobs(tmp_path: Path) -> None:
    """Jobs of this machine end with a master that is killed; resumed, what was done is used, the rest runs again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "module_beside.py").write_text("def square(x):\n    return x * x\n")
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        waiting = tmp_path / "waiting"
        block_until(lambda: waiting.exists() and waiting.read_text(), 30, "the second job waits")
        first.kill()
    block_until(lambda: not alive(int(waiting.read_text())), 15, "the worker ends with its master")
    (tmp_path / "go").touch()
    done = subprocess.run([*command, (tmp_path / "id").read_text()], capture_output=True, text=True, check=False)
    assert done.stdout == "[101, 404]\n", done.stderr
    assert sorted((tmp_path / "marks").read_text().split()) == ["1", "10", "2", "2", "20"]


async def test_progress_and_news(tmp_path: Path) -> None:
    """A list of jobs shows how evaluations stand, and `changed` wakes up whoever shows it."""
    mark = tmp_path / "mark"
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True, timeouts=QUICK) as env:
        waiting = asyncio.ensure_future(hf.remote_eval_job(sleeping(str(mark))).start())
        seen = await asyncio.create_task(env.master.changed(env.master.version))
        assert isinstance(env, ClusterEnv)
        while not (env.master.jobs() and env.master.jobs()[0].progress.running == 1):
            async with asyncio.timeout(40):
                seen = await env.master.changed(seen)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
