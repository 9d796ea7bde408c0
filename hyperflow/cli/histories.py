"""The history of a run, from the event logs of its jobs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hyperflow.cli import heads
from hyperflow.errors import HyperflowError
from hyperflow.events import reader
from hyperflow.viewing.history import History, LogPass


def read(log_dirs: Iterable[tuple[int | None, Path]]) -> tuple[History, str]:
    """Return a run's history from its jobs and their log directories, and what is to be said about it."""
    history, wrong = History(), ""
    for job, log_dir in log_dirs:
        one = LogPass(history, job)
        try:
            one.add(reader.read(log_dir / heads.EVENTS))
        except HyperflowError as error:
            if log_dir.is_dir() and any(log_dir.glob("events.*")):
                wrong = str(error)  # what was read before that place is shown
        one.finish()
    if history.left_out:
        wrong = f"{history.left_out:,} bytes of the event log were not kept: what is shown is not complete"
    if history.dropped:
        told = ", ".join(f"{count:,} of {state}" for state, count in history.dropped.items())
        wrong = f"the event log has reached its limit: from then on events were counted and not kept ({told})"
    return history, wrong
