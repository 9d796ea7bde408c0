"""The heads of jobs on the disk: which there are, and what their event logs tell of their nodes.

A program under `main` has a head for each of its jobs; what `run_job_slurm` or `run_job_local` runs by itself is one.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import attrs

from hyperflow.cli import records, runs
from hyperflow.control import place
from hyperflow.control.client import NoMaster
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.events import reader, segments
from hyperflow.events.nodes import NodeState, node_states
from hyperflow.master import rundir
from hyperflow.pools.named import named
from hyperflow.records import record

EVENTS = segments.NAME


@attrs.frozen
class Head:
    """A job that runs or has run.

    Args:
        job: Its number in its program; None if it is no job of one.
        home: Its directory.
        log_dir: Where its event log is, that of its newest start.
    """

    job: int | None
    home: Path
    log_dir: Path

    @property
    def is_open(self) -> bool:
        """Whether it takes orders, unless it was killed."""
        return place.read(self.home) is not None

    @property
    def slurm_job(self) -> str:
        """The Slurm job that it is in; "" for none."""
        found = record.read(self.log_dir / record.NAME)
        return "" if found is None else found.slurm_job

    def nodes(self) -> list[NodeState]:
        """Return its nodes, as its event log has them."""
        try:
            states = node_states(reader.read(self.log_dir / EVENTS))
        except HyperflowError:
            return []  # it has not begun
        if self._was_killed():
            for state in states:
                state.end()
        return states

    def _was_killed(self) -> bool:
        address = place.read(self.home)
        return (
            address is not None and address.host == socket.gethostname() and not Path(f"/proc/{address.pid}").exists()
        )


def find(which: str | None, base_dir: Path) -> Path:
    """Return the directory of a run, or of a job that was run by itself: by id, beginning of an id, or directory.

    Raises:
        ConfigurationError: None fits, or several do.
    """
    if which is not None and _is_one(Path(which)):
        return Path(which).absolute()
    try:
        run = records.find(which, base_dir)
    except ConfigurationError as error:
        if which is not None and named.NAME.fullmatch(which) and named.read(which) is not None:
            raise ConfigurationError(
                f"{which} is the name of a pool, and no run: `hyperflow pool info {which}` shows its nodes, and "
                "`hyperflow nodes RUN` those that it lends to a program"
            ) from error
        raise
    if which is not None and run.cluster is not None and run.home.parent == base_dir.absolute():
        runs.find(run.name, base_dir)  # which looks whether it is that run
    return run.home


def with_pool(which: str | None, base_dir: Path) -> Head:
    """Return the head that can be asked about a pool: that of a running program, or the manager of a named pool.

    Raises:
        ConfigurationError: None fits, or several do.
        NoMaster: It does not run.
    """
    if which is not None and named.NAME.fullmatch(which) and (pool := named.read(which)) is not None:
        if pool.state != "elsewhere":  # who asks goes there
            pool.address()
        return Head(None, pool.home, pool.home / named.LOG)
    try:
        home = find(which, base_dir)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; `hyperflow pool list` shows pools with names") from error
    running = [one for one in of(home) if one.is_open]
    if not running:
        raise NoMaster(f"{home} does not run now; `hyperflow nodes` shows the nodes that it had")
    if len(running) > 1:
        raise ConfigurationError(f"{home} has several jobs that run, and no pool: each has an allocation of its own")
    return running[0]


def all_in(base_dir: Path) -> list[Path]:
    """Return the directories of runs, and of jobs that were run by themselves, the oldest first."""
    with suppress(OSError):
        return [home for home in sorted(base_dir.absolute().iterdir()) if _is_one(home)]
    return []


def _is_one(home: Path) -> bool:
    return (home / "program.json").exists() or runs.is_lone_job(home)


def of(home: Path) -> list[Head]:
    """Return the heads in a run's directory, or in that of a job that was run by itself."""
    if not (home / "jobs").is_dir():
        return [Head(None, home, home / "log")]
    found: list[Head] = []
    for directory in rundir.job_directories(home):
        logs = sorted(directory.path.glob("log.*"), key=lambda path: [int(part) for part in path.name.split(".")[1:]])
        if logs:
            found.append(Head(int(directory.path.name), directory.path, logs[-1]))
    return found
