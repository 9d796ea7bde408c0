"""The record of a run: who runs what, where, since when, and how it ended. A small JSON file, for people and lists.

    <program>/log/run.json                              beside the event log
    <state directory>/hyperflow/runs/<run>.json         the same, for runs that were given no place (see `index`)

Guarantees: the file is there as a whole or not at all. Nothing of it is ever unpickled or run. What another user could
have written, what is damaged and what a newer version wrote is not used. Its texts may hold anything that a program's
command line, errors and results hold; who shows them makes them printable first.

NamedTuple and not attrs, and annotations that are no texts: each run imports this, and to make these classes takes
10 ms otherwise, or 1 ms.
"""

import enum
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

import attrs

from hyperflow import checked_files, files
from hyperflow._version import __version__
from hyperflow.checked_files import Damaged
from hyperflow.database.ownership import Owner
from hyperflow.program import ProgramInfo

FORMAT = 1
"""Goes up with incompatible changes only; members may be added without."""

NAME = "run.json"

SILENCE = 120.0
"""A run on another machine whose record is older than these many seconds counts as silent."""

LATE = 50.0
"""A record of another machine that is older than these many seconds has missed two of its writes."""

LONGEST = 2000
"""Characters of an error, or of a word of the command line, that are kept."""

MOST_WORDS = 200
"""Words of the command line that are kept."""


class State(enum.StrEnum):
    """How a run stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ALLOCATION_ENDED = "allocation ended"
    KILLED = "killed"  # its process has gone, and did not say why
    SILENT = "silent"  # nothing was heard of it for a while, and from here nobody can know more
    UNKNOWN = "unknown"  # it has left no record that can be read


class Figures(NamedTuple):
    """What a run has had and done so far.

    Args:
        nodes: The most nodes that it had at a time; `cpus` likewise.
        done: Evaluations that have ended with a result; `failed`, `cancelled` and `retried` likewise.
        used: Seconds of CPUs that evaluations had which have ended.
        held: Seconds of CPUs that the run had.
    """

    nodes: int = 0
    cpus: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    used: float = 0.0
    held: float = 0.0


class Record(NamedTuple):
    """One run, or one start of it where it was resumed.

    Args:
        run: Its id.
        kind: "job" or "cluster".
        home: Its directory; a temporary one is gone after a success.
        owner: Its process.
        argv: The command line.
        slurm_job: The Slurm job that it is in; "" for none.
        created: When it was started first; `began`: this time. Seconds since 1970, as the other times.
        alive: When it has last written this.
        outcome: How it ended: one of `State`; "" while it runs.
        error: With what it has failed.
        result: Its result in a line, where it is known.
    """

    run: str
    kind: str
    home: str
    log_dir: str
    database: str
    temporary: bool
    user: str
    owner: Owner
    argv: tuple[str, ...]
    directory: str
    slurm_job: str
    versions: dict[str, str]
    created: float
    began: float
    alive: float
    ended: float | None = None
    outcome: str = ""
    error: str = ""
    result: str = ""
    figures: Figures = Figures()

    @classmethod
    def of_this_process(cls, program: ProgramInfo, kind: str) -> Self:
        """Return the record of a run that begins here and now."""
        now, log_dir = time.time(), program.log_dir
        earlier = read(log_dir / NAME)
        return cls(
            run=program.program_id,
            kind=kind,
            home=str(log_dir.parent),
            log_dir=str(log_dir),
            database=str(program.database),
            temporary=program.temporary,
            user=_user(),
            owner=Owner.this_process(program.program_id),
            argv=tuple(word[:LONGEST] for word in sys.argv[:MOST_WORDS]),
            directory=_directory(),
            slurm_job=os.environ.get("SLURM_JOB_ID", ""),
            versions=_versions(),
            created=now if earlier is None else earlier.created,
            began=now,
            alive=now,
        )

    def state(self, now: float) -> State:
        """Return how the run stands, as far as it can be known here."""
        if self.outcome:
            return State(self.outcome)
        if self.owner.is_gone():
            return State.KILLED
        if not self.owner.is_near() and now - self.alive > SILENCE:
            return State.SILENT
        return State.RUNNING

    def is_late(self, now: float) -> bool:
        """Whether it runs on another machine, as far as is known here, and has not been heard of when it should."""
        return self.state(now) in (State.RUNNING, State.SILENT) and not self.owner.is_near() and now - self.alive > LATE

    def until(self, now: float) -> float:
        """Return when the run ended, or was last heard of; for one that runs, now."""
        if self.ended is not None:
            return self.ended
        return now if self.state(now) is State.RUNNING else self.alive

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON has it."""
        return {
            "format": FORMAT,
            **self._asdict(),
            "owner": attrs.asdict(self.owner),
            "figures": self.figures._asdict(),
        }


def read(place: checked_files.Place) -> Record | None:
    """Return a run's record; None if there is none, or none that can be used."""
    try:
        data = files.from_json(checked_files.read_private(place))
        return _from_json(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, Damaged):
        return None


def _from_json(data: dict[str, Any]) -> Record:
    """Return the record that JSON describes; raises all sorts of errors if it describes none."""
    if data["format"] > FORMAT:
        raise ValueError("it was written by a newer version")
    owner = Owner.from_text(json.dumps(data["owner"]))
    if owner is None:
        raise ValueError("it names no process")
    known: dict[str, Any] = {name: data[name] for name in Record._fields if name in data}
    told = data.get("figures", {})
    figures = {name: _number(told[name]) for name in Figures._fields if name in told}
    known |= {"owner": owner, "argv": tuple(map(str, data["argv"])), "figures": Figures(**figures)}
    record = Record(**known)
    for name in ("run", "kind", "home", "log_dir", "database", "user", "directory", "slurm_job", "error", "result"):
        if not isinstance(getattr(record, name), str):
            raise TypeError(name)
    for name in ("created", "began", "alive"):
        _number(getattr(record, name))
    if record.ended is not None:
        _number(record.ended)
    if record.outcome:
        State(record.outcome)
    if not isinstance(record.versions, dict):  # pyright: ignore[reportUnnecessaryIsInstance] (it comes from a file)
        raise TypeError("versions")
    return record


def _number(value: Any) -> Any:
    if type(value) not in (int, float):
        raise TypeError(value)
    return value


def write(path: Path, record: Record) -> None:
    """Write a run's record; raises OSError."""
    write_text(path, to_text(record))


def to_text(record: Record) -> bytes:
    """Return what a record's file holds."""
    return json.dumps(record.to_json()).encode() + b"\n"


def write_text(path: Path, text: bytes) -> None:
    """Write a record's file; raises OSError. What a crash of the machine loses of it, nothing depends on."""
    try:
        files.write_whole(path, text, durable=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _written_over(path, text):
            raise


def _written_over(path: Path, text: bytes) -> bool:
    """Write a record over the last one, where a full disk has room for it; return False if that cannot be.

    Otherwise a run that has ended would be taken for one that was killed. For a moment a reader may see half of it.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        there = os.fstat(number)
        text = text.ljust(there.st_size)  # blanks at the end are no part of JSON
        return len(text) <= 512 * there.st_blocks and os.pwrite(number, text, 0) == len(text)
    except OSError:
        return False
    finally:
        os.close(number)


def _user() -> str:
    # Not from the password database: it may be on a server, and that may hang.
    return os.environ.get("USER") or os.environ.get("LOGNAME") or str(os.geteuid())


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _versions() -> dict[str, str]:
    """Return the versions of what results may depend on, of what is imported already."""
    found = {"hyperflow": __version__, "python": sys.version.split()[0]}
    for name in ("numpy", "scipy"):
        version: Any = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found
