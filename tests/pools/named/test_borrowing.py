"""Lender and borrowers over real sockets: what is lent is used, asked back and returned; either end may die."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow._version import __version__
from hyperflow.control.place import listening
from hyperflow.errors import LauncherError
from hyperflow.pools.named import leases, loans, named
from hyperflow.pools.named.borrowing import Borrowing, borrowing
from hyperflow.pools.named.lender import Lender
from hyperflow.pools.named.named import LEASES, About, Named, NoPool
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Request, Want
from tests.helpers import wait_until


@attrs.define(eq=False)
class FakeEngine:
    """An engine that runs nothing: what is lent is busy as long as something waits."""

    waiting: int = 0
    nodes: dict[str, set[int]] = attrs.field(factory=dict[str, "set[int]"])
    busy: dict[str, set[int]] = attrs.field(factory=dict[str, "set[int]"])
    owed: dict[str, int] = attrs.field(factory=dict[str, int])
    kinds: list[NodeKind] = attrs.field(factory=list[NodeKind])
    stopped: list[tuple[str, float]] = attrs.field(factory=list[tuple[str, float]])
    broken: set[str] = attrs.field(factory=set[str])
    slow: asyncio.Event | None = None
    """Until it is set, no launcher that is to end has ended."""
    returned: Callable[[str, Sequence[int], Sequence[str]], object] = print
    gone: Callable[[str, str], object] = print

    async def add(self, node: PoolNode, cpus: Sequence[int], gpus: Sequence[str]) -> str:
        del gpus
        await asyncio.sleep(0)
        if node.name in self.broken:
            raise LauncherError(f"{node.name} is broken")
        self.nodes[node.name], self.busy[node.name], self.owed[node.name] = set(), set(), 0
        self.lend(node.name, cpus, ())
        return node.name

    def lend(self, node: str, cpus: Sequence[int], gpus: Sequence[str]) -> None:
        del gpus
        assert not self.nodes[node].intersection(cpus)
        self.nodes[node].update(cpus)
        for index in cpus:
            if self.waiting:
                self.waiting -= 1
                self.busy[node].add(index)

    def reclaim(self, node: str, count: int) -> None:
        self.owed[node] += count
        self._give_back(node)

    def end(self, number: int) -> None:
        """Evaluations end."""
        for node, busy in self.busy.items():
            while busy and number:
                busy.pop()
                number -= 1
            self._give_back(node)

    def _give_back(self, node: str) -> None:
        back = sorted(self.nodes[node] - self.busy[node])[: self.owed[node]]
        self.owed[node] -= len(back)
        self.nodes[node].difference_update(back)
        if back:
            self.returned(node, back, ())

    def drain(self, node: str, cause: str) -> None:
        """Do nothing: nothing more starts here anyway."""

    async def release(self, node: str, cause: str) -> None:
        del cause
        if self.slow is not None:
            await self.slow.wait()
        self.nodes.pop(node, None)
        self.busy.pop(node, None)

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self.kinds = list(kinds)

    def stop(self, why: str, seconds: float) -> None:
        self.stopped.append((why, seconds))

    def demand(self) -> list[Want]:
        return [Want(Request(), self.waiting)] if self.waiting else []

    def idle_cpus(self, node: str) -> int:
        return len(self.nodes[node] - self.busy[node])

    def watch(self, on_returned: Any, on_gone: Any) -> None:
        self.returned, self.gone = on_returned, on_gone

    def cpus(self) -> int:
        return sum(map(len, self.nodes.values()))


async def _look(host: PoolNode) -> int:
    if host.name == "away":
        raise LauncherError("away does not answer")
    return 3


@attrs.define
class Place:
    """A pool's directory, and the manager there."""

    pool: Named
    stack: AsyncExitStack

    @asynccontextmanager
    async def manager(self, *nodes: tuple[str, int] | PoolNode) -> AsyncIterator[Lender]:
        """Lend these nodes within a scope; its end is that of a killed manager."""
        lender = Lender("mine", self.pool.home, lambda: None, _look)
        lender.remember()
        lender.may_come([NodeKind("main", 4)])
        for node in nodes:
            await lender.use(node if isinstance(node, PoolNode) else PoolNode(*node))
        writers: list[asyncio.StreamWriter] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await lender.serve(reader, writer)

        with listening(self.pool.home / LEASES) as (listener, _):
            server = await asyncio.start_unix_server(serve, sock=listener, limit=leases.LONGEST)
            lending = asyncio.create_task(lender.run())
            try:
                yield lender
            finally:
                lending.cancel()
                server.close()
                for writer in writers:
                    writer.transport.abort()
                await asyncio.wait([lending])

    async def program(self, name: str, engine: FakeEngine) -> tuple[AsyncExitStack, Borrowing]:
        """Attach a program; closing the stack ends it."""
        stack = await self.stack.enter_async_context(AsyncExitStack())
        lease = await stack.enter_async_context(borrowing(self.pool, name))
        await stack.enter_async_context(lease.serving(engine))
        return stack, lease

    async def stranger(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect without saying anything."""
        return await asyncio.open_unix_connection(self.pool.address().path)


@asynccontextmanager
async def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    about = About(NodePool(hosts={"n1": 4}), 0.0, manager=named.this_process("mine"))
    pool = Named("mine", named.directory() / "mine", about)
    named.write(pool.home, about)
    (pool.home / LEASES).mkdir(mode=0o700)
    async with AsyncExitStack() as stack:
        yield Place(pool, stack)


async def _until(condition: Callable[[], object], what: str) -> None:
    await wait_until(condition, 10, what)


def test_two_share_and_one_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs come as the other's evaluations end; the end of a connection gives all back; the pool's kinds are told."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 4)) as lender:
            first, second = FakeEngine(20), FakeEngine(20)
            one, _ = await place.program("first", first)
            assert [kind.name for kind in first.kinds] == ["main"]
            await _until(lambda: first.cpus() == 4, "the first has all")
            _, _ = await place.program("second", second)
            await _until(lambda: first.owed.get("n1") == 2, "two are asked back")
            first.end(1)
            await _until(lambda: second.cpus() == 1, "one has come")
            assert [row["cpus"] for row in lender.table()] == [3, 1]
            first.end(1)
            await _until(lambda: second.cpus() == 2, "both have come")
            await one.aclose()
            await _until(lambda: second.cpus() == 4, "all that the dead one had")
            assert lender.cpus() == (4, 4)

    asyncio.run(main())


def test_a_node_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot use a node gets CPUs of another one; the node is free for others."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2), ("n2", 2)) as lender:
            engine = FakeEngine(9, broken={"n2"})
            await place.program("program", engine)
            await _until(lambda: engine.nodes.keys() == {"n1"} and not lender.is_busy("n2"), "n1 only")
            assert engine.cpus() == 2

    asyncio.run(main())


def test_a_manager_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs go on with what they have; the next manager knows it, before they come and after, and lends the rest."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine, other = FakeEngine(3), FakeEngine(9)
            async with place.manager(("n1", 4)):
                _, lease = await place.program("program", engine)
                await _until(lambda: engine.cpus() == 3, "it has three")
            async with place.manager(("n1", 4)) as lender:
                assert lender.cpus() == (4, 3)  # by the file, if it has not come yet
                await _until(lambda: [row["attached"] for row in lender.table()] == [True], "it comes back")
                await place.program("other", other)
                await _until(lambda: other.cpus() == 1, "the rest is lent")
                assert engine.cpus() == 3
                assert set(lease.nodes["n1"].cpus).isdisjoint(other.nodes["n1"])

    asyncio.run(main())


def test_a_launcher_that_ends_while_the_manager_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs on their way back are nobody else's for the next manager, until their launcher has ended."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine, other = FakeEngine(1, slow=asyncio.Event()), FakeEngine(9)
            assert engine.slow is not None
            async with place.manager(("n1", 1)):
                _, lease = await place.program("program", engine)
                await _until(lambda: engine.cpus() == 1, "it has one")
                await place.program("other", other)
                engine.reclaim("n1", 1)
                engine.end(1)
                assert lease.nodes == {}
            async with place.manager(("n1", 1)) as lender:
                await _until(lambda: [row["attached"] for row in lender.table()] == [True, True], "both come back")
                assert sorted(row["cpus"] for row in lender.table()) == [0, 1]
                assert other.cpus() == 0
                engine.slow.set()
                await _until(lambda: other.cpus() == 1, "it is the other one's")
                assert not engine.stopped

    asyncio.run(main())


def test_what_is_returned_while_a_manager_says_welcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes after a program has said what it has is told behind that, also before it is answered."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine = FakeEngine(2)
            async with place.manager(("n1", 2)):
                await place.program("program", engine)
                await _until(lambda: engine.cpus() == 2, "it has two")
            lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

            async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while line := await reader.readline():
                    lines.put_nowait(json.loads(line))
                writer.close()

            with listening(place.pool.home / LEASES) as (listener, _):
                server = await asyncio.start_unix_server(silent, sock=listener)
                async with asyncio.timeout(10):
                    assert (await lines.get())["held"] == {"n1": [0, 1]}
                    engine.reclaim("n1", 1)
                    engine.end(1)
                    while (line := await lines.get())["do"] == "demand":
                        pass
                assert (line["do"], len(line["cpus"])) == ("returned", 1)
                server.close()
                await place.stack.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("is_killed_first", [True, False])
def test_who_has_left_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed_first: bool) -> None:
    """A process that goes on after its program has left, as a notebook does, has nothing for the next manager."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine = FakeEngine(3)
            async with place.manager(("n1", 4)):
                program, _ = await place.program("program", engine)
                await _until(lambda: engine.cpus() == 3, "it has three")
                if not is_killed_first:
                    await program.aclose()
                    await _until(lambda: not loans.read(place.pool.home), "the file says so")
            await program.aclose()
            async with place.manager(("n1", 4)) as lender:
                assert lender.cpus() == (4, 0)
                assert lender.table() == []
            assert [path.name for path in place.pool.home.iterdir() if path.name.startswith(loans.LEFT)] == []

    asyncio.run(main())


def test_an_allocation_that_has_another_name_for_the_next_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two allocations on a machine is called by the machine's name may change; what is lent of it does not."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine, other = FakeEngine(2), FakeEngine(9)
            async with place.manager(PoolNode("node1.51", 2, 51, host="node1")):
                await place.program("program", engine)
                await _until(lambda: engine.cpus() == 2, "it has both")
            both = PoolNode("node1", 2, 51, host="node1"), PoolNode("node1.52", 2, 52, host="node1")
            async with place.manager(*both) as lender:
                assert lender.cpus() == (4, 2)
                assert (lender.is_busy("node1"), lender.is_busy("node1.52")) == (True, False)
                await place.program("other", other)
                await _until(lambda: other.cpus() == 2, "the rest is lent")
                assert other.nodes.keys() == {"node1.52"}
                await lender.release("node1", "its time is over")
                assert engine.cpus() == 0

    asyncio.run(main())


def test_two_that_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second to say that it has a CPU is told to leave that node, and keeps what it has of others."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2), ("n2", 2)) as lender:
            writers: list[asyncio.StreamWriter] = []
            told = b""
            for held in ({"n1": [0]}, {"n1": [0, 1], "n2": [0]}):
                reader, writer = await place.stranger()
                writers.append(writer)
                writer.write(json.dumps({**ATTACH, "held": held}).encode() + b"\n")
                told = await reader.readline() + (await reader.readline() if "n2" in held else b"")
            assert json.loads(told.splitlines()[1])["do"] == "gone"
            writers[1].write(b'{"do": "released", "node": "n1"}\n{"do": "returned", "node": "n2", "cpus": [0]}\n')
            await _until(lambda: [row["nodes"] for row in lender.table()] == [{"n1": 1}, {}], "n2 is returned")
            for writer in writers:
                writer.close()

    asyncio.run(main())


def test_a_pool_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is told to start nothing more, once; what runs goes on to its end; who comes later is told, too."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2)) as lender:
            engine, late = FakeEngine(9), FakeEngine(9)
            await place.program("program", engine)
            await _until(lambda: engine.cpus() == 2, "it has both")
            lender.stop("is stopped (enough)")
            await _until(lambda: engine.owed.get("n1") == 2, "both are asked back")
            assert not lender.is_idle()
            await place.program("late", late)
            await _until(lambda: late.stopped, "the late one is told")
            engine.end(2)
            await _until(lender.is_idle, "all is back")
            assert [why for why, _ in engine.stopped] == ["the pool mine is stopped (enough)"]
            assert late.cpus() == 0

    asyncio.run(main())


def test_a_pool_that_ends_while_its_manager_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that looks for the next manager, and finds that there is no pool any more, is told to stop."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            engine = FakeEngine(9)
            async with place.manager(("n1", 2)):
                await place.program("program", engine)
                await _until(lambda: engine.cpus() == 2, "it has both")
            about = attrs.evolve(place.pool.about, manager=None, ended=1.0, cause="enough")
            named.write(place.pool.home, about)
            await _until(lambda: engine.stopped, "it is told")
            assert engine.stopped[0][0] == "the pool mine has ended: enough"

    asyncio.run(main())


def test_a_node_that_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To release a node returns when its programs have left it; its CPUs are nobody's then."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2)) as lender:
            engine = FakeEngine(9)
            await place.program("program", engine)
            await _until(lambda: engine.cpus() == 2, "it has both")
            await lender.release("n1", "its time is over")
            assert engine.nodes == {}
            assert lender.cpus() == (0, 0)
            assert not lender.is_up("n1")

    asyncio.run(main())


def test_a_node_that_is_taken_back_from_a_launcher_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To release a node also waits for what is on its way back; that program goes on, and so does one that stays."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2)) as lender:
            engine, other = FakeEngine(1, slow=asyncio.Event()), FakeEngine(1, slow=asyncio.Event())
            assert engine.slow is not None
            assert other.slow is not None
            await place.program("program", engine)
            await place.program("other", other)
            await _until(lambda: engine.cpus() == other.cpus() == 1, "each has one")
            engine.reclaim("n1", 1)
            engine.end(1)
            releasing = asyncio.create_task(lender.release("n1", "its time is over"))
            await asyncio.sleep(0.05)
            assert not releasing.done()
            engine.slow.set()
            await _until(lambda: [row["cpus"] for row in lender.table()] == [0, 1], "the first has left")
            other.slow.set()
            await releasing
            assert len(lender.table()) == 2
            assert not engine.stopped

    asyncio.run(main())


def test_hosts_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be reached is not lent; of one whose CPUs nobody has named, all are."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager() as lender:
            with pytest.raises(LauncherError, match="away does not answer"):
                await lender.use(PoolNode("away", 4))
            await lender.use(PoolNode("box"))
            assert lender.cpus() == (3, 0)
            assert not lender.is_up("away")

    asyncio.run(main())


ATTACH = {"do": "attach", "program": "bad", "pid": 1, "since": "1", "held": {}, "hyperflow": __version__}


@pytest.mark.parametrize(
    "lines",
    [
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"\x80\x04\x95\n"],
        [b"x" * (leases.LONGEST + 10) + b"\n"],
        [b"[]\n"],
        [b"[" * 100_000 + b"\n"],
        [b'{"do": "demand"}\n'],
        [json.dumps({**ATTACH, "held": {"n1": [-1]}}).encode() + b"\n"],
        [json.dumps({**ATTACH, "held": {"n1": [1, 1]}}).encode() + b"\n"],
        [json.dumps({**ATTACH, "held": 5}).encode() + b"\n"],
        [json.dumps({**ATTACH, "hyperflow": "0.0"}).encode() + b"\n"],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "returned", "node": "n1", "cpus": [0]}\n'],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "demand", "waiting": [[1]], "held": {}, "idle": {}}\n'],
        [
            json.dumps(ATTACH).encode() + b"\n",
            b'{"do": "demand", "waiting": [[1, 1, 0, 0, NaN]], "held": {}, "idle": {}}\n',
        ],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "demand", "waiting": [], "held": {"n1": -5}, "idle": {}}\n'],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "returned", "node": "n1", "cpus": "all", "gpus": 5}\n'],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "dance"}\n'],
        [json.dumps(ATTACH).encode() + b"\n", b'{"do": "failed"}\n'],
    ],
    ids=lambda lines: lines[-1][:24].decode(errors="replace"),
)
def test_nonsense_ends_that_connection_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[bytes]
) -> None:
    """Whatever comes over a connection, it ends that one, and others keep what they have."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place, place.manager(("n1", 2)) as lender:
            engine = FakeEngine(9)
            await place.program("good", engine)
            await _until(lambda: engine.cpus() == 2, "it has both")
            reader, writer = await place.stranger()
            writer.writelines(lines)
            async with asyncio.timeout(10):
                try:
                    while await reader.read(1 << 16):
                        pass
                except ConnectionResetError:  # it has not read all
                    pass
            writer.close()
            assert [row["program"] for row in lender.table()] == ["good"]
            assert engine.cpus() == 2

    asyncio.run(main())


def test_a_manager_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket at which nobody answers is an error that names the process and its log."""

    async def main() -> None:
        async with _place(tmp_path, monkeypatch) as place:
            async with place.manager():
                home = place.pool.home
                kept = [(path, path.read_bytes()) for path in (home / LEASES / "control").iterdir() if path.is_file()]
            for path, data in kept:
                path.write_bytes(data)
            with pytest.raises(NoPool, match=r"does not answer.*its log is .*mine/log"):
                await place.program("program", FakeEngine())

    asyncio.run(main())


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where who has what cannot be written, lending goes on, and a warning says once what is at risk."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        monkeypatch.setattr("hyperflow.pools.named.loans.files.write_whole", full)
        engine = FakeEngine(1)
        await place_program(engine)

    async def place_program(engine: FakeEngine) -> None:
        async with AsyncExitStack() as stack:
            monkeypatch.undo()
            place = await stack.enter_async_context(_place(tmp_path, monkeypatch))
            await stack.enter_async_context(place.manager(("n1", 2)))
            await place.program("program", engine)
            monkeypatch.setattr("hyperflow.pools.named.loans.files.write_whole", full)
            await _until(lambda: engine.cpus() == 1, "it has one")
            engine.waiting = 1
            await _until(lambda: engine.cpus() == 2, "it has two")

    asyncio.run(main())
    assert caplog.text.count("No space left on device. Lending goes on") == 1
