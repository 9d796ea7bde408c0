"""Check and repair: all that is wrong with a database file, and a new file of all that is whole in it.

Guarantees of `repair`:
- The old file, with its log, stays as it was, under another name or under its own. The new one is complete, or not
  there.
- An entry comes if its checksum and its seal fit, whatever else is damaged: the header, the schema, an index, the
  trees, the write-ahead log (see `pages`). Entries keep their order, program and time; they are numbered anew.
- How far other files were ingested is kept, where it is whole.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import attrs

from hyperflow.database import file as files
from hyperflow.database import layout, place
from hyperflow.database.entries import NO_METADATA, Row, is_sound
from hyperflow.database.file import DatabaseFile, Watermark
from hyperflow.database.leftover import wal_file
from hyperflow.database.ownership import Ownership
from hyperflow.database.pages import Pages, Place, Value
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.files import link_new
from hyperflow.files import sync_directory as sync

PIECE = 2000
"""Entries in one transaction."""

SMALLEST = 512
"""Bytes of SQLite's smallest page."""

MOST = 20
"""How many findings of one kind to list."""


@attrs.frozen
class Examined:
    """What came of checking a file: how many entries it has, and what is wrong with it."""

    path: Path
    entries: int
    problems: tuple[str, ...]


@attrs.frozen
class Repaired:
    """What came of a repair: the new file, the old one, and how many entries are in the new one.

    `lost` is how many are missing, None if the old file does not tell how many it had.
    """

    new: Path
    old: Path
    entries: int
    lost: int | None
    without_watermarks: bool


def examine(path: Path) -> Examined:
    """Read all of a file, and compare all that is there twice; nothing is changed. A program may be writing to it.

    Raises:
        ConfigurationError: There is no such file, or it cannot be read.
    """
    path = place.resolved(path)
    if not path.is_file():
        raise ConfigurationError(f"there is no results database {path}")
    if not path.stat().st_size:
        log = wal_file(path)
        return Examined(path, 0, (f"it is empty, but its log {log} is not",) if _has_contents(log) else ())
    problems: list[str] = []
    entries = 0
    try:
        place.check_header(path)
        with files.reported(path, "read"), closing(_opened(path)) as connection:
            problems += _pages(connection)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            layout.check_tables(connection, path, version)
            entries, wrong = _entries(connection, version)
            problems += wrong
            if version > 2:
                problems += _counts(connection, path)
    except DatabaseError as error:
        problems.append(str(error))
    return Examined(path, entries, tuple(problems))


def _has_contents(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _opened(path: Path) -> sqlite3.Connection:
    connection = files.connect_read_only(path)
    connection.execute("BEGIN")
    return connection


def _pages(connection: sqlite3.Connection) -> list[str]:
    found = [str(text) for (text,) in connection.execute(f"PRAGMA integrity_check({MOST})")]
    return [] if found == ["ok"] else found


def _entries(connection: sqlite3.Connection, version: int) -> tuple[int, list[str]]:
    """Read every entry, in the order of the table."""
    problems: list[str] = []
    entries = newest = 0
    added = "schema_version, metadata" if version > 1 else f"1, '{NO_METADATA}'"
    rows = connection.execute(
        f"SELECT id, map, key, size, program, time, {'seal' if version > 2 else 'NULL'}, value, checksum, {added} "
        "FROM entries NOT INDEXED ORDER BY id"
    )
    for *own, sealed, value, digest, schema_version, metadata in rows:
        number, map_name, key = own[:3]
        entries += 1
        if number != newest + 1 and version > 2:
            problems.append(f"entries {newest + 1} to {number - 1} are missing")
        newest = number
        whole = sealed is None or sealed == layout.seal(*own)
        if not whole or not is_sound(map_name, key, value, digest, schema_version, metadata):
            problems.append(f"entry {number} of map {map_name!r}, key {key!r:.80}, is damaged")
    more = len(problems) - MOST
    return entries, problems[:MOST] + ([f"and {more} more of this kind"] if more > 0 else [])


def _counts(connection: sqlite3.Connection, path: Path) -> list[str]:
    counts = layout.Counts.read(connection, path)
    by_table = "SELECT map, count(*), max(id) FROM entries NOT INDEXED GROUP BY map"
    found = {name: (number, newest) for name, number, newest in connection.execute(by_table)}
    problems = [
        f"map {name!r} has {expected.entries} entries, and {found.get(name, (0, 0))[0]} of them can be found"
        for name, expected in counts.of_map.items()
        if found.get(name) != expected[1:]
    ]
    taken = connection.execute("SELECT * FROM taken NOT INDEXED").fetchall()
    if len(taken) != counts.watermarks or any(row[-1] != layout.seal(*row[:-1]) for row in taken):
        problems.append("what it says of the files that were taken into it is not as it was written")
    return problems[:MOST]


def repair(path: Path, target: Path | None = None) -> Repaired:
    """Make a new file of all that is whole in a database that nobody has open.

    Args:
        path: The damaged file.
        target: The new file, which must not exist. If None, the new file gets the old one's name, and the old one
            another name beside it.

    Raises:
        ConfigurationError: There is no such file, it is not the user's own, or a file cannot be made.
        DatabaseError: The file is in use; or nothing in it is of a results database, so it may be anything.
    """
    path = place.resolved(path)
    if not path.is_file():
        raise ConfigurationError(f"there is no results database {path}")
    place.check_file(path, path.lstat())
    if path.stat().st_size < SMALLEST and not _has_contents(wal_file(path)):
        raise DatabaseError(f"{path} has no page of a results database: there is nothing to repair")
    if target is not None and (target := place.resolved(target)).exists():
        raise ConfigurationError(f"{target} exists already; a repaired file does not replace it")
    ownership = Ownership.acquire(path, "hyperflow repair")
    place_of_draft = target or path
    draft = place_of_draft.with_name(f".{place_of_draft.name}.{secrets.token_hex(8)}")
    try:
        entries, lost, without = _save(path, draft)
        if not entries and lost is None and not place.is_ours(path):
            raise DatabaseError(
                f"nothing in {path} is of a results database, so it is left as it is; if it was one, "
                "move it away, and what it had is computed again"
            )
        sync(draft)
        kept = path if target is not None else _keep(path)
        if target is not None:
            link_new(draft, target)
        else:
            os.replace(draft, path)
        sync(place_of_draft.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot repair {path}: {error.strerror or error}") from error
    finally:
        for leftover in (draft, *_beside(draft)):
            leftover.unlink(missing_ok=True)
        ownership.release()
    return Repaired(place_of_draft, kept, entries, lost, without)


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]


def _keep(path: Path) -> Path:
    """Give the old file another name, too, and its log that name alone: SQLite would read it with the new file."""
    for number in count(1):
        kept = path.with_name(f"{path.name}.damaged-{number}")
        try:
            link_new(path, kept)
        except FileExistsError:
            continue
        for old, new in zip(_beside(path), _beside(kept), strict=True):
            if old.exists():
                os.replace(old, new)
        return kept
    raise AssertionError


def _save(path: Path, draft: Path) -> tuple[int, int | None, bool]:
    with Pages.open(path, wal_file(path)) as pages:
        places: dict[int, Place] = {}
        watermarks: dict[str, Watermark] = {}
        expected = watermarks_expected = -1
        for at, number, values in pages.rows():
            if _row(number, values) is not None:
                places[number] = at
            elif (taken := _watermark(values)) is not None:
                source, mark = taken
                if source not in watermarks or watermarks[source].newest < mark.newest:
                    watermarks[source] = mark
            elif len(values) == 5 and values[4] == layout.seal(number, *values[1:4]):
                if number == layout.TOTAL and isinstance(values[2], int):
                    expected = max(expected, values[2])
                elif number == layout.WATERMARKS and isinstance(values[2], int):
                    watermarks_expected = max(watermarks_expected, values[2])
        _write(pages, [places[number] for number in sorted(places)], watermarks, draft)
    lost = None if expected < 0 else max(expected - len(places), 0)
    return len(places), lost, len(watermarks) < watermarks_expected


def _write(pages: Pages, places: list[Place], watermarks: dict[str, Watermark], draft: Path) -> None:
    with closing(DatabaseFile.open(draft, "hyperflow repair")) as new:
        for start in range(0, len(places), PIECE):
            rows = (_row(*pages.row(at)) for at in places[start : start + PIECE])
            new.add([row for row in rows if row is not None])
        if watermarks:
            new.add([], watermarks)


def _row(number: int, values: list[Value]) -> Row | None:
    """Return the entry that a row is, if it is one, and whole."""
    if len(values) not in (8, 10, 11) or values[0] is not None:
        return None
    padded: list[Any] = [*values, *(1, NO_METADATA, None)[len(values) - 8 :]]
    _, map_name, key, value, size, program, when, digest, version, metadata, sealed = padded
    if isinstance(when, int):  # SQLite's short form of a whole number
        when = float(when)
    if not isinstance(program, str) or not isinstance(when, float) or not isinstance(digest, bytes):
        return None
    if sealed is not None and sealed != layout.seal(number, map_name, key, size, program, when):
        return None
    if not is_sound(map_name, key, value, digest, version, metadata):
        return None
    return map_name, key, value, program, when, digest, version, metadata


def _watermark(values: list[Value]) -> tuple[str, Watermark] | None:
    if len(values) not in (4, 5):
        return None
    source, newest, when, digest = values[:4]
    if not (isinstance(source, str) and isinstance(newest, int) and isinstance(when, int | float)):
        return None
    when = float(when)
    if not isinstance(digest, bytes) or (len(values) == 5 and values[4] != layout.seal(source, newest, when, digest)):
        return None
    return source, Watermark(newest, when, digest)
