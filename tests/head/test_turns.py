"""What the head does in one turn of the event loop is bounded, however much comes at once. No clock is read."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.head import collector, engine
from hyperflow.head.fleet import NodePlan
from hyperflow.launcher import launcher
from hyperflow.transports.process import Receiver
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind

CPUS = 60


class Node:
    """A launcher in this process that answers when it is told to."""

    is_pipe = False

    def __init__(self, node: str) -> None:
        self.node = node
        self.tasks: list[tuple[int, int]] = []
        """Worker and task."""
        self._reader = frames.Reader()

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> "Node":
        """Begin as a launcher does."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        greeting = launcher.greeting(None)._replace(affinity=tuple(range(CPUS)))
        self._loop.call_soon(receiver.data_received, frames.HELLO + messages.framed(greeting))
        return self

    def write(self, parts: Sequence[frames.Bytes]) -> None:
        """Take what the head says."""
        for kind, worker, body in self._reader.feed(b"".join(parts)):
            if kind == Kind.SETUP:
                ready = messages.framed(messages.Ready(shares_memory=False))
                self._loop.call_soon(self._receiver.data_received, ready)
            elif kind == Kind.TASKS:
                self.tasks += [(worker, task) for task, *_ in frames.tasks(body)]
            elif kind == Kind.CLOSE:
                self.close()

    def answer(self) -> None:
        """Answer all tasks in one read of the head's."""
        tasks, self.tasks = self.tasks, []
        answers: list[frames.Bytes] = []
        for worker, task in tasks:
            record = frames.result_record(frames.TaskNumber(task), frames.Outcome.VALUE, 1.0, NONE)
            answers += frames.records_frame(Kind.RESULTS, frames.WorkerNumber(worker), record)
        self._receiver.data_received(b"".join(answers))

    def lose(self) -> None:
        """End the stream."""
        self._receiver.connection_lost(None)

    def close(self) -> None:
        """End the stream, as asked."""
        self._loop.call_soon(self._receiver.connection_lost, None)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""


NONE = b"\x80\x05N."


def nothing(n: int) -> None:
    """Stand for what is evaluated."""


@asynccontextmanager
async def opened(*nodes: Node) -> AsyncIterator[hf.JobEnv]:
    """Open a job on these nodes."""
    settings = Settings(heartbeat=1000.0, node_timeout=2000.0, silence_limit=3000.0)
    async with open_job([NodePlan(node, CPUS) for node in nodes], None, settings=settings, preload=[]) as env:
        yield env


async def until(reached: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    while not reached():  # noqa: ASYNC110 (turns of the loop are what is counted here)
        await asyncio.sleep(0)


async def steps(evaluations: Sequence[asyncio.Future[None]]) -> list[int]:
    """Let the loop turn until all have ended; return how many more had in each turn."""
    ended = [sum(one.done() for one in evaluations)]
    while ended[-1] < len(evaluations):
        await asyncio.sleep(0)
        ended.append(sum(one.done() for one in evaluations))
    return [ended[0], *(after - before for before, after in itertools.pairwise(ended))]


async def test_many_answers_take_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all nodes together; and each is taken."""
    monkeypatch.setattr(engine, "WORK_AT_ONCE", 10)
    nodes = Node("a"), Node("b")
    async with opened(*nodes):
        evaluations = [hf.remote_eval(nothing, n).start() for n in range(2 * CPUS)]
        await until(lambda: sum(len(node.tasks) for node in nodes) == 2 * CPUS)

        for node in nodes:
            node.answer()
        taken = await steps(evaluations)

        assert max(taken) <= 20, "of the turn before, and of this one"
        assert sum(taken) == 2 * CPUS


async def test_many_starts_take_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster is filled in many turns, between which others have theirs."""
    monkeypatch.setattr(engine, "STARTS_AT_ONCE", 12)
    node = Node("a")
    async with opened(node):
        evaluations = [hf.remote_eval(nothing, n).start() for n in range(CPUS)]
        came = [0]
        while came[-1] < CPUS:
            await asyncio.sleep(0)
            came.append(len(node.tasks))

        assert max(after - before for before, after in itertools.pairwise(came)) == 2
        node.answer()
        await asyncio.gather(*evaluations)


async def test_answers_count_that_came_before_the_end_of_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although they wait for their turn: nothing of them runs again. And nothing more goes to that node meanwhile."""
    monkeypatch.setattr(engine, "WORK_AT_ONCE", 10)
    lost, other = Node("a"), Node("b")
    async with opened(lost, other) as env:
        evaluations = [hf.remote_eval(nothing, n).start() for n in range(2 * CPUS)]
        await until(lambda: len(lost.tasks) + len(other.tasks) == 2 * CPUS)

        lost.answer()
        lost.lose()
        waiting = hf.remote_eval(nothing, -1).start()
        other.answer()
        await asyncio.gather(*evaluations)
        await until(lambda: bool(other.tasks))

        assert not lost.tasks
        assert env.statistics().returned == 0
        assert env.statistics().nodes == 1
        other.answer()
        await waiting


def test_what_is_alive_is_put_aside_as_a_run_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cycle collector passes over it; when the run has shrunk, it looks at everything again."""
    said: list[str] = []
    monkeypatch.setattr(collector, "GROWTH", 100)
    monkeypatch.setattr(gc, "freeze", lambda: said.append("freeze"))
    monkeypatch.setattr(gc, "unfreeze", lambda: said.append("unfreeze"))
    follows = collector.Collector()

    for size, so_far in ((100, 0), (101, 1), (201, 1), (202, 2), (101, 2), (100, 3), (50, 3), (101, 4)):
        follows.follow(size)
        assert len(said) == so_far, size
    follows.close()
    follows.close()

    assert said == ["freeze", "freeze", "unfreeze", "freeze", "unfreeze"]
