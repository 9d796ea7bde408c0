"""The history of a run in columns: one pass over its event logs, for pages, reports and exports.

A row is one try of an evaluation: it waits, it is at a worker, and it ends somehow. A million rows take some 70 MB,
because they are kept as arrays of numbers, and what happens often costs a microsecond.

What the log does not say is worked out. A worker evaluates one task at a time, in the order in which it got them; so of
those that it has, the first one runs. A log that several starts went on with tells of the last one.
"""

from __future__ import annotations

import enum
import math
import operator
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, repeat
from typing import Any, TypeAlias, cast

import attrs

from hyperflow import saying
from hyperflow.errors import HyperflowError
from hyperflow.events import packed
from hyperflow.events.reader import Follower, Lines, Part
from hyperflow.events.schema import Event

MOST_FAILURES = 1000
"""So many failures are kept, the first ones; all are counted."""

USED = ("short", "read", "written")
"""Sums of a function that the log has beside what was measured of each evaluation; see events/schema.py."""

MOST_DEATHS = 1000
"""So many ends of workers are kept that were no plain ends."""

BLOCK = 4096
"""Rows for which room is made at once."""

FEW = 4
"""Tasks of one event for which a loop takes no longer than to look whether their rows follow each other."""

NEVER = math.nan
"""A time that has not come."""


NODE_STATES = ("up", "not started", "lost", "aside", "draining", "left", "resumed", "ending")
"""What the log tells of nodes."""

QUEUE = "@"
"""What the name of a node's queue begins with."""

Line: TypeAlias = dict[str, Any]
"""An event as it was read: what it lacks, or has of another type, is an error that is told."""


class Outcome(enum.IntEnum):
    """How a try of an evaluation has ended, or stands."""

    WAITING = 0  # for CPUs; or at a worker (`worker` says at which) behind others
    RUNNING = 1
    DONE = 2
    FAILED = 3
    RETRIED = 4  # it has failed, and the next try is another row
    RETURNED = 5  # its worker or node has ended, and the next try is another row
    CANCELLED = 6
    SUPERSEDED = 7  # there were two, and the other one counted


_WAITING, _RUNNING, _DONE = int(Outcome.WAITING), int(Outcome.RUNNING), int(Outcome.DONE)


@attrs.frozen
class Group:
    """What is counted together: the evaluations of one function, or those that were given one name.

    Args:
        name: What they were given, or else the function.
    """

    name: str
    function: str


@attrs.frozen
class WorkerName:
    """A place for evaluations: one worker after the other may have had it. `job` is None where there is one only."""

    job: int | None
    name: str

    @property
    def node(self) -> str:
        """Where it is."""
        return self.name.rpartition("@")[2]

    @property
    def is_queue(self) -> bool:
        """Whether it is the queue of a node, which its workers share, and no worker."""
        return self.name.startswith(QUEUE)


@attrs.frozen
class NodeEvent:
    """A change of a node, or of all of them: one of NODE_STATES, or "closed"."""

    t: float
    job: int | None
    node: str
    state: str
    cpus: int
    cause: str
    gpus: int = 0


@attrs.frozen
class Failed:
    """A try that has failed; `row` is its row, or -1 if the log does not know its beginning."""

    t: float
    job: int | None
    task: int
    row: int
    call: str
    error: str
    retried: bool


@attrs.frozen
class Death:
    """A worker that has not ended by itself or by order."""

    t: float
    job: int | None
    worker: str
    reason: str
    status: int
    out_of_memory: bool


def _of(kind: str) -> Callable[[], array[Any]]:
    return lambda: array(kind)


@attrs.define
class History:
    """What the event logs of a run tell. The columns have one entry for each row.

    Args:
        task: The evaluation's number in its job.
        group: Its place in `groups`; `worker`: in `workers`, -1 for one that was not sent anywhere.
        submitted: When it began to wait, in seconds since 1970, as the other times.
        start: When it began to run; NEVER if it did not.
        end: When it ended, also where it never ran; NEVER if it has not.
        outcome: An `Outcome`.
        cpu: Its seconds of CPU time, with those of its programs; NEVER if that was not measured.
        memory: The most bytes that its worker had; 0 if that was not measured.
        nodes: In the order of the logs.
        failed: How many tries have failed; `failures` has the first ones.
        first, last: The times of the first and the last event; 0 if there is none.
        opened, closed: How many jobs have begun, and how many of them have ended in order.
        left_out: Bytes that are missing in a shortened copy of a log.
        dropped: Events that were not kept, by state: there were more than the bound.
    """

    task: array[int] = attrs.field(factory=_of("q"), repr=False)
    group: array[int] = attrs.field(factory=_of("i"), repr=False)
    cpus: array[int] = attrs.field(factory=_of("i"), repr=False)
    worker: array[int] = attrs.field(factory=_of("i"), repr=False)
    job: array[int] = attrs.field(factory=_of("i"), repr=False)  # -1 for None
    submitted: array[float] = attrs.field(factory=_of("d"), repr=False)
    start: array[float] = attrs.field(factory=_of("d"), repr=False)
    end: array[float] = attrs.field(factory=_of("d"), repr=False)
    outcome: array[int] = attrs.field(factory=_of("b"), repr=False)
    cpu: array[float] = attrs.field(factory=_of("f"), repr=False)
    memory: array[int] = attrs.field(factory=_of("q"), repr=False)
    groups: list[Group] = attrs.field(factory=list[Group])
    workers: list[WorkerName] = attrs.field(factory=list[WorkerName])
    nodes: list[NodeEvent] = attrs.field(factory=list[NodeEvent])
    failures: list[Failed] = attrs.field(factory=list[Failed])
    failed: int = 0
    deaths: list[Death] = attrs.field(factory=list[Death])
    first: float = 0.0
    last: float = 0.0
    opened: int = 0
    closed: int = 0
    left_out: int = 0
    dropped: dict[str, int] = attrs.field(factory=dict[str, int])
    used: dict[tuple[int | None, str], dict[str, float]] = attrs.field(
        factory=dict[tuple[int | None, str], dict[str, float]], repr=False
    )
    _group_places: dict[tuple[str, str], int] = attrs.field(factory=dict[tuple[str, str], int], repr=False)

    def __len__(self) -> int:
        return len(self.task)

    def columns(self) -> tuple[array[Any], ...]:
        return (
            *(self.task, self.group, self.cpus, self.worker, self.job, self.submitted, self.start, self.end),
            *(self.outcome, self.cpu, self.memory),
        )

    def group_of(self, name: str | None, function: str) -> int:
        """Return the place of a group, which is new if need be."""
        key = str(function if name is None else name), str(function)
        place = self._group_places.get(key)
        if place is None:
            place = self._group_places[key] = len(self.groups)
            self.groups.append(Group(*key))
        return place


class LogPass:
    """Takes the events of one log into a history, in their order; more may come later, as a run goes on."""

    def __init__(self, history: History, job: int | None = None) -> None:
        self.history = history
        self.job = job
        self._mark = self._lengths()
        self._groups: dict[tuple[str | None, str], int] = {}  # as events have them
        self._last: Line = {}
        self._alive: dict[int, int] = {}  # what has not ended: its row
        self._places: dict[str, int] = {}  # of workers
        self._queues: dict[int, dict[int, None]] = {}  # what each worker has, in order; the first one runs
        self._shared: dict[int, str] = {}  # those of the queues that are a node's: as many run as have room there
        self._cpus: dict[str, int] = {}  # of nodes
        self._free: dict[int, float] = {}  # since when each worker has nothing to do, or has had its first one
        self._takes: dict[str, Callable[[Line], None]] = {
            "waiting": self._waits_again,
            "queued": lambda event: self._queued(event["tasks"], self._place(f"{QUEUE}{event['node']}"), event["t"]),
            "failed": self._failed,
            "cancelled": self._cancelled,
            "superseded": self._cancelled,
            "copied": self._copied,
            "withheld": self._withheld,
            "ended": self._ended,
            "used": self._used,
            "left out": self._left_out,
            "dropped": self._dropped,
            "closed": self._closed,
            "opened": self._opened,
            **dict.fromkeys(NODE_STATES, self._node),
        }

    def _lengths(self) -> tuple[Any, ...]:
        it = self.history
        lists = (it.workers, it.nodes, it.failures, it.deaths)
        return len(it), *(len(one) for one in lists), it.failed, it.opened, it.closed, it.left_out, it.first

    def add(self, events: Iterable[Event]) -> None:
        """Take in events; raises HyperflowError if one makes no sense."""
        with self._explained():
            self._take(cast("Iterable[Line]", events))

    def read(self, log: Follower) -> None:
        """Take in what has come in a log; raises HyperflowError if it cannot be read."""
        for part in log.parts():
            with self._explained():
                if isinstance(part, list):
                    self._take(cast("list[Line]", part))
                else:
                    self._take_entries(part)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        it = self.history
        try:
            yield
        except (TypeError, ValueError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
            text = f"the event log has a line that makes no sense: {saying.short_repr(self._last, 200)} ({error!r})"
            raise HyperflowError(text) from error
        finally:
            last = self._last.get("t", 0.0)
            it.last = max(it.last, last) if isinstance(last, float) else it.last
            it.first = it.first or (it.submitted[0] if it.submitted else it.last)

    def _take_entries(self, part: Part | Lines) -> None:  # noqa: PLR0912 (calls would take long)
        """Take in a part with entries: as `_take`, from numbers."""
        it, alive, queues, free = self.history, self._alive, self._queues, self._free
        worker, start, end, outcome, cpu, memory = it.worker, it.start, it.end, it.outcome, it.cpu, it.memory
        running_, done_, measured_, form_ = packed.RUNNING, packed.DONE, packed.MEASURED, packed.FORM
        places = _Places(self._place, part.workers)
        known: dict[int, tuple[int, int]] = {}  # group and CPUs of forms, which live as long as the part
        t = 0.0
        try:
            for kind, t, what, where, more in part.entries():
                if kind == running_:
                    place = places[where]
                    if type(what) is int:
                        row = alive.get(what, -1)
                        if row >= 0:
                            if worker[row] >= 0:
                                queues[worker[row]].pop(what, None)
                            worker[row], start[row], queues[place][what] = place, t, None
                    else:
                        self._sent(what, place, t)
                elif kind == done_:
                    if type(what) is int:
                        row = alive.pop(what, -1)
                        if row >= 0:
                            before, place = worker[row], places[where]
                            if before >= 0:
                                queues[before].pop(what, None)
                            outcome[row], end[row], start[row], worker[row] = _DONE, t, t - more, place
                            free[place] = t
                    else:
                        self._done(what, more, places[where], t)
                elif kind == measured_:
                    row = alive.get(what, -1)
                    if row >= 0:
                        cpu[row], memory[row] = where, more
                elif kind == packed.QUEUED:
                    self._queued(what, places[where], t)
                elif kind == form_:
                    group, cpus = known.get(id(where), (-1, 0))
                    if group < 0:
                        if "function" not in where or where["state"] != "waiting":
                            self._take(({"t": t, "tasks": what, **where},))
                            continue
                        group, cpus = known[id(where)] = self._group_of(where)
                    self._rows(what, group, cpus, t)
                else:
                    self._take((what,))
                    if not queues:  # another start has begun
                        places.clear()
        finally:
            self._last = {"t": t} if t else self._last

    def _submitted(self, event: Line) -> None:
        """New tasks wait."""
        group, cpus = self._group_of(event)
        self._rows(event["tasks"], group, cpus, event["t"])

    def _group_of(self, event: Any) -> tuple[int, int]:
        """Return the group and the CPUs of tasks that are submitted."""
        function, name, cpus = event["function"], event.get("name"), event["cpus"]
        group = self._groups.get((name, function), -1)
        if group < 0:
            group = self._groups[name, function] = self.history.group_of(name, function)
        return group, cpus if type(cpus) is int else len(cpus)

    def _take(self, events: Iterable[Line]) -> None:
        """Take in events. What each evaluation has is done right here: with calls it would take half as long again."""
        it, takes, alive, places = self.history, self._takes, self._alive, self._places
        cpu, memory = it.cpu, it.memory
        event: Line = {}
        try:
            for event in events:
                state = event["state"]
                if state == "running":
                    place = places.get(event["worker"], -1)
                    if place < 0:
                        place = self._place(event["worker"])
                    self._sent(event["tasks"], place, event["t"] - event.get("age", 0.0))
                elif state == "done":
                    seconds, place = event["seconds"], self._place(event["worker"]) if "worker" in event else -1
                    each = seconds if isinstance(seconds, list) else [seconds] * len(event["tasks"])
                    self._done(event["tasks"], each, place, event["t"] - event.get("age", 0.0))
                elif state == "waiting" and "function" in event:
                    self._submitted(event)
                elif state == "measured":
                    row = alive.get(event["of"], -1)
                    if row >= 0:
                        cpu[row], memory[row] = event["cpu"], event["memory"]
                elif (take := takes.get(state)) is not None:
                    take(event)
        finally:
            self._last = event

    def _row_of_first(self, tasks: Sequence[int]) -> int:
        """Return the row of the first task if those of the others follow it, as in a map; else -1."""
        if len(tasks) < FEW:
            return -1
        rows = list(map(self._alive.get, tasks))
        first = rows[0]
        return first if first is not None and rows == list(range(first, first + len(rows))) else -1

    def _sent(self, tasks: Sequence[int], place: int, t: float) -> None:
        """Tasks are at a worker, or in the queue of a node."""
        it, queue, first = self.history, self._queues[place], self._row_of_first(tasks)
        if first >= 0:
            end = first + len(tasks)
            for before in set(it.worker[first:end]) - {-1}:
                deque(map(self._queues[before].pop, tasks, repeat(None)), maxlen=0)
            it.worker[first:end] = _same(it.worker, place, len(tasks))
            it.start[first:end] = _same(it.start, t, len(tasks))
            queue.update(dict.fromkeys(tasks))
            return
        for task in tasks:
            row = self._alive.get(task, -1)
            if row >= 0:
                if it.worker[row] >= 0:
                    self._queues[it.worker[row]].pop(task, None)
                it.worker[row], it.start[row], queue[task] = place, t, None

    def _done(self, tasks: Sequence[int], seconds: Sequence[float], place: int, t: float) -> None:
        """A worker has done tasks, one after the other; the last one until then."""
        it, alive, free, last = self.history, self._alive, self._free, t
        worker, start, end, outcome = it.worker, it.start, it.end, it.outcome
        first, count = self._row_of_first(tasks), len(tasks)
        if first >= 0 and place >= 0 and len(seconds) == count:
            stop, times = first + count, list(accumulate(reversed(seconds), operator.sub, initial=t))
            for before in set(worker[first:stop]):
                if before >= 0:
                    deque(map(self._queues[before].pop, tasks, repeat(None)), maxlen=0)
            start[first:stop] = array(start.typecode, times[:0:-1])
            end[first:stop] = array(end.typecode, times[-2::-1])
            worker[first:stop] = _same(worker, place, count)
            outcome[first:stop] = _same(outcome, _DONE, count)
            deque(map(alive.pop, tasks), maxlen=0)
            free[place] = last
            return
        for at in range(len(tasks) - 1, -1, -1):
            row = alive.pop(tasks[at], -1)
            if row >= 0:
                outcome[row], end[row] = _DONE, t
                t -= seconds[at]
                start[row], before = t, worker[row]
                if before >= 0:
                    self._queues[before].pop(tasks[at], None)
                if place >= 0:
                    worker[row], free[place] = place, last
                elif before >= 0:
                    free[before] = last

    def finish(self) -> None:
        """Make the columns end where the rows do, and note what runs; call it before they are looked at.

        More events may come afterwards.
        """
        it = self.history
        rows = min(len(it.task), len(it.group), len(it.cpus), len(it.submitted))  # they differ after an error
        for column in it.columns():
            del column[rows:]
        for place, queue in self._queues.items():
            room = self._cpus.get(self._shared[place], 0) if place in self._shared else 0
            for task in queue:
                row = self._alive[task]
                room -= it.cpus[row] if row < rows else 0
                if row >= rows or (room < 0 and place in self._shared):
                    break
                it.outcome[row], it.start[row] = _RUNNING, self._begun(row, place)
                if place not in self._shared:
                    break

    # ---- evaluations ------------------------------------------------------------------------------------------------

    def _rows(self, tasks: Sequence[int], group: int, cpus: int, t: float) -> None:
        it, count = self.history, len(tasks)
        row = len(it.task)
        while row + count > len(it.worker):
            self._grow()
        if count == 1:
            it.task.append(tasks[0])
            it.group.append(group)
            it.cpus.append(cpus)
            it.submitted.append(t)
            self._alive[tasks[0]] = row
            return
        it.task.extend(tasks)
        for column, value in ((it.group, group), (it.cpus, cpus), (it.submitted, t)):
            column.extend(_same(column, value, count))
        self._alive.update(zip(tasks, range(row, row + count), strict=True))

    def _grow(self) -> None:
        """Make room for rows: one by one it would take a quarter of the time."""
        it = self.history
        job = -1 if self.job is None else self.job
        columns = (it.worker, -1), (it.job, job), (it.outcome, _WAITING), (it.memory, 0)
        for column, value in (*columns, (it.start, NEVER), (it.end, NEVER), (it.cpu, NEVER)):
            column.extend(_same(column, value, BLOCK))

    def _waits_again(self, event: Line) -> None:
        tasks, t = event["tasks"], event["t"]
        if "retry_after" in event:
            for task in tasks:
                row = self._end(task, t, Outcome.RETRIED)
                self._note_failure(event, task, row, event["retry_after"], retried=True)
                self._again(task, row, t)
        else:
            for task in tasks:
                self._come_back(task, t)

    def _queued(self, tasks: Sequence[int], place: int, t: float) -> None:
        """Tasks are in the queue of a node: they wait there, at no worker."""
        self._shared[place] = self.history.workers[place].node
        self._sent(tasks, place, t)

    def _place(self, name: str) -> int:
        """Return a worker's place, which is new if need be."""
        place = self._places.get(name)
        if place is None:
            place = self._places[str(name)] = len(self.history.workers)
            self.history.workers.append(WorkerName(self.job, str(name)))
            self._queues[place] = {}
            self._free[place] = 0.0
        return place

    def _begun(self, row: int, place: int) -> float:
        """Return when the first task of a worker began: when it was sent, or when the one before it ended.

        Of one in the queue of a node, it is known when it ends. Until then it began when it came there.
        """
        return max(self.history.start[row], self._free[place])

    def _end(self, task: int, t: float, outcome: Outcome) -> int:
        """End a row; return it, -1 if the log does not know it."""
        row = self._alive.pop(task, -1)
        if row >= 0:
            it = self.history
            it.outcome[row], it.end[row] = outcome, t
            place = it.worker[row]
            if place >= 0:
                it.start[row] = self._leave(task, row, place, t)
        return row

    def _leave(self, task: int, row: int, place: int, t: float) -> float:
        """A task is at its worker no longer; return when it began to run, NEVER if it did not."""
        queue = self._queues[place]
        runs = place not in self._shared and next(iter(queue), None) == task
        begun = self._begun(row, place) if runs else NEVER
        queue.pop(task, None)
        if not math.isnan(begun):
            self._free[place] = t
        return begun

    def _come_back(self, task: int, t: float) -> None:
        """A task waits again that was taken from its worker, or whose worker has gone."""
        row = self._alive.get(task, -1)
        if row < 0:
            return
        it = self.history
        place = it.worker[row]
        begun = self._leave(task, row, place, t) if place >= 0 else NEVER
        if not math.isnan(begun):
            it.start[row], it.end[row], it.outcome[row] = begun, t, Outcome.RETURNED
            self._again(task, row, t)
        else:
            it.start[row], it.worker[row], it.outcome[row] = NEVER, -1, _WAITING

    def _again(self, task: int, row: int, t: float) -> None:
        if row >= 0:
            self._rows((task,), self.history.group[row], self.history.cpus[row], t)

    def _failed(self, event: Line) -> None:
        for task in event["tasks"]:
            row = self._end(task, event["t"], Outcome.FAILED)
            self._note_failure(event, task, row, event.get("error", ""), retried=False)

    def _note_failure(self, event: Line, task: int, row: int, error: str, retried: bool) -> None:
        it = self.history
        it.failed += 1
        if len(it.failures) < MOST_FAILURES:
            it.failures.append(Failed(event["t"], self.job, task, row, str(event.get("call", "")), str(error), retried))

    def _cancelled(self, event: Line) -> None:
        outcome = Outcome.CANCELLED if event["state"] == "cancelled" else Outcome.SUPERSEDED
        for task in event["tasks"]:
            self._end(task, event["t"], outcome)

    def _copied(self, event: Line) -> None:
        row = self._alive.get(event["tasks"][0], -1)
        if row >= 0:
            self._rows((event["copy"],), self.history.group[row], self.history.cpus[row], event["t"])

    def _withheld(self, event: Line) -> None:
        for task in event["tasks"]:
            self._come_back(task, event["t"])

    # ---- all else ---------------------------------------------------------------------------------------------------

    def _node(self, event: Line) -> None:
        cpus = event.get("cpus", 0)
        count = len(cpus) if isinstance(cpus, list) else int(cpus)
        gpus = len(event.get("gpus", ()))
        named = str(event.get("node", "")), str(event["state"])
        if event["state"] == "up":
            self._cpus[named[0]] = count
        self.history.nodes.append(NodeEvent(event["t"], self.job, *named, count, str(event.get("cause", "")), gpus))

    def _ended(self, event: Line) -> None:
        if event.get("status") and event.get("started") and len(self.history.deaths) < MOST_DEATHS:
            reason, worker = str(event.get("reason", "")), str(event.get("worker", ""))
            memory = bool(event.get("out_of_memory"))
            self.history.deaths.append(Death(event["t"], self.job, worker, reason, int(event["status"]), memory))

    def _used(self, event: Line) -> None:
        for name, sums in event["functions"].items():
            self.history.used[self.job, name] = {kind: float(sums[kind]) for kind in USED}

    def _left_out(self, event: Line) -> None:
        self.history.left_out += event.get("bytes", 0)

    def _dropped(self, event: Line) -> None:
        for state, count in event.get("counts", {}).items():
            self.history.dropped[str(state)] = self.history.dropped.get(str(state), 0) + int(count)

    def _closed(self, event: Line) -> None:
        self.history.closed += 1
        self._node(event)

    def _opened(self, event: Line) -> None:
        """Another start goes on with the log: what was before is of the past."""
        it = self.history
        rows, workers, nodes, failures, deaths, it.failed, it.opened, it.closed, it.left_out, it.first = self._mark
        for column in it.columns():
            del column[rows:]
        del it.workers[workers:], it.nodes[nodes:], it.failures[failures:], it.deaths[deaths:]
        for key in [key for key in it.used if key[0] == self.job]:
            del it.used[key]
        it.opened += 1
        it.first = min(it.first or event["t"], event["t"])
        for known in (self._alive, self._places, self._queues, self._free, self._shared, self._cpus):
            known.clear()


def _same(column: array[Any], value: float, count: int) -> array[Any]:
    return array(column.typecode, (value,)) * count


class _Places(dict[int, int]):
    """Places in the history of workers as a part of a log numbers them."""

    def __init__(self, place: Callable[[str], int], names: list[str]) -> None:
        super().__init__()
        self._place, self._names = place, names

    def __missing__(self, where: int) -> int:
        place = self[where] = self._place(self._names[where])
        return place


def history(logs: Iterable[tuple[int | None, Iterable[Event]]]) -> History:
    """Return the history of a run from its event logs, each with its job; raises HyperflowError."""
    found = History()
    for job, events in logs:
        one = LogPass(found, job)
        one.add(events)
        one.finish()
    return found
