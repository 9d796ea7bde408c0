"""Tests of the loop of a pool's allocations, with a pretended Slurm and a pretended user of nodes."""

import asyncio
import itertools
import json
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from hyperflow.config import Settings
from hyperflow.errors import ConfigurationError
from hyperflow.head.capacity import Supply
from hyperflow.pools import allocations as module
from hyperflow.pools import claim
from hyperflow.pools.allocations import Allocations
from hyperflow.pools.claim import Claim
from hyperflow.pools.hosts import Hosts
from hyperflow.pools.journal import Entry, Journal
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.pool import Pool
from hyperflow.request import PLAIN, Capacity, NodeKind, Request, Want
from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.refusals import refusal
from hyperflow.slurm.client import Watch
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions
from tests.pools.fakes import FakeSlurm, FakeUser

SMALL = SbatchOptions(ntasks_per_node=4, time="1:00:00")
RUNNING = BatchState("running", "RUNNING", nodes="node1")


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (it is about several objects)
            await asyncio.sleep(0.01)


class _Pool:
    """The allocations of a pool, and what is pretended around them."""

    def __init__(self, directory: Path, **limits: Any) -> None:
        self.slurm, self.user = FakeSlurm(), FakeUser()
        self.directory = directory
        self.options = NodePool(SMALL, **limits)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Allocations]:
        journal = Journal.open(self.directory, "test")
        try:
            made = Allocations(self.options, journal, cast(Any, self.slurm), "test", Settings())
            async with made.serving(self.user):
                yield made
            await made.give_back()
        finally:
            journal.close()

    def holder(self, number: int, job: int, *nodes: str) -> None:
        """Be the holder of an allocation that has started."""
        said = {"slurm_job": job, "ends": None}
        said["nodes"] = [{"name": name, "cpus": 4, "gpus": None, "memory": None} for name in nodes]  # type: ignore[assignment]
        path = self.directory / f"holder-{number}"
        path.touch(0o600)
        path.write_text(json.dumps(said))
        self.slurm.watches[job].set(RUNNING)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "PAUSE", 0.02)
    monkeypatch.setattr("hyperflow.pools.rules.REFUSED_PAUSE", 0.1)


async def test_a_life(tmp_path: Path) -> None:
    """Its token is on the disk before sbatch is called; its nodes are used, drained when idle, released and cancelled;
    then it is forgotten."""
    pool = _Pool(tmp_path / "pool", idle_timeout=0.2)
    pool.user.wants = [Want(PLAIN, 4, 60.0)]
    pool.slurm.before = lambda token: seen.append(token in (tmp_path / "pool" / "journal").read_text())
    seen: list[bool] = []
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        pool.user.wants = []
        assert seen == [True]
        pool.holder(1, 100, "node1", "node2")
        await _until(lambda: len(pool.user.nodes) == 2)
        assert pool.user.nodes["node1"].slurm_job == 100
        await _until(lambda: made.rules.ended)
        assert pool.user.released == [("node1", "idle timeout"), ("node2", "idle timeout")]
        assert pool.slurm.cancelled == [100]
        row = made.table()[0]
        assert (row["state"], row["cause"], row["cpus"]) == ("ended", "idle timeout", 8)
        said = Claim.of(claim.read(tmp_path / "pool"))
        assert said is not None
        assert not said.wants(1)
        await _until(lambda: "token" not in (tmp_path / "pool" / "journal").read_text())


async def test_all_is_given_back(tmp_path: Path) -> None:
    """At the end, what waits, what runs and what sbatch is just submitting is cancelled, and the claim has ended."""
    pool = _Pool(tmp_path / "pool", max_queued=3, max_allocations=3)
    pool.user.wants = [Want(PLAIN, 12, 60.0)]
    async with pool.open() as made:
        await _until(lambda: len(made.rules.of("pending")) == 3)
        pool.holder(2, 101, "node1")
        await _until(lambda: pool.user.nodes)
    assert sorted(pool.slurm.cancelled) == [100, 101, 102]
    said = Claim.of(claim.read(tmp_path / "pool"))
    assert said is not None
    assert said.ended
    with_nothing = Journal.open(tmp_path / "pool", "test")
    assert not with_nothing.entries
    assert with_nothing.following == 4
    with_nothing.close()


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written is not submitted; that is told once, what is up goes on, and it is tried again later."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    plain, tries = Journal.add, []

    def full(self: Journal, entry: Entry) -> None:
        tries.append(entry.number)
        if len(tries) < 3:
            raise ConfigurationError("cannot write journal: No space left on device")
        plain(self, entry)

    monkeypatch.setattr(Journal, "add", full)
    async with pool.open():
        await _until(lambda: pool.slurm.watches)
    assert tries == [1, 2, 3]
    told = [record.getMessage() for record in caplog.records if "No space" in record.getMessage()]
    assert told == ["cannot submit an allocation: cannot write journal: No space left on device"]


async def test_an_error_of_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is told, with its traceback, and the loop goes on."""
    pool = _Pool(tmp_path / "pool")
    faults = iter(range(3))

    def demand() -> list[Want]:
        if next(faults, None) is not None:
            raise ZeroDivisionError("a mistake")
        return [Want(PLAIN, 1, 1.0)]

    pool.user.demand = demand  # type: ignore[method-assign]
    async with pool.open():
        await _until(lambda: pool.slurm.watches)
    told = [record for record in caplog.records if "a mistake" in record.getMessage()]
    assert [(record.levelno, record.exc_info is not None) for record in told] == [(logging.WARNING, True)]


async def test_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal holds the kind, and is told with Slurm's words."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    pool.slurm.refuses = "sbatch refused x:\n  error: Batch job submission failed: Invalid account"
    async with pool.open() as made:
        await _until(lambda: made.rules.held)
        assert made.rules.held == {0: "Invalid account"}
        await _until(lambda: "no more allocations of the default partition are asked for" in caplog.text)
        pool.slurm.refuses = ""
        made.rules.resume()
        await _until(lambda: pool.slurm.watches)
        made.change_kinds({"partition": "other"})
        assert made.rules.kinds[0].name == "other"
        assert {row["kind"] for row in made.table()} == {"the default partition"}


async def test_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kind that is held because its allocations bring no node up is told once, with the cause and what to type."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    async with pool.open() as made:
        for job in (100, 101, 102):
            await _until(lambda job=job: made.rules.of("pending") and job in pool.slurm.watches)
            pool.slurm.watches[job].set(BatchState("ended", "FAILED", exit_code=3))
        await _until(lambda: made.rules.held)
        await asyncio.sleep(0.1)
    (told,) = [each.getMessage() for each in caplog.records if "hyperflow pool resume" in each.getMessage()]
    assert told.endswith("3 allocations in a row have brought no node up; the last one: " + made.rules.ended[-1].cause)


async def test_nodes_are_lost(tmp_path: Path) -> None:
    """A cancel of the allocation by hand ends it, and another one is asked for; its kind is not held."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        pool.holder(1, 100, "node1")
        await _until(lambda: pool.user.nodes)
        del pool.user.nodes["node1"]
        pool.slurm.watches[100].set(BatchState("ended", "CANCELLED"))
        await _until(lambda: made.rules.of("pending"))
        assert [it.number for it in made.rules.ended] == [1]
        assert not made.rules.held
        assert pool.user.forgiven == ["node1"]


async def test_a_node_is_put_aside(tmp_path: Path) -> None:
    """What it does not take any more is worth another allocation, though it is up and could do that soon."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        pool.holder(1, 100, "node1")
        await _until(lambda: made.rules.of("up"))
        await _until(lambda: made.need.allocations == (0,))
        pool.user.aside.add("node1")
        await _until(lambda: made.rules.of("pending"))


async def test_a_node_does_not_start(tmp_path: Path) -> None:
    """The others of its allocation are used, and the reason is shown."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    plain = pool.user.use

    async def use(node: Any) -> None:
        pool.user.fails = "no python there" if node.name == "node1" else ""
        await plain(node)

    pool.user.use = use  # type: ignore[method-assign]
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        pool.holder(1, 100, "node1", "node2")
        await _until(lambda: made.rules.of("up"))
        await _until(lambda: made.table()[0]["nodes"][0]["state"] == "failed")
        assert made.table()[0]["nodes"][0]["why"] == "no python there"


async def test_two_processes(tmp_path: Path) -> None:
    """The second one that opens a pool's directory is refused, and told who has it."""
    journal = Journal.open(tmp_path / "pool", "first")
    with pytest.raises(ConfigurationError, match="is in use by program first"):
        Journal.open(tmp_path / "pool", "second")
    journal.close()
    Journal.open(tmp_path / "pool", "second").close()


async def test_a_damaged_journal(tmp_path: Path) -> None:
    """It is refused: nobody knows what is at Slurm. What to type is told, and the directory is free again."""
    journal = Journal.open(tmp_path / "pool", "test")
    journal.add(Entry(1, "{}", "token"))
    journal.close()
    path = tmp_path / "pool" / "journal"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigurationError, match="squeue --me"):
        Journal.open(tmp_path / "pool", "test")
    path.unlink()
    Journal.open(tmp_path / "pool", "test").close()


async def test_what_an_earlier_process_left(tmp_path: Path) -> None:
    """What lives is taken over, found by its token; what was never submitted is forgotten, but not its number."""
    pool = _Pool(tmp_path / "pool")
    journal = Journal.open(tmp_path / "pool", "test")
    journal.add(Entry(1, "?", "aaaaaaaaaaaa"))
    journal.add(Entry(2, "?", "bbbbbbbbbbbb"))
    journal.close()
    pool.slurm.tokens["bbbbbbbbbbbb"] = 100
    pool.slurm.watches[100] = Watch(100, RUNNING)
    async with pool.open() as made:
        await _until(lambda: made.rules.allocations)
        assert [(it.number, it.slurm_job) for it in made.rules.allocations.values()] == [(2, 100)]
        pool.holder(2, 100, "node1")
        await _until(lambda: pool.user.nodes)
        assert not made.rules.of("submitting", "pending")
    assert pool.slurm.cancelled == [100]


async def test_a_full_disk_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All is cancelled at Slurm all the same, and the program ends as it would have."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]

    def full(self: Journal, number: int) -> None:
        raise ConfigurationError("cannot write journal: No space left on device")

    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        monkeypatch.setattr(Journal, "remove", full)
    assert pool.slurm.cancelled == [100]
    assert "cannot forget the allocations of the pool" in caplog.text


async def test_mistakes_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error in the start or the release of a node is told; the allocation is given back all the same."""
    pool = _Pool(tmp_path / "pool", idle_timeout=0.1)
    pool.user.wants = [Want(PLAIN, 1, 1.0)]

    async def use(node: Any) -> None:
        pool.user.nodes[node.name] = node
        if node.name == "node1":
            raise ZeroDivisionError("a mistake in the start")

    async def release(node: str, cause: str) -> None:
        raise ZeroDivisionError("a mistake in the release")

    pool.user.use, pool.user.release = use, release  # type: ignore[method-assign]
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        pool.user.wants = []
        pool.holder(1, 100, "node1", "node2")
        await _until(lambda: made.rules.ended)
        assert pool.slurm.cancelled == [100]
    assert "a mistake in the start" in caplog.text
    assert "a mistake in the release" in caplog.text


async def test_what_nodes_have_is_told(tmp_path: Path) -> None:
    """What a node has is known when it is up: what may come is told again."""
    pool = _Pool(tmp_path / "pool")
    pool.user.wants = [Want(PLAIN, 1, 1.0)]
    pool.user.kinds["node1"] = NodeKind("node1", 4, Capacity(memory=8 << 30))
    told: list[int] = []
    async with pool.open() as made:
        made.on_kinds = lambda: told.append(made.rules.kinds[0].memory)
        await _until(lambda: made.rules.of("pending"))
        pool.holder(1, 100, "node1")
        await _until(lambda: told)
    assert told == [8 << 30]


async def test_looks_that_take_long(tmp_path: Path) -> None:
    """Where a look at what waits takes long, it is made less often; but soon when an allocation changed its state."""
    pool = _Pool(tmp_path / "pool")
    looks: list[float] = []

    def demand() -> list[Want]:
        looks.append(time.perf_counter())
        while time.perf_counter() < looks[-1] + 0.01:
            pass
        return [Want(PLAIN, 1, 1.0)]

    pool.user.demand = demand  # type: ignore[method-assign]
    async with pool.open() as made:
        await _until(lambda: made.rules.of("pending"))
        await _until(lambda: len(looks) > 4)
        pauses = [later - sooner for sooner, later in itertools.pairwise(looks[2:])]
        assert min(pauses) >= 0.2


async def test_what_may_come(tmp_path: Path) -> None:
    """What is said of nodes counts beforehand; of nodes that join, nobody knows how many there will be."""
    options = NodePool(SMALL, max_allocations=2, hosts={"box": 8}, listen=0)
    pool, user = Pool(options, tmp_path / "pool", "test", Settings()), FakeUser()
    made = Allocations(options, cast(Any, Said(1)), cast(Any, FakeSlurm()), "test", Settings(), Supply(("0",), 8 << 30))
    pool._user, pool._allocations, pool._hosts = user, made, Hosts(options.hosts, user)
    pool._tell_kinds()
    ledger = Ledger()
    ledger.may_come(user.coming)
    assert user.coming[0] == NodeKind("the default partition", 4, Capacity(("0",), 8 << 30, 3540.0), 2)
    for request in (Request(4, gpus=1, nodes=2), Request(8, gpus=2), Request(16, gpus=8, nodes=9, memory=1 << 40)):
        assert refusal(ledger, request, 0.0) is None
    ledger.may_come(user.coming[:1])
    assert refusal(ledger, Request(1, min_time=3600.0), 0.0) is not None


class Said(NamedTuple):
    """What is asked of a journal that is not used."""

    following: int


async def test_cancelled_while_the_directory_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has it then, and the next one can open it."""
    plain, may_go, begun = Journal.open, threading.Event(), threading.Event()

    def slow(path: Path, owner: str) -> Journal:
        begun.set()
        may_go.wait(10)
        return plain(path, owner)

    monkeypatch.setattr(Journal, "open", slow)
    opening = asyncio.ensure_future(Pool(NodePool(SMALL), tmp_path / "pool", "test", Settings()).__aenter__())
    await _until(begun.is_set)
    opening.cancel()
    await asyncio.sleep(0)
    may_go.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    plain(tmp_path / "pool", "another").close()
