"""Steps: one srun for many nodes, and what becomes of those that do not come. srun is pretended, the port is real."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from hyperflow._job import MANY_NODES, node_transports
from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.slurm.allocation import Allocation
from hyperflow.slurm.allocation import Node as Granted
from hyperflow.transports import steps
from hyperflow.transports.process import Local, Receiver
from hyperflow.transports.srun import Srun
from hyperflow.transports.ssh import Ssh
from hyperflow.transports.steps import NotThisWay, Steps
from hyperflow.wire import proving
from hyperflow.wire.frames import CALLED, CANNOT_CALL, Bytes
from tests.helpers import wait_until


class FakeSrun:
    """Stands in for the processes of srun; the tests say what its tasks do."""

    made: ClassVar[list["FakeSrun"]] = []

    def __init__(self, command: Sequence[str], log_file: Path | None, environ: Mapping[str, str] | None) -> None:
        assert log_file is None
        self.command = list(command)
        self.said = b""
        self.receiver: Receiver | None = None
        self.ended = asyncio.Event()
        self.made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def connect(self, receiver: Receiver, *, remote: bool) -> Self:
        assert remote
        self.receiver = receiver
        return self

    def write(self, parts: Sequence[Bytes]) -> None:
        self.said += b"".join(parts)

    def close(self) -> None:
        self.ended.set()

    async def wait_closed(self) -> None:
        await self.ended.wait()

    def says(self, *lines: str) -> None:
        """Have it print lines."""
        assert self.receiver is not None
        self.receiver.data_received("".join(f"{line}\n" for line in lines).encode())

    def begins(self, *nodes: str) -> None:
        """Have its tasks begin."""
        self.says(*(f"{task}: {CALLED} {node}" for task, node in enumerate(nodes)))

    async def calls(self, node: str, secret: bytes | None = None) -> "Launcher":
        """Connect as a launcher does."""
        told, port, _ = self.said.split()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        try:
            caller = proving.Caller(secret or bytes.fromhex(told.decode()), node.encode())
            writer.write(caller.hello)
            writer.write(caller.reply(await reader.readexactly(proving.CHALLENGE)) + b"hello ")
        except BaseException:
            writer.close()
            raise
        return Launcher(reader, writer)


class Launcher:
    """The other end of a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ends(self) -> None:
        """End when the head has ended the stream, as a launcher does."""
        assert await self.reader.read() == b"", "nothing else was sent"
        self.writer.close()
        await self.writer.wait_closed()


class Node:
    """A link's end of a stream."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.log = name, directory / f"launcher-{name}.log"
        self.data = bytearray()
        self.lost = asyncio.Event()
        self.heard = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.heard.set()

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


@pytest.fixture(autouse=True)
def _pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSrun, "made", [])
    monkeypatch.setattr(steps, "Spawned", FakeSrun)
    monkeypatch.setattr(steps, "LAST_WORDS", 0.0)


Starting = dict[str, "asyncio.Task[Any]"]


async def start(tmp_path: Path, *names: str, **settings: Any) -> tuple[FakeSrun, dict[str, Node], Starting]:
    """Ask for nodes; return the srun, the ends of their links, and what is awaited of each."""
    many = Steps(Settings(**settings))
    nodes = {name: Node(name, tmp_path) for name in names}
    starting = {
        name: asyncio.create_task(many.start(name, ["launcher"], node, node.log)) for name, node in nodes.items()
    }
    await wait_until(lambda: FakeSrun.made and FakeSrun.made[0].receiver is not None, 10, "srun is started")
    return FakeSrun.made[0], nodes, starting


async def test_one_srun_for_all(tmp_path: Path) -> None:
    """Three nodes make one srun; each gets a stream of its own, and the end of all ends the srun."""
    srun, nodes, starting = await start(tmp_path, "n1", "n2", "n3")
    assert not srun.said, "srun would lose a byte that is there when it starts"
    srun.begins("n3", "n1", "n2")
    there = {name: await srun.calls(name) for name in nodes}
    streams = {name: await task for name, task in starting.items()}

    for name, node in nodes.items():
        await node.heard.wait()
        assert node.data == b"hello "
        streams[name].write([f"to {name}".encode()])
        assert await there[name].reader.readexactly(5) == f"to {name}".encode()
    with pytest.raises(OSError, match="Connect"):
        await srun.calls("n1")
    assert len(FakeSrun.made) == 1
    assert [word for word in srun.command if word.startswith("--n") and "=" in word] == [
        "--nodes=3",
        "--ntasks=3",
        "--ntasks-per-node=1",
        "--nodelist=n1,n2,n3",
    ]
    assert "secret" not in str(srun.command)
    assert srun.said.split()[0].decode() not in str(srun.command)

    for name, stream in streams.items():
        assert not srun.ended.is_set()
        stream.close()
        await there[name].ends()
        await stream.wait_closed()
        assert nodes[name].lost.is_set()
    assert srun.ended.is_set()


async def test_who_does_not_know_the_secret(tmp_path: Path) -> None:
    """He is sent away, and so is who comes a second time or is no node of the step."""
    srun, _, starting = await start(tmp_path, "n1", "n2")
    srun.begins("n1", "n2")
    with pytest.raises(proving.Unproven):
        await srun.calls("n1", os.urandom(32))
    first = await srun.calls("n1")
    stream = await starting["n1"]
    for name in ("n1", "n9"):
        again = await srun.calls(name)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await again.reader.readexactly(1)
        again.writer.close()
    assert not starting["n2"].done()
    stream.write([b"still there"])
    assert await first.reader.readexactly(11) == b"still there"

    starting["n2"].cancel()
    stream.close()
    await first.ends()
    await stream.wait_closed()
    await asyncio.wait([starting["n2"]])
    assert srun.ended.is_set()


async def test_a_task_that_ends(tmp_path: Path) -> None:
    """Its node is named, with what it has said; the others go on."""
    srun, _, starting = await start(tmp_path, "n1", "n2", "n3")
    srun.begins("n1", "n2", "n3")
    srun.says("1: no module named gcc", "srun: error: n[2-3]: tasks 1-2: Exited with exit code 3")
    with pytest.raises(LauncherError, match=r"(?s)on n2 ended during its start: Exited with exit code 3.*named gcc"):
        await starting["n2"]
    with pytest.raises(LauncherError, match="on n3 ended during its start"):
        await starting["n3"]
    launcher = await srun.calls("n1")
    stream = await starting["n1"]
    stream.close()
    await launcher.ends()
    await stream.wait_closed()


async def test_all_tasks_end(tmp_path: Path) -> None:
    """The srun ends with its last task, of whose end it has just told."""
    srun, _, starting = await start(tmp_path, "n1", "n2")
    srun.begins("n1", "n2")
    srun.says("srun: error: n1: task 0: Exited with exit code 3", f"1: {CANNOT_CALL} a firewall")
    assert srun.receiver is not None
    srun.receiver.connection_lost(None)
    with pytest.raises(LauncherError, match="on n1 ended during its start: Exited"):
        await starting["n1"]
    with pytest.raises(NotThisWay, match="firewall"):
        await starting["n2"]


async def test_a_task_that_cannot_connect(tmp_path: Path) -> None:
    """Its node is left to another way."""
    srun, _, starting = await start(tmp_path, "n1", "n2")
    srun.begins("n1", "n2")
    srun.says(f"0: {CANNOT_CALL} a firewall", f"1: {CANNOT_CALL} a firewall")
    for task in starting.values():
        with pytest.raises(NotThisWay, match="cannot connect to the head: a firewall"):
            await task


async def test_an_srun_that_fails(tmp_path: Path) -> None:
    """Where no step is made, or none begins in time, all nodes are left to another way; and one node by itself is."""
    srun, _, starting = await start(tmp_path, "n1", "n2")
    srun.says("srun: error: Unable to create step for job 7: Requested nodes are busy")
    assert srun.receiver is not None
    srun.receiver.connection_lost(None)
    for task in starting.values():
        with pytest.raises(NotThisWay, match="Requested nodes are busy"):
            await task

    FakeSrun.made.clear()
    srun, _, starting = await start(tmp_path, "n1", "n2", connect_timeout=0.01)
    for task in starting.values():
        with pytest.raises(NotThisWay, match="no task began within"):
            await task
    assert srun.ended.is_set()

    with pytest.raises(NotThisWay, match="no other one"):
        await Srun("n1", steps=Steps(Settings()), alone=False).start([], Node("n1", tmp_path), tmp_path / "log")
    with pytest.raises(NotThisWay, match="no other one"):
        await Steps(Settings()).start("n1", [], Node("n1", tmp_path), tmp_path / "log")


@pytest.mark.parametrize(
    ("count", "settings", "ways"),
    [
        (3, Settings(), [Ssh, Srun]),
        (3, Settings(transport="ssh"), [Ssh]),
        (3, Settings(transport="srun"), [Srun]),
        (MANY_NODES + 2, Settings(), [Srun, Ssh, Srun]),
        (MANY_NODES + 2, Settings(node_to_node="off"), [Ssh, Srun]),
    ],
)
def test_ways_to_nodes(count: int, settings: Settings, ways: list[type]) -> None:
    """Many nodes share a step before ssh is tried; switched off, no step is shared."""
    names = [f"n{at}" for at in range(count)]
    granted = Allocation(7, tuple(Granted(name, 4) for name in names), "n0", here="n0")
    found = node_transports(names, granted, settings)

    assert found.pop("n0") == (Local("n0"),)
    assert all([type(way) for way in found[name]] == ways for name in names[1:])
    steps = {id(way.steps) for name in names[1:] for way in found[name] if isinstance(way, Srun) and way.steps}
    assert len(steps) == (0 if settings.node_to_node == "off" or settings.transport == "ssh" else 1)
