"""What one evaluation costs the head, in instructions of Python: a slower way must not come unnoticed.

No clock is read. Tests that compare seconds, or ratios of seconds, fail when something else keeps the machine busy.
What is counted are the bytecode instructions that Python executes, and the C functions that it calls, from the call of
`remote_eval` to the result in the caller's hands. Both numbers are the same on every run and machine. They are compared
with those of a piece of code that is always the same, because each version of Python has its own bytecode.

What it cannot see: a C function that takes longer, since it counts as one call. `make bench` sees that.
"""

import asyncio
import contextlib
import gc
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.head.fleet import NodePlan
from hyperflow.launcher import launcher
from hyperflow.transports.process import Receiver
from hyperflow.wire import frames, messages
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

FEW, MANY = 200, 1200
"""Evaluations; what counts is the difference, so that start and end of a run do not."""


class Meter:
    """Counts what this thread executes."""

    def __init__(self) -> None:
        self.instructions = 0
        self.calls = 0

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count within the scope."""
        trace, profile = sys.gettrace(), sys.getprofile()  # of a debugger, or of who measures coverage
        gc.disable()
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.settrace(trace)
            sys.setprofile(profile)
            gc.enable()

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.instructions += 1
        return self._trace

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "c_call":
            self.calls += 1


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing within the scope: what stands for another process is not the head's cost."""
    trace, profile = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.settrace(trace)
        sys.setprofile(profile)


class FakeLauncher:
    """A launcher in this process: every task has the same result, and comes back in the next turn of the loop."""

    node = "fake"
    is_pipe = False

    def __init__(self) -> None:
        self._reader = frames.Reader()
        self._answers: list[frames.Bytes] = []
        self._members: list[WorkerNumber] = []  # of the team
        self._queue: list[int] = []

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> "FakeLauncher":
        """Begin as a launcher does."""
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        greeting = messages.framed(launcher.greeting(None)._replace(affinity=(0, 1)))
        self._answer(frames.HELLO, greeting)
        return self

    def write(self, parts: Sequence[frames.Bytes]) -> None:
        """Read what the head says, and answer."""
        with uncounted():
            self._read(b"".join(parts))

    def _read(self, data: bytes) -> None:
        for kind, worker, body in self._reader.feed(data):
            if kind == frames.Kind.SETUP:
                self._answer(messages.framed(messages.Ready(shares_memory=False)))
            elif kind == frames.Kind.TASKS:
                records: list[frames.Bytes] = []
                for task, *_ in frames.tasks(body):
                    records += frames.result_record(task, frames.Outcome.VALUE, 1e-6, RESULT)
                self._answer(*frames.records_frame(frames.Kind.RESULTS, worker, records))
            elif kind == frames.Kind.JOIN:
                self._members += (WorkerNumber(number) for (number,) in frames.NUMBER.iter_unpack(body))
            elif kind == frames.Kind.BATCH:
                _, first, lengths, _ = frames.read_batch(body)
                self._queue += range(first, first + len(lengths))
            elif kind == frames.Kind.CLOSE:
                self.close()
            if kind in (frames.Kind.JOIN, frames.Kind.BATCH) and self._members and self._queue:
                self._answer_team(worker)

    def _answer_team(self, team: WorkerNumber) -> None:
        """Let one of the members have done all that is queued, and all of them leave."""
        records: list[frames.Bytes] = []
        for task in self._queue:
            records += frames.result_record(TaskNumber(task), frames.Outcome.VALUE, 1e-6, RESULT)
        answers = frames.answers([(self._members[0], 0.0, b"".join(records))])
        left = b"".join(map(frames.NUMBER.pack, self._members))
        self._queue.clear()
        self._members.clear()
        self._answer(
            *frames.records_frame(frames.Kind.ANSWERS, team, answers), frames.frame(frames.Kind.LEFT, team, left)
        )

    def _answer(self, *parts: frames.Bytes) -> None:
        self._answers += parts
        if len(self._answers) == len(parts):
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        answers, self._answers = self._answers, []
        self._receiver.data_received(b"".join(answers))

    def close(self) -> None:
        """End the stream."""
        self._loop.call_soon(self._receiver.connection_lost, None)

    async def wait_closed(self) -> None:
        """There is nothing to wait for."""


RESULT = pickle.dumps(1)


def one(x: int) -> int:
    """Stand for what is evaluated; it never is."""
    return x


@hf.job
async def side_by_side(count: int) -> list[int]:
    """Evaluate all at once."""
    return await hf.map_concurrently(lambda x: hf.remote_eval(one, x), range(count))


@hf.job
async def one_at_a_time(count: int) -> list[int]:
    """Evaluate one after the other."""
    return [await hf.remote_eval(one, x) for x in range(count)]


async def evaluate(job: hf.Job[list[int]], meter: Meter) -> list[int]:
    """Run a job on the fake launcher, and count what that takes."""
    settings = Settings(heartbeat=1000.0, node_timeout=2000.0, silence_limit=3000.0)
    async with open_job([NodePlan(FakeLauncher(), 2)], None, settings=settings, preload=[]):
        await hf.replicate_concurrently(10, hf.remote_eval(one, 0))
        with meter.counting():
            return await job


def standard(count: int) -> int:
    """Do a bit of everything that Python code does, always the same."""
    table: dict[int, list[Any]] = {}
    for number in range(count):
        for part in range(6):
            table[number] = _step(table, number, part)
    return len(table)


def _step(table: dict[int, list[Any]], number: int, part: int) -> list[Any]:
    entry = table.get(number)
    if entry is None:
        entry = [number, str(part)]
    elif part > 2 and len(entry) < 10:
        entry.append((part, f"{number}-{part}"))
    json.encoder.encode_basestring("some text")
    return entry


@attrs.frozen
class Cost:
    """What one round of something costs."""

    instructions: float
    calls: float


WORTH: dict[Callable[[int], hf.Job[list[int]]], Cost] = {
    side_by_side: Cost(instructions=1.19, calls=0.69),
    one_at_a_time: Cost(instructions=12.0, calls=5.8),  # 10.1 and 4.8 to 13.2 and 6.5: more or fewer turns of the loop
}
"""What one evaluation costs, as a multiple of `standard()`, when this was last looked at. Where the way has become
longer for a good reason, take over what the test's message tells, and give the reason in the commit."""

LEEWAY = 1.2
"""The test fails at a fifth more; half as slow again is far beyond it."""


def cost(run: Callable[[int, Meter], object]) -> Cost:
    """Return what one of many costs."""
    few, many = Meter(), Meter()
    run(FEW, few)
    run(MANY, many)
    rounds = MANY - FEW
    return Cost((many.instructions - few.instructions) / rounds, (many.calls - few.calls) / rounds)


def standards(count: int, meter: Meter) -> None:
    """Run so many rounds of the standard."""
    with meter.counting():
        assert standard(count) == count


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="recorded with Python 3.11; others have other instructions")
@pytest.mark.parametrize("job", WORTH, ids=lambda job: job.__name__)
def test_cost_of_an_evaluation(job: Callable[[int], hf.Job[list[int]]]) -> None:
    """An evaluation costs the head as many instructions as it did when that was last looked at."""

    def evaluations(count: int, meter: Meter) -> None:
        assert asyncio.run(evaluate(job(count), meter), debug=False) == [1] * count

    ours, of_standard, worth = cost(evaluations), cost(standards), WORTH[job]
    found = Cost(ours.instructions / of_standard.instructions, ours.calls / of_standard.calls)

    told = f"now {found}, in multiples of the standard (by itself {ours}); recorded is {worth}"
    slower = "an evaluation costs the head more than it did; CONTRIBUTING.md says how to see where"
    assert found.instructions < LEEWAY * worth.instructions, f"{slower}; {told}"
    assert found.calls < LEEWAY * worth.calls, f"{slower}; {told}"
    # Else the next one who makes it slower would have room for that.
    cheaper = "an evaluation costs the head much less than it did: record that in this file"
    assert found.instructions > worth.instructions / LEEWAY, f"{cheaper}; {told}"
    assert found.calls > worth.calls / LEEWAY, f"{cheaper}; {told}"


def test_the_meter_is_exact() -> None:
    """The same work counts the same, however busy the machine is."""
    first, second = Meter(), Meter()
    standards(100, first)
    standards(100, second)

    assert first.instructions == second.instructions > 10_000
    assert first.calls == second.calls > 1000
