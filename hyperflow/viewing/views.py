"""What charts and tables show of a run's history: small, bounded data, ready for JSON.

All bins are made here: whoever draws gets at most MOST_CELLS boxes and BINS points of a line, however many evaluations
there are. Times are seconds since the run's first event. A million evaluations take 0.1 s for a view.

The shapes are what `assets/views.js` draws, on the page and in a report:

    utilisation   from, to, bins: the middle of each (seconds); busy, there: CPUs in each bin, of all nodes;
                  nodes: [{node, cpus, gpus, state, cause, busy: [share of its CPUs, null where it was not there]}];
                  marks: [{t, node, state, cause}]
    gantt         from, to (the window), whole: [from, to] of the run; lanes: names of workers, from `first` on, of
                  `all_lanes`; groups: names, the longest first; exact; and boxes in columns: lane (a place in lanes),
                  start, seconds, group (a place in groups), failed (how many), count, busy (share of the box that is
                  filled), and where `exact` also task (as JOB.NUMBER), outcome
    functions     [{name, function, done, failed, retried, running, waiting, median, tail, total, cpu, held, memory,
                  read, written}]
    slowest       [{evaluation, name, worker, start, seconds, outcome}]
    failures      {total, shown: [{evaluation, t, name, call, error, worker, retried}]}
    drawings      [{name, kind, t, x, y, value, given, total, picture}]
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from hyperflow.plots import Series
from hyperflow.viewing.history import History, NodeEvent, Outcome

BINS = 400
"""Points of a line over time."""

MOST_NODES = 100
"""So many nodes are shown by themselves; the others count in the sum."""

MOST_LANES = 64
"""Lanes of workers in one picture."""

MOST_BOXES = 3000
"""So many evaluations of one picture have a box each."""

MOST_CELLS = 6000
"""Bins of one picture, in all lanes: what a browser draws at once."""

MOST_GROUPS = 12
"""Groups with a colour of their own; the others share one."""

MOST_FUNCTIONS = 500

MOST_POINTS = 2000
"""Points of one drawing."""

OTHERS = "(others)"

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Window: TypeAlias = tuple[float, float]


def _column(values: Any, kind: Any) -> NDArray[Any]:
    """Return an array over the same memory; while it lives, the history takes nothing in."""
    return np.frombuffer(values, dtype=kind) if len(values) else np.empty(0, dtype=kind)


@attrs.frozen
class Table:
    """A history as arrays. The history takes nothing in while this lives.

    Args:
        begin: The time of the first event, which all others count from.
        now: When what runs is looked at.
    """

    history: History
    begin: float
    now: float
    start: Floats
    end: Floats
    group: Ints
    worker: Ints
    outcome: Ints
    cpus: Ints

    @classmethod
    def of(cls, history: History, now: float | None = None) -> Table:
        """Return the table of a history; `now` is when the run is looked at, if it goes on."""
        begin, it = history.first, history
        last = max(history.last if now is None else now, history.last) - begin
        start = _column(it.start, np.float64) - begin
        end = _column(it.end, np.float64) - begin
        outcome = _column(it.outcome, np.int8).astype(np.int64)
        end = np.where((outcome == Outcome.RUNNING) | np.isnan(end), last, end)
        group, worker, cpus = (_column(values, np.int32).astype(np.int64) for values in (it.group, it.worker, it.cpus))
        return cls(history, begin, last, start, end, group, worker, outcome, cpus)

    @property
    def ran(self) -> NDArray[np.bool_]:
        """Which rows have run, or run."""
        there: NDArray[np.bool_] = (self.worker >= 0) & ~np.isnan(self.start)
        return there & np.not_equal(self.outcome, int(Outcome.WAITING))

    @property
    def whole(self) -> Window:
        """From the first event to the last one."""
        return 0.0, max(self.now, 1e-3)

    def evaluation(self, row: int) -> str:
        """Return an evaluation's name, as commands have it."""
        job = self.history.job[row]
        return f"{job}.{self.history.task[row]}" if job >= 0 else str(self.history.task[row])


def _numbers(values: NDArray[Any], digits: int = 6) -> list[float | None]:
    """Return numbers as JSON has them: rounded, and null for none."""
    return [None if number != number else number for number in np.round(values, digits).tolist()]  # noqa: PLR0124


def by_name(name: str) -> list[str | int]:
    """Order node9 before node10."""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", name)]


# ---- utilisation -----------------------------------------------------------------------------------------------------


def utilisation(table: Table, window: Window | None = None, bins: int = BINS) -> dict[str, Any]:
    """Return how many CPUs were busy over time, of each node and of all."""
    begin, end = window or table.whole
    edges = np.linspace(begin, end, bins + 1)
    spans = _spans(table)
    names = sorted({*spans, *(worker.node for worker in table.history.workers)}, key=by_name)
    place = {name: number for number, name in enumerate(names)}
    there = np.array([_covered(edges, spans.get(name, [])) for name in names]).reshape(len(names), bins)
    busy = _busy(table, edges, np.array([place[it.node] for it in table.history.workers], dtype=np.int64), len(names))
    # When evaluations of one worker began is reckoned from when their answers came, so they may seem to overlap.
    busy = np.where(there > 0, np.minimum(busy, there), busy)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(there > 0, np.clip(busy / there, 0, 1), np.nan)
    states = _states(table)
    nodes = [
        {"node": name, **states.get(name, _unknown()), "busy": _numbers(shares[number], 3)}
        for number, name in enumerate(names[:MOST_NODES])
    ]
    return {
        "from": begin,
        "to": end,
        "bins": _numbers((edges[1:] + edges[:-1]) / 2),
        "busy": _numbers(busy.sum(axis=0), 3),
        "there": _numbers(there.sum(axis=0), 3),
        "nodes": nodes,
        "all_nodes": len(names),
        "marks": _marks(table),
    }


def _busy(table: Table, edges: Floats, node_of: Ints, nodes: int) -> Floats:
    """Return the CPUs that were busy on each node, the mean of each bin."""
    rows = table.ran & (table.end > edges[0]) & (table.start < edges[-1])
    if not rows.any():
        return np.zeros((nodes, len(edges) - 1))
    start, end, cpus = table.start[rows], table.end[rows], table.cpus[rows].astype(np.float64)
    node = node_of[table.worker[rows]]
    return _seconds_until(edges, start, cpus, node, nodes) - _seconds_until(edges, end, cpus, node, nodes)


def _seconds_until(edges: Floats, moments: Floats, weights: Floats, node: Ints, nodes: int) -> Floats:
    """Return for each bin the mean weight of what had its moment before."""
    width, count = edges[1] - edges[0], len(edges)
    clipped = np.clip((moments - edges[0]) / width, 0, count - 1)  # in bins
    after = np.minimum(np.floor(clipped).astype(np.int64), count - 2)  # the bin that it lies in
    key = node * (count - 1) + after
    size = nodes * (count - 1)
    within = np.bincount(key, weights * (after + 1 - clipped), size).reshape(nodes, count - 1)
    whole = np.bincount(key, weights, size).reshape(nodes, count - 1)
    return np.asarray(within + np.cumsum(whole, axis=1) - whole, dtype=np.float64)


def _spans(table: Table) -> dict[str, list[tuple[float, float, int]]]:
    """Return when each node was there, with how many CPUs."""
    spans: dict[str, list[tuple[float, float, int]]] = {}
    open_: dict[tuple[int | None, str], NodeEvent] = {}

    def end(key: tuple[int | None, str], t: float) -> None:
        if (up := open_.pop(key, None)) is not None:
            spans.setdefault(up.node, []).append((up.t - table.begin, t - table.begin, up.cpus))

    for event in table.history.nodes:
        key = event.job, event.node
        if event.state == "up":
            end(key, event.t)
            open_[key] = event
        elif event.state in ("lost", "left"):
            end(key, event.t)
        elif event.state == "closed":
            for other in [other for other in open_ if other[0] == event.job]:
                end(other, event.t)
    for key in list(open_):
        end(key, table.begin + table.now)
    return spans


def _covered(edges: Floats, spans: Sequence[tuple[float, float, int]]) -> Floats:
    """Return how many CPUs were there in each bin, in the mean."""
    total = np.zeros(len(edges) - 1)
    width = edges[1] - edges[0]
    for begin, end, cpus in spans:
        total += cpus * np.clip(np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin), 0, None) / width
    return total


def _unknown() -> dict[str, Any]:
    return {"cpus": 0, "gpus": 0, "state": "", "cause": ""}


def _states(table: Table) -> dict[str, dict[str, Any]]:
    """Return how each node stands at last."""
    states: dict[str, dict[str, Any]] = {}
    for event in table.history.nodes:
        if event.node:
            known = states.setdefault(event.node, _unknown())
            known["cpus"] = max(event.cpus, known["cpus"])
            known["gpus"] = max(event.gpus, known["gpus"])
            known["state"] = "up" if event.state == "resumed" else event.state
            known["cause"] = "" if event.state in ("up", "resumed") else event.cause
        elif event.state == "closed":
            for known in states.values():
                known["state"] = "ended" if known["state"] == "up" else known["state"]
    return states


MOST_MARKS = 200


def _marks(table: Table) -> list[dict[str, Any]]:
    """Return what happened to nodes beside coming and going with the run."""
    told = [event for event in table.history.nodes if event.state not in ("up", "closed")]
    return [
        {"t": round(it.t - table.begin, 6), "node": it.node, "state": it.state, "cause": it.cause}
        for it in told[:MOST_MARKS]
    ]


# ---- the Gantt chart -------------------------------------------------------------------------------------------------


def gantt(table: Table, window: Window | None = None, first: int = 0, node: str = "") -> dict[str, Any]:
    """Return what workers did in a window: each evaluation, or bins where they are many.

    Args:
        first: The first lane of those that are shown.
        node: Only its workers; "" for those of all nodes.
    """
    begin, end = _checked(window, table)
    workers = table.history.workers
    lanes = [number for number, it in enumerate(workers) if not it.is_queue and (not node or it.node == node)]
    lanes.sort(
        key=lambda number: (by_name(workers[number].node), workers[number].job or 0, by_name(workers[number].name))
    )
    first = max(min(first, len(lanes) - 1), 0)
    shown = lanes[first : first + MOST_LANES]
    lane_of = np.full(len(workers) + 1, -1, dtype=np.int64)  # the last entry is for worker -1
    lane_of[shown] = np.arange(len(shown))
    rows = np.flatnonzero(table.ran & (lane_of[table.worker] >= 0) & (table.start < end) & (table.end > begin))
    names, colour = _colours(table)
    exact = len(rows) <= MOST_BOXES
    lane = lane_of[table.worker[rows]]
    make = _boxes if exact else _binned
    columns = make(table, rows, lane, colour, (begin, end))
    return {
        "from": begin,
        "to": end,
        "whole": list(table.whole),
        "lanes": [_lane(workers[number].job, workers[number].name) for number in shown],
        "first": first,
        "all_lanes": len(lanes),
        "groups": names,
        "exact": exact,
        "evaluations": len(rows),
        **columns,
    }


def _checked(window: Window | None, table: Table) -> Window:
    """Return a window that has a length."""
    begin, end = window or table.whole
    if not (math.isfinite(begin) and math.isfinite(end)):
        return table.whole
    return begin, max(end, begin + 1e-6)


def _lane(job: int | None, worker: str) -> str:
    name, _, node = worker.rpartition("@")
    label = f"{node} {name.removeprefix('worker-')}" if name else worker
    return label if job is None else f"{job}: {label}"


def _colours(table: Table) -> tuple[list[str], Ints]:
    """Return the names that have colours, the longest in all first, and for each group its colour."""
    groups = table.history.groups
    seconds = np.where(table.ran, (table.end - table.start) * table.cpus, 0.0)
    by_group = np.bincount(table.group, seconds, len(groups)) if len(groups) else np.empty(0)
    totals: dict[str, float] = {}
    for group, total in zip(groups, by_group.tolist(), strict=True):
        totals[group.name] = totals.get(group.name, 0.0) + total
    names = sorted(totals, key=lambda name: (-totals[name], name))
    if len(names) > MOST_GROUPS:
        names = [*names[: MOST_GROUPS - 1], OTHERS]
    place = {name: number for number, name in enumerate(names)}
    return names, np.array([place.get(group.name, len(names) - 1) for group in groups], dtype=np.int64)


_FAILED = (Outcome.FAILED, Outcome.RETRIED, Outcome.RETURNED)


def _boxes(table: Table, rows: Ints, lane: Ints, colour: Ints, _: Window) -> dict[str, Any]:
    """Return a box for each evaluation."""
    start, end = table.start[rows], table.end[rows]
    return {
        "lane": lane.tolist(),
        "start": _numbers(start),
        "seconds": _numbers(np.maximum(end - start, 0)),
        "group": colour[table.group[rows]].tolist(),
        "failed": np.isin(table.outcome[rows], _FAILED).astype(np.int64).tolist(),
        "count": [1] * len(rows),
        "busy": [1] * len(rows),
        "task": [table.evaluation(row) for row in rows.tolist()],
        "name": [table.history.groups[group].name for group in table.group[rows].tolist()],
        "outcome": [Outcome(outcome).name.lower() for outcome in table.outcome[rows].tolist()],
    }


def _binned(table: Table, rows: Ints, lane: Ints, colour: Ints, window: Window) -> dict[str, Any]:
    """Return boxes that stand for many evaluations: each has the colour of what took most of its time."""
    lanes = int(lane.max()) + 1
    bins = MOST_CELLS // lanes
    begin, width = window[0], (window[1] - window[0]) / bins
    start = np.clip((table.start[rows] - begin) / width, 0, bins)
    end = np.clip((table.end[rows] - begin) / width, 0, bins)
    left = np.minimum(start.astype(np.int64), bins - 1)
    right = np.minimum(end.astype(np.int64), bins - 1)
    many = right - left + 1  # bins that each lies in
    of = np.repeat(np.arange(len(rows)), many)
    bin_ = np.arange(len(of)) - np.repeat(np.cumsum(many) - many, many) + left[of]
    seconds = np.minimum(end[of], bin_ + 1) - np.maximum(start[of], bin_)
    kinds = int(colour.max()) + 1
    cell = lane[of] * bins + bin_
    size = lanes * bins
    by_colour = np.bincount(cell * kinds + colour[table.group[rows]][of], seconds, size * kinds).reshape(size, kinds)
    count = np.bincount(lane * bins + left, minlength=size)  # where each begins
    failed = np.isin(table.outcome[rows], _FAILED)
    fails = np.bincount((lane * bins + right)[failed], minlength=size)  # where each ends
    busy, top = by_colour.sum(axis=1), by_colour.argmax(axis=1)
    return _joined(busy, top, count, fails, bins, begin, width)


def _joined(busy: Floats, top: Ints, count: Ints, fails: Ints, bins: int, begin: float, width: float) -> dict[str, Any]:
    """Return the cells as boxes; neighbours that look alike are one."""
    shade = np.where(busy > 0, np.ceil(np.minimum(busy, 1) * 4), 0).astype(np.int64)
    look = np.where(shade > 0, (top * 5 + shade) * 2 + (fails > 0), -1)
    number = np.arange(len(look))
    new = (look[1:] != look[:-1]) | (number[1:] % bins == 0)
    first = np.flatnonzero(np.concatenate(([True], new)))
    length = np.diff(np.append(first, len(look)))
    sums = [np.add.reduceat(values, first) for values in (busy, count, fails)]
    kept = look[first] >= 0
    first, length = first[kept], length[kept]
    filled, counts, failed = (values[kept] for values in sums)
    return {
        "lane": (first // bins).tolist(),
        "start": _numbers(begin + first % bins * width),
        "seconds": _numbers(length * width),
        "group": top[first].tolist(),
        "failed": failed.tolist(),
        "count": counts.tolist(),
        "busy": _numbers(np.minimum(filled / length, 1), 3),
    }


# ---- tables ----------------------------------------------------------------------------------------------------------


def functions(table: Table) -> list[dict[str, Any]]:
    """Return what each function has taken, what held most CPU time first."""
    found: dict[str, dict[str, Any]] = {}
    history, total = table.history, len(table.history.groups)
    members: dict[str, list[int]] = {}
    for number, group in enumerate(history.groups):
        members.setdefault(group.name, []).append(number)
    order = np.argsort(table.group, kind="stable")
    bounds = np.searchsorted(table.group[order], np.arange(total + 1))
    cpu, memory = _column(history.cpu, np.float32), _column(history.memory, np.int64)
    for name, numbers in members.items():
        rows = np.concatenate([order[bounds[number] : bounds[number + 1]] for number in numbers])
        outcome = np.bincount(table.outcome[rows], minlength=len(Outcome))
        done = rows[table.outcome[rows] == Outcome.DONE]
        times = np.sort(table.end[done] - table.start[done])
        tried = rows[table.ran[rows]]
        found[name] = {
            "name": name,
            "function": history.groups[numbers[0]].function,
            "cpus": int(table.cpus[rows[-1]]) if len(rows) else 1,
            **{state.name.lower(): int(outcome[state]) for state in Outcome},
            "median": _quantile(times, 0.5),
            "tail": _quantile(times, 0.95),
            "total": round(float(times.sum()), 6),
            "held": round(float(((table.end[tried] - table.start[tried]) * table.cpus[tried]).sum()), 6),
            "cpu": round(float(np.nansum(cpu[rows])), 6),
            "memory": int(memory[rows].max()) if len(rows) else 0,
            **dict.fromkeys(("read", "written"), 0),
        }
    for (_, name), sums in history.used.items():
        if (one := found.get(name)) is not None:
            one["cpu"] = round(one["cpu"] + sums["short"], 6)
            one["read"] += int(sums["read"])
            one["written"] += int(sums["written"])
    return sorted(found.values(), key=lambda it: -it["held"])[:MOST_FUNCTIONS]


def _quantile(times: Floats, part: float) -> float:
    return round(float(times[min(int(part * len(times)), len(times) - 1)]), 6) if len(times) else 0.0


def slowest(table: Table, most: int = 10) -> list[dict[str, Any]]:
    """Return the evaluations that took longest."""
    rows = np.flatnonzero(table.ran)
    took = (table.end - table.start)[rows]
    chosen = rows[np.argsort(-took, kind="stable")[:most]]
    return [_row(table, row) for row in chosen.tolist()]


def _row(table: Table, row: int) -> dict[str, Any]:
    history, worker = table.history, int(table.worker[row])
    return {
        "evaluation": table.evaluation(row),
        "name": history.groups[int(table.group[row])].name,
        "worker": history.workers[worker].name if worker >= 0 else "",
        "start": round(float(table.start[row]), 6),
        "seconds": round(float(table.end[row] - table.start[row]), 6),
        "outcome": Outcome(int(table.outcome[row])).name.lower(),
    }


def tries(history: History, job: int | None, task: int) -> list[dict[str, Any]]:
    """Return all tries of one evaluation, each with its error if it has failed."""
    table = Table.of(history)
    rows = np.flatnonzero(
        (_column(history.task, np.int64) == task) & (_column(history.job, np.int32) == (-1 if job is None else job))
    )
    told = {one.row: one for one in history.failures if one.row >= 0}
    found: list[dict[str, Any]] = []
    for row in rows.tolist():
        failed = told.get(row)
        more = {} if failed is None else {"call": failed.call, "error": failed.error}
        one = _row(table, row) | {"cpus": int(table.cpus[row]), "memory": history.memory[row]} | more
        found.append({key: None if value != value else value for key, value in one.items()})  # noqa: PLR0124
    return found


def failures(history: History, first: int = 0, most: int = 100) -> dict[str, Any]:
    """Return the failures, the newest first, so many from `first` on."""
    shown: list[dict[str, Any]] = []
    for one in history.failures[::-1][first : first + most]:
        known = one.row >= 0
        worker = history.worker[one.row] if known else -1
        shown.append(
            {
                "evaluation": str(one.task) if one.job is None else f"{one.job}.{one.task}",
                "t": round(one.t - history.first, 6),
                "name": history.groups[history.group[one.row]].name if known else "",
                "call": one.call,
                "error": one.error,
                "worker": history.workers[worker].name if worker >= 0 else "",
                "retried": one.retried,
            }
        )
    return {"total": history.failed, "kept": len(history.failures), "first": first, "shown": shown}


# ---- what the program drew -------------------------------------------------------------------------------------------


def drawing(series: Series, most: int = MOST_POINTS) -> dict[str, Any]:
    """Return what was drawn under one name: at most so many points, the extremes among them."""
    if series.picture is not None:
        return {"name": series.name, "kind": "picture", "version": series.t[-1], "total": len(series.t)}
    total = len(series.t)
    chosen = list(range(total)) if total <= most else _thinned(series, most)
    begin = series.t[0]
    return {
        "name": series.name,
        "kind": "points",
        "given": sorted(series.given),
        "total": total,
        "t": [round(series.t[place] - begin, 3) for place in chosen],
        **{axis: [getattr(series, axis)[place] for place in chosen] for axis in sorted(series.given)},
    }


def _thinned(series: Series, most: int) -> list[int]:
    """Return places of points: of each stretch the ones with the lowest and the highest value."""
    axis = "value" if "value" in series.given else "y"
    values = np.array([math.nan if it is None else it for it in getattr(series, axis)])
    chosen: set[int] = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), most // 2 - 1):
        known = stretch[~np.isnan(values[stretch])]
        if len(known):
            chosen |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
    return sorted(chosen)
