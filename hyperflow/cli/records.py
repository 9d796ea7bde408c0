"""Runs of all kinds, as commands see them: those in a base directory, and those in the user's index.

A run directory may vanish while it is looked at: then it is as if it had not been there. So it is with those of other
users in a base directory that several share, unless one is named by its path.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import attrs

from hyperflow import program
from hyperflow.cli import runs
from hyperflow.control.client import owner
from hyperflow.errors import ConfigurationError
from hyperflow.events import segments
from hyperflow.records import index, record
from hyperflow.records.record import Figures, Record, State

Named: TypeAlias = tuple[str, bool]
"""A name that may be a run's, and whether it is in the index."""


@attrs.frozen
class Fate:
    """How a run stands as others tell it, Slurm or its machine; `words` says what they tell."""

    state: State
    words: str


@attrs.frozen
class Run:
    """A run on the disk.

    Args:
        name: Its id; in a base directory, the name of its directory.
        record: What it says of itself; None for one of an older version, or a damaged one.
        cluster: What is to know of the run of a Cluster program; None for others.
        fate: How it has ended as others tell it; None if they were not asked, or do not know.
    """

    name: str
    home: Path
    record: Record | None
    cluster: runs.Run | None = None
    fate: Fate | None = None

    @property
    def log_dir(self) -> Path:
        """Where its logs are, or the ends of them."""
        there = self.home / "log"
        return there if there.is_dir() else index.logs(self.name)

    def state(self, now: float) -> State:
        """Return how it stands, as far as that is known here."""
        if self.fate is not None:
            return self.fate.state
        if self.record is not None:
            return self.record.state(now)
        if self.cluster is not None and self.cluster.finished:
            return State.FINISHED
        if self.cluster is not None and owner(self.home) is not None:
            return State.RUNNING
        return State.UNKNOWN

    def seconds(self, now: float) -> float | None:
        """Return how long it took, until it ended or was last heard of; None if it has left no record."""
        if self.record is None:
            return None
        until = self.record.until(now)
        if self.fate is not None or self.state(now) is State.KILLED:
            until = self.record.alive
            with suppress(OSError):  # its event log was written more often
                until = max(until, (self.log_dir / segments.NAME).stat().st_mtime)
        return until - self.record.began

    def figures(self) -> Figures:
        """Return what it has had and done, with all of its jobs."""
        own = Figures() if self.record is None else self.record.figures
        if self.cluster is None:
            return own
        total = own._asdict()
        for path in _job_records(self.home):
            if (job := record.read(path)) is not None:
                for name, value in job.figures._asdict().items():
                    total[name] = max(total[name], value) if name in ("nodes", "cpus") else total[name] + value
        return Figures(**total)


def _job_records(home: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(home.glob(f"jobs/*/log.*/{record.NAME}"))
    return []


def _in(base_dir: Path, name: str) -> Run | None:
    home = base_dir / name
    with suppress(OSError):
        cluster = runs.read(home)
        found = record.read(home / "log" / record.NAME)
        if cluster is not None or found is not None or runs.is_lone_job(home):
            return Run(name, home, found, cluster)
    return None


def _in_index(name: str) -> Run | None:
    found = record.read(index.place(name))
    if found is None:
        return None
    home = Path(found.home)
    return Run(name, home, found, runs.read(home) if found.kind == "cluster" else None)


def _read(named: Named, base_dir: Path) -> Run | None:
    name, in_index = named
    if in_index:
        return _in_index(name)
    return _in(base_dir, name) if runs.is_ours(base_dir / name) else None


def _names(base_dir: Path) -> list[Named]:
    """Return what may be runs, the oldest first: ids begin with the time."""
    here: list[str] = []
    with suppress(OSError):
        here = os.listdir(base_dir)
    found = dict.fromkeys(index.names(), True) | dict.fromkeys(here, False)
    return sorted(found.items())


def newest(base_dir: Path, most: int | None) -> tuple[list[Run], int]:
    """Return the newest runs, the oldest of them first, and how many names were not looked at.

    No more is read than what is returned: there may be many thousands.
    """
    base_dir = base_dir.absolute()
    names = _names(base_dir)
    found: list[Run] = []
    while names and (most is None or len(found) < most):
        if (run := _read(names.pop(), base_dir)) is not None:
            found.append(run)
    return found[::-1], len(names)


def page(base_dir: Path, first: int, most: int) -> tuple[list[Run], int]:
    """Return runs, the newest first, beginning with the `first` newest name, and how many names there are."""
    base_dir = base_dir.absolute()
    names = _names(base_dir)[::-1]
    looked = (_read(named, base_dir) for named in names[first : first + most])
    return [run for run in looked if run is not None], len(names)


def named(name: str, base_dir: Path) -> Run:
    """Return the run of exactly this name; raises ConfigurationError if there is none, or no more."""
    if name in ("", ".", "..") or os.sep in name or "\0" in name:
        raise ConfigurationError(f"{name!r} is no name of a run")
    base_dir = base_dir.absolute()
    run = (_in(base_dir, name) if runs.is_ours(base_dir / name) else None) or _in_index(name)
    if run is None:
        raise ConfigurationError(f"there is no run {name} any more, or it was never there")
    return run


def find(which: str | None, base_dir: Path) -> Run:
    """Return the run with this id, beginning of an id, or directory; for None, the newest one.

    Raises:
        ConfigurationError: No run fits, or several do.
    """
    base_dir = base_dir.absolute()
    if which is None:
        found, _ = newest(base_dir, 1)
        if not found:
            raise runs.none_in(base_dir)
        return found[0]
    if os.sep in which or Path(which).is_dir():
        path = Path(which).absolute()
        if (run := _in(path.parent, path.name)) is not None:
            return run
    names = [named for named in _names(base_dir) if named[0].startswith(which)]
    exact = [named for named in names if named[0] == which]
    fitting = {Path(run.name): run for named in exact or names if (run := _read(named, base_dir)) is not None}
    return fitting[program.chosen(which, list(fitting), base_dir)]
