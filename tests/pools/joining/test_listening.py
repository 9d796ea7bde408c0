"""When nodes that have joined leave, and why: pretended ones, which speak real ssh, and those of a Slurm job."""

import asyncio
import json
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import attrs
import pytest

from hyperflow.errors import LauncherError
from hyperflow.pools.joining import access as access_file
from hyperflow.pools.joining import listening as listening_module
from hyperflow.pools.joining.access import USER
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.pools.joining.joined import END, Joined
from hyperflow.pools.joining.listening import Listening
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Want
from hyperflow.transports.process import Connection
from tests.cluster.cluster import Cluster
from tests.helpers import wait_until
from tests.imports import TOP
from tests.pools.program import Program

MAIN = """
async def main(env):
    return await asyncio.gather(*(hf.remote_eval(held, f"e{n}").start() for n in range(2)))
"""


def _plain(node: str) -> str:
    """Return the name of a node, which an allocation's node on the same machine may have, too."""
    assert node.endswith(" (joined)")
    return node.removesuffix(" (joined)")


class User:
    """Uses nodes; the test says whether they are busy."""

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self.nodes: dict[str, PoolNode] = {}
        self.busy: set[str] = set()
        self.told: list[str] = []
        self.refuses = ""
        self.connections: dict[str, Connection] = {}
        self.lost = asyncio.Event()
        self.received = b""

    async def use(self, node: PoolNode) -> None:
        if self.refuses:
            raise LauncherError(self.refuses)
        assert isinstance(node.transport, Joined), node
        name = _plain(node.name)
        self.nodes[name] = node
        self.connections[name] = await node.transport.start([], self, self.log_dir / f"launcher-{name}.log")

    def drain(self, node: str, cause: str) -> None:
        node = _plain(node)
        self.told.append(f"drain {node}: {cause}")

    async def release(self, node: str, cause: str) -> None:
        node = _plain(node)
        self.told.append(f"release {node}: {cause}")
        self.connections[node].close()
        await self.connections[node].wait_closed()

    async def gone(self, node: str) -> str:
        await self.lost.wait()
        return f"{_plain(node)} was lost"

    def is_busy(self, node: str) -> bool:
        return _plain(node) in self.busy

    def is_up(self, node: str) -> bool:
        return _plain(node) in self.nodes

    def takes_work(self, node: str) -> bool:
        return _plain(node) in self.nodes

    def forgive(self, node: str) -> None:
        """Do nothing."""

    def found(self, node: str) -> NodeKind | None:
        return None

    def demand(self) -> Sequence[Want]:
        return []

    def free_cpus(self) -> int:
        return 0

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        """Know which nodes may come."""

    def data_received(self, data: bytes) -> None:
        self.received += data

    def pause_writing(self) -> None:
        """Write no more."""

    def resume_writing(self) -> None:
        """Write on."""

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(f"lost: {error!r}")
        self.lost.set()


class Node(asyncssh.SSHClientSession[bytes]):
    """A pretended node: it has no launcher, and ends when it is told to."""

    def __init__(self) -> None:
        self.name = asyncio.get_running_loop().create_future()
        self.said = b""
        self.over = asyncio.Event()
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        assert self.channel is not None
        if datatype is None:
            self.name.set_result(json.loads(data)["name"])
            self.channel.write(b"hello")
        else:
            self.said += data.replace(END, b"")
            if END in data:
                self.channel.write_eof()

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()

    async def ended(self) -> tuple[int | None, str]:
        async with asyncio.timeout(20):
            await self.over.wait()
        assert self.channel is not None
        return self.channel.get_exit_status(), self.said.decode()


@attrs.define
class Place:
    """A pool that listens."""

    listening: Listening
    user: User
    connections: list[asyncssh.SSHClientConnection] = attrs.field(factory=list)

    async def joins(self, request: JoinRequest) -> Node:
        """Let a node join."""
        access = self.listening.access
        connection = await asyncssh.connect(
            access.hosts[0],
            access.port,
            config=None,
            username=USER,
            known_hosts=([access.public()], [], []),
            client_keys=[access.private()],
            agent_path=None,
        )
        self.connections.append(connection)
        _, node = await connection.create_session(Node, request.command, encoding=None)
        return node


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Listen, and end all connections."""
    async with opened(tmp_path) as place:
        yield place


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Place]:
    """Listen, and end all connections."""
    (tmp_path / "log").mkdir()
    user = User(tmp_path / "log")
    async with Listening("127.0.0.1:0", tmp_path / "pool", tmp_path / "log", user) as listening:
        place = Place(listening, user)
        yield place
    for connection in place.connections:
        connection.abort()
        await connection.wait_closed()


async def test_what_the_head_knows_of_a_node(place: Place) -> None:
    """Its name, once; its CPUs, its end, its logs; what its launcher says comes through, and its log to a file."""
    first = await place.joins(JoinRequest("main", 4, 3600.0, None, "/tmp/logs"))
    second = await place.joins(JoinRequest("main"))
    assert {await first.name, await second.name} == {"main", "main-2"}
    node = place.user.nodes[await first.name]
    assert (node.cpus, node.logs) == (4, "/tmp/logs")
    assert node.ends is not None
    assert abs(node.ends - time.time() - 3600) < 20
    await wait_until(lambda: place.user.received == b"hellohello", 5, "both have spoken")
    writer, _, _ = await place.connections[0].open_session("log", encoding=None)
    writer.write(b"of the launcher\n" * 10)
    log = place.user.log_dir / f"launcher-{await first.name}.log"
    await wait_until(lambda: log.exists() and log.stat().st_size == 160, 5, "its log is there")
    assert access_file.read(place.listening.access_file) == place.listening.access
    await place.listening.close()
    assert await first.ended() == (0, "the pool has ended")
    assert await second.ended() == (0, "the pool has ended")
    assert not place.listening.access_file.exists()


async def test_an_idle_node_leaves(place: Place) -> None:
    """A node that has nothing to do for as long as it said is released, and not while it is busy."""
    place.user.busy.add("n")
    node = await place.joins(JoinRequest("n", idle_timeout=0.5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await node.over.wait()
    place.user.busy.clear()
    assert await node.ended() == (0, "it had nothing to do for 0.5 s")


async def test_a_node_that_wants_to_leave(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drained first; what runs may end, for a while; then it is released."""
    place.user.busy.add("n")
    node = await place.joins(JoinRequest("n"))
    await node.name
    assert node.channel is not None
    node.channel.send_signal("TERM")
    await wait_until(lambda: place.user.told == ["drain n: its user wants it back"], 5, "it is drained")
    place.user.busy.clear()
    assert await node.ended() == (0, "its user wants it back")
    monkeypatch.setattr(listening_module, "GRACE", 0.1)
    place.user.busy.add("other")
    other = await place.joins(JoinRequest("other"))
    await other.name
    assert other.channel is not None
    other.channel.send_signal("TERM")
    assert (await other.ended())[0] == 0
    assert place.user.told[-2:] == ["release other: its user wants it back", "lost: None"]


async def test_the_time_limit_of_a_node(place: Place) -> None:
    """Near it the node is drained, and given up before it."""
    place.user.busy.add("n")
    node = await place.joins(JoinRequest("n", seconds_left=2.0))
    assert await node.ended() == (0, "its time limit comes")
    assert place.user.told[0] == "drain n: its time limit comes"


async def test_a_node_that_goes_or_cannot_be_used(place: Place) -> None:
    """One whose connection breaks may go on, as far as is known; one that cannot be used is told why."""
    node = await place.joins(JoinRequest("n"))
    await node.name
    place.connections[0].abort()
    await wait_until(lambda: place.user.told, 5, "it is lost")
    assert place.user.told[0].startswith("lost: CutOff")
    again = await place.joins(JoinRequest("n"))
    assert await again.name == "n-2"
    place.user.refuses = "python is 3.11 here and 3.9 on n-3"
    assert await (await place.joins(JoinRequest("n"))).ended() == (1, place.user.refuses)
    place.connections[1].abort()
    await wait_until(lambda: not place.listening.nodes, 5, "nobody is left")


def test_nodes_of_a_slurm_job_join_by_themselves(cluster: Cluster, tmp_path: Path) -> None:
    """Those that srun starts with a copy of the access file find the head and their time limit, and end with it."""
    program = Program(cluster, tmp_path, MAIN, "hf.NodePool(listen=0)")
    words = [sys.executable, "-m", "hyperflow"]
    with program.start():
        home = program.wait("open")
        copy = tmp_path / "access"
        command = shlex.join([*words, "pool", "access", home])
        cluster.login.run(["sh", "-c", f"{command} > {shlex.quote(str(copy))}"], env={"PYTHONPATH": str(TOP)})
        assert copy.stat().st_mode & 0o777 == 0o600
        join = shlex.join([*words, "node", "join", "--access", str(copy), "--cpus", "1"])
        job = cluster.slurm.sbatch(
            f"srun {join}", nodes=2, ntasks_per_node=1, time=5, cwd=tmp_path, env={"PYTHONPATH": str(TOP)}
        )
        program.wait_marks("began", 2)
        program.go("e0", "e1")
        assert len(set(program.wait("result"))) == 2
        program.wait("end")
    cluster.slurm.wait_for(job)
    said = (tmp_path / f"slurm-{job}.out").read_text()
    assert said.count("released: the pool has ended") == 2, said
    events = (Path(home) / "log/events.jsonl").read_text()
    assert events.count('"ends"') >= 2, events
