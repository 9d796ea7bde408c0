"""Programs on the other nodes of an evaluation: who may start and who ends them, and when its CPUs are free."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hyperflow.head.link import Link
from hyperflow.head.log_places import LogPlaces
from hyperflow.head.ranks import FIRST, LOST, Ranks
from hyperflow.request import Request
from hyperflow.scheduling.state import Place, Task, Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import CANCELLED, MEMORY_LIMIT, Guest, RanksEnded, RanksWanted, WorkerEnded
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

TASK, WORKER = TaskNumber(7), WorkerNumber(3)
NODES = ("n1", "n2", "n3", "n4")


class Nodes:
    """Three nodes with an evaluation, and one without; what is written to each is kept."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int, WorkerNumber, memoryview]] = []
        self.delivered: list[WorkerNumber] = []
        self.reasons: list[str] = []
        self.limit: int | None = None
        links = {node: SimpleNamespace(cpus=SimpleNamespace(pinned=True)) for node in NODES}
        self.links = cast("dict[str, Link]", links)
        self.ranks = Ranks(self.links, self._write, LogPlaces(Path("/log")), lambda _: self.limit, self._deliver)
        self.worker = Worker(WORKER, "n1", 0, (0, 1), fresh=False)
        self.worker.elsewhere = (Place("n2", (4, 5), ("1",)), Place("n3", (6, 7)))
        task = Task(TASK, DefinitionNumber(1), 2, request=Request(cpus=2, nodes=3))
        task.worker = self.worker
        self.worker.queue[TASK] = task

    def _write(self, node: str, parts: Sequence[frames.Bytes]) -> None:
        for part in parts:
            self.written += [(node, *each) for each in frames.Reader().feed(bytes(part))]

    def _deliver(self, number: WorkerNumber, ended: WorkerEnded) -> None:
        self.delivered.append(number)
        self.reasons.append(ended.reason)

    def want(self, serial: int, node: str, *argv: str) -> None:
        """Let the evaluation want something."""
        wanted = RanksWanted(TASK, serial, node, argv, "/", {"A": "1"})
        self.ranks.on_message(self.worker, memoryview(json.dumps(wanted._asdict()).encode()))

    def take(self) -> list[tuple[str, int, int, Any]]:
        """Return what was written since the last time: node, kind, number, message."""
        kinds: dict[int, Any] = {Kind.GUEST: Guest, Kind.RANKS_ENDED: RanksEnded}
        found = [
            (node, kind, int(number), messages.read(kinds[kind], body) if kind in kinds else None)
            for node, kind, number, body in self.written
        ]
        self.written.clear()
        return found


def ended(status: int = 0, tail: str = "") -> WorkerEnded:
    """Return the end of a worker or program."""
    return WorkerEnded(status, Seq(0), "", False, tail, 0)


@pytest.fixture
def nodes() -> Nodes:
    """Give the test nodes of its own."""
    return Nodes()


def test_a_program_has_what_its_evaluation_has_there(nodes: Nodes) -> None:
    """CPUs and GPUs are those of its place; its end is told to the worker, with what it said last."""
    nodes.want(1, "n2", "orted", "-x")
    ((node, kind, number, guest),) = nodes.take()
    assert (node, kind, number) == ("n2", Kind.GUEST, FIRST)
    assert (guest.cpus, guest.gpus, guest.pinned, guest.argv) == ((4, 5), ("1",), True, ("orted", "-x"))
    assert nodes.ranks.ended(WorkerNumber(FIRST), ended(3, "no such file"))
    assert nodes.take() == [("n1", Kind.RANKS_ENDED, WORKER, RanksEnded(1, 3, "no such file"))]


@pytest.mark.parametrize("node", ["n4", "n9"])
def test_not_its_node(nodes: Nodes, node: str) -> None:
    """On a node that is none of its own, nothing is started."""
    nodes.want(1, node, "orted")
    why = f"{node} is not a node of this evaluation"
    assert nodes.take() == [("n1", Kind.RANKS_ENDED, WORKER, RanksEnded(1, LOST, why))]


def test_an_end_by_request(nodes: Nodes) -> None:
    """What the worker does not want any more is killed; it is told when that has ended. Others go on."""
    nodes.want(1, "n2", "orted")
    nodes.want(2, "n3", "orted")
    nodes.take()
    nodes.want(2, "n3")
    assert nodes.take() == [("n3", Kind.KILL, FIRST + 1, None)]


def test_the_worker_ends_when_its_programs_have(nodes: Nodes) -> None:
    """Its end is held back until the last one has gone, which are killed: until then its CPUs are not free."""
    nodes.want(1, "n2", "orted")
    nodes.want(2, "n3", "orted")
    nodes.take()
    assert nodes.ranks.ended(WORKER, ended(-9))
    assert [written[:3] for written in nodes.take()] == [("n2", Kind.KILL, FIRST), ("n3", Kind.KILL, FIRST + 1)]
    assert nodes.ranks.ended(WorkerNumber(FIRST), ended())
    assert not nodes.delivered
    nodes.ranks.lost("n3")
    assert nodes.delivered == [WORKER]
    assert not nodes.ranks.ended(WORKER, ended())  # of another one, say, that has no programs


def test_a_node_of_a_program_is_lost(nodes: Nodes) -> None:
    """The worker is told, so that mpirun knows."""
    nodes.want(1, "n2", "orted")
    nodes.take()
    nodes.ranks.lost("n2")
    assert nodes.take() == [("n1", Kind.RANKS_ENDED, WORKER, RanksEnded(1, LOST, "n2 was lost"))]


def test_the_node_of_the_worker_is_lost(nodes: Nodes) -> None:
    """Its programs elsewhere are killed. Their ends are told to nobody."""
    nodes.want(1, "n2", "orted")
    nodes.take()
    del nodes.links["n1"]
    nodes.ranks.lost("n1")
    assert nodes.take() == [("n2", Kind.KILL, FIRST, None)]
    assert nodes.ranks.ended(WorkerNumber(FIRST), ended(-15))
    assert not nodes.delivered


def test_nonsense(nodes: Nodes) -> None:
    """A function that writes to descriptors that are not its own starts nothing."""
    nodes.ranks.on_message(nodes.worker, memoryview(b"{}"))
    nodes.ranks.on_message(nodes.worker, memoryview(b"nonsense"))
    assert not nodes.take()


def test_a_memory_limit(nodes: Nodes) -> None:
    """It counts on each node. A program that exceeds it takes the worker with it, which then has exceeded it."""
    nodes.limit = 1 << 30
    nodes.want(1, "n2", "orted")
    assert [written[:3] for written in nodes.take()] == [("n2", Kind.GUEST, FIRST), ("n2", Kind.LIMIT_MEMORY, FIRST)]
    assert nodes.ranks.ended(WorkerNumber(FIRST), ended(-9)._replace(reason=MEMORY_LIMIT, peak_memory=1 << 31))
    assert [written[:3] for written in nodes.take()] == [("n1", Kind.KILL, WORKER), ("n1", Kind.RANKS_ENDED, WORKER)]
    assert nodes.ranks.ended(WORKER, ended(-15)._replace(reason=CANCELLED))
    assert (nodes.delivered, nodes.reasons) == ([WORKER], [MEMORY_LIMIT])
