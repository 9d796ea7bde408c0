"""What the page shows of the runs that can be seen here, and the orders that it gives: see `viewing/page.Source`.

All comes from files and the control sockets of runs, as for the other commands. The history of a run is read again when
its event log has changed, at most as often as costs a tenth of a CPU; a few are kept. A run that has vanished is an
error for whoever asks for it, and nothing else.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow import extvar, plots
from hyperflow.cli import evaluations, heads, jobs, logs, records, show, variables
from hyperflow.cli.histories import Reading
from hyperflow.cli.records import Run
from hyperflow.control.client import head
from hyperflow.debugging import capsule
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.extvar import ExtVar
from hyperflow.master.view import job_to_json
from hyperflow.plots import Drawings
from hyperflow.progress.tally import Snapshot
from hyperflow.records.record import State
from hyperflow.saying import age, printable
from hyperflow.viewing import views
from hyperflow.viewing.history import History, Outcome
from hyperflow.viewing.page import Query
from hyperflow.viewing.views import Table

PAGE = 50
"""Runs in a list."""

KEPT = 4
"""So many runs are kept in memory: a million evaluations take 100 MB."""

EASE = 10.0
"""A history is not read again before so many times as long as that took has gone by."""

BEAT = 10.0
"""Seconds after which pictures of a run that goes on are drawn again, though nothing was logged."""

LINES = 200
"""Lines of a log that are shown of an evaluation."""

MOST_JOBS = 1000

MOST_NODES = 1000

ALIVE = (State.RUNNING, State.SILENT)

ORDERS = ("retry", "cancel", "give_up")


@attrs.define(eq=False)
class Look:
    """What is known of one run from its logs; used under its lock."""

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    reading: Reading = attrs.field(factory=Reading)
    stamp: object = None
    read_at: float = 0.0
    took: float = 0.0
    number: int = 0
    """How often it was read; what changes when there is something new."""
    drawings: Drawings = attrs.field(factory=Drawings)
    drawn: int = 0

    @property
    def history(self) -> History:
        """The history, as it was read last."""
        return self.reading.history

    def refresh(self, run: Run) -> None:
        """Read what has changed."""
        log_dirs = evaluations.log_dirs(run)
        if sum(map(self.drawings.look, {path for _, path in log_dirs} | {run.log_dir})):
            self.drawn += 1
        stamp = [_stamp(path / heads.EVENTS) for _, path in log_dirs]
        now = time.monotonic()
        if stamp == self.stamp or (self.number and now - self.read_at < EASE * self.took):
            return
        self.reading.look(log_dirs, None if run.record is None else run.record.began)
        self.stamp, self.read_at = stamp, time.monotonic()
        self.took = self.read_at - now
        self.number += 1


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Watched:
    """The runs in a base directory and in the user's index."""

    def __init__(self, base_dir: Path) -> None:
        self._base_dir = base_dir
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._lock = threading.Lock()

    # ---- the list ---------------------------------------------------------------------------------------------------

    def runs(self, query: Query) -> dict[str, Any]:
        """Return a page of the list."""
        first = max(_whole(query.get("first", "0")), 0)
        found, total = records.page(self._base_dir, first, PAGE)
        now = time.time()
        rows = [_listed(run, now) for run in found]
        return {"base_dir": str(self._base_dir), "first": first, "page": PAGE, "total": total, "runs": rows}

    # ---- one run ----------------------------------------------------------------------------------------------------

    def run(self, query: Query) -> dict[str, Any]:
        """Return all of a run; what is as it was (`have`) is left out."""
        run, now = self._find(query), time.time()
        state, look = run.state(now), self._look(run)
        alive = state in ALIVE
        with look.lock:
            look.refresh(run)
            version = f"{look.number}.{look.drawn}.{int(now / BEAT) if alive else state}"
            answer: dict[str, Any] = {
                "about": about(run, state, now, look.reading),
                "version": version,
                "vars": _variables(run),
                "jobs": _jobs(run),
            }
            if query.get("have") == version:
                return answer
            return answer | _charts(look, now if state is State.RUNNING else None, query)

    def gantt(self, query: Query) -> dict[str, Any]:
        """Return what workers did in a window."""
        run, now = self._find(query), time.time()
        look = self._look(run)
        with look.lock:
            look.refresh(run)
            return _gantt(look.history, now if run.state(now) is State.RUNNING else None, query)

    def evaluation(self, query: Query) -> dict[str, Any]:
        """Return what is known of one evaluation: its tries, its error and traceback, what it printed."""
        run, name = self._find(query), query.get("evaluation", "")
        match = re.fullmatch(r"(?:(\d{1,9})\.)?#?(\d{1,15})", name.strip())
        if match is None:
            raise ConfigurationError(f"{name} is no evaluation: type its number, such as 17, or 3.17 for one of job 3")
        job, task = (None if match[1] is None else int(match[1])), int(match[2])
        evaluations.check(run, (job, task))
        look = self._look(run)
        with look.lock:
            look.refresh(run)
            tries = views.tries(look.history, job, task)
        if not tries:
            raise ConfigurationError(f"the event log knows no evaluation {evaluations.named(job, task)}")
        lines = logs.of_evaluation(run, (job, task), tries[-1]["worker"], LINES)
        return {
            "evaluation": evaluations.named(job, task),
            "tries": tries,
            "traceback": _traceback(run, job, task),
            "log": "\n".join(lines),
        }

    def why(self, query: Query) -> dict[str, Any]:
        """Return all that is known about a job of a Cluster program."""
        run = self._find(query)
        text, traceback, note = jobs.why_of(_cluster(run), _whole(query.get("job", "")))
        return {"why": text, "traceback": traceback, "note": note}

    def picture(self, query: Query) -> bytes:
        """Return a picture that the program drew."""
        run = self._find(query)
        look = self._look(run)
        with look.lock:
            series = look.drawings.series.get(query.get("name", ""))
        if series is None or series.picture is None:
            raise ConfigurationError("there is no such picture")
        return plots.read_picture(series.picture)

    # ---- orders -----------------------------------------------------------------------------------------------------

    def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out {"run", "order": "retry", "jobs": [1], "changes": {...}}, or {"order": "set", "name", "value"}."""
        what, run = order.get("order"), self._find({"run": str(order.get("run", ""))})
        if what == "set":
            variable = ExtVar[object](str(order.get("name", ""))).of(run.home)
            text = variables.as_json_text(str(order.get("value", "")))
            extvar.write(variable.path, text, over=True)
            return {"said": f"{variable.name} is {text}"}
        numbers = order.get("jobs")
        if what not in ORDERS or not isinstance(numbers, list) or not all(type(it) is int for it in numbers):  # pyright: ignore[reportUnknownVariableType]
            raise ConfigurationError("that is no order that this page knows")
        more: dict[str, Any] = {"changes": _changes(order.get("changes"))} if what == "retry" else {}
        done, note = jobs.order(str(what), _cluster(run), [int(it) for it in numbers], **more)
        said = "; ".join(f"job {job.number} is {job.state}" for job in done)
        return {"said": "\n".join(filter(None, [said, note])), "jobs": [job_to_json(job) for job in done]}

    # ---- how it is done ---------------------------------------------------------------------------------------------

    def _find(self, query: Query) -> Run:
        return records.named(query.get("run", ""), self._base_dir)

    def _look(self, run: Run) -> Look:
        with self._lock:
            look = self._looks.pop(run.name, None) or Look()
            self._looks[run.name] = look
            while len(self._looks) > KEPT:
                self._looks.popitem(last=False)
            return look


def _cluster(run: Run) -> Any:
    if run.cluster is None:
        raise ConfigurationError(f"{run.name} is no Cluster program: it has no jobs")
    return run.cluster


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text):
        raise ConfigurationError(f"{text[:50]!r} is no whole number")
    return int(text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _charts(look: Look, now: float | None, query: Query) -> dict[str, Any]:
    """Return what is drawn. A function by itself, because the history takes nothing in while a table lives."""
    table = Table.of(look.history, now)
    return {
        "utilisation": views.utilisation(table),
        "functions": views.functions(table),
        "slowest": views.slowest(table),
        "failures": views.failures(look.history),
        "drawings": [views.drawing(series) for series in look.drawings.series.values()],
        "gantt": _gantt(look.history, now, query),
        "nodes": sorted({worker.node for worker in look.history.workers}, key=views.by_name)[:MOST_NODES],
    }


def _gantt(history: History, now: float | None, query: Query) -> dict[str, Any]:
    begin, end = _number(query.get("from", "")), _number(query.get("to", ""))
    window = (begin, end) if begin is not None and end is not None else None
    first, node = _whole(query.get("first") or "0"), query.get("node", "")
    return views.gantt(Table.of(history, now), window, first, node)


def _changes(given: object) -> dict[str, str]:
    """Return the options of a retry; what was left empty is as it was."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(it, str) for it in given.values()):  # pyright: ignore[reportUnknownVariableType]
        raise ConfigurationError("the changes of a retry are texts")
    return {str(name): str(value) for name, value in given.items() if value}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _listed(run: Run, now: float) -> dict[str, Any]:
    """Return a run as the list has it."""
    found, figures = run.record, run.figures()
    return {
        "name": run.name,
        "state": str(run.state(now)),
        "command": show.command(run),
        "began": None if found is None else found.began,
        "seconds": None if found is None else max(found.until(now) - found.began, 0.0),
        "where": show.where(run),
        "jobs": show.jobs(run),
        "done": figures.done,
        "failed": figures.failed,
        "used": figures.used,
        "held": figures.held,
    }


def about(run: Run, state: State, now: float, reading: Reading) -> dict[str, Any]:
    """Return what stands at the head of a run's page."""
    history, found = reading.history, run.record
    stands = _progress(run) if state in ALIVE and run.cluster is None else None
    return {
        "name": run.name,
        "title": show.command(run) or run.name,
        "state": str(state),
        "live": state in ALIVE,
        "headline": printable(f"run {run.name}: {show.headline(run, state, now)}"),
        "facts": list(show.about(run).items()),
        "tiles": _tiles(run, state, now, history, stands),
        "note": reading.note or _gone(run),
        "begin": history.first or (found.began if found is not None else 0.0),
    }


def _gone(run: Run) -> str:
    return "" if run.log_dir.is_dir() else f"its directory has gone, {run.home}, and nothing of its logs was kept"


def _progress(run: Run) -> Snapshot | None:
    """Return how a run stands now, if its head answers here."""
    with suppress(HyperflowError, KeyError, TypeError, ValueError):
        return Snapshot.from_json(head(run.home).get("/progress"))
    return None


def _tiles(run: Run, state: State, now: float, history: History, stands: Snapshot | None) -> list[dict[str, Any]]:
    counts = history.outcome.tobytes()
    done, failed = counts.count(Outcome.DONE), counts.count(Outcome.FAILED)
    running, waiting = counts.count(Outcome.RUNNING), counts.count(Outcome.WAITING)
    if stands is not None:
        done, failed = sum(it.done for it in stands.groups), sum(it.failed for it in stands.groups)
        running, waiting = sum(it.running for it in stands.groups), sum(it.waiting for it in stands.groups)
    alive = state in ALIVE
    figures, found = run.figures(), run.record
    tiles: list[dict[str, Any]] = [
        {"name": "Evaluations done", "value": f"{done:,}", "note": f"{running:,} running, {waiting:,} waiting" * alive},
        {
            "name": "Failed",
            "value": f"{failed:,}",
            "bad": failed > 0,
            "note": f"{figures.retried:,} tried again" * (figures.retried > 0),
        },
    ]
    if found is not None:
        tiles.append(
            {
                "name": "Running for" if alive else "Took",
                "value": age(max(found.until(now) - found.began, 0.0)),
                "note": show.RESUMED * (found.created < found.began),
            }
        )
    if stands is not None:
        lost = f"{stands.nodes_lost} lost" * (stands.nodes_lost > 0)
        asked = f"{stands.nodes_asked} asked for" * (stands.nodes_asked > 0)
        tiles.append(
            {
                "name": "CPUs busy",
                "value": f"{stands.busy} of {stands.cpus}",
                "note": ", ".join(filter(None, [f"{stands.nodes} node{'s' * (stands.nodes != 1)}", lost, asked])),
            }
        )
    elif figures.cpus:
        tiles.append(
            {"name": "CPUs", "value": str(figures.cpus), "note": f"on {figures.nodes} node{'s' * (figures.nodes != 1)}"}
        )
    if figures.held:
        share = f"{100 * figures.used / figures.held:.0f}% of {figures.held / 3600:.2f} held"
        tiles.append({"name": "CPU hours used", "value": f"{figures.used / 3600:.2f}", "note": share})
    return tiles


def _variables(run: Run) -> list[dict[str, str]]:
    return [{"name": name, "text": text[:1000]} for name, text in variables.texts(run.home).items()]


def _jobs(run: Run) -> dict[str, Any] | None:
    if run.cluster is None:
        return None
    try:
        found, _, note = jobs.jobs_of(run.cluster)
    except HyperflowError as error:
        return {"note": str(error), "jobs": [], "total": 0}
    return {
        "note": note,
        "jobs": [job_to_json(job) for job in found[:MOST_JOBS]],
        "total": len(found),
        "local": run.cluster.local,
    }


def _traceback(run: Run, job: int | None, task: int) -> str:
    """Return the traceback of a failure, from its capsule; "" if there is none."""
    with suppress(HyperflowError, OSError):
        for number, log_dir in evaluations.log_dirs(run):
            if number == job and (found := capsule.find(log_dir, task)) is not None:
                return found.about.trace
    return ""
