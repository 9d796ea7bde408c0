"""memory="auto": who exceeds a share runs again with more, uncharged; what was learned counts, also in the next run."""

import asyncio
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow.events import reader
from hyperflow.head.learning import Learning
from hyperflow.options import Options
from hyperflow.request import Capacity, Request
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Send, Task
from hyperflow.wire.messages import MEMORY_LIMIT, WorkerEnded
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber
from tests.support import local

MB = 1 << 20
GIB = 1 << 30


def takes(megabytes: int) -> int:
    """Take so much, and do not end before the launcher has looked."""
    from hyperflow.worker import worker

    kept = bytearray(megabytes * MB)
    assert worker._worker is not None
    while worker._worker.claims.seen() < megabytes * MB:  # it may have looked while that was being taken
        time.sleep(0.01)
    return len(kept)


async def test_what_exceeds_its_share(tmp_path: Path) -> None:
    """It runs again with more, and is not charged; the next run begins with what was learned."""
    program = hf.ProgramInfo.new(tmp_path)
    async with local(cpus=4, memory="700M", program=program) as env, asyncio.timeout(60):
        with hf.using(memory="auto"):
            for _ in range(3):
                assert await hf.remote_eval(takes, 200) == 200 * MB
        first = env.statistics()
        assert (first.retried, first.failed, first.functions["takes"].done) == (1, 0, 3)
    log = program.log_dir / "events.jsonl"
    (*_, learned) = (event for event in reader.read(log) if event["state"] == "learned")
    assert 250 * MB < learned["memory"] < 400 * MB
    assert (learned["known"], learned["exceeded"]) == (3, 1)
    again = attrs.evolve(program, program_id=f"{program.program_id}-2")
    async with local(cpus=4, memory="700M", program=again) as env, asyncio.timeout(60):
        assert await hf.remote_eval(takes, 200).using(memory="auto") == 200 * MB
        assert env.statistics().retried == 0


async def test_what_exceeds_a_node() -> None:
    """It was given all of the node, and fails."""
    async with local(cpus=2, memory="250M"), asyncio.timeout(60):
        with pytest.raises(hf.MemoryLimitExceeded) as caught:
            await hf.remote_eval(takes, 500).using(memory="auto")
        assert caught.value.limit == 250 * MB


class Log:
    """Keeps what would be in the event log."""

    def __init__(self) -> None:
        self.notes: list[dict[str, Any]] = []

    def note(self, state: str, **members: Any) -> None:
        """Note something."""
        self.notes.append({"state": state, **members})


class Evaluation:
    """What Learning looks at."""

    began = 0.0
    name = "an evaluation"

    def __init__(self, task: Task, options: Options) -> None:
        self.task = task
        self.options = options

    @property
    def memory_limit(self) -> int | None:
        """What it may have."""
        return self.task.asks.memory if self.task.asks is not None else None


class Run:
    """A scheduler with one node, and what is learned there."""

    def __init__(self, cpus: int = 4, memory: int = 4 * GIB) -> None:
        self.log: Any = Log()
        self.scheduler = Scheduler()
        self.scheduler.add_node("n", range(cpus), Capacity(memory=memory))
        self.learning = Learning(self.scheduler, self.log, lambda: None)
        self.count = 0

    def submit(self, options: Options) -> Any:
        """Submit an evaluation."""
        self.count += 1
        number = TaskNumber(self.count)
        asks = self.learning.request(takes, "takes", options)
        task = Task(number, DefinitionNumber(1), options.cpus, alone=True, request=asks)
        self.scheduler.submit(task)
        evaluation: Any = Evaluation(task, options)
        self.learning.submitted(evaluation)
        return evaluation

    def started(self) -> list[Task]:
        """Start what can be; return it."""
        return [task for effect in self.scheduler.schedule() if type(effect) is Send for task in effect.tasks]

    def end(self, task: Task, evaluation: Any, peak: int, seconds: float = 10.0) -> None:
        """One ends with a result."""
        assert task.worker is not None
        self.scheduler.answered(task.worker.number, task.number, seconds)
        self.learning.ended(evaluation, seconds, (1.0, peak, 0, 0))


async def test_what_waits_follows_what_is_known() -> None:
    """It asks for less, or more, as soon as that is known; the order of those that wait stays."""
    run = Run()
    evaluations = {one.task.number: one for one in (run.submit(Options(memory="auto")) for _ in range(20))}
    first = run.started()
    assert [task.number for task in first] == [1, 2, 3, 4]
    assert {task.asks.memory for task in first if task.asks} == {GIB}
    for task in first[:3]:
        run.end(task, evaluations[task.number], 1900 * MB)
    await asyncio.sleep(0)
    (fifth,) = run.started()  # beside the fourth, which has a quarter of the node
    assert fifth.number == 5
    assert fifth.asks is not None
    assert fifth.asks.memory is not None
    assert 1900 * 1.25 * MB <= fifth.asks.memory < 2.8 * GIB
    assert run.scheduler.waiting == 15
    run.end(fifth, evaluations[fifth.number], 10 * MB)
    assert run.log.notes[-1]["known"] >= 3


async def test_who_was_killed_never_gets_less() -> None:
    """However little others need: it has shown what it needs."""
    run = Run(cpus=4)
    evaluations = {one.task.number: one for one in (run.submit(Options(memory="auto")) for _ in range(4))}
    large, *small = run.started()
    assert large.worker is not None
    worker = large.worker.number
    ended = WorkerEnded(-9, Seq(1), MEMORY_LIMIT, False, "", GIB + 1)
    within, _ = run.scheduler.ended(worker, Seq(1))
    assert within is large
    assert run.learning.exceeds(evaluations[large.number], ended)
    run.scheduler.resubmit(large)
    for task in small:
        run.end(task, evaluations[task.number], 10 * MB)
    await asyncio.sleep(0)
    (again,) = run.started()
    assert again is large
    assert again.asks == Request(1, memory=2 * GIB)
    await asyncio.sleep(0)
    assert run.submit(Options(memory="auto")).task.asks.memory < 100 * MB


async def test_time_is_learned_in_the_same_way() -> None:
    """Nothing is asked for until a few have ended; a number that is given counts as it is."""
    run = Run(memory=0)
    options = Options(min_time="auto", memory="auto", name="a scan")
    evaluations = {one.task.number: one for one in (run.submit(options) for _ in range(4))}
    for task in run.started()[:3]:
        assert task.asks == Request(1), "the memory of this node is not known"
        run.end(task, evaluations[task.number], GIB, seconds=100.0)
    assert 125 <= run.submit(options).task.asks.min_time <= 141
    assert run.submit(Options(min_time="auto")).task.asks.min_time == 0, "another name"
    assert list(run.learning.learned()) == [f"{takes.__module__}:takes (a scan)"]


@pytest.mark.parametrize("found", [3, {"memory": "x", "seconds": None}, {"memory": ["a"]}, None])
async def test_what_somebody_else_has_recorded(found: object) -> None:
    """Nothing is believed of what makes no sense."""
    run = Run()
    run.learning.begin({f"{takes.__module__}:takes": found})

    assert run.submit(Options(memory="auto")).task.asks.memory == GIB
