"""Nodes and evaluations that are not to be trusted: other nodes get the next try, suspects and stragglers."""

import asyncio
import contextlib
import os
import pickle
import signal
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.events import reader
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.transports.process import Local
from tests.helpers import wait_until
from tests.support import Gate, wait_at

pytestmark = pytest.mark.process


@contextlib.asynccontextmanager
async def nodes(*names: str, cpus: int = 2) -> AsyncIterator[hf.JobEnv]:
    """Open a job on nodes of these names, which all are this machine."""
    plans = [NodePlan(Local(name), cpus) for name in names]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CPUs were asked for", category=RuntimeWarning)
        async with contextlib.AsyncExitStack() as stack:
            yield await stack.enter_async_context(open_job(plans, None, settings=Settings(), preload=[]))


def engine(env: hf.JobEnv) -> Engine:
    """Return the engine of a job."""
    assert isinstance(env.evaluator, Engine)
    return env.evaluator


def told(env: hf.JobEnv, *states: str) -> list[tuple[str, str]]:
    """Return which nodes the event log has in these states."""
    engine(env)._events.flush()
    found = reader.read(env.program.log_dir / "events.jsonl")
    return [(event["state"], event["node"]) for event in found if event["state"] in states]


def fails_on(node: str, x: int) -> tuple[int, str]:
    """Fail at once on one node; elsewhere, take a moment."""
    if hf.worker_info().node == node:
        raise OSError(f"{node} has no licence")
    time.sleep(0.02)
    return x, hf.worker_info().node


async def until_aside(env: hf.JobEnv, node: str) -> None:
    """Evaluate what fails on a node until that is put aside; each evaluation succeeds at its second try."""
    async with asyncio.timeout(40):
        while not env.statistics().nodes_aside:
            flow = hf.map_concurrently(lambda x: hf.remote_eval(fails_on, node, x), range(12))
            found = await flow.using(retries=1)
            assert [x for x, _ in found] == list(range(12))
            assert node not in {other for _, other in found}


def ends_node(_: int = 0) -> None:
    """End the node's launcher, and so the node."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)


def first_waits(gate: str, mark: str, x: int = 0) -> int:
    """Wait at the gate, the first time."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return x
    wait_at(gate)
    return -1


def quick(x: int) -> int:
    """Return x."""
    return x


# ---- nodes ---------------------------------------------------------------------------------------------------------


async def test_another_try_goes_to_another_node(caplog: pytest.LogCaptureFixture) -> None:
    """A node that fails at once costs each evaluation one try; it is put aside, and that is told."""
    async with nodes("bad", "north", "south") as env:
        await until_aside(env, "bad")
        statistics = env.statistics()
        assert (statistics.nodes, statistics.nodes_aside, statistics.cpus) == (3, 1, 4)
        assert told(env, "aside", "resumed") == [("aside", "bad")]
        assert "node bad is put aside" in caplog.text
        assert "`hyperflow node resume bad`" in caplog.text

        engine(env).take_back("bad")
        assert env.statistics().cpus == 6
        assert told(env, "resumed") == [("resumed", "bad")]


async def test_retry_of_a_single_evaluation_goes_to_another_node() -> None:
    """`.retry` of an evaluation goes elsewhere, too, and accuses the node."""
    async with nodes("bad", "good", cpus=1) as env:
        for x in range(4):
            assert await hf.remote_eval(fails_on, "bad", x).retry(1) == (x, "good")
        assert env.statistics().failed <= 4


async def test_failures_everywhere_accuse_no_node() -> None:
    """A function that always fails has its tries on all nodes, and none is put aside."""
    async with nodes("north", "south", cpus=1) as env:

        def broken(x: int) -> None:
            print(hf.worker_info().node)
            raise ValueError(x)

        for x in range(6):
            with pytest.raises(ValueError, match=str(x)):
                await hf.remote_eval(broken, x).using(retries=3)
        assert env.statistics().nodes_aside == 0
        assert env.statistics().retried == 18


async def test_the_last_node_is_not_put_aside() -> None:
    """A node that failed is used again when the one that did not is lost."""
    async with nodes("bad", "good", cpus=1) as env:
        await until_aside(env, "bad")
        engine(env).fleet.links["good"].give_up("the test says so")
        assert env.statistics().nodes_aside == 0
        assert told(env, "aside", "resumed") == [("aside", "bad"), ("resumed", "bad")]
        assert await hf.remote_eval(quick, 3) == 3


async def test_drain_and_resume_by_hand(tmp_path: Path) -> None:
    """On a drained node what runs goes on, and nothing is started; with all drained, evaluations wait."""
    gate = Gate(tmp_path)
    async with nodes("north", "south", cpus=1) as env:
        held = [hf.remote_eval(wait_at, gate.path).start() for _ in range(2)]
        await gate.wait_inside(2)
        waiting = [hf.remote_eval(hf.worker_info).start() for _ in range(10)]
        engine(env).put_aside("north")
        gate.open()
        assert [await one for one in held] == [gate.path] * 2
        assert {(await one).node for one in waiting} == {"south"}
        engine(env).put_aside("south")
        assert (env.statistics().cpus, env.statistics().nodes_aside) == (0, 2)
        late = hf.remote_eval(hf.worker_info).start()
        engine(env).take_back("north")
        assert (await late).node == "north"
        with pytest.raises(hf.ConfigurationError, match=r"'east' is no node .* there are: north, south"):
            engine(env).put_aside("east")


# ---- evaluations that end their node -------------------------------------------------------------------------------


async def test_the_second_loss_names_the_culprit() -> None:
    """One among twenty ends its nodes: it alone fails, with nodes and logs; no node is lost besides."""
    async with nodes("a", "b", "c", "d", cpus=2) as env:
        others = [hf.remote_eval(time.sleep, 0.05 * (x % 4)).start() for x in range(10)]
        killer = hf.remote_eval(ends_node).start()
        others += [hf.remote_eval(time.sleep, 0.05 * (x % 4)).start() for x in range(10)]
        with pytest.raises(hf.TooManyNodesLost, match="ran on 2 nodes when they were lost") as caught:
            await killer
        assert [await one for one in others] == [None] * 20
        error = caught.value
        assert isinstance(error, hf.WorkerDied)
        assert len(set(error.nodes)) == len(error.logs) == 2
        assert all(Path(log).exists() and node in str(error) for node, log in zip(error.nodes, error.logs, strict=True))
        assert repr(pickle.loads(pickle.dumps(error))) == repr(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert env.statistics().nodes_lost == 2


@pytest.mark.parametrize("limit", [1, 3])
async def test_crash_limit(limit: int) -> None:
    """`crash_limit` says how many nodes an evaluation may cost; retries do not count."""
    async with nodes("a", "b", "c", "d", cpus=1) as env:
        with pytest.raises(hf.TooManyNodesLost) as caught:
            await hf.remote_eval(ends_node).using(crash_limit=limit, retries=5)
        assert len(caught.value.nodes) == env.statistics().nodes_lost == limit
        assert env.statistics().retried == 0


async def test_nodes_that_are_lost_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was on one of them does not go to the next one, so it is charged with one loss only."""
    monkeypatch.setattr("hyperflow.head.losses.LOSS_PAUSE", 3.0)
    async with nodes("a", "b", "c", cpus=1) as env:
        links = dict(engine(env).fleet.links)
        gate, last = Gate(tmp_path), Gate(tmp_path, "last")
        beside = hf.remote_eval(wait_at, last.path).start()
        await last.wait_inside()
        (full,) = (worker.node for worker in engine(env).scheduler.workers.values())
        moved = hf.remote_eval(wait_at, gate.path).start()
        await gate.wait_inside()
        (first,) = (worker.node for worker in engine(env).scheduler.workers.values() if worker.node != full)
        (second,) = links.keys() - {full, first}
        for node in (first, second):
            os.kill(links[node].greeting.pid, signal.SIGKILL)
            await wait_until(lambda node=node: node not in engine(env).fleet.links, 10, "it is lost")
        last.open()
        await beside
        await gate.wait_inside(2)
        gate.open()
        assert await moved == gate.path


async def test_culprit_on_the_last_node() -> None:
    """When no node is left, the culprit is still named; what else there was is NodeLost."""
    async with nodes("a", "b"):
        killer = hf.remote_eval(ends_node).start()
        other = hf.remote_eval(time.sleep, 1000).start()
        with pytest.raises(hf.TooManyNodesLost):
            await killer
        with pytest.raises(hf.NodeLost):
            await other


# ---- stragglers ----------------------------------------------------------------------------------------------------


async def test_straggler_gets_a_copy(tmp_path: Path) -> None:
    """What takes much longer than others of its function is started again on another node; the first result counts."""
    gate, mark = Gate(tmp_path), str(tmp_path / "mark")
    Path(mark).touch()
    async with nodes("north", "south", cpus=1) as env:
        with hf.using(straggler_factor=3.0):
            for x in range(10):
                assert await hf.remote_eval(first_waits, gate.path, mark, x) == x
            Path(mark).unlink()
            assert await hf.remote_eval(first_waits, gate.path, mark, 7) == 7
        statistics = env.statistics()
        assert (statistics.copied, statistics.done, statistics.failed, statistics.cancelled) == (1, 11, 0, 0)
        await wait_until(lambda: env.statistics().cpus_free == 2, 10, "the straggler is killed")
        assert (env.statistics().waiting, env.statistics().running) == (0, 0)
        engine(env)._events.flush()
        events = list(reader.each_task(reader.read(env.program.log_dir / "events.jsonl")))
        (copy,) = [event["copy"] for event in events if event["state"] == "copied"]
        where = {event["task"]: event["worker"] for event in events if event["state"] == "running"}
        assert where[copy].partition("@")[2] != where[11].partition("@")[2]
        assert [(event["task"], event["by"]) for event in events if event["state"] == "superseded"] == [(11, copy)]


async def test_copy_of_a_memoized_evaluation_is_recorded_once(tmp_path: Path) -> None:
    """A copy makes no second entry."""
    gate, mark = Gate(tmp_path), str(tmp_path / "mark")

    @hf.memoize("first", version=1)
    def first(x: int) -> hf.Job[int]:
        return hf.remote_eval(first_waits, gate.path, mark, x)

    Path(mark).touch()
    async with nodes("north", cpus=2) as env:
        with hf.using(straggler_factor=2.0):
            assert await hf.map_concurrently(first, range(12)) == list(range(12))
            Path(mark).unlink()
            assert await first(100) == 100
        assert env.statistics().copied >= 1
        with contextlib.closing(sqlite3.connect(env.program.database)) as database:
            assert database.execute("SELECT count(*), count(DISTINCT key) FROM entries").fetchone() == (13, 13)


async def test_no_copy_without_an_idle_cpu(tmp_path: Path) -> None:
    """With no CPU idle, nothing is copied; when one becomes idle, the straggler is."""
    gate, other, mark = Gate(tmp_path), Gate(tmp_path, "other"), str(tmp_path / "mark")
    Path(mark).touch()
    async with nodes("north", cpus=2) as env:
        with hf.using(straggler_factor=1.0):
            await hf.map_concurrently(lambda x: hf.remote_eval(first_waits, gate.path, mark, x), range(10))
            busy = hf.remote_eval(wait_at, other.path).using(straggler_factor=None).start()
            await other.wait_inside()
            Path(mark).unlink()
            straggler = hf.remote_eval(first_waits, gate.path, mark, 5).start()
            await gate.wait_inside()
            stragglers = engine(env)._copies.stragglers
            await wait_until(lambda: stragglers.due(engine(env)._copies._clock()), 20, "it is a straggler")
            engine(env)._copies._look()
            assert env.statistics().copied == 0
            other.open()
            await busy
            assert await straggler == 5
            assert env.statistics().copied == 1


async def test_no_copy_while_locks_are_in_use(tmp_path: Path) -> None:
    """What may wait for a lock is no straggler; when all locks are free again, it may be one."""
    gate, mark = Gate(tmp_path), str(tmp_path / "mark")
    Path(mark).touch()
    async with nodes("north", cpus=2) as env:
        with hf.using(straggler_factor=1.0):
            await hf.map_concurrently(lambda x: hf.remote_eval(first_waits, gate.path, mark, x), range(10))
            copied = env.statistics().copied  # a busy machine has stragglers of its own
            async with hf.with_lock("the key"):
                Path(mark).unlink()
                straggler = hf.remote_eval(first_waits, gate.path, mark, 5).start()
                copies = engine(env)._copies
                await wait_until(lambda: copies.stragglers.due(copies._clock()), 20, "it is a straggler")
                copies._look()
                assert env.statistics().copied == copied
            assert await straggler == 5
            assert env.statistics().copied == copied + 1


async def test_cancelled_straggler(tmp_path: Path) -> None:
    """Cancelling an evaluation that has a copy ends both."""
    gate, mark = Gate(tmp_path), str(tmp_path / "mark")

    def waits(x: int) -> int:
        if os.path.exists(mark):
            wait_at(gate.path)
        return x

    async with nodes("north", cpus=2) as env:
        with hf.using(straggler_factor=1.0):
            await hf.map_concurrently(lambda x: hf.remote_eval(waits, x), range(10))
            Path(mark).touch()
            both = hf.remote_eval(waits, 1).start()
            await gate.wait_inside(2)
            both.cancel()
        await wait_until(lambda: env.statistics().cpus_free == 2, 10, "both have ended")
        statistics = env.statistics()
        assert (statistics.cancelled, statistics.waiting, statistics.running) == (1, 0, 0)
        assert not engine(env)._evaluations
        assert await hf.remote_eval(quick, 1) == 1


async def test_failure_of_one_of_two(tmp_path: Path) -> None:
    """When a straggler or its copy fails, the other one counts."""
    gate, mark = Gate(tmp_path), str(tmp_path / "mark")

    def first_fails(x: int) -> int:
        if first_waits(gate.path, mark, x) == -1:
            raise RuntimeError("the straggler has failed")
        if os.path.exists(mark + ".slow"):
            wait_at(gate.path)
        return x

    Path(mark).touch()
    async with nodes("north", "south", cpus=1) as env:
        with hf.using(straggler_factor=1.0):
            for x in range(10):
                await hf.remote_eval(first_fails, x)
            Path(mark).unlink()
            Path(mark + ".slow").touch()
            straggler = hf.remote_eval(first_fails, 3).start()
            await gate.wait_inside(2)
            gate.open()
            assert await straggler == 3
        assert (env.statistics().copied, env.statistics().failed) == (1, 0)
        assert Counter(worker.node for worker in engine(env).scheduler.workers.values())
