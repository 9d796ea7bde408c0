"""The database file: what SQLite holds, and how it is kept whole. Synchronous; used by one thread.

Guarantees:
- Entries are only ever added. The newest entry of a key is its value, so a later program shadows an earlier one's
  results without changing them.
- When `insert` returns, the entries are on the disk (`synchronous=FULL`).
- A damaged entry (see `entries`) is reported and counts as absent; an older, sound entry of its key counts again.
- After a failed fsync the file accepts nothing more: the kernel may have dropped the pages, and a second fsync would
  still succeed. A full disk is different: it is reported, and writing goes on when there is space again.
- A file of an older schema version is upgraded when it is opened, in one transaction.

The file has a write-ahead log (WAL) on a local file system, where a commit is one fsync and readers do not wait; a
rollback journal elsewhere, because a WAL needs memory that all users of the file share. Checkpoints are made here and
not by SQLite, which hides an fsync error of that step. A closed database is one file without WAL: `cp` can copy it.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import attrs

from hyperflow.database import place
from hyperflow.database.entries import SCHEMA_VERSION, Entry, checksum, is_sound, metadata_of, text_of
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.files import link_new
from hyperflow.files import sync_directory as sync

BUSY_SECONDS = 120.0
"""How long a commit waits for another program that reads the file (a reader blocks it only without a WAL)."""

IN_MEMORY = 4096
"""Values up to this many characters stay in memory; longer ones are read at each lookup."""

MEMORY_BUDGET = 256 * 1024 * 1024
"""Characters of values that stay in memory for one database. If there are more, every lookup reads the file."""

WAL_LIMIT = 4 * 1024 * 1024
"""Bytes added, by a rough count, after which there is a checkpoint: the WAL is written back into the database."""

SCHEMAS = (
    """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    map TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    size INTEGER NOT NULL,
    program TEXT NOT NULL,
    time REAL NOT NULL,
    checksum BLOB NOT NULL
);
CREATE INDEX entries_of_map ON entries (map);
""",
    """
ALTER TABLE entries ADD COLUMN schema_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE entries ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
""",
)
"""What makes each schema version of the one before; the first one makes the tables of an empty file."""

WATERMARKS = """
CREATE TABLE IF NOT EXISTS taken (
    program TEXT PRIMARY KEY,
    newest INTEGER NOT NULL,
    time REAL NOT NULL,
    checksum BLOB NOT NULL
)
"""
"""How far the files of other programs have been ingested (see `ingest`); made for the first one."""

Row = tuple[str, str, str, str, float, bytes, int, str]
"""Map, key, value, program, time, checksum, schema version, metadata: an entry as the file has it."""


class Watermark(NamedTuple):
    """The last entry of another program's file that was looked at; time and checksum tell it from any other."""

    newest: int
    time: float
    checksum: bytes


class Found(NamedTuple):
    """Where the newest value of a key is: here (`text`), or in the entry `id`."""

    text: str | None
    id: int


ABSENT = Found(None, 0)


def lenient_text(data: bytes) -> str:
    """Return a text that may be damaged: reading goes on, and the checksum finds it out."""
    return data.decode("utf-8", "replace")


@attrs.define(eq=False)
class DatabaseFile:
    """An open database file; make one with `DatabaseFile.open`, close it with `close`."""

    path: Path
    program_id: str
    connection: sqlite3.Connection
    next_id: int
    wal: bool
    loaded: set[str] = attrs.field(factory=set)
    remembered: int = 0
    in_wal: int = 0
    broken: str = ""
    damaged: list[str] = attrs.field(factory=list)
    """Reports of damaged entries, which the owner of this object fetches."""

    @classmethod
    def open(cls, path: Path, program_id: str) -> DatabaseFile:
        """Open or make a database; the caller has checked the place and owns the file.

        Raises:
            DatabaseError: It is damaged, of another program or a newer version, or the disk is full.
        """
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with reported(path, "open"):
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
            )
            try:
                connection.text_factory = lenient_text
                wal = _prepare(connection, path)
                (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
            except BaseException:
                connection.close()
                raise
        return cls(path, program_id, connection, newest + 1, wal)

    def insert(self, entries: Iterable[Entry]) -> list[Found]:
        """Add entries in one transaction, and return where they are when they are on the disk.

        If it raises DatabaseError, none was added; so does `ingest`.
        """
        now = time.time()
        rows: list[Row] = []
        for map_name, key, value in entries:
            about = metadata_of(value)
            digest = checksum(map_name, key, value, SCHEMA_VERSION, about)
            rows.append((map_name, key, str(value), self.program_id, now, digest, SCHEMA_VERSION, about))
        return self._add(rows)

    def ingest(self, rows: list[Row], source: str, since: Watermark | None, watermark: Watermark) -> list[Found] | None:
        """Add entries of another program as they are, and move its watermark, in one transaction.

        Returns None, and adds nothing, if its watermark is not `since` any more.
        """
        if self.watermark(source) != since:
            return None

        def move() -> None:
            self.connection.execute(WATERMARKS)
            self.connection.execute("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?)", (source, *watermark))

        return self._add(rows, move)

    def watermark(self, source: str) -> Watermark | None:
        """Return how far a program's file has been ingested, or None for not at all."""
        with reported(self.path, "read"):
            if not self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'taken'").fetchone():
                return None
            found = self.connection.execute(
                "SELECT newest, time, checksum FROM taken WHERE program = ?", (source,)
            ).fetchone()
        return found and Watermark(*found)

    def _add(self, entries: list[Row], also: Callable[[], None] = lambda: None) -> list[Found]:
        if self.broken:
            raise DatabaseError(self.broken)
        first = self.next_id
        rows = [
            (number, map_name, key, value, len(value), *others)
            for number, (map_name, key, value, *others) in enumerate(entries, first)
        ]
        with self._fail_stop(), reported(self.path, "write to"):
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                self.connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                also()
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error is the one to report
                        self.connection.execute("ROLLBACK")
                raise
        self.next_id = first + len(rows)
        self.in_wal += sum(len(entry[1]) + len(entry[2]) for entry in entries)
        return [
            self._remembered(text_of(entry[2], *entry[6:]), number) if entry[0] in self.loaded else ABSENT
            for number, entry in enumerate(entries, first)
        ]

    def load(self, map_name: str) -> dict[str, Found]:
        """Return where the newest sound value of each key of a map is."""
        found: dict[str, Found] = {}
        query = (
            "SELECT id, key, CASE WHEN size <= ? THEN value END, checksum, schema_version, metadata "
            "FROM entries INDEXED BY entries_of_map WHERE map = ? ORDER BY id"
        )
        with reported(self.path, "read"):
            for number, key, value, *rest in self.connection.execute(query, (IN_MEMORY, map_name)):
                if value is None and isinstance(key, str):
                    found[key] = Found(None, number)
                elif value is not None and is_sound(map_name, key, value, *rest):
                    found[key] = self._remembered(text_of(value, *rest[1:]), number)
                else:
                    self._report(number, map_name, key)
        self.loaded.add(map_name)
        return found

    def _remembered(self, value: str, number: int) -> Found:
        """Return what to keep in memory for a value."""
        if len(value) > IN_MEMORY or self.remembered + len(value) > MEMORY_BUDGET:
            return Found(None, number)
        self.remembered += len(value)
        return Found(value, number)

    def read(self, map_name: str, key: str, newest: int) -> str | None:
        """Return the newest sound value of a key, from the entry `newest` downwards, or None."""
        what = "SELECT id, value, checksum, schema_version, metadata FROM entries WHERE"
        with reported(self.path, "read"):
            first = self.connection.execute(f"{what} id = ? AND key = ?", (newest, key)).fetchall()
            older = self.connection.execute(
                f"{what} map = ? AND key = ? AND id < ? ORDER BY id DESC", (map_name, key, newest)
            )
            for number, value, *rest in chain(first, older):
                if is_sound(map_name, key, value, *rest):
                    return text_of(value, *rest[1:])
                self._report(number, map_name, key)
        return None

    def read_all(self, map_name: str, places: list[tuple[str, Found]]) -> list[tuple[str, str]]:
        """Return keys and values, reading those that are not in memory; without damaged ones."""
        texts = ((key, at.text if at.text is not None else self.read(map_name, key, at.id)) for key, at in places)
        return [(key, text) for key, text in texts if text is not None]

    def tidy(self) -> None:
        """Make a checkpoint when the WAL has grown long; called when the caller has its answer, not before."""
        if self.wal and not self.broken and self.in_wal > WAL_LIMIT:
            self.in_wal = 0
            with suppress(DatabaseError), self._fail_stop(), reported(self.path, "write back"):
                # PASSIVE waits for no reader; what one still needs is left for the next time.
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close the file. What cannot be tidied now (a full disk, a reader) is left for the next opening."""
        with suppress(sqlite3.Error):
            if not self.broken:
                self.connection.execute("PRAGMA busy_timeout = 100")
                self.connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        with suppress(sqlite3.Error):
            self.connection.close()

    def _report(self, number: int, map_name: str, key: object) -> None:
        self.damaged.append(
            f"entry {number} of map {map_name!r}, key {key!r:.80}, in {self.path} is damaged; it counts as absent"
        )

    @contextmanager
    def _fail_stop(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            code = getattr(error.__cause__, "sqlite_errorcode", 0)
            if code in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC):
                self.broken = (
                    f"{self.path} accepts nothing more, because the system failed to write it to the disk earlier "
                    f"({error.__cause__}); results recorded before that are safe. Start the program again"
                )
            raise


def _prepare(connection: sqlite3.Connection, path: Path) -> bool:
    """Check a newly opened file, make or upgrade its tables, and choose its journal. Return whether that is a WAL."""
    wal = place.is_local(path)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA trusted_schema = OFF")
    if not wal:
        # Without shared memory, even if an earlier program left the file with a WAL.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    version = _checked_version(connection, path) if tables else 0
    if version < SCHEMA_VERSION:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {place.APPLICATION_ID}; "
            f"PRAGMA user_version = {SCHEMA_VERSION}; {' '.join(SCHEMAS[version:])} COMMIT;"
        )
        sync(path.parent)
    (mode,) = connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'TRUNCATE'}").fetchone()
    if not wal:
        connection.execute("PRAGMA locking_mode = NORMAL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # gives the exclusive lock back
    return bool(mode == "wal")


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    place.check_version(path, application_id, version)
    return int(version)


@contextmanager
def reported(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into DatabaseErrors that name the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise DatabaseError(f"cannot {doing} {path}: {error}{_ADVICE.get(code, '')}") from error


_ADVICE = {
    sqlite3.SQLITE_FULL: "; free space there. Nothing that was recorded before is lost",
    sqlite3.SQLITE_CORRUPT: "; the file is damaged. `sqlite3 FILE .recover` may save most of it; "
    "or move it away, and its results are computed again",
    sqlite3.SQLITE_NOTADB: "; the file is damaged, or no database",
    sqlite3.SQLITE_BUSY: f"; another program has kept it locked for {BUSY_SECONDS:g} s",
    sqlite3.SQLITE_READONLY: "; it became read-only",
}


def copy_database(source: Path, target: Path) -> None:
    """Copy a database, also one that a running program is writing to; the source is only read.

    The copy is complete or not there: it gets its name when it is on the disk.

    Raises:
        ConfigurationError: There is no such source, or the target exists or cannot be made.
        DatabaseError: The source is damaged, not hyperflow's, or of a newer version.
    """
    source = place.resolved(source)
    if not source.is_file():
        raise ConfigurationError(f"there is no results database {source} to start from")
    if not place.check_header(source):
        raise DatabaseError(f"{source} is empty, not a results database")
    target = place.resolved(target)
    place.check(target)
    if target.exists():
        raise ConfigurationError(f"{target} exists already; a copy does not replace it")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _backup(source, draft)
        sync(draft)
        try:
            link_new(draft, target)  # unlike rename, it does not replace a file that has come in between
        except FileExistsError:
            raise ConfigurationError(f"{target} exists already; a copy does not replace it") from None
        sync(target.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot copy {source} to {target}: {error.strerror or error}") from error
    finally:
        for leftover in (draft, draft.with_name(draft.name + "-journal")):
            leftover.unlink(missing_ok=True)


def _backup(source: Path, target: Path) -> None:
    with (
        reported(source, "copy"),
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as old,
        closing(sqlite3.connect(f"{target.as_uri()}?mode=rw", uri=True)) as new,
    ):
        _checked_version(old, source)
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE").fetchall()
