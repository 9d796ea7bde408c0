"""Answers of a team, read in one loop: of many small ones, this is what is left for each in the head.

It takes an answer out of what the team holds, and puts its value into its place. All else (counts, events, the map) is
for all of a frame together. What is rare is only noted: an error, a result that cannot be read, one that is by itself
or was cancelled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from hyperflow.environment import Results
from hyperflow.head.bulk.calls import Calls, calls_of
from hyperflow.scheduling.state import Batch, Task, Worker
from hyperflow.wire import frames
from hyperflow.wire.numbers import NO_TASK, DefinitionNumber, TaskNumber, WorkerNumber

FAILED = frames.IS_MEASURED - 1
"""The bits of an outcome that are zero for a result."""

SMALL = 1 << 20
"""Bytes of answers that are copied, because pieces of bytes are made quicker than views."""

_GONE = Task(NO_TASK, DefinitionNumber(0))
"""In the place of what was cancelled."""


class Rare(NamedTuple):
    """An answer that has to be looked at by itself; the error is that of reading it."""

    worker: WorkerNumber
    task: TaskNumber
    record: memoryview
    seconds: float
    error: BaseException | None = None


class Answers:
    """What one frame has brought.

    Args:
        held: What the team holds.
        workers: All workers.
        with_buffers: Reads a result that has so many buffers.
    """

    def __init__(
        self,
        held: dict[TaskNumber, Task],
        workers: Mapping[WorkerNumber, Worker],
        with_buffers: Callable[[Worker, memoryview, int], Any],
    ) -> None:
        self.held = held
        self.workers = workers
        self.with_buffers = with_buffers
        self.numbers: list[TaskNumber] = []
        """Those whose values are in their places, in the order in which they came."""
        self.seconds: list[float] = []
        """What each of them took."""
        self.measured: dict[TaskNumber, frames.Measured] = {}
        """The CPU time and memory of those where they were measured."""
        self.rare: list[Rare] = []
        self._of_calls: list[tuple[Calls, int]] = []  # from which one on
        self._of_workers: list[tuple[Worker, float, int]] = []

    def read(self, body: memoryview) -> None:
        """Read a frame."""
        data = bytes(body) if len(body) < SMALL else body  # quicker to cut
        take, numbers, rare, workers = self.held.pop, self.numbers, self.rare, self.workers
        add, add_time, add_part = numbers.append, self.seconds.append, self._of_workers.append
        unpack, size, loads = frames.RESULT.unpack_from, frames.RESULT.size, pickle.loads
        before: Task | None = None
        args: list[Any] = []
        payloads: list[bytes] = []
        results: Results = []
        first = shift = had = 0
        offset, parts = frames.parts_of_answers(data)
        for worker, share, age in parts:
            end = offset + share
            while offset < end:
                begin = offset
                task, outcome, seconds, buffers, length = unpack(data, begin)
                start = begin + size
                offset = start + length
                if outcome & FAILED:
                    rare.append(Rare(worker, task, body[begin:offset], seconds))
                    continue
                batch = take(task, _GONE)
                if batch is not before:
                    if type(batch) is not Batch:
                        if batch is not _GONE:
                            self.held[task] = batch
                        rare.append(Rare(worker, task, body[begin:offset], seconds))
                        continue
                    before, calls = batch, calls_of(batch)
                    self._of_calls.append((calls, len(numbers)))
                    args, payloads, results, first = calls.args, calls.payloads, calls.owner.results, calls.first
                    shift = calls.place - first
                try:
                    if outcome:
                        self.measured[task] = frames.MEASURED.unpack_from(data, start)
                        start += frames.MEASURED.size
                    if buffers:
                        results[shift + task] = self.with_buffers(workers[worker], body[start:offset], buffers)
                    else:
                        results[shift + task] = loads(data[start:offset])
                except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read)
                    self.held[task] = batch
                    rare.append(Rare(worker, task, body[begin:offset], seconds, error))
                    continue
                args[task - first] = None
                payloads[task - first] = b""
                add(task)
                add_time(seconds)
            if len(numbers) > had:
                add_part((workers[worker], age, had))
                had = len(numbers)

    @property
    def is_scattered(self) -> bool:
        """Whether each worker has answered one."""
        return len(self._of_workers) == len(self.numbers)

    def each(self) -> tuple[list[str], list[float]]:
        """Return, of scattered ones, who has answered each, and how long ago."""
        return [worker.name for worker, _, _ in self._of_workers], [age for _, age, _ in self._of_workers]

    def by_calls(self) -> Iterator[tuple[Calls, int]]:
        """Yield calls, and how many of them have been answered."""
        ends = [*(start for _, start in self._of_calls[1:]), len(self.numbers)]
        for (calls, start), end in zip(self._of_calls, ends, strict=True):
            if end > start:
                yield calls, end - start

    def by_worker(self) -> Iterator[tuple[Worker, float, list[TaskNumber], list[float]]]:
        """Yield each worker, how long ago it had ended the last one, what it has answered, and the seconds of that."""
        ends = [*(start for _, _, start in self._of_workers[1:]), len(self.numbers)]
        for (worker, age, start), end in zip(self._of_workers, ends, strict=True):
            yield worker, age, self.numbers[start:end], self.seconds[start:end]
