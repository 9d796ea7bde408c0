"""`hyperflow logs`: what evaluations have printed, with time, worker and evaluation, also while they run."""

from __future__ import annotations

import heapq
import os
import re
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter

from hyperflow.cli import evaluations, fate, heads, records
from hyperflow.cli.answers import BASE_DIR, BaseDir, answering
from hyperflow.cli.evaluations import Named
from hyperflow.cli.records import Run
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.events import reader
from hyperflow.events.summary import Failure, summarise
from hyperflow.files import opened
from hyperflow.records.record import State
from hyperflow.saying import printable
from hyperflow.worker.log import OF_OTHERS

MARKED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \[(?:#(\d+) )?([^\]]*)\] (.*)", re.DOTALL)
"""A line of a worker's log (worker/log.py): when, which evaluation, of which function."""

FILE_NAME = re.compile(r"worker-(.*)-(\d+)\.log")

MOST_UNMARKED = 10_000
"""So many lines of other processes wait for the line that says whose they are."""

LOOKED_AT = 4_000_000
"""Bytes at the end of a log in which the lines of one evaluation are looked for."""

PAUSE = 0.25
"""Seconds between looks at the logs of a run that goes on."""


@attrs.frozen
class Line:
    """A line of a log; `task` is the evaluation's number, None where no evaluation wrote it."""

    time: str
    job: int | None
    worker: str
    task: int | None
    name: str
    text: str

    def shown(self) -> str:
        """Return it for people."""
        job = "" if self.job is None else f"{self.job}."
        who = f"{job}#{self.task} {self.name}" if self.task is not None else self.name
        return printable(f"{self.time} {self.worker} [{who}] {self.text}")


@attrs.define(eq=False)
class LogFile:
    """A worker's log, read piece by piece."""

    path: Path
    job: int | None
    worker: str
    _offset: int = 0
    _unmarked: list[str] = attrs.field(factory=list[str])
    _last: tuple[str, int | None, str] = ("", None, "")

    def new(self) -> Iterator[Line]:
        """Yield the lines that have come since the last look; raises nothing if the file has gone."""
        try:
            file = opened(self.path)
        except OSError:
            return
        with file:
            file.seek(self._offset)
            for raw in file:
                if not raw.endswith(b"\n"):
                    return  # it is being written
                self._offset += len(raw)
                yield from self._read(raw[:-1].decode(errors="replace"))

    def skip(self, left: int) -> None:
        """Leave out what is before so many bytes at the end."""
        with suppress(OSError), self.path.open("rb") as file:
            start = file.seek(0, os.SEEK_END) - left
            if start > self._offset:
                file.seek(start)
                self._offset = start + len(file.readline())

    def _read(self, text: str) -> Iterator[Line]:
        match = MARKED.fullmatch(text)
        if match is None:
            self._unmarked.append(text)
            if len(self._unmarked) > MOST_UNMARKED:
                yield from self.rest()
            return
        moment, task, name, said = match.groups()
        self._last = moment, int(task) if task is not None else None, name
        yield from self.rest()
        if said != OF_OTHERS:
            yield self._line(said)

    def rest(self) -> Iterator[Line]:
        """Yield the lines of other processes: they are of the evaluation that writes next, or else wrote last."""
        lines, self._unmarked = self._unmarked, []
        yield from map(self._line, lines)

    def _line(self, text: str) -> Line:
        moment, task, name = self._last
        return Line(moment, self.job, self.worker, task, name, text)

    def all(self) -> Iterator[Line]:
        """Yield all lines that are there."""
        yield from self.new()
        yield from self.rest()


@attrs.frozen
class Wanted:
    """Which lines are asked for: of some evaluations, by job and number, or all."""

    tasks: Collection[tuple[int | None, int]] | None = None

    def has(self, line: Line) -> bool:
        return self.tasks is None or (line.task is not None and (line.job, line.task) in self.tasks)


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(logs))


def logs(
    *words: Annotated[
        str,
        Parameter(
            help="[RUN] [EVALUATION]. RUN is its id, the beginning of it, or its directory; by default the newest. "
            "EVALUATION is a number, as in errors and logs; in a Cluster program JOB.NUMBER."
        ),
    ],
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on until the run ends.")] = False,
    failed: Annotated[
        bool, Parameter(negative="", help="Show what evaluations printed that have failed, and their errors.")
    ] = False,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Show what evaluations have printed, each line with its time, worker and evaluation.

    Lines of programs that an evaluation has started have the time of the evaluation's next line.
    """
    which, evaluation = evaluations.split("logs", words)
    run = records.find(which, base_dir)
    wanted = Wanted()
    if evaluation is not None:
        evaluations.check(run, evaluation)
        wanted = Wanted({evaluation})
    if failed:
        if follow:
            raise ConfigurationError("--failed shows what has failed so far, and does not --follow")
        return _show_failed(run, wanted)
    files = {log.path: log for log in _files(run)}
    shown = 0
    for line in heapq.merge(*(log.new() if follow else log.all() for log in files.values()), key=lambda it: it.time):
        shown += _print(line, wanted)
    if follow:
        _follow(run, files, wanted)
    elif not shown:
        what = (
            "nothing was printed"
            if evaluation is None
            else f"evaluation {evaluations.named(*evaluation)} has printed nothing"
        )
        print(f"{what} in {printable(str(run.log_dir))}", file=sys.stderr)
    return 0


def _files(run: Run) -> list[LogFile]:
    """Return the logs of a run's workers that are there now."""
    found: list[LogFile] = []
    for job, log_dir in evaluations.log_dirs(run):
        try:
            paths = sorted(log_dir.iterdir())
        except OSError:  # it has gone
            continue
        matches = [(path, FILE_NAME.fullmatch(path.name)) for path in paths]
        found += [LogFile(path, job, f"worker-{match[2]}@{match[1]}") for path, match in matches if match]
    return found


def of_evaluation(run: Run, evaluation: Named, worker: str, most: int) -> list[str]:
    """Return the last lines of an evaluation that was on a worker, from the last part of that worker's log."""
    found: deque[str] = deque(maxlen=most)
    for log in _files(run):
        if (log.job, log.worker) == (evaluation[0], worker):
            log.skip(LOOKED_AT)
            found.extend(line.shown() for line in log.all() if line.task == evaluation[1])
    return list(found)


def _print(line: Line, wanted: Wanted) -> bool:
    if not wanted.has(line):
        return False
    print(line.shown())
    return True


def _follow(run: Run, files: dict[Path, LogFile], wanted: Wanted) -> None:
    """Print what comes, until the run has ended and all is printed."""
    name = str(run.home) if run.home.is_dir() else run.name
    others_asked = time.monotonic()
    try:
        while True:
            ask = time.monotonic() - others_asked > fate.ASKING_OTHERS
            others_asked = time.monotonic() if ask else others_asked
            going_on = _goes_on(run, name, ask)
            for log in _files(run):
                files.setdefault(log.path, log)
            for log in files.values():
                for line in log.new() if going_on else log.all():
                    _print(line, wanted)
            sys.stdout.flush()
            if not going_on:
                return
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return


def _goes_on(run: Run, name: str, ask: bool) -> bool:
    """Tell whether the run goes on; `ask` others, if nothing is heard of it."""
    now = time.time()
    try:
        found = records.find(name, run.home.parent)
        return (fate.asked_for(found, now) if ask else found).state(now) in (State.RUNNING, State.SILENT)
    except ConfigurationError:
        print(f"hyperflow: {printable(str(run.home))} was removed", file=sys.stderr)
        return False


def _show_failed(run: Run, wanted: Wanted) -> int:
    """Show each failure, and what the evaluation printed."""
    failures: list[tuple[int | None, Failure]] = []
    more = 0
    for job, log_dir in evaluations.log_dirs(run):
        try:
            summary = summarise(reader.read(log_dir / heads.EVENTS))
        except HyperflowError as error:
            if (log_dir / heads.EVENTS).exists():
                print(f"hyperflow: {error}", file=sys.stderr)
            continue
        more += summary.failed - len(summary.failures)
        failures += [(job, one) for one in summary.failures if wanted.tasks is None or (job, one.task) in wanted.tasks]
    tasks = {(job, one.task) for job, one in failures}
    printed: dict[tuple[int | None, int], list[Line]] = {}
    for log in _files(run):
        for line in log.all():
            if line.task is not None and (line.job, line.task) in tasks:
                printed.setdefault((line.job, line.task), []).append(line)
    for job, one in sorted(failures, key=lambda it: it[1].t):
        again = ", then tried again" if one.retried else ""
        where = f" on {one.worker}" if one.worker else ""
        call = one.call or one.function
        print(printable(f"evaluation {evaluations.named(job, one.task)} of {call}{where}{again}: {one.error}"))
        for line in printed.pop((job, one.task), ()):
            print(f"  {line.shown()}")
    if not failures:
        print("nothing has failed", file=sys.stderr)
    if more:
        print(f"and {more} more failures, which the event log has", file=sys.stderr)
    return 0
