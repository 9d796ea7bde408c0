"""A program: one run of a user's script, with an id, a database and directories of its own.

    base_dir/
      <program_id>/
        results.sqlite     the results database
        log/               one file per worker and launcher, and events.jsonl
        data/              work directories (`new_work_dir`)

Guarantees: only the user can enter the directories that are made, those above included (mode 0700, whatever the umask:
they hold pickles and logs). They are made before any work starts, and one that cannot be written is an error then. A
program never changes an earlier one's files.

The database may be on a PostgreSQL server instead. Its URL is printed, logged and sent to other nodes, so a password in
it is refused.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from hyperflow import files, private, saying
from hyperflow.errors import ConfigurationError


def _make_private(path: Path) -> None:
    """Make a directory that only its owner can enter, and try to write in it."""
    try:
        private.make_all(path)
        probe = path / f".probe-{os.getpid()}-{os.urandom(4).hex()}"
        with probe.open("xb") as file:
            file.write(b"x" * 4096)  # more than nothing, because a full disk still takes an empty file
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write in {path}: {error.strerror or error}; choose another place, by --base-dir or "
            "ProgramInfo.new(base_dir), or free space there"
        ) from error


def chosen(which: str, homes: Sequence[Path], base_dir: Path) -> Path:
    """Return that of the directories of runs, the oldest first, which an id or its beginning means.

    Raises:
        ConfigurationError: None fits, or several do.
    """
    fitting = [home for home in homes if home.name.startswith(which)]
    fitting = [home for home in fitting if home.name == which] or fitting
    if not fitting:
        there = f"no run in {base_dir.absolute()}, and no directory of one"
        shown = "`hyperflow runs` shows what there is, and --base-dir names another place"
        raise ConfigurationError(f"{which!r} is {there}; {shown}")
    if len(fitting) > 1:
        names = ", ".join(home.name for home in fitting[-5:])
        raise ConfigurationError(f"{len(fitting)} runs begin with {which!r}, {names} among them: say more of the id")
    return fitting[0]


CONTINUED = "HYPERFLOW_CONTINUED_RUN"
"""The variable by which `hyperflow resume` names the directory of the run that a program is to go on with."""

_TEMPORARY = "hyperflow-"
"""What the names of temporary directories begin with; after it comes the id of the program."""

_URL = r"[A-Za-z][A-Za-z0-9+.-]*://|postgres(ql)?:"
_HOST = r"(\[[0-9A-Fa-f:.%]*\]|[^\[\]:/?#@]*)(:[0-9]*)?"
_SERVER_URL = rf"postgres(ql)?://([^:/?#@]*@)?{_HOST}(,{_HOST})*(/[^?#:@]*)?(\?[^#]*)?"


def is_url(database: str | os.PathLike[str]) -> bool:
    """Tell whether a database is a URL; otherwise it is a file's path."""
    return isinstance(database, str) and re.match(_URL, database) is not None


def checked_url(url: str) -> str:
    """Return the URL of a PostgreSQL server; raise ConfigurationError if it is not one, or contains a password."""
    scheme, _, rest = url.partition(":")
    shown = f"database='{scheme}://...'"  # the rest may contain a password
    if scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"{shown}: a results database is a file's path, or postgresql://user@host/database for a server"
        )
    options = {option.partition("=")[0] for option in rest.partition("?")[2].split("&")}
    if ":" in rest.rpartition("@")[0] or options & {"password", "sslpassword"}:
        raise ConfigurationError(
            f"{shown}: no password in the URL, because it is printed and logged. Put it into ~/.pgpass (chmod 600), "
            "one line for each: HOST:PORT:DATABASE:USER:PASSWORD; or into the file that PGPASSFILE names"
        )
    if not re.fullmatch(_SERVER_URL, url):
        raise ConfigurationError(f"{shown} is not the URL of a server, such as postgresql://user@host:5432/database")
    return url


def _place(database: str | os.PathLike[str]) -> Path | str:
    return checked_url(str(database)) if is_url(database) else Path(database).absolute()


@attrs.frozen
class ProgramInfo:
    """The directories and the database of one run of a program; make one with `ProgramInfo.new(base_dir)`.

    Args:
        program_id: Unique for this run; starts with the time, so that ids sort by age.
        database: The results database's file; a str is the URL of a server.
        log_dir: Logs of workers and launchers, and the event log.
        data_dir: Work directories.
        temporary: Whether to remove the directories at the end of a run that succeeded.
        start_from: An earlier database, copied to `database` before that is first opened.
        call: In a Slurm job of a Cluster, which call of a job it runs; random streams depend on it.
    """

    program_id: str
    database: Path | str
    log_dir: Path
    data_dir: Path
    temporary: bool = False
    start_from: Path | None = None
    call: str = ""

    @classmethod
    def new(
        cls,
        base_dir: str | os.PathLike[str],
        *,
        database: str | os.PathLike[str] | None = None,
        start_from: str | os.PathLike[str] | None = None,
    ) -> ProgramInfo:
        """Make the directories of a new program under `base_dir`.

        Args:
            base_dir: Made if it does not exist.
            database: A database file to continue or to make, which one process at a time may open; by default one in
                the program's directory. Or `postgresql://user@host/database`, which many processes may open; that
                needs `pip install 'hyperflow[postgresql]'`, and the password comes from `~/.pgpass`.
            start_from: An earlier program's database. It is copied, never changed: its results count as known, and
                newer ones hide them. Not together with a server.

        Raises:
            ConfigurationError: A directory cannot be made or written; an argument makes no sense.
        """
        where = None if database is None else _place(database)
        if start_from is not None:
            if is_url(start_from):
                raise ConfigurationError("start_from copies a file; to go on with a database on a server: database=URL")
            if isinstance(where, str):
                raise ConfigurationError(
                    f"start_from={start_from}: only a file can be copied to begin with. The database {where} keeps "
                    "what earlier programs recorded there: without start_from, this one goes on from it"
                )
            if not Path(start_from).is_file():
                raise ConfigurationError(f"start_from={start_from}: there is no such file")
            if where is not None and where.exists():
                raise ConfigurationError(f"start_from={start_from}: {where} exists already")
        program_id = _moment() + os.urandom(3).hex()
        program = cls._under(Path(base_dir).absolute() / program_id, program_id, where)
        return program if start_from is None else attrs.evolve(program, start_from=Path(start_from).absolute())

    @classmethod
    def temporary_one(cls) -> ProgramInfo:
        """Make a program in a temporary directory, removed after a run that succeeds and kept after one that fails."""
        home = files.make_temporary(_TEMPORARY + _moment())
        return attrs.evolve(cls._under(home, home.name.removeprefix(_TEMPORARY)), temporary=True)

    @classmethod
    def existing(cls, home: str | os.PathLike[str], program_id: str, database: str | os.PathLike[str]) -> ProgramInfo:
        """Return a program whose directory exists, to continue it; raises as `new` does."""
        return cls._under(Path(home).absolute(), program_id, _place(database))

    @classmethod
    def _under(cls, home: Path, program_id: str, database: Path | str | None = None) -> ProgramInfo:
        if reason := saying.unfit_name(str(home)):
            raise ConfigurationError(f"{str(home)!r} cannot be a program's directory: {reason}; choose another place")
        program = cls(program_id, database or home / "results.sqlite", home / "log", home / "data")
        for directory in (home, program.log_dir, program.data_dir):
            _make_private(directory)
        return program

    def remove(self) -> None:
        """Remove the directories of a temporary program."""
        if self.temporary:
            files.remove_tree(self.log_dir.parent)


def _moment() -> str:
    """Return how an id begins now: with the time to a microsecond, for two runs of one second are told apart."""
    now = time.time()
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now % 1 * 1e6):05x}"
