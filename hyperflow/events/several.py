"""Several: what happened to single evaluations, many in one line of the event log, as columns of numbers.

A line for each change of each evaluation takes 220 bytes for an evaluation, and more of the head's time than all else
that it does with it. Where evaluations are answered one by one, the changes of a flush are one line:

    {"t": 1763600000.123456, "state": "several", "of": "wrdr", "after": [0,12,804,3], "sent": [7,1], ...}

    of        what changed, a letter for each: w: tasks were submitted; r: a task was sent to a worker; d: it is done
    after     microseconds since the change before; the first one since `t`
    waiting   of each w, its first task, beyond that of the w before
    count     of each w, how many tasks, whose numbers follow each other
    form      of each w, its members besides, as a place in `forms`
    flow      of each w, its flow beyond that of the w before
    sent      of each r, its task, beyond that of the r before
    done      of each d, its task, beyond that of the d before
    seconds   of each d, microseconds that the task took
    worker    of each r and d, the worker beyond that of the r or d before
    forms     members of lines about tasks that were submitted
    new       names of workers that were not in a line of the same file before; the first of all is worker 0

A log begins anew with each file and each `opened`. Readers get the events that these lines stand for (`reader`).
"""

from __future__ import annotations

import itertools
import json
import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

STATE = "several"

FEWEST = 3
"""Fewer changes have a line each, which people can read."""

WAITING, RUNNING, DONE = range(3)

Change: TypeAlias = tuple[int, int, Any, int, Any, Any]
"""Which of the three, when (in microseconds), and

    WAITING     the members as JSON; the first task; how many; the flow
    RUNNING     the worker; the task; None; None
    DONE        the worker; the task; seconds; None
"""


MEMBERS = 6
"""Of a change."""


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
        kinds, times, subjects, numbers, mores, flows = (changes[place::MEMBERS] for place in range(MEMBERS))
        known, forms = len(self._workers), _Numbers()
        columns: dict[str, Any] = {
            "after": _differences(times, times[0]),
            "worker": _differences(list(map(self._workers.__getitem__, itertools.compress(subjects, kinds)))),
        }
        waits, sends, ends = ([kind == one for kind in kinds] for one in (WAITING, RUNNING, DONE))
        columns["sent"] = _differences(list(itertools.compress(numbers, sends)))
        columns["done"] = _differences(list(itertools.compress(numbers, ends)))
        columns["seconds"] = [int(took * 1e6 + 0.5) for took in itertools.compress(mores, ends)]
        if WAITING in kinds:
            columns["waiting"] = _differences(list(itertools.compress(numbers, waits)))
            columns["count"] = list(itertools.compress(mores, waits))
            columns["form"] = list(map(forms.__getitem__, itertools.compress(subjects, waits)))
            columns["flow"] = _differences(list(itertools.compress(flows, waits)))
        columns["new"] = list(itertools.islice(self._workers, known, None))
        columns["forms"] = list(forms)
        told = {name: column for name, column in columns.items() if column and (name in _FULL or any(column))}
        text = _as_json(told)
        letters = bytes(kinds).translate(_LETTERS).decode()
        return f'{{"t": {times[0] / 1e6:.6f}, "state": "{STATE}", "of": "{letters}", {text[1:]}\n'


_FULL = ("sent", "done", "seconds", "waiting", "count", "new", "forms")
"""Columns that are not left out where all in them is 0."""

_LETTERS = b"wrd".ljust(256)

_as_json = json.JSONEncoder(separators=(",", ":")).encode


def _differences(numbers: Sequence[int], first: int = 0) -> list[int]:
    return list(map(operator.sub, numbers, (first, *numbers)))


class Reading:
    """Takes the lines of one file apart."""

    def __init__(self) -> None:
        self._workers: list[str] = []

    def events(self, event: Any) -> Iterator[Any]:
        """Yield the events that an event stands for: itself, or those of a line of several."""
        state = event.get("state")
        if state != STATE:
            if state == "opened":
                self._workers.clear()
            yield event
            return
        for kind, microseconds, what, number, more, of_flow in self.changes(event):
            t = microseconds / 1e6
            if kind == WAITING:
                flow = {"flow": of_flow} if of_flow else {}
                yield {"t": t, "state": "waiting", "tasks": list(range(number, number + more)), **what, **flow}
            elif kind == RUNNING:
                yield {"t": t, "state": "running", "tasks": [number], "worker": what}
            else:
                yield {"t": t, "state": "done", "tasks": [number], "worker": what, "seconds": [more]}

    def changes(self, event: Any) -> Iterator[Change]:
        """Yield the changes of a line; members are a dict here, the same one for the same form."""
        workers = self._workers
        workers += event.get("new", ())
        forms = [json.loads("{" + form + "}") for form in event.get("forms", ())]
        columns = {name: _column(event, name) for name in ("after", "worker", "form", "flow", "count", "seconds")}
        worker = itertools.accumulate(columns["worker"])
        flow = itertools.accumulate(columns["flow"])
        waiting, sent, done = (itertools.accumulate(event.get(name, ())) for name in ("waiting", "sent", "done"))
        now = round(event["t"] * 1e6)
        for letter in event["of"]:
            now += next(columns["after"])
            if letter == "w":
                what = forms[next(columns["form"])]
                yield WAITING, now, what, next(waiting), next(columns["count"]), next(flow)
                continue
            place = next(worker)
            # Of a shortened log, the line that names the worker may be missing.
            name = workers[place] if 0 <= place < len(workers) else f"worker {place}"
            if letter == "r":
                yield RUNNING, now, name, next(sent), None, None
            else:
                yield DONE, now, name, next(done), next(columns["seconds"]) / 1e6, None


def _column(event: Any, name: str) -> Iterator[int]:
    """Return a column; one that was left out has zeros."""
    return iter(event[name]) if name in event else itertools.repeat(0)
