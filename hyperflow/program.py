"""A program: one run of a user's script, with an id, a database and directories of its own.

    base_dir/
      <program_id>/
        results.sqlite     the results database
        log/               one file per worker and launcher, and events.jsonl
        data/              work directories (`new_work_dir`)

Guarantees: directories are made for their user alone (mode 0700: they hold pickles and logs), before any work
starts, and one that cannot be written is refused then. Earlier programs are never changed by a later one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import attrs

from hyperflow.errors import ConfigurationError


def _make_private(path: Path) -> None:
    """Make a directory that only its owner can enter, and try that it can be written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        with probe.open("xb") as file:
            file.write(b"x" * 4096)  # more than nothing, because a full disk still takes an empty file
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write in {path}: {error.strerror or error}; choose another place with "
            "ProgramInfo.new(base_dir), or free space there"
        ) from error


@attrs.frozen
class ProgramInfo:
    """Where one run of a program keeps its things; make one with `ProgramInfo.new(base_dir)`.

    Args:
        program_id: Unique for this run; starts with the time, so that names sort by age.
        database: The results database's file.
        log_dir: Logs of workers and launchers, and the event log.
        data_dir: Work directories.
        temporary: Removed at the end of a run that succeeded.
        start_from: An earlier database, which is copied to `database` when that is opened first.
    """

    program_id: str
    database: Path
    log_dir: Path
    data_dir: Path
    temporary: bool = False
    start_from: Path | None = None

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
            base_dir: Is made if it is not there.
            database: A database file to go on with (or to make), in place of one in the program's directory.
                Only one process at a time may have it open.
            start_from: An earlier program's database. It is copied, never changed: its results count as
                known, and later ones shadow them.

        Raises:
            ConfigurationError: A directory cannot be made or written.
        """
        program_id = time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)
        home = Path(base_dir).absolute() / program_id
        program = cls._under(home, program_id)
        if database is not None:
            program = attrs.evolve(program, database=Path(database).absolute())
        if start_from is not None:
            if program.database.exists():
                raise ConfigurationError(f"start_from={start_from}: {program.database} exists already")
            if not Path(start_from).is_file():
                raise ConfigurationError(f"start_from={start_from}: there is no such file")
            program = attrs.evolve(program, start_from=Path(start_from).absolute())
        return program

    @classmethod
    def temporary_one(cls) -> ProgramInfo:
        """Make a program that is removed at the end of a run that succeeded, and kept after one that failed."""
        home = Path(tempfile.mkdtemp(prefix="hyperflow-"))
        return attrs.evolve(cls._under(home, home.name), temporary=True)

    @classmethod
    def _under(cls, home: Path, program_id: str) -> ProgramInfo:
        program = cls(program_id, home / "results.sqlite", home / "log", home / "data")
        for directory in (home, program.log_dir, program.data_dir):
            _make_private(directory)
        return program

    def remove(self) -> None:
        """Remove the directories of a temporary program."""
        if self.temporary:
            shutil.rmtree(self.log_dir.parent, ignore_errors=True)
