"""`hyperflow output`: what tasks have written, byte for byte, in the order of their numbers; also while they run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from hyperflow.cli import array_runs
from hyperflow.cli.answers import BASE_DIR, BaseDir
from hyperflow.cli.array_runs import FAILED, ArrayRun
from hyperflow.commands import history, sources
from hyperflow.commands.history import Followed, History, Stands
from hyperflow.commands.records import Stream
from hyperflow.commands.sources import Source
from hyperflow.commands.written import Written
from hyperflow.errors import ConfigurationError

PAUSE = 0.25
"""Seconds between two looks at a task that is followed."""

NAMED = 20
"""So many tasks without output are named; more are counted."""


def output(
    *words: Annotated[
        str,
        Parameter(
            help="[RUN] [TASKS]. RUN is its id, the beginning of it, or its directory; by default the newest. TASKS "
            "are numbers (17, or 3,17-20), or failed; by default all."
        ),
    ],
    stderr: Annotated[bool, Parameter(negative="", help="Their error output, in place of their output.")] = False,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative="", help="Go on until the task ends; of one task.")
    ] = False,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Print what tasks have written, in the order of their numbers, byte for byte.

    Of a task that was tried again, this is what its last try has written. Of one that runs, it is what has come so far:
    what it writes comes every half second, of a long one every two. The first 64 MB of each stream are kept.

    The exit code is 1 if a task that is named has not run.
    """
    which, chosen = array_runs.split("output", words)
    array = ArrayRun.find(which, base_dir)
    stream: Stream = "err" if stderr else "out"
    if follow:
        if not chosen.isdigit():
            raise ConfigurationError("--follow shows one task: type hyperflow output [RUN] NUMBER --follow")
        return _Follower(array, array.chosen(chosen)[0], stream).run()
    goes_on = array.goes_on()
    numbers = array.chosen(chosen) if chosen not in ("", FAILED) else None
    with sources.opened(array.run.home) as opened:
        tasks = array.history(opened, goes_on=goes_on, only=numbers)
        if chosen == FAILED:
            numbers = list(tasks.numbers("failed"))
        written = Written(stream, None if numbers is None else set(numbers))
        written.look(opened)
        missing: list[int] = []
        for number in tasks.numbers() if numbers is None else numbers:
            stands = tasks.stands(number)
            token = _token(stands, written, shared=array.shares_database)
            end = _print(opened, written, number, token, 0)
            _say_what_is_left_out(stands, stream, token, end)
            if not token and stands.state not in ("done", "failed"):
                missing.append(number)
    sys.stdout.flush()
    if missing and numbers is not None:
        _say_missing(missing, tasks)
    elif missing:
        count = f"{len(missing):,} of {len(tasks):,} tasks"
        _say(f"{count} have not run, or have written nothing yet; hyperflow tasks says more")
    return 1 if missing and numbers is not None else 0


def _token(stands: Stands, written: Written, *, shared: bool) -> str:
    """Return the try whose output counts: that which runs, else the one that is recorded, else the newest.

    Where the database has tasks of other arrays, too, the newest may be one of theirs: nothing says whose a piece is.
    """
    if stands.running:
        return stands.running.token
    if stands.record is not None and stands.record.token:
        return stands.record.token
    return "" if shared else written.newest(stands.number)


def _print(opened: Sequence[Source], written: Written, number: int, token: str, start: int) -> int:
    """Print a try's output from a place on; return where it ends."""
    for place, data in written.read(opened, number, token, start):
        if place > start:
            _say(f"task {number}: {place - start} bytes from {start} on are missing")
        _write(data)
        start = place + len(data)
    return start


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)


def _say(text: str) -> None:
    sys.stdout.flush()
    print(f"hyperflow: {text}", file=sys.stderr)


def _say_what_is_left_out(stands: Stands, stream: Stream, token: str, end: int) -> None:
    record = stands.record
    if record is None or stands.running or record.token != token:
        return
    size = record.out if stream == "out" else record.err
    if size > end:
        _say(f"task {stands.number} has written {size} bytes, of which the first {end} are kept")


def _say_missing(missing: Sequence[int], tasks: History) -> None:
    for number in missing[:NAMED]:
        state = tasks.state(number)
        _say(f"task {number} is {state}: " + ("it has written nothing yet" if state == "running" else "it has not run"))
    if missing[NAMED:]:
        _say(f"and {len(missing) - NAMED} more tasks have not run")


class _Follower:
    """Prints what a task writes until it ends."""

    def __init__(self, array: ArrayRun, number: int, stream: Stream) -> None:
        self._array = array
        self._task = Followed(number, history.own_records(array.run.home, array.spec))
        self._stream: Stream = stream
        self._written = Written(stream, {number})
        self._token = ""
        self._end = 0

    def run(self) -> int:
        """Go on until the task has ended, or the run has, or Ctrl-C; return the exit code."""
        number = self._task.number
        try:
            while True:
                goes_on = self._array.goes_on()  # before the look: what was recorded by then is seen
                stands = self._look(goes_on)
                sys.stdout.flush()
                if stands.record is not None and stands.running is None:
                    break
                if not goes_on:
                    _say(f"task {number} is {stands.state}, and {self._array.run.name} does not run")
                    return 1
                time.sleep(PAUSE)
        except KeyboardInterrupt:
            return 130
        _say_what_is_left_out(stands, self._stream, self._token, self._end)
        if not self._token and stands.state in ("skipped", "cancelled"):
            _say(f"task {number} is {stands.state}: it has not run")
            return 1
        return 0

    def _look(self, goes_on: bool) -> Stands:
        """Print what has come; return how the task stands."""
        home, number = self._array.run.home, self._task.number
        running = history.running_in(home).get(number) if goes_on else None
        with sources.opened(home) as opened:
            stands = self._task.look(opened, running)
            if running is not None and stands.record is not None and stands.record.token == running.token:
                stands = stands._replace(running=None, state=stands.record.state)  # it has ended since
            self._written.look(opened)
            token = _token(stands, self._written, shared=self._array.shares_database)
            if token != self._token:
                if self._token and self._end:
                    _say(f"task {number} is tried again")
                self._token, self._end = token, 0
            self._end = _print(opened, self._written, number, token, self._end)
        return stands
