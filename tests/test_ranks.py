"""Parallel programs on nodes that all are this machine. The real ones are in tests/cluster/test_ranks.py."""

import asyncio
import contextlib
import os
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.head.capacity import Supply
from hyperflow.head.fleet import NodePlan
from hyperflow.transports.process import Local
from tests.helpers import alive, wait_until
from tests.support import local

pytestmark = pytest.mark.process


@contextlib.asynccontextmanager
async def nodes(*names: str) -> AsyncIterator[hf.JobEnv]:
    """Open a job on nodes of these names, which all are this machine."""
    plans = [NodePlan(Local(name), 2, said=Supply(gpus=("0", "1"), memory=4 << 30)) for name in names]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CPUs were asked for", category=RuntimeWarning)
        async with contextlib.AsyncExitStack() as stack:
            yield await stack.enter_async_context(open_job(plans, None, settings=Settings(), preload=[]))


def pids(path: Path, count: int) -> list[int]:
    """Return the numbers that processes have left in a directory; none until there are so many."""
    names = [int(each.name) for each in path.iterdir()]
    return names if len(names) == count else []


async def test_a_function_on_two_nodes(mpi: dict[str, str], tmp_path: Path) -> None:
    """It knows its nodes, and starts ranks on them as often as it likes; a time limit of its own ends them all."""

    async def work() -> tuple[tuple[str, ...], list[str], bool]:
        where = "echo $HYPERFLOW_SERVICE_ID $HYPERFLOW_CPUS $OMP_NUM_THREADS $CUDA_VISIBLE_DEVICES"
        first = await hf.run_ranks(["sh", "-c", where], ranks_per_node=2, capture=True, env=mpi)
        ended = False
        try:
            async with asyncio.timeout(None) as scope:
                ranks = asyncio.create_task(
                    hf.run_ranks(["sh", "-c", f"> {tmp_path}/$$; exec sleep 999"], ranks_per_node=2, env=mpi)
                )
                await wait_until(lambda: pids(tmp_path, 4), 20, "four ranks run")
                scope.reschedule(0)
                await ranks
        except TimeoutError:
            ended = not any(map(alive, pids(tmp_path, 4)))
        return hf.worker_info().nodes, sorted(first.stdout.splitlines()), ended

    async with nodes("n1", "n2") as env:
        assert (await hf.remote_eval(lambda: hf.worker_info().nodes)) == ()
        names, said, ended = await hf.remote_eval(work).using(nodes=2, cpus=2, gpus=2)
        free = env.statistics().cpus_free
    assert set(names) == {"n1", "n2"}
    # This machine's name is another one, so mpirun has its ranks started on the first node by us, too.
    assert said == [f"worker-0@{names[0]}/{node} {cpu} 1 0,1" for node in ("n1", "n2") for cpu in (0, 1)]
    assert ended
    assert free == 4


async def test_a_memory_limit_on_each_node(mpi: dict[str, str]) -> None:
    """A rank on another node that has too much ends all of it, as if the function itself had had that."""
    fills = (
        "import os, time; n = os.environ['HYPERFLOW_SERVICE_ID'].endswith('/n2'); x = b'x' * (n << 29); time.sleep(99)"
    )
    async with nodes("n1", "n2") as env:
        with pytest.raises(hf.MemoryLimitExceeded, match=r"its limit of 300M of memory: it had \d\d\dM"):
            await hf.remote_command([sys.executable, "-c", fills], nodes=2, env=mpi).using(memory="300M")
        await wait_until(lambda: env.statistics().cpus_free == 4, 10, "all CPUs are free")


async def test_ranks_on_one_node(mpi: dict[str, str]) -> None:
    """They have as many CPUs as they are; a failure names the rank."""
    fails = "import os, sys; sys.exit(3 * (os.environ['OMPI_COMM_WORLD_RANK'] == '1'))"
    async with local(2):
        result = await hf.remote_command(["sh", "-c", "echo $HYPERFLOW_CPUS"], ranks_per_node=2, capture=True, env=mpi)
        assert sorted(result.stdout.split()) == ["0", "1"]
        assert result.argv == ("sh", "-c", "echo $HYPERFLOW_CPUS")
        with pytest.raises(hf.CommandFailed, match=r"exited with 3: rank 1 on .* exited with 3") as caught:
            await hf.remote_command([sys.executable, "-c", fails], ranks_per_node=2, check=True, env=mpi)
    assert caught.value.argv == [sys.executable, "-c", fails]


async def test_refusals(tmp_path: Path) -> None:
    """Without an mpirun, with more ranks than CPUs, with more nodes than there are: each error says what to do."""
    async with local(2):
        with pytest.raises(hf.ConfigurationError, match=r"no mpirun in PATH .*module load"):
            await hf.remote_command(["true"], ranks_per_node=2, env={"PATH": str(tmp_path)})
        with pytest.raises(hf.ConfigurationError, match=r'launcher="srun": no srun is in PATH'):
            await hf.remote_command(["true"], launcher="srun", env={"PATH": str(tmp_path)})
        with pytest.raises(hf.ConfigurationError, match=r"ranks_per_node=3: the evaluation has 2 CPUs .*cpus=3"):
            await hf.remote_command(["true"], ranks_per_node=3).using(cpus=2)
        with pytest.raises(hf.ImpossibleRequest, match="there is 1 node"):
            await hf.remote_command(["true"], nodes=2)
        with pytest.raises(hf.ImpossibleRequest, match="cpus=3"):
            await hf.remote_command(["true"], ranks_per_node=3)
        result = await hf.remote_command(["sh", "-c", "echo $0 $OMP_NUM_THREADS"], capture=True, threads=5)
        assert result.stdout == "sh 5\n"
        assert os.listdir(tmp_path) == []
