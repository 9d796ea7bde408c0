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
from typing import Any

MAGIC = b"hyperflow events 1 "

LARGEST = 1 << 31
"""Bytes that a segment may have; one that claims more is damaged."""

MOST = 1 << 60
"""The largest number that goes into a column."""

_OTHER, _FORM, _RUNNING, _DONE, _MEASURED = range(5)
"""Kinds of lines."""

_COLUMNS = (
    *("kind", "form", "time_form", "time_running", "time_done", "time_measured"),
    *("count_form", "count_running", "count_done", "task_form", "task_running", "task_done", "task_measured"),
    *("worker_running", "worker_done", "seconds", "more_seconds", "cpu", "memory"),
)


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
        self._columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
        self._forms: dict[tuple[str, str], int] = {}
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

    def add(self, line: str) -> None:
        """Take in the next line."""
        self._bytes += len(line.encode())
        kind = self._of_tasks(line)
        if kind == _OTHER:
            kind = self._of_measurement(line)
        if kind != _MEASURED:
            self._measured = -1
        if kind == _OTHER:
            self._others.append(line)
        self._columns["kind"].append(kind)

    def _of_tasks(self, line: str) -> int:
        match = self._tasks.fullmatch(line)
        if match is None:
            return _OTHER
        whole, part, state, numbers, rest = match[1], match[2], match[3], match[4], match[5] or ""
        tasks, now = [int(number) for number in numbers.split(", ")], int(whole + part)
        if max(*tasks, now) > MOST or whole != str(int(whole)) or ", ".join(map(str, tasks)) != numbers:
            return _OTHER  # it would not come back as it is
        if state == "running" and (found := self._sent_to.fullmatch(rest)) is not None:
            kind, name, first = _RUNNING, "running", tasks[0] - self._sent
            self._to_worker(found[1], tasks, now)
        elif state == "done" and (found := self._answer.fullmatch(rest)) is not None:
            took = [int(text.replace(".", "")) for text in found[2].split(", ")]
            if len(took) != len(tasks) or max(took) > MOST:
                return _OTHER
            kind, name = _DONE, "done"
            first = tasks[0] - (self._sent if self._measured < 0 else self._measured)
            self._from_worker(found[1], tasks, now, took)
        else:
            kind, name, first = _FORM, "form", tasks[0] - self._submitted
            self._columns["form"].append(self._forms.setdefault((state, rest), len(self._forms)))
            self._submitted = tasks[-1] + 1
        self._columns[f"time_{name}"].append(now - self._time)
        self._time = now
        self._columns[f"count_{name}"].append(len(tasks))
        column = self._columns[f"task_{name}"]
        column.append(first)
        column += [after - before for before, after in itertools.pairwise(tasks)]
        return kind

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
        self._columns["more_seconds"] += [after - before for before, after in itertools.pairwise(took)]
        self._free[worker], self._answered = now, worker

    def _of_measurement(self, line: str) -> int:
        match = self._measure.fullmatch(line)
        if match is None:
            return _OTHER
        now, task, cpu, memory = int(match[1] + match[2]), int(match[3]), int(match[4] + match[5]), int(match[6])
        if max(now, task, cpu, memory) > MOST:
            return _OTHER
        self._columns["time_measured"].append(now - self._time)
        self._time = now
        self._columns["task_measured"].append(task - self._sent)
        sent, worker = self._at.get(task, (now, 0))
        self._columns["cpu"].append(cpu - (now - max(sent, self._free.get(worker, 0))))
        self._columns["memory"].append(memory - self._memory.get(worker, 0))
        self._memory[worker], self._measured = memory, task
        return _MEASURED

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
    """A packed segment; raises ValueError where it is none, or damaged."""

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
            self._head: dict[str, Any] = json.loads(line)
            self._columns: dict[str, list[int]] = {}
            place = 0
            for name, (count, least, width) in zip(_COLUMNS, self._head["columns"], strict=True):
                end = place + count * width
                if not 0 <= count <= len(raw) or not 0 <= width <= 8 or end > len(planes):
                    raise ValueError("its columns are too short")
                self._columns[name] = _numbers(planes[place:end], count, least, width)
                place = end
        except (zlib.error, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(repr(error)) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what the lines said; raises ValueError where a line is none, as the text's reader does."""
        try:
            yield from self._events()
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(repr(error)) from error

    def _events(self) -> Iterator[dict[str, Any]]:
        head = self._head
        forms: list[dict[str, Any]] = [
            {"state": state, **json.loads("{" + rest + "}")} for state, rest in head["forms"]
        ]
        workers: list[str] = [json.loads(name) for name in head["workers"]]
        others = iter(head["others"])
        take = {name: iter(column).__next__ for name, column in self._columns.items()}
        form, time_form, time_running = take["form"], take["time_form"], take["time_running"]
        time_done, time_measured = take["time_done"], take["time_measured"]
        count_form, count_running, count_done = take["count_form"], take["count_running"], take["count_done"]
        task_form, task_running, task_done = take["task_form"], take["task_running"], take["task_done"]
        task_measured, worker_running, worker_done = take["task_measured"], take["worker_running"], take["worker_done"]
        seconds_, more_seconds, cpu_, memory_ = take["seconds"], take["more_seconds"], take["cpu"], take["memory"]
        now = submitted = sent = answered = 0
        measured = -1
        at: dict[int, tuple[int, int]] = {}
        free: dict[int, int] = {}
        memories: dict[int, int] = {}
        for kind in self._columns["kind"]:
            if kind == _RUNNING:
                now += time_running()
                worker = answered + worker_running()
                count = count_running()
                task = sent + task_running()
                tasks = [task]
                here = at[task] = now, worker
                for _ in range(count - 1):
                    task += task_running()
                    tasks.append(task)
                    at[task] = here
                sent = task + 1
                measured = -1
                yield {"t": now / 1e6, "state": "running", "tasks": tasks, "worker": workers[worker]}
            elif kind == _DONE:
                now += time_done()
                count = count_done()
                task = (sent if measured < 0 else measured) + task_done()
                begun, there = at.pop(task, (now, 0))
                tasks = [task]
                for _ in range(count - 1):
                    task += task_done()
                    tasks.append(task)
                    at.pop(task, None)
                worker = there + worker_done()
                idle = free.get(worker, 0)
                took = seconds_() + now - (max(begun, idle))
                seconds = [took / 1e6]
                for _ in range(count - 1):
                    took += more_seconds()
                    seconds.append(took / 1e6)
                free[worker], answered, measured = now, worker, -1
                yield {"t": now / 1e6, "state": "done", "tasks": tasks, "worker": workers[worker], "seconds": seconds}
            elif kind == _FORM:
                now += time_form()
                count = count_form()
                task = submitted + task_form()
                tasks = [task]
                for _ in range(count - 1):
                    task += task_form()
                    tasks.append(task)
                submitted = task + 1
                measured = -1
                yield {"t": now / 1e6, "tasks": tasks, **forms[form()]}
            elif kind == _MEASURED:
                now += time_measured()
                measured = sent + task_measured()
                begun, worker = at.get(measured, (now, 0))
                cpu = cpu_() + now - max(begun, free.get(worker, 0))
                memory = memories[worker] = memories.get(worker, 0) + memory_()
                yield {"t": now / 1e6, "state": "measured", "of": measured, "cpu": cpu / 1e6, "memory": memory}
            else:
                measured = -1
                found = json.loads(next(others, "null"))
                if type(found) is not dict:
                    raise ValueError("a line is no event")
                yield found


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
