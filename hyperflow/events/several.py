"""Several: what happened to evaluations, many changes in one line of the event log, as columns of numbers.

A line for each change of each evaluation takes 220 bytes for an evaluation, and more of the head's time than all else
that it does with it. So the changes of a flush are one line:

    {"t": 1763600000.123456, "state": "several", "columns": [..], "data": ".."}

    of        what changed, a letter for each: w: tasks were submitted; q: tasks went to the queue of a node;
              r: tasks were sent to a worker; d: a worker has done tasks; s: a worker is started. The numbers of
              tasks follow each other
    after     microseconds since the change before; the first one since `t`
    many      of each q, r and d, how many tasks; of each s, how many CPUs
    worker    of each but a w, the worker beyond that of the one before; of a q, "@" and the node
    waiting   of each w, its first task, beyond the first of the w before
    count     of each w, how many tasks
    form      of each w, its members besides, as a place in `forms`
    flow      of each w, its flow beyond that of the w before
    begins    of each w, how many runs of flows have begun; of each of them,
    begun     the first one, beyond the end of the run before
    flows     how many
    parent    the flow that has started them
    queued    of each q, its first task, beyond the last one of the q before
    sent      of each r, likewise
    done      of each d, likewise
    started   of each s, its number, beyond that of the s before
    cpu_id    of each CPU of each s, its id beyond that of the one before
    ago       of each r, how many microseconds before it was told the first of its tasks had begun
    age       of each d, how many microseconds before it was told the last of its tasks had ended
    seconds   of each task of each d, microseconds that it took
    measured  of the same, whether CPU time and memory were measured
    cpu       of those, microseconds that it took beyond those of CPU time
    memory    of those, bytes beyond those of the one before
    names     as JSON, each of which may be missing: `forms`, members of lines about tasks that were submitted; `new`,
              workers that were not in a line of the same file before, as the first of all is worker 0

`columns` are the length of each column and the bytes of each of its numbers, in the order of COLUMNS; 0 for a column
that is left out, because all in it are what they mostly are. `data` are all columns, first the lowest bytes of all
numbers of one, then the next ones, so that what is alike is side by side; compressed by zlib, in base64. (As JSON the
numbers take twice the room, and writing them five times as long.) In version 2 the columns are lists in the line, under
their names, as are `forms` and `new`.

A log begins anew with each file and each `opened`. Readers get the events that these lines stand for (`reader`).
"""

from __future__ import annotations

import binascii
import itertools
import json
import operator
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

STATE = "several"

FEWEST = 3
"""Fewer changes have a line each, which people can read."""

MANY = 10
"""Tasks of a change that is not shown so."""

WAITING, QUEUED, RUNNING, DONE, STARTED = range(5)

STATES = ("waiting", "queued", "running", "done", "started")

Change: TypeAlias = tuple[int, int, Any, int, Any, Any]
"""Which of the five, when (in microseconds), and

    WAITING     the members as JSON; the first task; how many; the flow, or that and runs of flows that have begun
    QUEUED      "@" and the node; the first task; how many; None
    RUNNING     the worker; the first task; how many; how many seconds before it was told that had begun, or None
    STARTED     the worker; its number; its CPUs; None
    DONE        the worker; the first task; the seconds of each; an Ending, or None where all in it are 0 or None
"""

Used: TypeAlias = tuple[float, int, *tuple[int, ...]]
"""Seconds of CPU time, and bytes of memory. What else was measured is told in sums (`used`, see schema.py)."""

Ending: TypeAlias = tuple[float, Sequence[Used | None] | None]
"""How many seconds before it was told the last one had ended; and what each has used where that was measured."""

MEMBERS = 6
"""Of a change."""

COLUMNS = (
    *("of", "after", "many", "worker", "waiting", "count", "form", "flow", "queued", "sent", "done"),
    *("age", "seconds", "measured", "cpu", "memory", "started", "cpu_id", "begins", "begun", "flows", "parent"),
    *("ago", "names"),
)

_MOSTLY = {"many": 1}
"""What is in a column that is left out, if that is not 0."""

_LETTERS = b"wqrds".ljust(256)
_KINDS = bytes.maketrans(b"wqrds", bytes(range(5)))
_IS = [bytes(kind).ljust(kind + 1, b"\1").ljust(256, b"\0") for kind in range(5)]
"""For each kind, what translates kinds to whether they are that."""

_SIZES = {array(code).itemsize: code for code in "biq"}

LARGEST = 1 << 31
"""Bytes that the columns of a line may have; one that claims more is damaged."""


class _Numbers(dict[str, int]):
    """Numbers for names, in the order in which they come."""

    def __missing__(self, name: str) -> int:
        number = self[name] = len(self)
        return number


class Columns:
    """Writes the lines of one file."""

    def __init__(self) -> None:
        self._workers = _Numbers()

    def line(self, changes: Sequence[Any]) -> str:
        """Return the line of some changes, whose members follow each other."""
        # Column by column, which takes a third of what a loop over the changes takes.
        kinds, times, subjects, numbers, mores, lasts = (changes[place::MEMBERS] for place in range(MEMBERS))
        known, forms = len(self._workers), _Numbers()
        what = bytes(kinds)
        waits, queues, sends, ends, starts = map(what.translate, _IS)
        counts = [more if type(more) is int else len(more) for more in mores]
        columns: dict[str, Sequence[int]] = {
            "of": what.translate(_LETTERS),
            "after": _differences(times, times[0]),
            "many": list(itertools.compress(counts, kinds)),
            "worker": _differences(list(map(self._workers.__getitem__, itertools.compress(subjects, kinds)))),
        }
        for name, which in (("queued", queues), ("sent", sends), ("done", ends)):
            columns[name] = _gaps(list(itertools.compress(numbers, which)), list(itertools.compress(counts, which)))
        if WAITING in kinds:
            columns["waiting"] = _differences(list(itertools.compress(numbers, waits)))
            columns["count"] = list(itertools.compress(mores, waits))
            columns["form"] = list(map(forms.__getitem__, itertools.compress(subjects, waits)))
            columns |= _flows(list(itertools.compress(lasts, waits)))
        if STARTED in kinds:
            columns["started"] = _differences(list(itertools.compress(numbers, starts)))
            columns["cpu_id"] = _differences([*itertools.chain.from_iterable(itertools.compress(mores, starts))])
        agos: list[float | None] = list(itertools.compress(lasts, sends))
        if any(agos):
            columns["ago"] = [int((one or 0.0) * 1e6 + 0.5) for one in agos]
        columns |= _ends(list(itertools.compress(mores, ends)), list(itertools.compress(lasts, ends)))
        names = {"new": list(itertools.islice(self._workers, known, None)), "forms": list(forms)}
        if any(names.values()):
            columns["names"] = _as_json({name: told for name, told in names.items() if told}).encode()
        told: dict[str, Any] = {"state": STATE} | _packed(columns)
        return f'{{"t": {times[0] / 1e6:.6f}, {_as_json(told)[1:]}\n'


_as_json = json.JSONEncoder(separators=(",", ":")).encode


def _count(more: Any) -> int:
    return more if type(more) is int else len(more)


def _differences(numbers: Sequence[int], first: int = 0) -> list[int]:
    return list(map(operator.sub, numbers, (first, *numbers)))


def _gaps(firsts: list[int], counts: list[int]) -> list[int]:
    """Return first numbers of runs beyond the last ones of the runs before."""
    lasts = map(operator.sub, map(operator.add, firsts, counts), itertools.repeat(1))
    return list(map(operator.sub, firsts, (0, *lasts)))


def _flows(lasts: list[Any]) -> dict[str, Sequence[int]]:
    """Return the columns of the flows of what is submitted."""
    begins = [0 if type(one) is int else len(one[1]) for one in lasts]
    flow = _differences([one if type(one) is int else one[0] for one in lasts])
    if not any(begins):
        return {"flow": flow}
    runs = [run for one in lasts if type(one) is not int for run in one[1]]
    firsts, many, parents = zip(*runs, strict=True)
    gaps = map(operator.sub, firsts, (0, *map(operator.add, firsts, many)))
    return {"flow": flow, "begins": begins, "begun": [*gaps], "flows": many, "parent": parents}


def _ends(seconds: list[Sequence[float]], endings: list[Ending | None]) -> dict[str, Sequence[int]]:
    """Return the columns of what is done."""
    times = list(itertools.chain.from_iterable(seconds))
    took = [int(one * 1e6 + 0.5) for one in times]
    columns: dict[str, Sequence[int]] = {"seconds": took}
    if not any(endings):
        return columns
    columns["age"] = [0 if one is None else int(one[0] * 1e6 + 0.5) for one in endings]
    used: list[Used | None] = []
    for each, one in zip(seconds, endings, strict=True):
        used += itertools.repeat(None, len(each)) if one is None or one[1] is None else one[1]
    columns["measured"] = bytes([one is not None for one in used])
    columns["cpu"] = [each - int(one[0] * 1e6 + 0.5) for each, one in zip(took, used, strict=True) if one is not None]
    columns["memory"] = _differences([one[1] for one in used if one is not None])
    return columns


def _packed(columns: dict[str, Sequence[int]]) -> dict[str, Any]:
    """Return columns as they are in a line."""
    shapes: list[int] = []
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)  # what is alike here follows itself; it takes half the time
    parts: list[bytes] = []
    for name in COLUMNS:
        numbers = columns.get(name, ())
        usual = _MOSTLY.get(name, 0)
        if not numbers or (numbers[0] == usual and numbers.count(usual) == len(numbers)):
            shapes += (0, 0)
            continue
        raw, size = _array(numbers)
        shapes += (len(numbers), size)
        parts += (packer.compress(raw[place::size]) for place in range(size))
        parts.append(packer.flush(zlib.Z_BLOCK))  # each column has codes of its own
    parts.append(packer.flush())
    while shapes[-1] == 0:
        shapes.pop()
    return {"columns": shapes, "data": binascii.b2a_base64(b"".join(parts), newline=False).decode()}


def _array(numbers: Sequence[int]) -> tuple[bytes, int]:
    """Return numbers as bytes, and how many each has."""
    if isinstance(numbers, bytes):
        return numbers, 1
    try:
        found = array("i", numbers)
    except OverflowError:
        found = array("q", numbers)
    if sys.byteorder == "big":
        found.byteswap()
    return found.tobytes(), found.itemsize


def _unpacked(event: Any) -> dict[str, Any]:
    """Return the columns of a line that are there."""
    if "data" not in event:
        names = {name: event.get(name, ()) for name in ("new", "forms")}
        return {**event, "of": event["of"].encode().translate(_KINDS), "names": names}
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(binascii.a2b_base64(event["data"], strict_mode=True), LARGEST)
    except (zlib.error, binascii.Error) as error:
        raise ValueError(repr(error)) from error
    shapes = iter(event["columns"])
    columns: dict[str, Any] = {}
    place = 0
    for name, count, size in zip(COLUMNS, shapes, shapes, strict=False):
        if not count:
            continue
        end = place + count * size
        if not unpacker.eof or count < 0 or end > len(raw):
            raise ValueError("columns that are too short")
        data = bytearray(end - place)
        for plane in range(size):
            data[plane::size] = raw[place + plane * count : place + (plane + 1) * count]
        found = array(_SIZES[size])
        found.frombytes(data)
        if sys.byteorder == "big":
            found.byteswap()
        columns[name], place = found, end
    if place != len(raw):
        raise ValueError("columns of which there are more")
    columns["of"] = columns["of"].tobytes().translate(_KINDS)
    columns["names"] = json.loads(columns["names"].tobytes()) if "names" in columns else {}
    return columns


def counts(event: Any) -> dict[str, int]:
    """Return how many tasks a line tells of, by state."""
    found = Counter[str]()
    for kind, _, _, _, more, _ in Reading().changes(event):
        found[STATES[kind]] += 1 if kind == STARTED else _count(more)
    return found


class Reading:
    """Takes the lines of one file apart."""

    def __init__(self) -> None:
        self._workers: list[str] = []
        self._forms: dict[str, dict[str, Any]] = {}  # one of each, as who reads may know them by their ids

    def _form(self, text: str) -> dict[str, Any]:
        if text not in self._forms:
            self._forms[text] = {"state": "waiting", **json.loads("{" + text + "}")}
        return self._forms[text]

    def events(self, event: Any) -> Iterator[Any]:
        """Yield the events that an event stands for: itself, or those of a line of several."""
        state = event.get("state")
        if state != STATE:
            if state == "opened":
                self._workers.clear()
            yield event
            return
        for kind, microseconds, what, number, more, last in self.changes(event):
            t = microseconds / 1e6
            if kind == WAITING:
                yield {"t": t, "tasks": list(range(number, number + more)), **what, **flow_members(last)}
            elif kind == STARTED:
                yield {"t": t, "state": "started", "worker": what, "cpus": more, "number": number}
            else:
                yield from as_events(kind, t, what, number, more, last)

    def changes(self, event: Any) -> Iterator[Change]:
        """Yield the changes of a line; members are a dict here, the same one for the same form."""
        workers, columns = self._workers, _unpacked(event)
        workers += columns["names"].get("new", ())
        forms = [self._form(text) for text in columns["names"].get("forms", ())]
        after, form, count = (_column(columns, name) for name in ("after", "form", "count"))
        many, age, seconds, measured = (_column(columns, name) for name in ("many", "age", "seconds", "measured"))
        worker, flow, waiting, memory, started, cpu_id = (
            itertools.accumulate(_column(columns, name))
            for name in ("worker", "flow", "waiting", "memory", "started", "cpu_id")
        )
        ago = _column(columns, "ago")
        begins, begun = _column(columns, "begins"), _begun(columns)
        used = zip(_column(columns, "cpu"), memory, strict=False)
        is_plain = "age" not in columns and "measured" not in columns
        firsts = [iter(()), *(_column(columns, name) for name in ("queued", "sent", "done"))]
        lasts = [0] * 4
        now = round(event["t"] * 1e6)
        for kind in columns["of"]:
            now += next(after)
            if kind == WAITING:
                what = forms[next(form)]
                last: Any = next(flow)
                if (runs := next(begins)) > 0:
                    last = last, list(itertools.islice(begun, runs))
                yield WAITING, now, what, next(waiting), next(count), last
                continue
            place, tasks = next(worker), next(many)
            # Of a shortened log, the line that names the worker may be missing.
            name = workers[place] if 0 <= place < len(workers) else f"worker {place}"
            if kind == STARTED:
                yield STARTED, now, name, next(started), list(itertools.islice(cpu_id, tasks)), None
                continue
            first = lasts[kind] + next(firsts[kind])
            lasts[kind] = first + tasks - 1
            if kind != DONE:
                yield kind, now, name, first, tasks, next(ago) / 1e6 if kind == RUNNING else None
                continue
            if is_plain:
                yield DONE, now, name, first, [one / 1e6 for one in itertools.islice(seconds, tasks)], None
                continue
            took = list(itertools.islice(seconds, tasks))
            ended, each = next(age) / 1e6, list(itertools.islice(measured, tasks))
            uses = [_used(one, next(used)) if is_there else None for one, is_there in zip(took, each, strict=False)]
            yield DONE, now, name, first, [one / 1e6 for one in took], (ended, uses if any(each) else None)


def _begun(columns: dict[str, Any]) -> Iterator[list[int]]:
    """Yield the runs of flows that have begun: the first one, how many, the flow that has started them."""
    end = 0
    for gap, many, parent in zip(*(_column(columns, name) for name in ("begun", "flows", "parent")), strict=False):
        yield [end + gap, many, parent]
        end += gap + many


def flow_members(last: Any) -> dict[str, Any]:
    """Return what a line about tasks that are submitted says of flows."""
    flow, begun = (last, None) if type(last) is int else last
    return ({"flow": flow} if flow else {}) | ({"begun": begun} if begun else {})


def _used(took: int, found: tuple[int, int]) -> Used:
    return (took - found[0]) / 1e6, found[1]


def as_events(kind: int, t: float, what: str, first: int, more: Any, ending: Any) -> Iterator[Any]:
    """Yield the events of a change of tasks that were submitted."""
    tasks = list(range(first, first + _count(more)))
    if kind == QUEUED:
        yield {"t": t, "state": "queued", "tasks": tasks, "node": what[1:]}
    elif kind == RUNNING:
        ago = {"age": ending} if ending else {}
        yield {"t": t, "state": "running", "tasks": tasks, "worker": what, **ago}
    else:
        age, used = ending or (0.0, None)
        for task, one in zip(tasks, used or (), strict=False):
            if one is not None:
                yield {"t": t, "state": "measured", "of": task, "cpu": one[0], "memory": one[1]}
        ago = {"age": age} if age else {}
        yield {"t": t, "state": "done", "tasks": tasks, "worker": what, "seconds": more, **ago}


def _column(columns: dict[str, Any], name: str) -> Iterator[int]:
    """Return a column; one that was left out has what it mostly has."""
    return iter(columns[name]) if name in columns else itertools.repeat(_MOSTLY.get(name, 0))
