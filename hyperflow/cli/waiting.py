"""`hyperflow wait`: until a run has ended, wherever it runs."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Annotated

from cyclopts import Parameter

from hyperflow.cli import array_runs, fate, records
from hyperflow.cli.answers import BASE_DIR, BaseDir, Which
from hyperflow.cli.records import Run
from hyperflow.commands import history, sources
from hyperflow.commands.history import History
from hyperflow.errors import ConfigurationError
from hyperflow.records.record import State
from hyperflow.saying import printable
from hyperflow.sizes import to_seconds

TIMED_OUT = 124
"""The exit code of timeout(1)."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks at a run's record; what runs on this machine is waited for besides."""


def wait(
    which: Which = None,
    *,
    timeout: Annotated[str | None, Parameter(help="Seconds, or 10m, 2h: how long at most.")] = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Wait until a run has ended; the exit code is 0 if all is done.

    Of an array that means that each of its tasks is; of another program, that it came to its end without an error. Else
    it is 1; and 124 if the time is up before. A run that goes on is not disturbed by that, nor by Ctrl-C.
    """
    seconds = None if timeout is None else to_seconds("--timeout", _number(timeout))
    until = float("inf") if seconds is None else time.monotonic() + seconds
    try:
        run = _until_ended(records.find(which, base_dir), until)
    except KeyboardInterrupt:
        return 130
    if run is None:
        print("hyperflow: the time is up, and it goes on", file=sys.stderr)
        return TIMED_OUT
    return _told(run)


def _number(text: str) -> str | float:
    """Return a number of seconds as such."""
    try:
        return float(text)
    except ValueError:
        return text


def _until_ended(run: Run, until: float) -> Run | None:
    """Return a run when it has ended; None if the time is up before."""
    pause, asked = FIRST_PAUSE, time.monotonic()
    while True:
        ask = time.monotonic() - asked > fate.ASKING_OTHERS
        asked = time.monotonic() if ask else asked
        run = array_runs.again(run, ask=ask)
        if run.state(time.time()) not in (State.RUNNING, State.SILENT):
            return run
        left = until - time.monotonic()
        if left <= 0:
            return None
        _sleep(run, min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _sleep(run: Run, seconds: float) -> None:
    """Wait a while, or until the run's process has ended, if that is on this machine."""
    owner = None if run.record is None else run.record.owner
    fd = -1
    if owner is not None and owner.is_near() and not owner.is_gone():
        try:
            fd = os.pidfd_open(owner.pid)
        except OSError:
            fd = -1
    if fd < 0:
        time.sleep(seconds)
        return
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(seconds * 1000)
    finally:
        os.close(fd)


def _told(run: Run) -> int:
    """Say how a run has ended; return the exit code."""
    state = run.state(time.time())
    try:
        spec = history.spec_of(run.home)
    except ConfigurationError as error:
        print(f"hyperflow: {printable(str(error))}", file=sys.stderr)
        return 1
    if spec is None:
        said = run.record.error if run.record is not None else ""
        print(f"{run.name}: {state}" + (f": {printable(said)}" if said else ""), file=sys.stderr)
        return 0 if state is State.FINISHED else 1
    with sources.opened(run.home) as opened:
        tasks = History(opened, spec.count, {}, history.own_records(run.home, spec))
    counts = tasks.counts()
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    print(f"{run.name}: {state}; {told}", file=sys.stderr)
    return 0 if counts["done"] == len(tasks) else 1
