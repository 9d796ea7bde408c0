"""How nodes are started: several ways to one, and those that take long."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.errors import ImpossibleRequest, LauncherError
from hyperflow.head import fleet
from hyperflow.head.engine import Engine, open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.transports.process import Connection, Local, Receiver
from hyperflow.wire import frames
from tests.helpers import wait_until


@attrs.define
class Late:
    """A node that can be reached when the test says so; or turns out to be none."""

    node: str
    go: asyncio.Event = attrs.field(factory=asyncio.Event)
    fails: bool = False

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        await self.go.wait()
        if self.fails:
            raise LauncherError(f"{self.node} does not answer")
        return await Local(self.node).start(command, receiver, log_file)


@attrs.define
class Restricted:
    """A way that connects, and then runs something else than the launcher."""

    node: str
    says: str

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        return await Local(self.node).start(["sh", "-c", f"echo {self.says} >&2; exit 1"], receiver, log_file)


@asynccontextmanager
async def opened(tmp_path: Path, *nodes: NodePlan) -> AsyncIterator[Engine]:
    """Run an engine on these nodes."""
    async with open_engine(nodes, hf.ProgramInfo.new(tmp_path), settings=Settings()) as engine:
        yield engine


async def test_another_way_is_tried(tmp_path: Path) -> None:
    """A way that connects and runs no launcher is not the end of a node."""
    ways = (Restricted("n1", "only sftp here"), Local("n1"))
    async with opened(tmp_path, NodePlan(ways, 1)) as engine:
        assert await engine.submit(abs, (-3,), {}, Options()) == 3


async def test_reasons_of_all_ways(tmp_path: Path) -> None:
    """When no way works, the error has the reason of each."""
    ways = (Restricted("n1", "only sftp here"), Late("n1", asyncio.Event(), fails=True))
    ways[1].go.set()  # type: ignore[union-attr]
    with pytest.raises(LauncherError, match=r"(?s)only sftp here.*n1 does not answer"):
        async with opened(tmp_path, NodePlan(ways, 1)):
            pass


async def test_a_slow_node_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work begins on the nodes that are up; one that is slow joins, and what only it can run waits for it."""
    monkeypatch.setattr(fleet, "SHORTEST_WAIT", 0.1)
    slow = Late("n2")
    async with opened(tmp_path, NodePlan(Local("n1"), 1), NodePlan(slow, 2)) as engine:
        assert await engine.submit(abs, (-3,), {}, Options()) == 3
        assert engine.statistics().nodes == 1
        wide = engine.submit(abs, (-4,), {}, Options(cpus=2))
        with pytest.raises(ImpossibleRequest):
            engine.submit(abs, (-4,), {}, Options(cpus=3))
        slow.go.set()
        async with asyncio.timeout(40):
            assert await wide == 4
        assert engine.statistics().nodes == 2


async def test_a_slow_node_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a node that fails after all is refused then; and the end does not wait for one that hangs."""
    monkeypatch.setattr(fleet, "SHORTEST_WAIT", 0.1)
    slow, hanging = Late("n2", fails=True), Late("n3")
    plans = (NodePlan(Local("n0"), 1), NodePlan(Local("n1"), 1), NodePlan(slow, 2), NodePlan(hanging, 1))
    async with asyncio.timeout(40), opened(tmp_path, *plans) as engine:
        wide = engine.submit(abs, (-4,), {}, Options(cpus=2))
        slow.go.set()
        with pytest.raises(ImpossibleRequest, match="the largest node has 1 CPUs"):
            await wide
        assert await engine.submit(abs, (-3,), {}, Options()) == 3


async def test_too_few_nodes_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing begins before min_nodes are up, however slow they are."""
    monkeypatch.setattr(fleet, "SHORTEST_WAIT", 0.0)
    slow = Late("n2")
    plans = [NodePlan(Local("n1"), 1), NodePlan(slow, 1)]
    opening = open_engine(plans, hf.ProgramInfo.new(tmp_path), settings=Settings(min_nodes=2))
    entering = asyncio.ensure_future(opening.__aenter__())
    done, _ = await asyncio.wait([entering], timeout=1)
    assert not done
    slow.go.set()
    engine = await entering
    await wait_until(lambda: engine.statistics().nodes == 2, 10, "both are up")
    await opening.__aexit__(None, None, None)


@attrs.frozen
class Shared:
    """A launcher whose stream a process in the background may write to: all that comes out of a pipe."""

    node: str
    pipe: Path

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        line = f"cat {shlex.quote(str(self.pipe))} & exec {shlex.join(command)}"
        return await Local(self.node).start(["sh", "-c", line], receiver, log_file)


async def test_others_write_into_the_stream(tmp_path: Path) -> None:
    """What is not ours in a node's stream costs that node, and is told; the work goes on at the others."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with opened(tmp_path, NodePlan(Shared("n1", pipe), 1), NodePlan(Local("n2"), 1)) as engine:
        assert await engine.submit(abs, (-3,), {}, Options()) == 3
        await asyncio.to_thread(pipe.write_text, "[1]+  Done    sleep 1\n")
        await wait_until(lambda: engine.statistics().nodes == 1, 10, "the node is given up")
        assert await engine.submit(abs, (-3,), {}, Options()) == 3
        lost = engine._losses.last
        assert lost is not None
        assert "Done    sleep 1" in str(lost)
        assert "something on n1 writes into the stream of its launcher" in str(lost)


async def test_others_write_during_the_start(tmp_path: Path) -> None:
    """The same between greeting and first order."""

    class Speaks(Shared):
        async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
            hello = frames.HELLO + b"[1]+  Done    sleep 1\n"
            return await Local(self.node).start(["printf", hello.decode()], receiver, log_file)

    with pytest.raises(LauncherError, match=r"(?s)not hyperflow's.*Done    sleep 1.*something on n1 writes"):
        async with opened(tmp_path, NodePlan(Speaks("n1", tmp_path), 1)):
            pass


async def test_others_write_to_the_launcher(tmp_path: Path) -> None:
    """What is not ours in the other direction: the launcher says so before it ends."""
    async with opened(tmp_path, NodePlan(Local("n1"), 1), NodePlan(Local("n2"), 1)) as engine:
        assert await engine.submit(abs, (-3,), {}, Options()) == 3
        connection = engine.fleet.links["n1"]._connection
        assert connection is not None
        connection.write([b"exec /bin/bash --login\n"])
        await wait_until(lambda: engine.statistics().nodes == 1, 10, "the node is given up")
        assert "b'exec /bin/bash --login" in str(engine._losses.last)
        assert await engine.submit(abs, (-3,), {}, Options()) == 3
    assert "exec /bin/bash" in next(tmp_path.glob("*/log/launcher-n1.log")).read_text()


async def test_a_launcher_that_is_not_waited_for_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run begins all the same; its first evaluation tells what the launcher has said, and nothing waits."""
    monkeypatch.setattr("hyperflow.transports.process.LAUNCHER", ["sh", "-c", "echo it is broken >&2; exit 3"])
    async with asyncio.timeout(40), hf.open_local_job(cpus=1, progress=False) as env:
        assert env.statistics().cpus == 1
        with pytest.raises(hf.NodeLost, match=r"(?s)ended during its start.*it is broken"):
            await hf.remote_eval(abs, -3)
        assert env.statistics().nodes == 0


async def test_what_is_written_before_a_launcher_has_answered() -> None:
    """Orders and large arguments are kept until then, and come in their order."""
    numbers = bytearray(1 << 21)
    async with hf.open_local_job(cpus=1, progress=False) as env:
        (link,) = env.evaluator.fleet.links.values()  # type: ignore[attr-defined]
        assert link.greeting is None
        first = hf.remote_eval(len, numbers).start()
        assert await hf.map_concurrently(lambda x: hf.remote_eval(abs, -x), range(20)) == list(range(20))
        assert await first == 1 << 21
