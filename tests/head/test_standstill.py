"""A head or a node that stood still goes on where it was: nothing is lost, and nothing is charged."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hyperflow.config import Settings
from hyperflow.head.engine import Engine, open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.program import ProgramInfo
from hyperflow.transports.process import Connection, Local, Receiver, Spawned
from tests import functions as f
from tests.helpers import wait_until


class Elsewhere(Local):
    """A launcher that is told of its head by a stream which may be cut without a word."""

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start it."""
        with Spawned(command, log_file) as process:
            return await process.connect(receiver, remote=True)


@asynccontextmanager
async def engine(node: Local, path: Path, silence_limit: float) -> AsyncIterator[Engine]:
    """Open an engine whose launcher is impatient."""
    settings = Settings(heartbeat=0.1, node_timeout=5.0, silence_limit=silence_limit)
    async with open_engine([NodePlan(node, 1)], ProgramInfo.new(path), settings=settings) as made:
        yield made


def send(pids: Sequence[int], signum: signal.Signals) -> None:
    """Send a signal to all of them."""
    for pid in pids:
        os.kill(pid, signum)


async def test_head_that_stood_still_beside_its_launcher(tmp_path: Path) -> None:
    """A launcher at the end of a pipe does not give up a head that is silent for longer than silence_limit."""
    async with engine(Local(), tmp_path, silence_limit=0.5) as made:
        assert await made.submit(f.identity, (1,), {}, Options()) == 1
        waiting = made.submit(f.interval, (1.0,), {}, Options())
        await asyncio.sleep(0)
        time.sleep(1.5)
        await waiting
        assert await made.submit(f.identity, (1,), {}, Options()) == 1
        assert made.statistics().nodes_lost == 0


async def test_launcher_that_stood_still_together_with_its_head(tmp_path: Path) -> None:
    """A launcher does not count the time in which it was stopped itself as silence of the head."""
    async with engine(Elsewhere(), tmp_path, silence_limit=1.5) as made:
        assert await made.submit(f.identity, (1,), {}, Options()) == 1
        (link,) = made.fleet.links.values()
        assert link.greeting is not None
        time.sleep(0.3)  # until it has read what was sent before
        send([link.greeting.pid], signal.SIGSTOP)
        time.sleep(2.5)
        send([link.greeting.pid], signal.SIGCONT)
        time.sleep(0.5)  # it has to judge before the head says anything
        assert await made.submit(f.identity, (1,), {}, Options()) == 1
        assert made.statistics().nodes_lost == 0


async def test_launcher_that_hears_nothing(tmp_path: Path) -> None:
    """It still gives up a head that is silent while it listens."""
    async with engine(Elsewhere(), tmp_path, silence_limit=0.5) as made:
        assert await made.submit(f.identity, (1,), {}, Options()) == 1
        time.sleep(1.5)
        await wait_until(lambda: not made.statistics().nodes, 10, "it has gone")


class Slow(Local):
    """A node that takes longer to start than launchers wait for a word."""

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start it."""
        await asyncio.sleep(2.0)
        return await super().start(command, receiver, log_file)


async def test_launcher_that_is_up_before_others(tmp_path: Path) -> None:
    """While other nodes are being started, it hears of its head."""
    settings = Settings(heartbeat=0.1, silence_limit=0.5, min_nodes=2)
    nodes = [NodePlan(Elsewhere("n1"), 1), NodePlan(Slow("n2"), 1)]
    async with open_engine(nodes, ProgramInfo.new(tmp_path), settings=settings) as made:
        assert made.statistics().nodes == 2


def by_steps(seconds: float) -> float:
    """On a worker: take so long, not counting the time in which nothing runs."""
    for _ in range(100):
        time.sleep(seconds / 100)
    return seconds


async def test_time_limit_while_nothing_runs(tmp_path: Path) -> None:
    """Time in which a node was stopped does not count for the time limits of its evaluations."""
    async with engine(Local(), tmp_path, silence_limit=60.0) as made:
        worker = await made.submit(os.getpid, (), {}, Options())
        waiting = made.submit(by_steps, (1.0,), {}, Options(time_limit=3.0))
        await asyncio.sleep(0.3)
        (link,) = made.fleet.links.values()
        assert link.greeting is not None
        pids = [link.greeting.pid, worker]
        send(pids, signal.SIGSTOP)
        time.sleep(4.0)
        send(pids, signal.SIGCONT)
        assert await waiting == 1.0
