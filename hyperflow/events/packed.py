"""A full segment of the event log, compressed to some 8 bytes for an evaluation. Run as a script, it packs a segment.

Compressed as text an evaluation takes 30 to 50 bytes: digits of times that differ a little from line to line. So lines
about tasks are taken apart into columns of numbers, and of each number only that is kept which the lines before do not
foretell: a result comes from where its task was sent, and took as long as it was there. Columns are cut into planes of
bytes, which zlib compresses. Lines of any other form stay texts.

    hyperflow events 1 <bytes of all that follows> <bytes of the lines>\n
    zlib: a line of JSON, then the planes, one column after the other

It packs in a process of its own, with a low priority: as a thread it would hold Python's lock while the event loop
wants it. Hence only the standard library is imported here. A segment is replaced only if what was packed reads as the
lines do. Whatever ends this process before that leaves the segment as it was.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

MAGIC = b"hyperflow events 1 "

LARGEST = 1 << 31
"""Bytes that a segment may have; one that claims more is damaged."""

MOST = 1 << 53
"""The largest number that goes into a column: up to there a float has all digits of microseconds."""

OTHER, FORM, RUNNING, DONE, MEASURED, QUEUED = range(6)
"""Kinds of lines; the last one is only in lines of several (see several.py)."""

_PLAIN, _FLOW, _FLOWS, _BEGUN = 0, 1, 2, 4
"""What a form leaves out: the flow of its tasks, or that of each; and flows that have begun."""

Entry: TypeAlias = tuple[int, float, Any, Any, Any]
"""What a line says, with its kind and time; the rest depends on the kind:

    FORM        task or tasks; the members that such lines share; those of this line
    RUNNING     task or tasks; the worker, as its place in `workers`
    DONE        task or tasks; the worker; seconds of each
    MEASURED    task; CPU seconds; bytes of memory
    QUEUED      tasks; "@" and the node, as the place of a worker
    OTHER       the event; its time is 0 here
"""

_COLUMNS = (
    *("kind", "form", "time_form", "time_running", "time_done", "time_measured"),
    *("count_form", "count_running", "count_done", "task_form", "task_running", "task_done", "task_measured"),
    *("worker_running", "worker_done", "seconds", "cpu", "memory"),
    *("flow", "count_flow", "begun", "count_begun"),
)
"""Numbers of the lines, by what they are and the kind of line. Where one has several, a count says how many."""


class Packer:
    """Takes the lines of a segment apart."""

    def __init__(self) -> None:
        # Compiled here, because each command imports this, and only a process of its own packs.
        self._tasks = re.compile(
            r'\{"t": (\d+)\.(\d{6}), "state": "([^"\\]+)", "tasks": \[(\d+(?:, \d+)*)\](?:, (.*))?\}\n'
        )
        self._sent_to = re.compile(r'"worker": ("[^"\\]*")')
        self._answer = re.compile(r'"worker": ("[^"\\]*"), "seconds": \[(\d+\.\d{6}(?:, \d+\.\d{6})*)\]')
        self._measure = re.compile(
            r'\{"t": (\d+)\.(\d{6}), "state": "measured", "of": (\d+), "cpu": (\d+)\.(\d{6}), "memory": (\d+)\}\n'
        )
        self._of_flows = re.compile(
            r'(.*?)(?:, "flow": (\d+|\[\d+(?:, \d+)*\]))?'
            r'(?:, "begun": \[(\[\d+, \d+, \d+\](?:, \[\d+, \d+, \d+\])*)\])?(, "map": true)?'
        )
        self._columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
        self._forms: dict[tuple[str, str, int], int] = {}
        self._workers: dict[str, int] = {}
        self._others: list[str] = []
        self._bytes = 0
        # What the lines so far tell of the next one; `Segment` keeps the same.
        self._time = 0  # microseconds
        self._submitted = 0  # the number after that of the last task that was submitted
        self._sent = 0  # likewise
        self._measured = -1  # the task of the line before, if it was measured there
        self._answered = 0  # the worker of the last result
        self._at: dict[int, tuple[int, int]] = {}  # when and where each task was sent
        self._free: dict[int, int] = {}  # the last result of each worker
        self._memory: dict[int, int] = {}  # of each worker
        self._flow = 0  # that of the last result: it is likely to go on
        self._flows: dict[int, int] = {}  # that of each task
        self._begun = 0  # the number after that of the last flow that has begun

    def add(self, line: str) -> None:
        """Take in the next line."""
        self._bytes += len(line.encode())
        kind = self._of_tasks(line)
        if kind == OTHER:
            kind = self._of_measurement(line)
        if kind != MEASURED:
            self._measured = -1
        if kind == OTHER:
            self._others.append(line)
        self._columns["kind"].append(kind)

    def _of_tasks(self, line: str) -> int:
        match = self._tasks.fullmatch(line)
        if match is None:
            return OTHER
        whole, part, state, numbers, rest = match[1], match[2], match[3], match[4], match[5] or ""
        tasks, now = [int(number) for number in numbers.split(", ")], int(whole + part)
        if max(*tasks, now) > MOST or whole != str(int(whole)) or ", ".join(map(str, tasks)) != numbers:
            return OTHER  # it would not come back as it is
        if state == "running" and (found := self._sent_to.fullmatch(rest)) is not None:
            kind, name, first = RUNNING, "running", tasks[0] - self._sent
            self._to_worker(found[1], tasks, now)
        elif state == "done" and (found := self._answer.fullmatch(rest)) is not None:
            took = [int(text.replace(".", "")) for text in found[2].split(", ")]
            if len(took) != len(tasks) or max(took) > MOST:
                return OTHER
            kind, name = DONE, "done"
            first = tasks[0] - (self._sent if self._measured < 0 else self._measured)
            self._from_worker(found[1], tasks, now, took)
        else:
            kind, name, first = FORM, "form", tasks[0] - self._submitted
            form = (state, *self._without_flows(rest, tasks))
            self._columns["form"].append(self._forms.setdefault(form, len(self._forms)))
            self._submitted = tasks[-1] + 1
        self._columns[f"time_{name}"].append(now - self._time)
        self._time = now
        self._columns[f"count_{name}"].append(len(tasks))
        column = self._columns[f"task_{name}"]
        column.append(first)
        column += [after - before for before, after in itertools.pairwise(tasks)]
        return kind

    def _without_flows(self, rest: str, tasks: list[int]) -> tuple[str, int]:
        """Return the rest of a line without the numbers of its flows, and what it had."""
        match = self._of_flows.fullmatch(rest) if '"flow": ' in rest or '"begun": ' in rest else None
        if match is None:
            return rest, _PLAIN
        flow: Any = json.loads(match[2] or "null")
        begun: list[list[int]] = json.loads(f"[{match[3] or ''}]")
        again = (f', "flow": {flow}' if match[2] else "") + (f', "begun": {begun}' if begun else "")
        flows: list[int] = flow if isinstance(flow, list) else [flow or 0]
        if f"{match[1]}{again}{match[4] or ''}" != rest or max(*flows, *map(max, begun), 0) > MOST:
            return rest, _PLAIN
        left_out = _PLAIN
        if match[2]:
            left_out = _FLOWS if isinstance(flow, list) else _FLOW
            if left_out == _FLOWS:
                self._columns["count_flow"].append(len(flows))
            self._columns["flow"] += [flows[0] - self._flow, *(b - a for a, b in itertools.pairwise(flows))]
            self._flow = flows[-1]
            self._flows.update(zip(tasks, flows if left_out == _FLOWS else flows * len(tasks), strict=False))
        if begun:
            left_out |= _BEGUN
            self._columns["count_begun"].append(len(begun))
            for first, many, parent in begun:
                self._columns["begun"] += (first - self._begun, many, parent)
                self._begun = first + many
        return match[1] + (match[4] or ""), left_out

    def _to_worker(self, name: str, tasks: list[int], now: int) -> None:
        worker = self._workers.setdefault(name, len(self._workers))
        self._columns["worker_running"].append(worker - self._answered)
        self._sent = tasks[-1] + 1
        self._at.update(dict.fromkeys(tasks, (now, worker)))

    def _from_worker(self, name: str, tasks: list[int], now: int, took: list[int]) -> None:
        worker = self._workers.setdefault(name, len(self._workers))
        sent, there = self._at.get(tasks[0], (now, 0))
        for task in tasks:
            self._at.pop(task, None)
        self._columns["worker_done"].append(worker - there)
        self._columns["seconds"].append(took[0] - (now - max(sent, self._free.get(worker, 0))))
        self._columns["seconds"] += [after - before for before, after in itertools.pairwise(took)]
        self._flow = self._flows.pop(tasks[0], self._flow)
        self._free[worker], self._answered = now, worker

    def _of_measurement(self, line: str) -> int:
        match = self._measure.fullmatch(line)
        if match is None:
            return OTHER
        now, task, cpu, memory = int(match[1] + match[2]), int(match[3]), int(match[4] + match[5]), int(match[6])
        if max(now, task, cpu, memory) > MOST:
            return OTHER
        self._columns["time_measured"].append(now - self._time)
        self._time = now
        self._columns["task_measured"].append(task - self._sent)
        sent, worker = self._at.get(task, (now, 0))
        self._columns["cpu"].append(cpu - (now - max(sent, self._free.get(worker, 0))))
        self._columns["memory"].append(memory - self._memory.get(worker, 0))
        self._memory[worker], self._measured = memory, task
        return MEASURED

    def data(self) -> bytes:
        """Return all that was taken in, packed."""
        planes, shapes = list[bytes](), list[list[int]]()
        for numbers in self._columns.values():
            least, width, data = _planes(numbers)
            shapes.append([len(numbers), least, width])
            planes.append(data)
        forms, workers = [list(form) for form in self._forms], list(self._workers)
        head = {"forms": forms, "workers": workers, "others": self._others, "columns": shapes}
        packer = zlib.compressobj(9, memLevel=9)
        body = packer.compress(json.dumps(head).encode() + b"\n")
        for data in planes:
            body += packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH)  # each column has codes of its own
        body += packer.flush()
        return MAGIC + f"{len(body)} {self._bytes}\n".encode() + body


def pack(lines: Iterable[str]) -> bytes:
    """Return lines in their packed form."""
    packer = Packer()
    for line in lines:
        packer.add(line)
    return packer.data()


def _planes(numbers: Sequence[int]) -> tuple[int, int, bytes]:
    """Return the least of the numbers, how many bytes they have beyond it, and all first bytes, all second ones, ..."""
    least = min(numbers, default=0)
    width = ((max(numbers, default=0) - least).bit_length() + 7) // 8
    data = array("Q", [number - least for number in numbers])
    if sys.byteorder == "big":
        data.byteswap()
    raw = data.tobytes()
    return least, width, b"".join(raw[place::8] for place in range(width))


def _numbers(data: bytes, count: int, least: int, width: int) -> list[int]:
    raw = bytearray(8 * count)
    for place in range(width):
        raw[place::8] = data[place * count : (place + 1) * count]
    found = array("Q")
    found.frombytes(raw)
    if sys.byteorder == "big":
        found.byteswap()
    return [number + least for number in found] if least else found.tolist()


class Segment:
    """A packed segment; raises ValueError where it is none, or damaged.

    Args:
        others: The lines that stayed texts.
        workers: Their names.
    """

    def __init__(self, data: bytes) -> None:
        magic, _, body = data.partition(b"\n")
        try:
            if not magic.startswith(MAGIC) or int(magic[len(MAGIC) :].split()[0]) != len(body):
                raise ValueError("it is no packed segment, or not all of it")
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(body, LARGEST)
            if not unpacker.eof:
                raise ValueError("it is not all of it")
            line, _, planes = raw.partition(b"\n")
            head: dict[str, Any] = json.loads(line)
            self.others: list[str] = head["others"]
            self.workers: list[str] = [json.loads(name) for name in head["workers"]]
            self._forms = [
                ({"state": state, **json.loads("{" + rest + "}")}, left_out) for state, rest, left_out in head["forms"]
            ]
            self._columns: dict[str, list[int]] = {}
            place = 0
            for name, (count, least, width) in zip(_COLUMNS, head["columns"], strict=True):
                end = place + count * width
                if not 0 <= count <= len(raw) or not 0 <= width <= 8 or end > len(planes):
                    raise ValueError("its columns are too short")
                self._columns[name] = _numbers(planes[place:end], count, least, width)
                place = end
        except (zlib.error, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(repr(error)) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what the lines said; raises ValueError where that makes no sense."""
        try:
            yield from self._events()
        except (LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise ValueError(repr(error)) from error

    def _events(self) -> Iterator[dict[str, Any]]:
        workers = self.workers
        for kind, t, what, where, more in self.entries():
            if kind == OTHER:
                yield what
                continue
            if kind == MEASURED:
                yield {"t": t, "state": "measured", "of": what, "cpu": where, "memory": more}
                continue
            tasks = [what] if type(what) is int else what
            if kind == RUNNING:
                yield {"t": t, "state": "running", "tasks": tasks, "worker": workers[where]}
            elif kind == DONE:
                seconds = [more] if type(what) is int else more
                yield {"t": t, "state": "done", "tasks": tasks, "worker": workers[where], "seconds": seconds}
            else:
                yield {"t": t, "tasks": tasks, **where, **more}

    def entries(self) -> Iterator[Entry]:  # noqa: PLR0915 (with a call for each line it would take twice as long)
        """Yield what the lines said, without a record for each; raises all sorts of errors where it makes no sense."""
        columns, others = self._columns, iter(self.others)
        tasks = {
            kind: _grouped(columns[f"task_{kind}"], columns[f"count_{kind}"]) for kind in ("form", "running", "done")
        }
        seconds_ = _grouped(columns["seconds"], columns["count_done"])
        form = zip(columns["time_form"], columns["form"], tasks["form"], strict=True).__next__
        running = zip(columns["time_running"], columns["worker_running"], tasks["running"], strict=True).__next__
        done = zip(columns["time_done"], columns["worker_done"], tasks["done"], seconds_, strict=True).__next__
        measure = zip(
            columns["time_measured"], columns["task_measured"], columns["cpu"], columns["memory"], strict=True
        ).__next__
        forms, flows = self._forms, _Flows(columns)
        has_flows = bool(columns["flow"])
        now = submitted = sent = answered = worker = 0
        measured = -1
        at: dict[int, tuple[int, int]] = {}
        free: dict[int, int] = {}
        memories: dict[int, int] = {}
        for kind in columns["kind"]:
            if kind == RUNNING:
                passed, other, task = running()
                now += passed
                worker = answered + other
                measured = -1
                if type(task) is int:
                    task += sent
                    sent = task + 1
                    at[task] = now, worker
                    yield RUNNING, now / 1e6, task, worker, None
                else:
                    several = _summed(task, sent)
                    sent = several[-1] + 1
                    at.update(dict.fromkeys(several, (now, worker)))
                    yield RUNNING, now / 1e6, several, worker, None
            elif kind == DONE:
                passed, other, task, took = done()
                now += passed
                base = sent if measured < 0 else measured
                several = [] if type(task) is int else _summed(task, base)
                task = several[0] if several else base + task
                begun, there = at.pop(task, (now, 0))
                worker = there + other
                idle = free.get(worker, 0)
                expected = now - (idle if idle > begun else begun)  # noqa: FURB136 (a call takes longer)
                free[worker], answered, measured = now, worker, -1
                if has_flows:
                    flows.answered(task)
                if not several:
                    yield DONE, now / 1e6, task, worker, (took + expected) / 1e6
                else:
                    for task in several[1:]:
                        at.pop(task, None)
                    yield DONE, now / 1e6, several, worker, [one / 1e6 for one in _summed(took, expected)]
            elif kind == FORM:
                passed, number, task = form()
                now += passed
                several = [task + submitted] if type(task) is int else _summed(task, submitted)
                submitted, measured = several[-1] + 1, -1
                shared, left_out = forms[number]
                more = flows.of(several, left_out) if left_out else {}
                yield FORM, now / 1e6, several, shared, more
            elif kind == MEASURED:
                passed, task, cpu, memory = measure()
                now += passed
                measured = sent + task
                begun, worker = at.get(measured, (now, 0))
                idle = free.get(worker, 0)
                memory += memories.get(worker, 0)
                memories[worker] = memory
                cpu += now - (idle if idle > begun else begun)  # noqa: FURB136
                yield MEASURED, now / 1e6, measured, cpu / 1e6, memory
            else:
                measured = -1
                found = json.loads(next(others, "null"))
                if type(found) is not dict:
                    raise ValueError("a line is no event")
                yield OTHER, 0.0, found, None, None


class _Flows:
    """Puts the flows of submitted tasks together again."""

    def __init__(self, columns: dict[str, list[int]]) -> None:
        self._numbers, self._counts = iter(columns["flow"]), iter(columns["count_flow"])
        self._begun, self._many = iter(columns["begun"]), iter(columns["count_begun"])
        self._last = self._next = 0
        self._of: dict[int, int] = {}

    def of(self, tasks: list[int], left_out: int) -> dict[str, Any]:
        """Return what a line had."""
        found: dict[str, Any] = {}
        if left_out & _FLOWS:
            flows = _summed(list(itertools.islice(self._numbers, next(self._counts))), self._last)
            self._of.update(zip(tasks, flows, strict=False))
            self._last, found["flow"] = flows[-1], flows
        elif left_out & _FLOW:
            self._last += next(self._numbers)
            self._of.update(dict.fromkeys(tasks, self._last))
            found["flow"] = self._last
        if left_out & _BEGUN:
            found["begun"] = [self._three() for _ in range(next(self._many))]
        return found

    def _three(self) -> list[int]:
        first, many, parent = next(self._begun) + self._next, next(self._begun), next(self._begun)
        self._next = first + many
        return [first, many, parent]

    def answered(self, task: int) -> None:
        """A task has ended: its flow is likely to go on."""
        self._last = self._of.pop(task, self._last)


def _grouped(numbers: list[int], counts: list[int]) -> Iterable[Any]:
    """Return the numbers of each line: one, or a list."""
    if counts.count(1) == len(counts):
        return numbers
    rest = iter(numbers)
    return (next(rest) if count == 1 else list(itertools.islice(rest, count)) for count in counts)


def _summed(differences: list[int], first: int) -> list[int]:
    found = list(itertools.accumulate(differences))
    return [number + first for number in found]


def main(source: str, target: str) -> int:
    """Pack a segment beside itself, and remove it. 1 if it stays, because it does not come back as it was."""
    parent = os.getppid()
    os.nice(19)
    with open(source, encoding="utf-8", newline="\n") as file:
        data = pack(_while_wanted(file, parent))
    with open(source, "rb") as file:
        for line, event in itertools.zip_longest(_while_wanted(file, parent), Segment(data).events()):
            if line is None or event is None or json.loads(line) != event:
                return 1
    half = f"{target}.new"
    with open(half, "xb") as made:
        made.write(data)
        made.flush()
        os.fsync(made.fileno())
    os.rename(half, target)
    os.unlink(source)
    return 0


def _while_wanted(lines: Iterable[Any], parent: int) -> Iterator[Any]:
    """Yield lines, as long as the head is there that has started this."""
    for number, line in enumerate(lines):
        if number % 1000 == 0 and os.getppid() != parent:
            sys.exit(1)
        yield line


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
