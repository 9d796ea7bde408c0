"""Nodes that come and go while a Job runs."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.errors import ConfigurationError, ImpossibleRequest, LauncherError
from hyperflow.events.reader import read
from hyperflow.head.engine import Engine, open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.request import Capacity, NodeKind, Request
from hyperflow.transports.process import Local
from tests.head.test_fleet import Late
from tests.helpers import wait_until

SMALL = NodeKind("partition main", 2, Capacity(gpus=("0",), memory=1 << 30, ends=3600.0), most=3)


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Engine]:
    """Run an engine without any node, to which some may come."""
    async with open_engine([], hf.ProgramInfo.new(tmp_path / "run"), settings=Settings()) as engine:
        engine.may_come([SMALL])
        yield engine


def plan(name: str, cpus: int = 1) -> NodePlan:
    """Return a node of this machine; all share its CPUs."""
    return NodePlan(Local(name), cpus, shared=True)


def wait_for(path: Path) -> str:
    """Evaluated on a worker: begin, and wait for a file."""
    Path(f"{path}.{os.getpid()}").touch()
    while not path.exists():
        time.sleep(0.01)
    return os.environ.get("NO_SUCH", "done")


def begun(path: Path) -> int:
    """Return how many evaluations have begun to wait for a file."""
    return len(list(path.parent.glob(f"{path.name}.*")))


async def test_submitting_waits_for_a_node(tmp_path: Path) -> None:
    """With no node up, what may be served waits, the rest is refused, and a node that comes serves it at once."""
    async with opened(tmp_path) as engine:
        waiting = [engine.submit(abs, (-n,), {}, Options()) for n in range(3)]
        with pytest.raises(ImpossibleRequest, match=r"largest node that may come has 2 CPUs \(partition main\)"):
            engine.submit(abs, (1,), {}, Options(cpus=3))
        assert [(want.request, want.number) for want in engine.demand()] == [(Request(), 3)]
        assert await engine.add_node(plan("n1", 2)) == "n1"
        assert await asyncio.gather(*waiting) == [0, 1, 2]
        assert not engine.demand()


async def test_released_while_it_runs(tmp_path: Path) -> None:
    """What runs on a node that is released starts again elsewhere, uncharged, and no loss is counted or told."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        gone: list[str] = []
        engine.on_node_gone = lambda node, cause: gone.append(node)
        await engine.add_node(plan("n1"))
        running = engine.submit(wait_for, (go,), {}, Options(crash_limit=1))
        sole = engine.submit(wait_for, (go,), {}, Options(exclusive=True, crash_limit=1))
        await wait_until(lambda: begun(go) == 1, 20.0, "1 to begin")
        assert engine.is_busy("n1")
        await engine.release_node("n1", "it is idle")
        assert not engine.is_busy("n1")
        assert not engine.fleet.links
        assert engine.statistics().nodes_lost == 0
        assert not gone
        go.touch()
        await engine.add_node(plan("n1", 2))  # the same name comes again
        assert [await running, await sole] == ["done", "done"]
        log = tmp_path / "run"
    said = [event for event in read(next(log.rglob("events.jsonl"))) if event["state"] in ("up", "left", "lost")]
    assert [(event["state"], event["node"]) for event in said] == [("up", "n1"), ("left", "n1"), ("up", "n1")]


async def test_an_exclusive_one_starts_elsewhere_at_once(tmp_path: Path) -> None:
    """A node that has ended in order has nothing of an exclusive evaluation left: it need not be waited for."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        await engine.add_node(plan("n1"))
        sole = engine.submit(wait_for, (go,), {}, Options(exclusive=True))
        await wait_until(lambda: begun(go) == 1, 20.0, "1 to begin")
        await engine.add_node(plan("n2"))
        go.touch()
        go.unlink()
        began = time.monotonic()
        await engine.release_node("n1", "it is idle")
        await wait_until(lambda: begun(go) == 2, 20.0, "2 to begin")
        assert time.monotonic() - began < 8.0  # of a lost node, 15
        go.touch()
        assert await sole == "done"


async def test_two_nodes_of_one_machine(tmp_path: Path) -> None:
    """The second allocation of a machine is a node by itself, with a name of its own, and both are used."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        names = await asyncio.gather(engine.add_node(plan("n1")), engine.add_node(plan("n1")))
        assert sorted(names) == ["n1", "n1.2"]
        both = [engine.submit(wait_for, (go,), {}, Options()) for _ in range(2)]
        await wait_until(lambda: begun(go) == 2, 20.0, "2 to begin")
        await engine.release_node("n1", "its allocation ends")
        go.touch()
        assert await asyncio.gather(*both) == ["done", "done"]
        assert list(engine.fleet.links) == ["n1.2"]


async def test_drained(tmp_path: Path) -> None:
    """Nothing starts on a node that is drained; what runs there goes on; no person resumes it, and no need does."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        await engine.add_node(plan("n1"))
        running = engine.submit(wait_for, (go,), {}, Options())
        await wait_until(lambda: begun(go) == 1, 20.0, "1 to begin")
        engine.drain_node("n1", "its allocation ends")
        waiting = engine.submit(abs, (-1,), {}, Options())
        assert [(node["state"], node["cause"]) for node in engine.nodes()] == [("draining", "its allocation ends")]
        with pytest.raises(ConfigurationError, match=r"'n1' is drained because its allocation ends"):
            engine.take_back("n1")
        go.touch()
        await running
        await wait_until(lambda: not engine.is_busy("n1"), 20.0, "n1 to have ended what it had")
        assert [node["state"] for node in engine.nodes()] == ["drained"]
        assert not waiting.done()
        await engine.add_node(plan("n2"))
        assert await waiting == 1
        engine.drain_node("n2", "idle")
        engine.resume_node("n2", "there is work again")
        assert await engine.submit(abs, (-1,), {}, Options()) == 1


async def test_the_end_of_a_node(tmp_path: Path) -> None:
    """A node's own end is told to what runs there, and keeps away what needs longer; of the head there is none."""
    async with opened(tmp_path) as engine:
        await engine.add_node(plan("n1"), time.time() + 100.0)
        await engine.add_node(plan("n2"))
        left = {
            node: account.capacity.ends - engine.scheduler.clock()
            for node, account in engine.scheduler.pool.nodes.items()
        }
        assert 80 < left["n1"] < 91
        assert left["n2"] == math.inf == engine.time_left()
        long = Options(min_time=120.0)
        times = await asyncio.gather(*(engine.submit(hf.time_left, (), {}, long) for _ in range(3)))
        assert set(times) == {math.inf}
        await engine.release_node("n2", "idle")
        assert 80 < await engine.submit(hf.time_left, (), {}, Options()) < 91
        engine.drain_node("n1", "its allocation ends")
        assert engine._ends.is_ending_at("n1")


async def test_a_node_of_a_named_pool(tmp_path: Path) -> None:
    """Of a node of which a pool lends some CPUs, those are used; more may be lent, and what is asked back comes."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        came: list[tuple[str, tuple[int, ...]]] = []
        all_came = asyncio.Event()

        def returned(node: str, cpus: tuple[int, ...], gpus: tuple[str, ...], memory: int) -> None:
            assert (gpus, memory > 0) == ((), True)
            came.append((node, cpus))
            if sum(len(cpus) for _, cpus in came) == 2:
                all_came.set()

        engine.on_returned = returned
        with pytest.raises(LauncherError, match="CPU 3 of n2 is lent, but only 2 can be used there"):
            await engine.add_node(NodePlan(Local("n2"), 2, shared=True, share=(3,)))
        await engine.add_node(NodePlan(Local("n1"), 2, shared=True, share=()))
        both = [engine.submit(wait_for, (go,), {}, Options()) for _ in range(3)]
        assert engine.cpus == 0
        assert not engine.is_busy("n1")
        engine.lend("n1", (1,))
        await wait_until(lambda: begun(go) == 1, 20.0, "1 to begin")
        engine.lend("n1", (0,))
        await wait_until(lambda: begun(go) == 2, 20.0, "2 to begin")
        engine.reclaim("n1", 2)
        assert came == []
        go.touch()
        await all_came.wait()
        assert sorted(cpu for _, cpus in came for cpu in cpus) == [0, 1]
        assert not both[2].done()
        engine.lend("n1", (0,))
        assert await asyncio.gather(*both) == ["done"] * 3


async def test_nothing_may_come_any_more(tmp_path: Path) -> None:
    """What waits for a node is refused when none may come any more, and so is what comes after it."""
    async with opened(tmp_path) as engine:
        waiting = engine.submit(abs, (-1,), {}, Options())
        engine.may_come([])
        with pytest.raises(ImpossibleRequest, match="no node is up, and none may come"):
            await waiting
        with pytest.raises(hf.HyperflowError, match="no node is up, and none may come"):
            engine.submit(abs, (-1,), {}, Options())


async def test_the_last_node_is_lost(tmp_path: Path) -> None:
    """When the last node is lost and some may come, all waits; the owner is told, and another one serves."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        gone: list[str] = []
        engine.on_node_gone = lambda node, cause: gone.append(node)
        await engine.add_node(plan("n1"))
        running = engine.submit(wait_for, (go,), {}, Options(crash_limit=2))
        await wait_until(lambda: begun(go) == 1, 20.0, "1 to begin")
        engine.fleet.links["n1"].give_up("the switch is off")
        assert gone == ["n1"]
        go.touch()
        await engine.add_node(plan("n1"))
        assert await running == "done"
        assert engine.statistics().nodes_lost == 1


def square(x: int) -> int:
    """Evaluated in batches."""
    return x * x


def count_to(n: int) -> Iterator[int]:
    """Evaluated as a stream."""
    yield from range(n)


def where() -> str:
    """Evaluated on several nodes."""
    return hf.worker_info().node


async def collected(n: int) -> list[int]:
    """Return what a stream yields."""
    return [each async for each in hf.remote_stream(count_to, n)]


@pytest.mark.process
async def test_all_that_can_be_submitted_waits(tmp_path: Path) -> None:
    """With no node up, maps, batches, streams, commands and what needs two nodes wait for nodes; nodes that are
    released or lost meanwhile, also the last one, cost no result."""
    program = hf.ProgramInfo.new(tmp_path / "run")
    async with open_job([], program, settings=Settings(), preload=()) as env:
        engine = cast(Engine, env.evaluator)
        engine.may_come([SMALL])

        async def mapped(count: int) -> list[int]:
            return await hf.map_concurrently(lambda x: hf.remote_eval(square, x), range(count))

        async def all_of_map(count: int) -> list[int]:
            return await hf.remote_map(square, range(count))

        async def command() -> int:
            return (await hf.remote_command(["true"])).returncode

        async def gang() -> str:
            return await hf.remote_eval(where).using(nodes=2)

        async def stream() -> list[int]:
            with suppress(hf.StreamBroken):  # rightly, if pieces had been read when its node was lost
                return await collected(50)
            return await collected(50)

        flows = [mapped(20_000), all_of_map(20_000), stream(), command(), gang()]
        tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(flow) for flow in flows]
        await wait_until(lambda: engine.statistics().waiting > 20_000, 20.0, "all to wait")
        assert {want.request.nodes for want in engine.demand()} == {1, 2}
        await engine.add_node(plan("n1", 2))
        await wait_until(lambda: engine.statistics().done > 100, 20.0, "batches to be under way")
        await engine.release_node("n1", "it is idle")
        assert not tasks[0].done()
        await engine.add_node(plan("n1", 2))
        done = engine.statistics().done
        await wait_until(lambda: engine.statistics().done > done + 100, 20.0, "batches to be under way")
        engine.fleet.links["n1"].give_up("the switch is off")
        await engine.add_node(plan("n2", 2))
        await engine.add_node(plan("n1", 2))
        squares = [x * x for x in range(20_000)]
        async with asyncio.timeout(60):
            assert await asyncio.gather(*tasks[:4]) == [squares, squares, list(range(50)), 0]
            assert await tasks[4] in ("n1", "n2")
        assert engine.statistics().retried == 0


async def test_an_allocation_that_somebody_ended(tmp_path: Path) -> None:
    """A node that was lost because somebody cancelled its allocation is no charge, however often that happens."""
    go = tmp_path / "go"
    async with opened(tmp_path) as engine:
        running = engine.submit(wait_for, (go,), {}, Options(crash_limit=2))
        for count in (1, 2, 3):
            await engine.add_node(plan("n1"))
            await wait_until(lambda count=count: begun(go) == count, 20.0, "it to begin")  # type: ignore[misc]
            engine.fleet.links["n1"].give_up("its stream has ended")
            engine.forgive("n1")
        go.touch()
        await engine.add_node(plan("n1"))
        assert await running == "done"


async def test_closed_while_a_node_is_added(tmp_path: Path) -> None:
    """A node that is being added when the run ends is ended, too, and who adds it is told."""
    slow = Late("n1")
    async with opened(tmp_path) as engine:
        adding = asyncio.ensure_future(engine.add_node(NodePlan(slow)))
        await asyncio.sleep(0)
    with pytest.raises(LauncherError, match="not waited for any more"):
        await adding
