"""The history of a run as files for other programs: a table (CSV), and a trace for Perfetto and chrome://tracing.

Both are written line by line: a million evaluations take no memory beside the history, and a few seconds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from math import isfinite, isnan
from typing import TextIO

from hyperflow.viewing.history import History, Outcome

HEADINGS = (
    *("evaluation", "name", "function", "cpus", "worker", "node", "submitted", "start", "end", "seconds", "outcome"),
    *("cpu_seconds", "memory"),
)
"""Of the table. Times are seconds since 1970; what is not known is empty."""

OUTCOMES = [outcome.name.lower() for outcome in Outcome]

RAN = frozenset({Outcome.DONE, Outcome.FAILED, Outcome.RETRIED, Outcome.RETURNED, Outcome.RUNNING})

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that spreadsheets calculate."""


def evaluation(history: History, row: int) -> str:
    """Return what commands call the evaluation of a row."""
    job = history.job[row]
    return f"{job}.{history.task[row]}" if job >= 0 else str(history.task[row])


def write_csv(history: History, file: TextIO) -> None:
    """Write a line for each try of an evaluation."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADINGS)
    writer.writerows(_lines(history))


def _lines(it: History) -> Iterator[tuple[object, ...]]:
    groups = [(_cell(group.name), _cell(group.function)) for group in it.groups]
    workers = [(_cell(worker.name), _cell(worker.node)) for worker in it.workers]
    workers.append(("", ""))  # the last one is worker -1
    columns = zip(
        *(it.job, it.task, it.group, it.cpus, it.worker, it.submitted, it.start, it.end, it.outcome, it.cpu, it.memory),
        strict=True,
    )
    for job, task, group, cpus, worker, submitted, start, end, outcome, cpu, memory in columns:
        yield (
            f"{job}.{task}" if job >= 0 else task,
            *groups[group],
            cpus,
            *workers[worker],
            f"{submitted:.6f}",
            f"{start:.6f}" if not isnan(start) else "",
            f"{end:.6f}" if not isnan(end) else "",
            f"{end - start:.6f}" if not isnan(end - start) else "",
            OUTCOMES[outcome],
            f"{cpu:.6g}" if not isnan(cpu) else "",
            memory or "",
        )


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text


# ---- a trace ---------------------------------------------------------------------------------------------------------


def write_trace(history: History, file: TextIO) -> None:
    """Write a trace: nodes are its processes, workers its threads.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU ("Trace Event Format")
    """
    file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    first = True
    for line in _events(history):
        file.write(line if first else f",\n{line}")
        first = False
    file.write("\n]}\n")


def _events(it: History) -> Iterator[str]:
    nodes = list(dict.fromkeys([worker.node for worker in it.workers] + [event.node for event in it.nodes]))
    process = {node: number for number, node in enumerate(nodes, 1)}
    for node, number in process.items():
        named = json.dumps({"name": node or "the run"})
        yield f'{{"ph": "M", "name": "process_name", "pid": {number}, "args": {named}}}'
    for number, worker in enumerate(it.workers):
        name = worker.name if worker.job is None else f"{worker.job}: {worker.name}"
        named = json.dumps({"name": name})
        where = f'"pid": {process[worker.node]}, "tid": {number + 1}'
        yield f'{{"ph": "M", "name": "thread_name", {where}, "args": {named}}}'
    for event in it.nodes:
        about = json.dumps({"cause": event.cause, "cpus": event.cpus})
        yield (
            f'{{"ph": "i", "s": "p", "name": {json.dumps(event.state)}, "cat": "node", "ts": {_micro(it, event.t)}, '
            f'"pid": {process[event.node]}, "tid": 0, "args": {about}}}'
        )
    yield from _evaluations(it, process)


def _micro(it: History, t: float) -> str:
    return f"{max(t - it.first, 0.0) * 1e6:.3f}" if isfinite(t) else "0"


def _evaluations(it: History, process: dict[str, int]) -> Iterator[str]:
    errors = {one.row: one.error for one in it.failures if one.row >= 0}
    names = [json.dumps(group.name) for group in it.groups]
    of_worker: list[list[int]] = [[] for _ in it.workers]
    for row, (worker, outcome, start) in enumerate(zip(it.worker, it.outcome, it.start, strict=True)):
        if worker >= 0 and outcome in RAN and not isnan(start):
            of_worker[worker].append(row)
    for worker, rows in enumerate(of_worker):
        where = f'"pid": {process[it.workers[worker].node]}, "tid": {worker + 1}'
        for row, begin, seconds in _apart(it, rows):
            told = f', "error": {json.dumps(errors[row])}' if row in errors else ""
            yield (
                f'{{"ph": "X", "name": {names[it.group[row]]}, "cat": "{OUTCOMES[it.outcome[row]]}", '
                f'"ts": {begin * 1e6:.3f}, "dur": {seconds * 1e6:.3f}, {where}, '
                f'"args": {{"evaluation": "{evaluation(it, row)}", "cpus": {it.cpus[row]}{told}}}}}'
            )


def _apart(it: History, rows: list[int]) -> Iterator[tuple[int, float, float]]:
    """Yield the rows of a worker with begin and seconds, so that none reaches into the next one.

    When answers reach the head late, some seem to. A thread of a trace has one thing at a time.
    """
    ends = [it.last if isnan(it.end[row]) else it.end[row] for row in rows]
    order = sorted(range(len(rows)), key=ends.__getitem__)
    for place, following in pairwise([*order, -1]):
        row, end = rows[place], ends[place]
        begin = it.start[row]
        if following >= 0 and it.start[rows[following]] < end:
            end = max(it.start[rows[following]], begin)
        yield row, begin - it.first, end - begin
