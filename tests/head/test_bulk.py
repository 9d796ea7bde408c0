"""Batches: what is alike in a map goes together, and comes to the same as if each evaluation went by itself.

The launchers are pretended (`Node`): they evaluate here, in an order and in portions that a seed decides; workers die,
tasks are taken back and nodes are lost. Each history is played twice, once without batches.
"""

from __future__ import annotations

import asyncio
import pickle
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.events import reader
from hyperflow.head.bulk.maps import BulkMap
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.launcher import launcher
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Batch
from hyperflow.transports.process import Receiver
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.messages import CANCELLED, WorkerEnded
from hyperflow.wire.numbers import Seq, TaskNumber, WorkerNumber

ITEMS = 300


class Boom(Exception):
    """What an evaluation raises."""


class Unreadable:
    """A result that cannot be read."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("not to be read")


def twice(x: int) -> int:
    """What most are; the nodes know what becomes of it."""
    return 2 * x


def thrice(x: int) -> int:
    """Another function."""
    return 3 * x


class World:
    """What all nodes share: the dice, and what is to happen to which argument."""

    def __init__(self, seed: int, fails: Sequence[int] = (), dies: Sequence[int] = (), odd: Sequence[int] = ()) -> None:
        self.dice = random.Random(seed)
        self.fails, self.dies, self.odd = set(fails), set(dies), set(odd)
        self.nodes: list[Node] = []
        self.answered = 0
        self.at: dict[int, Callable[[], object]] = {}  # what happens after so many answers
        self.order: dict[int, list[int]] = defaultdict(list)  # what each worker was sent
        self.runs: Counter[int] = Counter()

    def lose(self) -> None:
        """One node is lost."""
        self.nodes[0].lose()

    def frame(self, task: int, x: int) -> list[frames.Bytes]:
        """Return the record that answers a task."""
        self.runs[x] += 1
        number = TaskNumber(task)
        if x in self.fails:
            error = pickle.dumps((pickle.dumps(Boom(x)), ("Boom", str(x), "Traceback")))
            return frames.result_record(number, Outcome.RAISED, 1e-6, error)
        if x in self.odd:
            return frames.result_record(number, Outcome.VALUE, 1e-6, pickle.dumps(Unreadable()))
        buffers: list[Any] = []
        value: Any = pickle.PickleBuffer(bytearray(b"%d" % x)) if x % 7 == 3 else 2 * x
        data = pickle.dumps(value, 5, buffer_callback=lambda buffer: buffers.append(buffer.raw()))
        return frames.result_record(number, Outcome.VALUE, 1e-6, data, buffers)


class Node:
    """A launcher with its workers."""

    is_pipe = False

    def __init__(self, world: World, name: str) -> None:
        self.node = name
        self.todo: dict[WorkerNumber, deque[tuple[int, int, int]]] = {}  # seq, task, argument
        self.received: Counter[WorkerNumber] = Counter()
        self.queues: dict[WorkerNumber, deque[tuple[int, int]]] = defaultdict(deque)  # of each team: task, argument
        self.team_of: dict[WorkerNumber, WorkerNumber] = {}
        self.lost = False
        self._world = world
        self._reader = frames.Reader()
        self._due = False
        world.nodes.append(self)

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Node:
        """Begin as a launcher does."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        greeting = launcher.greeting(None)._replace(affinity=(0, 1), quota=None)
        self._loop.call_soon(receiver.data_received, frames.HELLO + messages.framed(greeting))
        return self

    def write(self, parts: Sequence[frames.Bytes]) -> None:
        """Take orders."""
        for kind, worker, body in self._reader.feed(b"".join(parts)):
            if kind == Kind.SETUP:
                self._say(messages.framed(messages.Ready(shares_memory=False)))
            elif kind == Kind.FORK:
                self.todo[worker] = deque()
            elif kind == Kind.TASKS and worker in self.todo:
                for task, _, payload, _ in frames.tasks(body):
                    self.received[worker] += 1
                    self.todo[worker].append((self.received[worker], task, pickle.loads(payload)[0]))
                    self._world.order[worker].append(task)
            elif kind == Kind.RETRACT and worker in self.todo:
                (below,) = frames.SIZE.unpack(body)
                self._retract(worker, below)
            elif kind in (Kind.KILL, Kind.RETIRE) and worker in self.todo:
                self._end(worker, CANCELLED if kind == Kind.KILL else "")
            elif kind in (Kind.JOIN, Kind.BATCH, Kind.RECALL, Kind.CANCEL):
                self._to_team(kind, worker, body)
            elif kind == Kind.CLOSE:
                self.close()
        self._act_soon()

    def _to_team(self, kind: int, team: WorkerNumber, body: memoryview) -> None:
        queue = self.queues[team]
        if kind == Kind.JOIN:
            for (worker,) in frames.NUMBER.iter_unpack(body):
                if worker in self.todo:
                    assert not self.todo[worker]
                    self.team_of[worker] = team
        elif kind == Kind.BATCH:
            _, first, lengths, payloads = frames.read_batch(body)
            at = 0
            for task, length in enumerate(lengths, first):
                queue.append((task, pickle.loads(payloads[at : at + length])[0]))
                at += length
        elif kind == Kind.RECALL:
            (count,) = frames.NUMBER.unpack(body)
            self._recalled(team, [queue.pop()[0] for _ in range(min(count, len(queue)))])
        else:
            first, count = frames.RANGE.unpack(body)
            dropped = [task for task, _ in queue if first <= task < first + count]
            for worker in [worker for worker, its in self.team_of.items() if its == team]:
                todo = self.todo[worker]
                if todo and first <= todo[0][1] < first + count:
                    self._end(worker, CANCELLED)
                else:
                    dropped += [task for _, task, _ in todo if first <= task < first + count]
                    self.todo[worker] = deque(item for item in todo if not first <= item[1] < first + count)
            self.queues[team] = deque(item for item in self.queues[team] if not first <= item[0] < first + count)
            self._recalled(team, dropped)

    def _recalled(self, team: WorkerNumber, tasks: list[int]) -> None:
        self._say(frames.frame(Kind.RECALLED, team, b"".join(frames.RANGE.pack(task, 1) for task in sorted(tasks))))

    def _hand_out(self) -> None:
        """Give members of teams what they have room for; those for whom nothing is left leave."""
        for worker, team in list(self.team_of.items()):
            todo, queue = self.todo[worker], self.queues[team]
            if not todo:
                for _ in range(min(self._world.dice.choice((1, 1, 3)), len(queue))):
                    self.received[worker] += 1
                    task, x = queue.popleft()
                    todo.append((self.received[worker], task, x))
                    self._world.order[worker].append(task)
                if not todo:
                    del self.team_of[worker]
                    self._say(frames.frame(Kind.LEFT, team, frames.NUMBER.pack(worker)))

    def _retract(self, worker: WorkerNumber, below: int) -> None:
        todo = self.todo[worker]
        first = todo[0][0] if todo else below
        boundary = min(first + self._world.dice.randrange(2), below)  # it may be in the first one
        self.todo[worker] = deque(item for item in todo if not boundary <= item[0] < below)
        self._say(frames.frame(Kind.RETRACTED, worker, frames.SEQS.pack(boundary, below)))

    def _end(self, worker: WorkerNumber, reason: str) -> None:
        todo = self.todo.pop(worker)
        started = todo[0][0] if todo else self.received[worker]
        within = 0
        if (team := self.team_of.pop(worker, None)) is not None and todo:
            within = todo.popleft()[1]
            self.queues[team].extendleft((task, x) for _, task, x in reversed(todo))
        self._say(messages.framed(WorkerEnded(-9, Seq(started), reason, False, "", 0, TaskNumber(within)), worker))

    def _say(self, data: bytes) -> None:
        if not self.lost:
            self._loop.call_soon(self._receiver.data_received, data)

    def _act_soon(self) -> None:
        self._hand_out()
        if not self._due and not self.lost and any(self.todo.values()):
            self._due = True
            self._loop.call_soon(self._act)

    def _act(self) -> None:
        """Let a worker answer some of what it has."""
        self._due = False
        busy = [worker for worker, todo in self.todo.items() if todo]
        if self.lost or not busy:
            return
        world = self._world
        worker = world.dice.choice(busy)
        todo = self.todo[worker]
        records: list[frames.Bytes] = []
        died = False
        for _ in range(min(world.dice.choice((1, 2, 5, 50)), len(todo))):
            _, task, x = todo[0]
            if x in world.dies:
                died = True
                break
            todo.popleft()
            records += world.frame(task, x)
            world.answered += 1
            if world.answered in world.at:
                self._loop.call_soon(world.at.pop(world.answered))
        if records:
            if (team := self.team_of.get(worker)) is None:
                self._say(b"".join(frames.records_frame(Kind.RESULTS, worker, records)))
            else:
                body = frames.answers([(worker, 0.0, b"".join(records))])
                self._say(b"".join(frames.records_frame(Kind.ANSWERS, team, body)))
        if died:
            self._end(worker, "")
        self._act_soon()

    def lose(self) -> None:
        """End the stream."""
        if not self.lost:
            self.lost = True
            self._loop.call_soon(self._receiver.connection_lost, None)

    def close(self) -> None:
        """End in order."""
        self.lose()

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""


class Play:
    """What came of one history."""

    def __init__(self, world: World, env: hf.JobEnv, outcome: object) -> None:
        engine = env.evaluator
        assert isinstance(engine, Engine)
        self.outcome = outcome
        self.statistics = env.statistics()
        self.sent = world.order
        self.runs = world.runs
        self.left = (
            engine.scheduler.waiting,
            engine.scheduler.sent,
            len(engine._evaluations),
            sum(d.users for d in engine._packer.definitions.known.values()),
        )
        self.counts = {name: (it.submitted, it.done, it.failed, it.cancelled) for name, it in engine._tally.of.items()}
        engine._events.flush()
        self.states: dict[int, list[str]] = defaultdict(list)
        self.submitted: dict[int, tuple[object, ...]] = {}
        for event in reader.read(engine._events.path):
            for number in event.get("tasks", ()):
                self.states[number].append(event["state"])
                if "function" in event:
                    self.submitted[number] = event["function"], event["cpus"], event.get("name"), "map" in event


def in_words(result: object) -> object:
    """Return a result so that it can be compared."""
    if isinstance(result, hf.Failed):
        return result.index, result.call, type(result.error).__name__
    return bytes(result) if isinstance(result, (bytearray, memoryview, pickle.PickleBuffer)) else result


async def play(world: World, make: Callable[[int], hf.Flow[Any]], **how: Any) -> Play:
    """Run a map on three nodes; return its results, or its error, and what else there is to see."""
    settings = Settings(heartbeat=1000.0, node_timeout=2000.0, silence_limit=3000.0)
    plans = [NodePlan(Node(world, name), 2) for name in ("a", "b", "c")]
    cancel_at = how.pop("cancel_at", None)
    async with open_job(plans, None, settings=settings, preload=[], progress=False) as env:
        running = hf.map_concurrently(make, range(ITEMS), **how).start()
        if cancel_at is not None:
            world.at[cancel_at] = running.cancel
        outcome: object
        try:
            outcome = [in_words(one) for one in await running]
        except (Boom, asyncio.CancelledError) as error:
            outcome = type(error).__name__, str(error)
        for _ in range(50):  # what was killed or taken back comes in
            await asyncio.sleep(0)
        return Play(world, env, outcome)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how many evaluations there are in the batches that are submitted."""
    seen = Counter[int]()
    made = Batch.__init__

    def noted(self: Batch, *arguments: Any) -> None:
        made(self, *arguments)
        seen[self.count] += 1

    monkeypatch.setattr(Batch, "__init__", noted)
    return seen


async def both(make_world: Callable[[], World], make: Callable[[int], hf.Flow[Any]], **how: Any) -> tuple[Play, Play]:
    """Play a history with batches, and without."""
    alike = await play(make_world(), make, **how)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "open_map", lambda *_: None)
        single = await play(make_world(), make, **how)
    return alike, single


def mostly_alike(x: int) -> hf.Flow[Any]:
    """Return a flow that is like the one before, mostly."""
    if x % 41 == 40:
        return hf.remote_eval(thrice, x)
    if x % 53 == 52:
        return hf.remote_eval(twice, x).using(retries=1)
    if x % 67 == 66:
        return hf.pure(x)
    if x % 71 == 70:
        raise KeyError(x)
    return hf.remote_eval(twice, x)


@pytest.mark.parametrize("seed", range(6))
async def test_both_ways_come_to_the_same(seed: int, batches: Counter[int]) -> None:
    """Failures, deaths, results that cannot be read, a lost node, other flows in between: results, counts, events."""
    dice = random.Random(seed)
    some = dice.sample(range(ITEMS), 12)
    limit = dice.choice((None, 7, 100))

    def world() -> World:
        made = World(seed, fails=some[:6], dies=some[6:9], odd=some[9:])
        if seed % 2:
            made.at[dice.randrange(20, 200)] = made.lose
        return made

    alike, single = await both(world, mostly_alike, limit=limit, errors="return")

    assert alike.outcome == single.outcome
    assert isinstance(alike.outcome, list)
    assert sum(isinstance(one, tuple) for one in alike.outcome) == len(
        {*some, *range(70, ITEMS, 71)} - set(range(66, ITEMS, 67))
    )
    assert alike.counts == single.counts
    assert alike.left == single.left
    assert alike.left[:3] == (0, 0, 0)
    assert alike.submitted == single.submitted
    for states in (alike.states, single.states):
        assert all(one[0] == "waiting" and one[-1] in ("done", "failed") for one in states.values())
        assert all(one.count("done") + one.count("failed") == 1 for one in states.values())
        assert all("running" in one or "queued" in one for one in states.values())
    ends = [{n: one[-1] for n, one in play.states.items()} for play in (alike, single)]
    assert ends[0] == ends[1]
    assert max(batches) >= (3 if limit == 7 else 30)


@pytest.mark.parametrize("seed", range(3))
async def test_one_failure_ends_all(seed: int) -> None:
    """The first failure is raised itself; the others are cancelled, and nothing is left or computed on."""
    alike, single = await both(lambda: World(seed, fails=[150]), lambda x: hf.remote_eval(twice, x))

    assert alike.outcome == single.outcome == ("Boom", "150")
    for one in (alike, single):
        assert one.left[:3] == (0, 0, 0)
        ((_, (submitted, done, failed, cancelled)),) = one.counts.items()
        assert (submitted, failed, done + failed + cancelled) == (ITEMS, 1, ITEMS)
        assert all(states[-1] in ("done", "failed", "cancelled") for states in one.states.values())
        assert len(one.states) == ITEMS
    assert alike.left == single.left


@pytest.mark.parametrize("limit", [None, 30])
async def test_cancelling_a_map_cancels_its_batches(limit: int | None) -> None:
    """What waits is dropped, what runs is killed, and all is counted."""
    alike, single = await both(lambda: World(1), lambda x: hf.remote_eval(twice, x), limit=limit, cancel_at=100)

    for one in (alike, single):
        assert one.outcome == ("CancelledError", "")
        assert one.left[:3] == (0, 0, 0)
        ((_, (submitted, done, failed, cancelled)),) = one.counts.items()
        assert done >= 100
        assert cancelled > 0
        assert (failed, done + cancelled) == (0, submitted)
    assert alike.left == single.left


async def test_what_is_sent_is_first_come_first_served(batches: Counter[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker gets older ones before younger ones, as long as nothing is taken back."""
    for taking_back in ("rebalance", "_take_from_slow"):
        monkeypatch.setattr(Scheduler, taking_back, lambda *_, **__: None)
    world = World(3)
    await play(world, lambda x: hf.remote_eval(twice, x))
    assert all(sent == sorted(sent) for sent in world.order.values())
    assert set(world.runs.values()) == {1}
    assert max(batches) == ITEMS - 1


async def test_what_is_submitted_in_between_keeps_its_place() -> None:
    """An evaluation that the map's function starts is younger than what the map made before, older than the rest."""
    world, others = World(4), list[Any]()

    def make(x: int) -> hf.Flow[int]:
        if x == 200:
            others.append(hf.remote_eval(twice, 10_000).start())
        return hf.remote_eval(twice, x)

    numbers: dict[int, int] = {}
    seen = world.frame
    world.frame = lambda task, x: (numbers.setdefault(x, task), seen(task, x))[1]  # type: ignore[method-assign]
    await play(world, make)
    assert await others[0] == 20_000
    assert numbers[199] < numbers[10_000] < numbers[200]


async def test_what_a_function_refers_to_is_as_it_was_at_each_call() -> None:
    """A global that the map's function binds anew between two calls is seen by the second one."""
    world = World(5)
    names: dict[str, Any] = {"factor": 0, "__name__": "__main__"}
    exec("def times(x): return factor * x", names)

    def make(x: int) -> hf.Flow[int]:
        names["factor"] = x // 100
        return hf.remote_eval(names["times"], x)

    functions: dict[int, int] = {}
    read = frames.tasks

    def noted(body: memoryview) -> Iterator[Any]:
        for task, function, payload, buffers in read(body):
            functions[pickle.loads(payload)[0]] = function
            yield task, function, payload, buffers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "tasks", noted)
        await play(world, make)
    assert len({functions[x] for x in range(100)}) == 1
    assert len(set(functions.values())) == 3
    assert functions[99] != functions[100]
    assert functions[199] != functions[200]


async def test_equal_lists_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is pickled by itself: two that get the same list get two lists."""
    shared = [1]
    payloads: list[bytes] = []
    submit = BulkMap.submit

    def noted(self: BulkMap) -> None:
        if self._open is not None:
            payloads.extend(self._open.payloads)
        submit(self)

    monkeypatch.setattr(BulkMap, "submit", noted)
    world = World(6)
    await play(world, lambda x: hf.remote_eval(twice, x, shared))  # type: ignore[call-arg]
    assert len(payloads) == ITEMS - 1
    assert all(pickle.loads(one)[1] == [1] for one in payloads)
