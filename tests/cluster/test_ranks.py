"""Parallel programs on several nodes, with Debian's Open MPI: what they say, and that none of their ranks survives."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import Process
from tests.cluster.runs import Run, submit
from tests.helpers import block_until
from tests.imports import TOP

SWEPT = 10.0
"""Seconds after which nothing may be left."""

HELLO = """from mpi4py import MPI
import os, socket
world = MPI.COMM_WORLD
line = f'{world.rank} {world.size} {socket.gethostname()} {os.environ["HYPERFLOW_CPUS"]}'
os.write(1, f"{line}\\n".encode())"""

GANG = f"""
sys.path.insert(0, {str(TOP / "programs")!r})
import heat
from tests.mpi import VARIABLES

os.environ.update(VARIABLES)

def gang(argv, **how):
    return hf.remote_command(argv, nodes=2, ranks_per_node=2, **how).using(cpus=4)
"""

TALK = f"""
async def main():
    found = {{}}
    for launcher in ("mpirun", "srun"):
        hello = await gang([sys.executable, "-c", {HELLO!r}], capture=True, launcher=launcher)
        found[launcher] = [hello.returncode, hello.stdout, hello.stderr]
    found["heat"] = [await heat.temperature(0.25, *size) for size in ((1, 1), (2, 2))]
    try:
        await hf.remote_command(["hostname"], nodes=4)
    except hf.ImpossibleRequest as error:
        found["too large"] = str(error)
    return found
"""

ATTACKED = """
async def one(number):
    return await gang(["sleep", str(number)], launcher=os.environ["LAUNCHER"], check=True)

async def main():
    for number in range(900, 906):
        task = asyncio.create_task(one(number))
        while not task.done() and not (place / f"cancel {number}").exists():
            await asyncio.sleep(0.02)
        task.cancel()
        (error,) = await asyncio.gather(task, return_exceptions=True)
        tell(f"ended {number}", [type(error).__name__, str(error)])
"""


def test_what_they_say(cluster: Cluster, mpi: dict[str, str]) -> None:
    """Ranks of a Python program find each other over two nodes, exchange halos, and are bound to their CPUs."""
    result = submit(cluster, GANG + TALK, transport="ssh").result(60)
    for launcher in ("mpirun", "srun"):
        status, said, errors = result[launcher]
        assert status == 0, errors
        lines = sorted(line.split() for line in said.splitlines())
        assert [line[:2] for line in lines] == [[str(rank), "4"] for rank in range(4)]
        assert len({line[2] for line in lines}) == 2
        assert [line[3] for line in lines] == ["0,1", "2,3"] * 2
    serial, parallel = result["heat"]
    assert serial == parallel
    assert "using(nodes=4): there are 3 nodes" in result["too large"]


class Attacked:
    """A run whose parallel programs are attacked, one after the other."""

    def __init__(self, run: Run, cluster: Cluster) -> None:
        self.run = run
        self.cluster = cluster
        self.number = 899

    def processes(self) -> list[tuple[str, Process]]:
        """Return what runs on which node."""
        return [(node, process) for node, host in self.cluster.nodes.items() for process in host.processes()]

    def ranks(self) -> list[tuple[str, Process]]:
        """Return the ranks of the program that runs."""
        return [(node, each) for node, each in self.processes() if each.command == f"sleep {self.number}"]

    def on(self, node: str) -> int:
        """Return how many ranks run on a node."""
        return sum(each == node for each, _ in self.ranks())

    def begun(self, launcher: str) -> Process:
        """Return the mpirun or srun that has started them."""
        return next(each for _, each in self.processes() if each.name == launcher)

    def next(self) -> list[tuple[str, Process]]:
        """Wait for the next program, and return its ranks."""
        self.number += 1
        block_until(lambda: len(self.ranks()) == 4, 30, "four ranks run", state=self.seen)
        return self.ranks()

    def kill(self, pids: Sequence[int]) -> None:
        """Kill processes, all at once."""
        assert pids, self.seen()
        for pid in pids:
            with suppress(ProcessLookupError):  # it may have ended with one before it
                os.kill(pid, signal.SIGKILL)

    def swept(self) -> None:
        """Nothing of it is left on any node, within seconds."""
        block_until(lambda: not self.ranks(), SWEPT, "no rank is left", state=self.seen)

    def ended(self) -> str:
        """Wait for its end, and return the error."""
        self.swept()
        return ": ".join(self.run.wait(f"ended {self.number}").value)

    def seen(self) -> str:
        return "\n".join([self.run.seen(), *(f"{node} {each}" for node, each in self.processes())])


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_none_survives(cluster: Cluster, mpi: dict[str, str], launcher: str) -> None:
    """A rank, what has started them, the worker, a node, the head are killed, or it is cancelled: all ranks end.

    After the loss of a node the program runs again, on the others.
    """
    run = submit(
        cluster,
        GANG + ATTACKED,
        before=f"export LAUNCHER={launcher}; mkdir $TEST_PLACE/tmp; export TMPDIR=$TEST_PLACE/tmp",
        transport="ssh",
    )
    attacked = Attacked(run, cluster)

    node, rank = attacked.next()[0]
    attacked.kill([rank.pid])
    assert f"on {node}" in (error := attacked.ended()), error
    assert "CommandFailed: command ['sleep', '900']" in error

    attacked.next()
    attacked.kill([attacked.begun(launcher).pid])
    assert "was killed by SIGKILL" in attacked.ended()

    attacked.next()
    attacked.kill([attacked.begun(launcher).parent])
    assert "WorkerDied" in attacked.ended()

    attacked.next()
    (run.place / f"cancel {attacked.number}").touch()
    assert "CancelledError" in attacked.ended()

    other = next(node for node, _ in attacked.next() if node != "node1")
    attacked.kill(
        [each.pid for node, each in attacked.processes() if node == other and "hyperflow.launcher" in each.command]
    )
    block_until(
        lambda: attacked.on(other) == 0 and len(attacked.ranks()) == 4, 30, "it runs elsewhere", state=attacked.seen
    )
    (run.place / f"cancel {attacked.number}").touch()
    assert "CancelledError" in attacked.ended()

    attacked.next()
    attacked.kill([each.pid for _, each in attacked.processes() if "script.py" in each.command])
    attacked.swept()
