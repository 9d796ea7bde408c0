"""The history of a run, from the event logs of its jobs, also while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from hyperflow.cli import heads
from hyperflow.errors import HyperflowError
from hyperflow.events.reader import Follower
from hyperflow.viewing.history import History, LogPass

LogDirs: TypeAlias = Sequence[tuple[int | None, Path]]
"""The jobs of a run, each with its log directory."""


@attrs.define(eq=False)
class Reading:
    """What was read of a run so far; `note` is what is to be said about that."""

    history: History = attrs.field(factory=History)
    note: str = ""
    _which: object = None
    _logs: list[tuple[Follower, LogPass]] = attrs.field(factory=list["tuple[Follower, LogPass]"])

    def look(self, log_dirs: LogDirs, start: object = None) -> None:
        """Read what has come to a log of the same start of a run; several logs, and damaged ones, are read again."""
        which = list(log_dirs), start
        if len(log_dirs) != 1 or which != self._which or self.note:
            self.history, self.note, self._which, self._logs = History(), "", which, []
            for job, path in log_dirs:  # one after the other: each begins where the one before has ended
                self._logs.append((Follower(path / heads.EVENTS), LogPass(self.history, job)))
                self._take(*self._logs[-1])
        else:
            self._take(*self._logs[0])
        self.note = _incomplete(self.history) or self.note

    def _take(self, log: Follower, history: LogPass) -> None:
        try:
            history.read(log)
        except HyperflowError as error:
            if log.path.parent.is_dir() and any(log.path.parent.glob("events.*")):
                self.note = str(error)  # what was read before that place is shown
        history.finish()


def _incomplete(history: History) -> str:
    if history.dropped:
        told = ", ".join(f"{count:,} of {state}" for state, count in history.dropped.items())
        return f"the event log has reached its limit: from then on events were counted and not kept ({told})"
    if history.left_out:
        return f"{history.left_out:,} bytes of the event log were not kept: what is shown is not complete"
    return ""


def read(log_dirs: LogDirs) -> tuple[History, str]:
    """Return a run's history from its jobs and their log directories, and what is to be said about it."""
    reading = Reading()
    reading.look(log_dirs)
    return reading.history, reading.note
