"""The database file: what SQLite holds, and how it is kept whole. Synchronous; used by one thread.

Guarantees:
- Entries are only ever added. The newest entry of a key is its value, so a later program shadows an earlier one's
  results without changing them.
- When `insert` returns, the entries are on the disk (`synchronous=FULL`).
- A damaged entry (see `entries`) is reported and counts as absent; an older, sound entry of its key counts again.
- After a failed fsync the file accepts nothing more: the kernel may have dropped the pages, and a second fsync would
  still succeed. A full disk is different: it is reported, and writing goes on when there is space again.
- What is missing is noticed before an answer depends on it (see `layout`): of a map when it is loaded, of the file
  when it is opened. All pages are looked at in the background (see `background`).
- A file that is removed, replaced or moved while it is open takes no more entries; its contents are saved beside it.
- A file of an older version is upgraded when it is opened, in one transaction.

The file has a write-ahead log (WAL) on a local file system, where a commit is one fsync and readers do not wait; a
rollback journal elsewhere, because a WAL needs memory that all users of the file share. Checkpoints are made here and
not by SQLite, which hides an fsync error of that step. A closed database is one file without WAL: `cp` can copy it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from hyperflow import files
from hyperflow.database import layout, leftover, place
from hyperflow.database.entries import NO_METADATA, Columns, Entry, FromCode, Row, is_sound, text_of
from hyperflow.database.index import MOST, RUN, SHORTEST, Index, digest
from hyperflow.database.kept import LONGEST, MEMORY_BUDGET, Kept
from hyperflow.database.layout import Counts, damaged, seal
from hyperflow.database.place import LAYOUT_VERSION
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.files import link_new
from hyperflow.files import sync_directory as sync

BUSY_SECONDS = 120.0
"""How long a commit waits for another program that reads the file (a reader blocks it only without a WAL)."""

PAGE = 32
"""Entries that are read together where one of them is asked for: a program asks for the next ones, too."""

PIECE = 5_000
"""Entries that are read in one look at a file that another program may be writing to."""

WAL_LIMIT = 4 * 1024 * 1024
"""Bytes added, by a rough count, after which there is a checkpoint: the WAL is written back into the database."""


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

NONE: Mapping[str, Watermark] = MappingProxyType({})

NO_ENTRIES = layout.Count(0, 0, 0)


@attrs.define(eq=False)
class DatabaseFile:
    """An open database file; make one with `DatabaseFile.open`, close it with `close`."""

    path: Path
    program_id: str
    connection: sqlite3.Connection
    wal: bool
    counts: Counts
    identity: os.stat_result
    read_only: bool = False
    """Another program may be adding entries meanwhile; those after the counts that were read here are left alone."""
    taken: dict[str, Watermark] | None = None
    """How far other programs' files have been ingested; None until somebody asks."""
    log: str = attrs.field(
        init=False, default=attrs.Factory(lambda self: str(leftover.wal_file(self.path)), takes_self=True)
    )
    index: Index = attrs.field(factory=Index)
    kept: Kept = attrs.field(factory=Kept)
    in_wal: int = 0
    broken: str = ""
    damaged: list[str] = attrs.field(factory=list)
    """Reports of damaged entries; the owner of this object takes them off, maybe in another thread (see `warn_of`)."""
    told: set[int] = attrs.field(factory=set)
    """The entries that were reported."""

    @classmethod
    def open(cls, path: Path, program_id: str, index: Index | None = None, kept: Kept | None = None) -> DatabaseFile:
        """Open or make a database; the caller has checked the place and owns the file.

        `index` and `kept` are new ones, in which another thread may look meanwhile.

        Raises:
            DatabaseError: It is damaged, of another program or a newer version, or the disk is full.
        """
        left = leftover.find(path)
        if left is None:
            leftover.warn_of_missing(path)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with reported(path, "open"):
            connection = sqlite3.connect(
                f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
            )
            try:
                in_wal = _prepare(connection, path)
                counts = Counts.read(connection, path)
                file = cls(path, program_id, connection, in_wal, counts, path.stat())
                file.index, file.kept = index or file.index, kept or file.kept
                if left and in_wal:
                    file.damaged += left.lost(connection)
                file.index.whole = not file.damaged
                file.index.complete = not counts.total.newest
            except BaseException:
                connection.close()
                raise
        return file

    def insert(self, entries: Sequence[Entry]) -> None:
        """Add entries in one transaction; when it returns they are on the disk.

        If it raises DatabaseError, none was added; so does `ingest`.
        """
        self._add(Columns.of(entries, self.program_id, time.time()))
        for _, _, value in entries:
            if type(value) is FromCode:
                value.metadata = NO_METADATA  # it is on the disk, and longer than most values
        for map_name, of_map in groupby(entries, itemgetter(0)):
            _, of_keys, values = zip(*of_map, strict=True)
            self.kept.put_all(map_name, of_keys, values)

    def ingest(self, rows: list[Row], source: str, since: Watermark | None, watermark: Watermark) -> bool:
        """Add entries of another program as they are, and move its watermark, in one transaction.

        Returns False, and adds nothing, if its watermark is not `since` any more.
        """
        if self.watermark(source) != since:
            return False
        self.add(rows, {source: watermark})
        for row in rows:
            self.kept.drop(row[0], row[1])
        return True

    def watermark(self, source: str) -> Watermark | None:
        """Return how far a program's file has been ingested, or None for not at all."""
        return self.watermarks().get(source)

    def watermarks(self) -> dict[str, Watermark]:
        """Return how far each program's file has been ingested."""
        if self.taken is None:
            with reported(self.path, "read"):
                # Not by the index, in which one could be missing.
                rows = self.connection.execute("SELECT * FROM taken NOT INDEXED").fetchall()
            if len(rows) != self.counts.watermarks or any(row[-1] != seal(*row[:-1]) for row in rows):
                raise damaged(self.path, "what it says of the files that were taken into it is not as it was written")
            self.taken = {program: Watermark(*others) for program, *others, _ in rows}
        return self.taken

    def add(self, entries: Sequence[Row], watermarks: Mapping[str, Watermark] = NONE) -> None:
        """Add entries as they are, and move watermarks, in one transaction."""
        self._add(Columns.of_rows(entries), watermarks)

    def _add(self, new: Columns, watermarks: Mapping[str, Watermark] = NONE) -> None:
        if self.broken:
            raise DatabaseError(self.broken)
        first, number = self.counts.total.newest + 1, len(new.maps)
        if first + number > MOST:
            raise DatabaseError(f"{self.path} has {first - 1} entries; more than {MOST} are too many for one file")
        sizes = [len(value) for value in new.values]
        numbers = range(first, first + number)
        sealed = layout.seals(numbers, new.maps, new.keys, sizes, new.programs, new.times)
        # Not as rows, of which each would be made three times.
        rows = zip(numbers, *new[:3], sizes, *new[3:], sealed, strict=False)
        taken = {**self.watermarks(), **watermarks} if watermarks else self.taken
        held = self.counts.watermarks if taken is None else len(taken)
        counts = self.counts.after(new.maps, first, held)
        with self._fail_stop(), reported(self.path, "write to"), self._transaction():
            self.connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            for source, mark in watermarks.items():
                row = source, *mark
                self.connection.execute("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?, ?)", (*row, seal(*row)))
            counts.write(self.connection, self.counts)
        self.counts, self.taken = counts, taken
        self.check_present()
        self.in_wal += sum(map(len, new.keys)) + sum(sizes)
        if self.index.complete:
            self.index.add_all(list(map(digest, new.maps, new.keys)), first)

    def know(self) -> Index:
        """Return the index of all entries; at the first use it is read, and the entries that are in no run.

        Raises:
            DatabaseError: Entries are missing.
        """
        index, total = self.index, self.counts.total
        if index.complete:
            return index
        query = "SELECT id, map, key, size, program, time, seal FROM entries NOT INDEXED WHERE id > ? ORDER BY id"
        with reported(self.path, "read"):
            index.read(self.connection, total.newest)
            count, newest = index.count, index.covered
            for number, map_name, key, *rest, sealed in self.connection.execute(query, (newest,)):
                if number <= newest:
                    raise damaged(self.path, "the entries in it are out of order")
                count, newest = count + 1, number
                if sealed == seal(number, map_name, key, *rest) or self._is_sound(number):
                    index.add(digest(map_name, key), number)
                else:
                    index.whole = False
                    self.report(number, map_name, key)
        if (count, newest) != total[1:]:
            raise damaged(self.path, f"it has {total.entries} entries, and {count} of them can be found")
        index.complete = True
        return index

    def _is_sound(self, number: int) -> bool:
        """Whether an entry is whole by its value, which shows whose it is; one of an older file has no seal."""
        what = "SELECT map, key, value, checksum, schema_version, metadata FROM entries WHERE id = ?"
        return any(is_sound(*row) for row in self.connection.execute(what, (number,)))

    def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest sound value of a key, or None."""
        of_key = digest(map_name, key)
        numbers = self.know().numbers(of_key)
        with reported(self.path, "read"):
            if numbers and (page := numbers[0] // PAGE) not in self.kept.pages:
                self._keep_page(page)
            if (text := self.kept.get(map_name, key)) is not None:
                return text
            for number in numbers:
                text = self._value(number, map_name, key, of_key)
                if text is not None:
                    return text
        return None

    def _keep_page(self, page: int) -> None:
        """Keep the values of some entries that are beside each other."""
        self.kept.pages.add(page)
        query = (
            "SELECT id, map, key, value, checksum, schema_version, metadata FROM entries NOT INDEXED "
            "WHERE id BETWEEN ? AND ? AND size <= ? ORDER BY id"
        )
        before = 0
        for number, map_name, key, value, *rest in self.connection.execute(
            query, (page * PAGE, page * PAGE + PAGE - 1, LONGEST)
        ):
            if number <= before:
                raise damaged(self.path, "the entries in it are out of order")
            before = number
            # What is damaged is told when it is asked for.
            if is_sound(map_name, key, value, *rest) and self.index.newest(digest(map_name, key)) == number:
                self.kept.put(map_name, key, text_of(value, *rest[1:]))

    def _value(self, number: int, map_name: str, key: str, of_key: int) -> str | None:
        """Return the value of an entry, None if it is damaged, or has another key with the same check sum."""
        what = "SELECT map, key, value, checksum, schema_version, metadata FROM entries WHERE id = ?"
        row = self.connection.execute(what, (number,)).fetchone()
        if row is None:
            raise damaged(self.path, f"entry {number} of {self.counts.total.entries} cannot be found")
        if not is_sound(*row):
            self.report(number, map_name, key)
        elif (map_name, key) == row[:2]:
            return text_of(row[2], *row[4:])
        elif digest(*row[:2]) != of_key:
            raise damaged(self.path, f"entry {number} is not the one that was written under this number")
        return None

    def load(self, map_name: str) -> dict[str, Found]:
        """Return where the newest sound value of each key of a map is."""
        found: dict[str, Found] = {}
        count = newest = remembered = 0
        # An entry without a seal, from an older file, shows by its whole value whose it is.
        query = (
            "SELECT id, key, CASE WHEN size <= ? OR seal IS NULL THEN value END, size, program, time, seal, "
            "checksum, schema_version, metadata "
            "FROM entries INDEXED BY entries_of_map WHERE map = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
        )
        expected = self.counts.of_map.get(map_name, NO_ENTRIES)
        with reported(self.path, "read"):
            for number, key, value, size, program, when, sealed, *rest in self.rows(query, map_name, expected.newest):
                count += 1
                if number <= newest:
                    raise damaged(self.path, f"the entries of map {map_name!r} in it are out of order")
                newest = number
                if value is None and sealed == seal(number, map_name, key, size, program, when):
                    found[key] = Found(None, number)
                elif value is not None and is_sound(map_name, key, value, *rest):
                    short = len(value) <= LONGEST and remembered + len(value) <= MEMORY_BUDGET
                    remembered += short * len(value)
                    found[key] = Found(text_of(value, *rest[1:]) if short else None, number)
                else:
                    self.report(number, map_name, key)
        if (count, newest) != expected[1:]:
            raise damaged(
                self.path, f"map {map_name!r} has {expected.entries} entries in it, and {count} of them can be found"
            )
        return found

    def rows(self, query: str, map_name: str, newest: int, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """Yield rows of a map; the query takes LONGEST, the map, the ids after which and up to which, a limit."""
        if not self.read_only:
            yield from self.connection.execute(query, (LONGEST, map_name, after, sys.maxsize, -1))
            return
        rows: list[tuple[Any, ...]] = [(after,)]
        while rows:  # in short looks, because without a WAL, the program that writes has to wait for each
            rows = self.connection.execute(query, (LONGEST, map_name, rows[-1][0], newest, PIECE)).fetchall()
            yield from rows

    def read(self, map_name: str, key: str, newest: int) -> str | None:
        """Return the newest sound value of a key, from the entry `newest` downwards, or None."""
        what = "SELECT id, value, checksum, schema_version, metadata FROM entries WHERE"
        with reported(self.path, "read"):
            first = self.connection.execute(f"{what} id = ? AND key = ?", (newest, key)).fetchall()
            if not first:
                self.report(newest, map_name, key)
            older = self.connection.execute(
                f"{what} map = ? AND key = ? AND id < ? ORDER BY id DESC", (map_name, key, newest)
            )
            for number, value, *rest in chain(first, older):
                if is_sound(map_name, key, value, *rest):
                    return text_of(value, *rest[1:])
                self.report(number, map_name, key)
        return None

    def read_all(self, map_name: str, places: list[tuple[str, Found]]) -> list[tuple[str, str]]:
        """Return keys and values, reading those that are not in memory; without damaged ones."""
        texts = ((key, at.text if at.text is not None else self.read(map_name, key, at.id)) for key, at in places)
        return [(key, text) for key, text in texts if text is not None]

    def tidy(self) -> None:
        """Do what can wait until the caller has its answer: write a long index; a checkpoint when the WAL is long."""
        if self.index.waiting >= RUN:
            self._write_index()
        if self.wal and not self.broken and self.in_wal > WAL_LIMIT:
            self.in_wal = 0
            with suppress(DatabaseError), self._fail_stop(), reported(self.path, "write back"):
                # PASSIVE waits for no reader; what one still needs is left for the next time.
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _write_index(self) -> None:
        if self.broken or self.read_only or not self.index.whole:
            return
        with suppress(DatabaseError), self._fail_stop(), reported(self.path, "write to"):
            with self._transaction():
                runs = self.index.write(self.connection, self.counts.total.newest)
            self.index.take(runs)

    def check_present(self) -> None:
        """Raise DatabaseError, now and at every insert from now on, if the file is no longer under its name.

        SQLite would go on writing to what nobody can open again. So what it holds is saved beside it, if possible.
        """
        try:
            present = os.path.samestat(os.stat(self.path), self.identity)
            lost = "" if not self.wal or os.path.exists(self.log) else "its write-ahead log"
        except OSError:
            present, lost = False, ""
        if present and not lost:
            return
        if present:
            with suppress(sqlite3.Error):  # all of it into the file itself, which is there
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        where = "what was recorded is in the file itself" if present else self._saved()
        self.broken = (
            f"{lost or 'the results database'} {self.log if lost else self.path} was removed, replaced or "
            f"moved while program {self.program_id} had it open, so nothing more is recorded in it; {where}. Find out "
            "what removes files there, and start the program again"
        )
        raise DatabaseError(self.broken)

    def _saved(self) -> str:
        """Copy all that this open file holds to a new one; return in words where it is."""
        rescue = self.path.with_name(f"{self.path.name}.saved-{os.urandom(4).hex()}")
        try:
            os.close(os.open(rescue, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(f"{rescue.as_uri()}?mode=rw", uri=True)) as new:
                self.connection.backup(new)
                new.execute("PRAGMA journal_mode = DELETE").fetchall()
            sync(rescue)
            # Its log is of no other file, and would be read with whatever comes to have this name.
            for leftover in ("-wal", "-shm"):
                self.path.with_name(self.path.name + leftover).unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                rescue.unlink(missing_ok=True)
            return f"what was recorded could not be saved ({error})"
        return f"what was recorded is saved in {rescue}"

    def close(self) -> None:
        """Close the file. What cannot be tidied now (a full disk, a reader) is left for the next opening.

        Raises:
            DatabaseError: The file was removed after the last insert.
        """
        try:
            if not self.broken:
                self.check_present()
                if self.index.waiting >= SHORTEST:
                    self._write_index()
        finally:
            self._close()

    def _close(self) -> None:
        with suppress(sqlite3.Error):
            if not self.broken:
                self.connection.execute("PRAGMA busy_timeout = 100")
                self.connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        with suppress(sqlite3.Error):
            self.connection.close()

    def report(self, number: int, map_name: str, key: object) -> None:
        """Note that an entry is damaged; each is told of once."""
        if number in self.told:
            return
        self.told.add(number)
        self.damaged.append(
            f"entry {number} of map {map_name!r}, key {key!r:.80}, in {self.path} is damaged; it counts as absent"
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with suppress(sqlite3.Error):  # the first error is the one to report
                    self.connection.execute("ROLLBACK")
            raise

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
            elif not self.broken and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                self.check_present()  # its error says more
            raise


def _prepare(connection: sqlite3.Connection, path: Path) -> bool:
    """Check a newly opened file, make or upgrade its tables, and choose its journal. Return whether that is a WAL."""
    wal = place.is_local(path)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    layout.prepare(connection)
    if not wal:
        # Without shared memory, even if an earlier program left the file with a WAL.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version or tables:
        version = checked_version(connection, path)
        layout.check_tables(connection, path, version)
    if version < LAYOUT_VERSION:
        connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id = {place.APPLICATION_ID}; "
            f"PRAGMA user_version = {LAYOUT_VERSION}; {' '.join(layout.SCHEMAS[version:])} COMMIT;"
        )
        sync(path.parent)
    (mode,) = connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'TRUNCATE'}").fetchone()
    if not wal:
        connection.execute("PRAGMA locking_mode = NORMAL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # gives the exclusive lock back
    return bool(mode == "wal")


def checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of an open file's layout; raises DatabaseError if it is newer, or not one of hyperflow's."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    place.check_version(path, application_id, version)
    return int(version)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a file that a program may be writing to; neither waits long for the other."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
    layout.prepare(connection)
    return connection


@contextmanager
def reported(path: Path, doing: str) -> Iterator[None]:
    """Turn SQLite's errors into DatabaseErrors that name the file and what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's words may quote bytes of a damaged schema
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        limit = files.size_limit() if code == sqlite3.SQLITE_IOERR else None
        if limit is not None:  # SQLite says "disk I/O error"
            text = f"a file may have {limit} bytes here (ulimit -f). Nothing that was recorded before is lost"
            raise DatabaseError(f"cannot {doing} {path}: most likely it would be too large: {text}") from error
        raise DatabaseError(f"cannot {doing} {path}: {error}{_advice(code, path)}") from error


_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)
"""What SQLite says of a damaged file; SQLITE_ERROR where the damage is in its schema."""

_ADVICE = {
    sqlite3.SQLITE_FULL: "; free space there. Nothing that was recorded before is lost",
    sqlite3.SQLITE_BUSY: f"; another program has kept it locked for {BUSY_SECONDS:g} s",
    sqlite3.SQLITE_READONLY: "; it became read-only",
}


def _advice(code: int, path: Path) -> str:
    if code not in _DAMAGE:
        return _ADVICE.get(code, "")
    return (
        f"; the file is damaged. To go on with all that is whole in it, type: {place.repair_command(path)}; or move it "
        "away, and its results are computed again"
    )


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
    draft = target.with_name(f".{target.name}.{os.urandom(8).hex()}")
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
        closing(connect_read_only(source)) as old,
        closing(sqlite3.connect(f"{target.as_uri()}?mode=rw", uri=True)) as new,
    ):
        checked_version(old, source)
        old.backup(new)
        new.execute("PRAGMA journal_mode = DELETE").fetchall()
