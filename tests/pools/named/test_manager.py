"""Named pools on real Slurm: programs share one, it outlives them, and it survives its manager."""

import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.control import place
from hyperflow.control.client import Contact
from tests.cluster.cluster import Cluster
from tests.cluster.host import Command
from tests.helpers import block_until
from tests.imports import TOP

HYPERFLOW = [sys.executable, "-m", "hyperflow"]

SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
import hyperflow as hf

name, place = sys.argv[1], Path(sys.argv[2])

def short(number):
    with (place / "marks").open("a") as file:
        file.write(name + "\\n")
    time.sleep(0.1)
    return hf.worker_info().node

async def endless():
    while not (place / f"stop.{name}").exists():
        yield await hf.remote_eval(short, 0)

@hf.job
async def scan():
    async def on():
        return len([node async for node in endless()])
    return sum(await asyncio.gather(*(on() for _ in range(12))))

"""

RUN = (
    SCRIPT
    + """
if __name__ == "__main__":
    print("result", hf.run_job_pool(scan(), "mine", program=hf.ProgramInfo.new(place / "runs")) > 0)
"""
)

TWICE = """
import asyncio
import hyperflow as hf

async def main():
    for number in range(2):
        async with hf.open_pool_job("mine", program=hf.ProgramInfo.new("runs")):
            print("result", await hf.remote_eval(abs, -number))

asyncio.run(main())
"""


@attrs.define
class Named:
    """The pools of the user of a cluster, on its login host, and programs that use them."""

    cluster: Cluster
    place: Path
    stack: ExitStack

    def pool(self, *words: str, code: int = 0) -> str:
        """Type a `hyperflow pool` command; return what it prints."""
        done = self.cluster.login.run(
            [*HYPERFLOW, "pool", *words], env=self._env(), cwd=self.place, check=False, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr + self.log()
        return done.stdout + done.stderr

    def _env(self) -> dict[str, str]:
        return {"PYTHONPATH": str(TOP)}

    def log(self) -> str:
        """Return what the managers have said."""
        logs = (self.cluster.home / ".local/state/hyperflow/pools").glob("*/log")
        return "\n".join(log.read_text() for log in logs)

    def info(self) -> dict[str, Any]:
        """Ask the manager, whose socket is in the home directory that all hosts share."""
        address = place.read(self.cluster.home / ".local/state/hyperflow/pools/mine")
        assert address is not None
        return Contact(address).get("/pool")

    def start(self, text: str, name: str) -> Command:
        """Start a program."""
        script = self.place / f"{name}.py"
        script.write_text(text)
        output = self.stack.enter_context((self.place / f"{name}.out").open("w"))
        argv = [sys.executable, str(script), name, str(self.place)]
        login = self.cluster.login
        return self.stack.enter_context(
            login.start(argv, env=self._env(), cwd=self.place, stdout=output, stderr=output)
        )

    def output(self, name: str) -> str:
        return (self.place / f"{name}.out").read_text()

    def marks(self, name: str) -> int:
        """Return how many evaluations of a program have begun."""
        path = self.place / "marks"
        return Counter(path.read_text().split())[name] if path.exists() else 0

    def goes_on(self, name: str) -> None:
        """Wait until more evaluations of a program have begun than by now."""
        before = self.marks(name)
        block_until(lambda: self.marks(name) > before + 3, 20, f"{name} goes on", state=self.seen)

    def seen(self) -> str:
        return "\n".join([self.log(), *(path.read_text() for path in self.place.glob("*.out"))])

    def shares(self) -> list[int]:
        """Return how many CPUs each program has, the oldest first."""
        return [program["cpus"] for program in self.info()["programs"]]

    def wait_shares(self, *shares: int) -> None:
        block_until(lambda: self.shares() == list(shares), 20, f"CPUs of programs are {shares}", state=self.seen)

    def manager(self) -> int:
        """Return the process of the manager, as a number here."""
        (found,) = [each for each in self.cluster.login.processes() if "hyperflow.pools.named.manager" in each.command]
        return found.pid


@pytest.fixture
def named(cluster: Cluster) -> Iterator[Named]:
    """The user has no pools yet; at the end, those that are left are ended."""
    home = cluster.home / f"named-{uuid.uuid4().hex[:8]}"
    home.mkdir()
    with ExitStack() as stack:
        found = Named(cluster, home, stack)
        yield found
        stack.close()
        for pool in json.loads(found.pool("list", "--json"))["pools"]:
            if pool["state"] != "ended":
                found.pool("stop", pool["name"], "--now")


@pytest.mark.timeout(180)
def test_two_programs_share_and_outlive_the_manager(named: Named) -> None:
    """
    Programs share fairly as evaluations end; a killed one gives all back; a killed manager's pool goes on.

    Programs go on without a manager, the next one takes the allocation over, a second one is refused, nothing is
    submitted twice; a notebook attaches twice; a stopped pool is gone, and says so.
    """
    started = named.pool("start", "mine", "--ntasks-per-node", "4", "--time", "30")
    assert "hyperflow pool info mine" in started
    first = named.start(RUN, "first")
    named.wait_shares(4)
    second = named.start(RUN, "second")
    named.wait_shares(2, 2)
    named.goes_on("second")
    first.kill()
    named.wait_shares(4)

    before = named.info()["allocations"]
    os.kill(named.manager(), signal.SIGKILL)
    named.goes_on("second")
    assert "was killed" in named.pool("info", "mine", code=1)
    assert "goes on" in named.pool("start", "mine")
    assert "is there already" in named.pool("start", "mine", code=1)
    named.wait_shares(4)
    after = named.info()["allocations"]
    assert [each["slurm_job"] for each in after] == [each["slurm_job"] for each in before]
    assert list(named.cluster.slurm.squeue()) == [before[0]["slurm_job"]]

    twice = _until_end(named, named.start(TWICE, "twice"), "twice")
    assert "result 0\n" in twice
    assert "result 1\n" in twice
    (named.place / "stop.second").touch()
    assert "result True" in _until_end(named, second, "second")
    assert "has ended" in named.pool("stop", "mine")
    assert not named.cluster.slurm.squeue()
    assert "hyperflow pool start mine" in _until_end(named, named.start(TWICE, "late"), "late")


@pytest.mark.timeout(120)
def test_a_pool_that_is_asked_for_when_needed_and_stopped_at_work(named: Named) -> None:
    """
    Without a least number, Slurm is asked when a program wants something; what it would refuse starts no pool.

    A pool that is stopped lets evaluations end, and what then waits gets an error that says so.
    """
    refused = named.pool("start", "bad", "--partition", "nowhere", code=1)
    assert "invalid partition" in refused
    assert [pool["state"] for pool in json.loads(named.pool("list", "--json"))["pools"]] == ["ended"]
    named.pool("start", "mine", "--ntasks-per-node", "4", "--time", "30", "--min-allocations", "0")
    assert not named.info()["allocations"]
    program = named.start(RUN, "program")
    named.goes_on("program")
    assert "ends when" in named.pool("stop", "mine") or not named.cluster.slurm.squeue()
    said = _until_end(named, program, "program")
    assert "AllocationEnding: the allocation ends (the pool mine is stopped (`hyperflow pool stop`)" in said
    block_until(lambda: not named.cluster.slurm.squeue(), 20, "the allocation is given back", state=named.seen)


def _until_end(named: Named, command: Command, name: str) -> str:
    block_until(lambda: command.poll() is not None, 30, f"{name} ends", state=named.seen)
    return named.output(name)
