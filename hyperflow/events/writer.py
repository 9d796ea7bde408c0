"""The event log's writer: one JSON line per change of state of tasks, workers and nodes; schema.py has the format.

Lines are written a moment later, in batches, and a kill loses the last ones: this is a record for people and plots, and
no result depends on it. A full disk ends the log, not the run. A full segment is put aside and packed (segments.py).
A log that has reached its limit says so, and goes on with what is rare: nodes, the first failures, the end. What it
does not keep is counted.

Changes of tasks are collected as they are, and are one line together (several.py).
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperflow.events import segments, several
from hyperflow.events.schema import VERSION
from hyperflow.saying import in_words
from hyperflow.wire.numbers import TaskNumber

if TYPE_CHECKING:
    from hyperflow.events.packing import Packing

SEGMENT = 8_000_000
"""Bytes of the tail with which it is full."""

LIMIT = 500_000_000
"""Bytes of a log on the disk: some fifty million evaluations."""

RARE = frozenset(
    ("opened", "up", "not started", "lost", "left", "aside", "draining", "resumed", "ending", "closed", "failed")
)
"""What is kept beyond the limit; of failures, MOST_FAILURES."""

MOST_FAILURES = 1000

COUNTING = 10.0
"""Seconds between two lines that tell how much was not kept."""

_QUOTED = json.encoder.encode_basestring_ascii


class EventLog:
    """Collects lines; `flush` writes them."""

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.path = path
        self.lines: list[str | list[Any]] = []
        """Lines; and between them changes of single tasks, the members of all in one list: a tuple for each would be
        looked at by the garbage collector."""
        self._columns = several.Columns()
        self._limit = LIMIT if limit is None else limit
        self._dropped: _Dropped | None = None
        self._packing: Packing | None = None  # once a segment is full
        there = segments.numbers(path)
        self._file: BufferedWriter | None = path.open("ab")
        self._size = self._file.tell()  # of the tail
        self._number = _number(path) if self._size else max(there, default=0) + 1
        self._put_aside = segments.size(path) - self._size if there else 0  # bytes of the full segments
        if not self._size:
            self._begin()
        elif not _ends_in_order(path):
            self.lines.append("\n")  # an earlier writer was killed within a line
        for number in there:  # an earlier writer has not come to them
            if (full := segments.full(path, number)).exists():
                self._packer().add(full, segments.packed(path, number))
        self._cpu: float | None = None  # that this process had when lines were first written
        self.note("opened", version=VERSION, flows=True)

    def _packer(self) -> Packing:
        from hyperflow.events.packing import Packing  # noqa: PLC0415 (for full segments, which most logs do not have)

        self._packing = self._packing or Packing()
        return self._packing

    # ---- tasks (the first three are on the way of each evaluation) ----------------------------------------------

    def submitted(
        self,
        function: str,
        cpus: int,
        tasks: Sequence[int],
        name: str | None = None,
        flows: Sequence[int] = (0,),
        of_map: bool = False,
        begun: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Tasks of one function that want the same number of CPUs; the flow of each; the name that they were given.

        `begun` are the flows that are new, each with the one that has started it.
        """
        more = _members(function, cpus, name, of_map)
        first: Any = (flows[0], _in_runs(begun)) if begun else flows[0]
        if len(tasks) == 1:
            self._changed(several.WAITING, more, tasks[0], 1, first)
            return
        if flows.count(flows[0]) == len(flows):
            for start, count in _runs(tasks):
                self._changed(several.WAITING, more, start, count, first)
                first = flows[0]
            return
        for task, flow in zip(tasks, (first, *flows[1:]), strict=True):
            self._changed(several.WAITING, more, task, 1, flow)

    def queued(self, node: str, tasks: Sequence[int]) -> None:
        """Tasks are in the queue of a node's launcher."""
        for first, count in _runs(tasks):
            self._changed(several.QUEUED, f"@{node}", first, count, None)

    def running(self, tasks: Sequence[int], worker: str, ago: float | None = None) -> None:
        """Tasks were sent to a worker; or it has taken them from the queue of its node, so many seconds ago."""
        if len(tasks) == 1:
            self._changed(several.RUNNING, worker, tasks[0], 1, ago)
            return
        for first, count in _runs(tasks):
            self._changed(several.RUNNING, worker, first, count, ago)

    def done(
        self,
        tasks: Sequence[int],
        seconds: Sequence[float],
        workers: str | Sequence[str],
        ages: float | Sequence[float] = 0.0,
        measured: Mapping[Any, several.Used] | None = None,
    ) -> None:
        """Workers of a node have answered.

        Args:
            seconds: How long each task took.
            workers: Who had each; or who had all, one after the other.
            ages: How many seconds ago each had ended; or the last of all.
            measured: The CPU time and memory of those where they were measured.
        """
        if isinstance(workers, str):
            assert isinstance(ages, (int, float))
            if _is_run(tasks):
                self._changed(several.DONE, workers, tasks[0], seconds, _ending(tasks, ages, measured))
                return
            workers, ages = [workers] * len(tasks), _ages(seconds, ages)
        elif isinstance(ages, (int, float)):
            ages = [ages] * len(tasks)
        endings: Iterable[several.Ending | None] = [(age, None) if age else None for age in ages]
        if measured:
            endings = [(age, (measured.get(task),)) for task, age in zip(tasks, ages, strict=True)]
        kind, now = itertools.repeat(several.DONE), itertools.repeat(time.time_ns() // 1000)
        each = zip(kind, now, workers, tasks, zip(seconds, strict=False), endings, strict=False)
        self._into().extend(itertools.chain.from_iterable(each))

    def _into(self) -> list[Any]:
        """Return where the next change is put."""
        into = self.lines[-1] if self.lines else ""
        if isinstance(into, str):
            into = []
            self.lines.append(into)
        return into

    def _changed(self, kind: int, what: str, first: int, more: int | Sequence[float], last: Any) -> None:
        lines = self.lines
        into = lines[-1] if lines and type(lines[-1]) is list else self._into()
        into += kind, time.time_ns() // 1000, what, first, more, last

    def retracted(self, tasks: list[TaskNumber]) -> None:
        """Prefetched tasks came back, and wait again."""
        self._tasks("waiting", tasks, ', "retracted": true')

    def returned(self, task: TaskNumber, by: str) -> None:
        """A task waits again because its worker or node has ended."""
        self._tasks("waiting", [task], f', "returned_by": "{by}"')

    def retried(self, task: TaskNumber, call: str, error: BaseException) -> None:
        """A task failed, and waits again."""
        self._tasks("waiting", [task], f', "call": {json.dumps(call)}, "retry_after": {json.dumps(in_words(error))}')

    def failed(self, task: TaskNumber, call: str, error: BaseException) -> None:
        """A task has failed."""
        self._tasks("failed", [task], f', "call": {json.dumps(call)}, "error": {json.dumps(in_words(error))}')

    def cancelled(self, *tasks: TaskNumber) -> None:
        """Nobody waits for these tasks any more."""
        self._tasks("cancelled", [*tasks])

    def copied(self, task: TaskNumber, copy: TaskNumber) -> None:
        """A copy of a task is started, because it takes very long."""
        self._tasks("copied", [task], f', "copy": {copy}')

    def superseded(self, task: TaskNumber, by: TaskNumber) -> None:
        """A task is dropped, because its copy counts, or it was the copy."""
        self._tasks("superseded", [task], f', "by": {by}')

    def measured(self, task: TaskNumber, cpu: float, memory: int) -> None:
        """A worker has measured what a task took."""
        more = f'"of": {task}, "cpu": {cpu:.6f}, "memory": {memory}'
        self.lines.append(f'{{"t": {time.time():.6f}, "state": "measured", {more}}}\n')

    def withheld(self, task: TaskNumber, seconds: float) -> None:
        """An exclusive task may still run on a lost node, for so long."""
        self._tasks("withheld", [task], f', "seconds": {seconds}')

    def _tasks(self, state: str, numbers: list[TaskNumber], more: str = "") -> None:
        self.lines.append(f'{{"t": {time.time():.6f}, "state": "{state}", "tasks": {numbers}{more}}}\n')

    # ---- all else -----------------------------------------------------------------------------------------------

    def started(self, worker: str, cpus: Iterable[int], number: int, gpus: Sequence[str] = ()) -> None:
        """A worker is being started; there may be hundreds of thousands, most of them without GPUs."""
        if gpus:
            self.note("started", worker=worker, cpus=[*cpus], number=number, gpus=[*gpus])
            return
        self._changed(several.STARTED, worker, number, tuple(cpus), None)

    def note(self, state: str, **members: object) -> None:
        """Note anything else."""
        self.lines.append(json.dumps({"t": round(time.time(), 6), "state": state, **members}) + "\n")

    def flush(self) -> None:
        """Write what has been collected."""
        if self._cpu is None:
            self._cpu = time.process_time()
        collected, self.lines = self.lines, []
        if self._file is None or not collected:
            return
        lines = self._joined(collected)
        try:
            if self._put_aside - (self._packing.saved if self._packing else 0) + self._size > self._limit:
                lines = self._within_limit(lines)
            data = "".join(lines).encode()
            self._file.write(data)
            self._file.flush()
            self._size += len(data)
            if self._size >= SEGMENT:
                self._next_segment()
        except OSError as error:
            self._abandon()
            text = f"the event log {self.path} ends here: {error}; the run goes on"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _joined(self, collected: list[str | list[Any]]) -> list[str]:
        """Return the lines of what was collected, in its order."""
        lines: list[str] = []
        for one in collected:
            if isinstance(one, str):
                lines.append(one)
            elif len(one) >= several.FEWEST * several.MEMBERS:
                lines.append(self._columns.line(one))
            else:
                for at in range(0, len(one), several.MEMBERS):
                    lines += _lines_of(*one[at : at + several.MEMBERS])
        return lines

    def _begin(self) -> None:
        """Begin a tail without the ones before it, which somebody has removed."""
        if self._number > 1 and self._file is not None:
            self._size = self._file.write(segments.first_line(self._number))

    def _next_segment(self) -> None:
        """Put the tail aside, and begin another one. Readers find a tail at any time. What fails is tried again."""
        full, coming = segments.full(self.path, self._number), self.path.with_name(f"{self.path.name}.new")
        try:
            file = coming.open("wb")
        except OSError:
            return
        try:
            file.write(segments.first_line(self._number + 1))
            file.flush()
            full.unlink(missing_ok=True)
            try:
                os.link(self.path, full)
            except OSError:  # no links here
                os.rename(self.path, full)
            os.rename(coming, self.path)
        except OSError:
            with suppress(OSError):
                file.close()
            return
        self._abandon()
        self._file, self._number = file, self._number + 1
        self._columns = several.Columns()
        self._put_aside, self._size = self._put_aside + self._size, file.tell()
        self._packer().add(full, segments.packed(self.path, self._number - 1))

    def _within_limit(self, lines: list[str]) -> list[str]:
        """Return those of the lines that are kept although the log has reached its limit; count the others."""
        if self._dropped is None:
            self._dropped = _Dropped()
            text = (
                f"the event log {self.path} has reached its limit of {self._limit / 1e6:g} MB: from now on it only "
                "counts evaluations, and `hyperflow show` and `report` tell of the earlier ones; the run goes on"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        return self._dropped.kept(lines)

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                file.raw.close()

    def close(self) -> None:
        """Write the rest and close the file."""
        taken = {} if self._cpu is None else {"cpu": round(time.process_time() - self._cpu, 3)}
        self.note("closed", **taken)
        self.flush()
        self._abandon()
        if self._packing is not None:
            self._packing.close()


class _Dropped:
    """Counts what is not kept, by state; evaluations where a line is of evaluations."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._failures = 0
        self._told = -COUNTING

    def kept(self, lines: list[str]) -> list[str]:
        """Return the lines that are kept, and now and then one that tells what was not since the last one."""
        found: list[str] = []
        closing = False
        for line in lines:
            if line == "\n":
                found.append(line)
                continue
            event = json.loads(line)
            state = event["state"]
            self._failures += state == "failed"
            closing |= state == "closed"
            if state in RARE and (state != "failed" or self._failures <= MOST_FAILURES):
                found.append(line)
            elif state == several.STATE:
                self._counts += several.counts(event)
            else:
                self._counts[state] += len(event.get("tasks", (0,)))
        now = time.monotonic()
        if self._counts and (closing or now - self._told >= COUNTING):
            told = {"t": round(time.time(), 6), "state": "dropped", "counts": self._counts}
            found.insert(0, json.dumps(told) + "\n")
            self._counts, self._told = Counter(), now
        return found


def _lines_of(kind: int, microseconds: int, what: str, first: int, more: Any, last: Any) -> Iterator[str]:
    """Yield lines of its own for a change."""
    t = f"{microseconds / 1e6:.6f}"
    if kind == several.STARTED:
        members = f'"worker": {_QUOTED(what)}, "cpus": {list(more)}, "number": {first}'
        yield f'{{"t": {t}, "state": "started", {members}}}\n'
        return
    tasks = list(range(first, first + (len(more) if kind == several.DONE else more)))
    if kind == several.WAITING:
        flow, begun = (last, None) if isinstance(last, int) else last
        of_flow = (f', "flow": {flow}' if flow else "") + (f', "begun": {begun}' if begun else "")
        members = f"{what}{of_flow}"
    elif kind == several.QUEUED:
        members = f'"node": "{what[1:]}"'
    elif kind == several.RUNNING:
        members = f'"worker": "{what}"' + (f', "age": {last:.6f}' if last else "")
    else:
        age, used = last or (0.0, None)
        for task, one in zip(tasks, used or (), strict=False):
            if one is not None:
                more_of = f'"of": {task}, "cpu": {one[0]:.6f}, "memory": {one[1]}'
                yield f'{{"t": {t}, "state": "measured", {more_of}}}\n'
        members = f'"worker": "{what}", "seconds": [{", ".join(f"{took:.6f}" for took in more)}]'
        members += f', "age": {age:.6f}' if age else ""
    yield f'{{"t": {t}, "state": "{several.STATES[kind]}", "tasks": {tasks}, {members}}}\n'


def _is_run(numbers: Sequence[int]) -> bool:
    """Whether each number follows the one before it."""
    count = len(numbers)
    if count == 1 or isinstance(numbers, range):
        return True
    first = numbers[0]
    return numbers[-1] - first + 1 == count and list(numbers) == list(range(first, first + count))


def _runs(numbers: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Return numbers as runs of consecutive ones: the first, and how many."""
    if _is_run(numbers):  # they mostly are one
        return ((numbers[0], len(numbers)),)
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((number, 1))
    return runs


def _ages(seconds: Sequence[float], age: float) -> list[float]:
    """Return how long ago each of some had ended that ran one after the other."""
    ages = list(itertools.accumulate(reversed(seconds[1:]), initial=age))
    return ages[::-1]


def _ending(tasks: Sequence[int], age: float, measured: Mapping[Any, several.Used] | None) -> several.Ending | None:
    if measured:
        return age, [measured.get(task) for task in tasks]
    return (age, None) if age else None


def _number(path: Path) -> int:
    with path.open("rb") as file:
        return segments.number_of(file.readline())


def _in_runs(begun: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return numbers with their parents as [first, how many, parent]."""
    runs: list[list[int]] = []
    for number, parent in begun:
        if runs and runs[-1][2] == parent and number == sum(runs[-1][:2]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1, parent])
    return runs


def _ends_in_order(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


@functools.lru_cache(maxsize=1000)
def _members(function: str, cpus: int, name: str | None, of_map: bool) -> str:
    """Return members of a line about tasks that are submitted, as JSON; it is logged in each turn of the loop."""
    more = f'"function": {json.dumps(function)}, "cpus": {cpus}'
    if name is not None:
        more += f', "name": {json.dumps(name)}'
    return more + ', "map": true' * of_map
