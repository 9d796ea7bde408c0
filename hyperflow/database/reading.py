"""Reading: the entries of a results database for who only looks at it, while a program may be writing to it.

Guarantees:
- Nothing is written to the database, no lock is taken, and the program that writes does not wait long: a file is opened
  for each question and closed after it, and read in short looks. (SQLite may leave its index of the write-ahead log,
  `-shm`, beside a file whose program was killed.)
- Damage is reported as the store does it, by the same code (see `file`).
- Files of older versions are read as they are: a copy of their tables, which is nowhere on the disk, is upgraded.

Where SQLite cannot read a file without writing to it (a program was killed, and the directory cannot be written),
a copy in the temporary directory is read.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import attrs

from hyperflow.database import file as files
from hyperflow.database import layout, place
from hyperflow.database.entries import is_sound, text_of, warn_of
from hyperflow.database.file import DatabaseFile, Found
from hyperflow.database.layout import Count, Counts
from hyperflow.database.origins import Origin
from hyperflow.errors import ConfigurationError, DatabaseError

SAMPLE = 20
"""So many of the newest entries tell what a map holds."""

LONG = 100_000
"""Characters of a value that is not read for that."""

_UNREADABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


@attrs.frozen
class Size:
    """What a map takes: how many keys and entries it has, characters of values, and when the newest was recorded."""

    keys: int
    entries: int
    characters: int
    time: float


Sample = tuple[str, str | None, str]
"""A key, its value (None if that is long) and its metadata."""


class Mark(NamedTuple):
    """An entry without its value; later ones have higher numbers."""

    number: int
    key: str
    program: str
    time: float
    metadata: str

    @property
    def origin(self) -> Origin:
        """How the value came about; reading it takes longer than all the rest."""
        return Origin.of(self.program, self.time, self.metadata)


class Reader(Protocol):
    """Reads a results database; its methods raise DatabaseError where it cannot be read."""

    where: str

    def maps(self) -> list[str]:
        """Return the names of the maps."""
        ...

    def size(self, map_name: str) -> Size:
        """Tell what a map takes."""
        ...

    def sample(self, map_name: str) -> list[Sample]:
        """Return some of the newest entries, the newest first."""
        ...

    def read_keys(self, map_name: str) -> list[str]:
        """Return the keys, the oldest first."""
        ...

    def read_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return each key with its newest value, the oldest key first."""
        ...

    def marks(self, map_name: str) -> Iterator[Mark]:
        """Yield all entries of a map without their values, the oldest first, also those that newer ones hide."""
        ...

    def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None."""
        ...


@attrs.define(eq=False)
class FileReader:
    """Reads a file. Keys of maps are kept, and read again when entries have come."""

    path: Path
    where: str = attrs.field(init=False, default=attrs.Factory(lambda self: str(self.path), takes_self=True))
    _loaded: dict[str, tuple[tuple[int, Count], dict[str, Found]]] = attrs.field(factory=dict, init=False)

    def maps(self) -> list[str]:
        with opened(self.path) as file:
            return sorted(file.counts.of_map, key=lambda name: file.counts.of_map[name].id)

    def size(self, map_name: str) -> Size:
        with opened(self.path) as file, files.reported(self.path, "read"):
            newest = file.counts.of_map.get(map_name, files.NO_ENTRIES).newest
            row = file.connection.execute(
                "SELECT count(DISTINCT key), count(*), total(size), max(time) FROM entries WHERE map = ? AND id <= ?",
                (map_name, newest),
            ).fetchone()
            return Size(int(row[0]), int(row[1]), int(row[2]), float(row[3] or 0))

    def sample(self, map_name: str) -> list[Sample]:
        with opened(self.path) as file, files.reported(self.path, "read"):
            newest = file.counts.of_map.get(map_name, files.NO_ENTRIES).newest
            rows = file.connection.execute(
                "SELECT key, CASE WHEN size <= ? THEN value END, checksum, schema_version, metadata FROM entries "
                "WHERE map = ? AND id <= ? ORDER BY id DESC LIMIT ?",
                (LONG, map_name, newest, SAMPLE),
            ).fetchall()
        return [
            (key, None if value is None else text_of(value, version, metadata), metadata)
            for key, value, digest, version, metadata in rows
            if value is None or is_sound(map_name, key, value, digest, version, metadata)
        ]

    def read_keys(self, map_name: str) -> list[str]:
        with self._open() as file:
            return list(self._found(file, map_name))

    def read_all(self, map_name: str) -> list[tuple[str, str]]:
        with self._open() as file:
            return file.read_all(map_name, list(self._found(file, map_name).items()))

    def marks(self, map_name: str) -> Iterator[Mark]:
        with self._open() as file:
            self._found(file, map_name)  # which looks whether all are there
            query = (
                "SELECT id, key, CASE WHEN size <= ? THEN value END, program, time, checksum, schema_version, metadata "
                "FROM entries INDEXED BY entries_of_map WHERE map = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
            )
            newest = file.counts.of_map.get(map_name, files.NO_ENTRIES).newest
            with files.reported(self.path, "read"):
                for number, key, value, program, when, digest, version, metadata in file.rows(query, map_name, newest):
                    if value is None or is_sound(map_name, key, value, digest, version, metadata):
                        yield Mark(number, key, program, when, metadata)

    def lookup(self, map_name: str, key: str) -> str | None:
        with self._open() as file:
            found = self._found(file, map_name).get(key, files.ABSENT)
            if found.text is not None or not found.id:
                return found.text
            return file.read(map_name, key, found.id)

    @contextmanager
    def _open(self) -> Iterator[DatabaseFile]:
        with opened(self.path) as file:
            yield file
            warn_of(file.damaged)

    def _found(self, file: DatabaseFile, map_name: str) -> dict[str, Found]:
        state = file.identity.st_ino, file.counts.of_map.get(map_name, files.NO_ENTRIES)
        known = self._loaded.get(map_name)
        if known is None or known[0] != state:
            known = self._loaded[map_name] = state, file.load(map_name)
        return known[1]


@contextmanager
def opened(path: Path) -> Iterator[DatabaseFile]:
    """Open a file within a scope, to read it; raises ConfigurationError and DatabaseError."""
    if not path.is_file():
        is_there = "is not an ordinary file" if path.exists() else "is not there"
        raise ConfigurationError(f"{path} {is_there}, so it cannot be a results database")
    if not place.check_header(path):
        raise DatabaseError(f"{path} is empty, not a results database")
    with ExitStack() as stack:
        try:
            file = _opened(path, path, stack)
        except DatabaseError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF not in _UNREADABLE:
                raise
            stack.close()
            file = _opened(path, _copy(path, stack), stack)
        yield file


def _opened(path: Path, source: Path, stack: ExitStack) -> DatabaseFile:
    """Open a file, or a copy of it; messages name the file."""
    with files.reported(path, "read"):
        if source is path:
            connection = stack.enter_context(closing(files.connect_read_only(path)))
        else:
            connection = stack.enter_context(closing(sqlite3.connect(source, isolation_level=None)))
            layout.prepare(connection)
        connection.execute("BEGIN")
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            counts = Counts(files.NO_ENTRIES, 0, {})  # a program is just making it
        else:
            version = files.checked_version(connection, path)
            layout.check_tables(connection, source, version)
            if version < place.LAYOUT_VERSION:
                connection = stack.enter_context(closing(_upgraded(connection, version)))
                connection.execute("BEGIN")
            counts = Counts.read(connection, path)
        connection.execute("COMMIT")
        return DatabaseFile(path, "", connection, False, counts, path.stat(), read_only=True)


def _upgraded(old: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Return a copy of an older file's tables with the layout of this version; it vanishes when it is closed."""
    new = sqlite3.connect("", isolation_level=None)
    try:
        layout.prepare(new)
        for schema in layout.SCHEMAS[:version]:
            new.executescript(schema)
        rows = old.execute("SELECT * FROM entries")
        new.execute("BEGIN")
        new.executemany(f"INSERT INTO entries VALUES ({','.join('?' * len(rows.description))})", rows)
        new.execute("COMMIT")
        for schema in layout.SCHEMAS[version:]:
            new.executescript(schema)
    except BaseException:
        new.close()
        raise
    return new


def _copy(path: Path, stack: ExitStack) -> Path:
    """Copy a file and its log to a place where SQLite can make files beside it."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyperflow-results-")))
    try:
        for ending in ("", "-wal", "-journal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{ending}", directory / f"copy{ending}")
    except OSError as error:
        raise ConfigurationError(f"cannot copy {path} to read it: {error.strerror or error}") from error
    return directory / "copy"
