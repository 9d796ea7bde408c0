"""Scanning: all entries of a map, one after the other, for who keeps less of them than they are.

Guarantees: each sound entry comes once, the oldest first, older ones of a key as well; so the newest of a key is the
last. Damage is reported, and missing entries are an error, as for all other readers (see `file`). What is in memory
does not grow with the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from hyperflow.database import file as files
from hyperflow.database import layout
from hyperflow.database.entries import is_sound
from hyperflow.database.file import DatabaseFile
from hyperflow.database.kept import LONGEST

LOOK = 100_000
"""Entries that SQLite goes through in one look at a file that another program may be writing to."""

Take = Callable[[str, str], None]
"""Takes a key and its value, as they are in the database."""


class Scanned(NamedTuple):
    """An entry; without its value where that is long."""

    number: int
    key: str
    text: str | None
    time: float


_COLUMNS = (
    "id, key, CASE WHEN size <= ? OR seal IS NULL THEN value END, size, program, time, seal, "
    "checksum, schema_version, metadata FROM entries INDEXED BY entries_of_map"
)


def scan(file: DatabaseFile, map_name: str, after: int = 0) -> Iterator[Scanned]:
    """Yield the entries of a map; those after one, where it is said that all before have been seen.

    Raises:
        DatabaseError: Entries are missing, or the file cannot be read.
    """
    count, newest = 0, after
    query = f"SELECT {_COLUMNS} WHERE map = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
    expected = file.counts.of_map.get(map_name, files.NO_ENTRIES)
    with files.reported(file.path, "read"):
        for row in file.rows(query, map_name, expected.newest, after):
            count += 1
            if row[0] <= newest:
                raise layout.damaged(file.path, f"the entries of map {map_name!r} in it are out of order")
            newest = row[0]
            if (found := _sound(file, map_name, row)) is not None:
                yield found
    if not after:
        _check(file, map_name, (count, newest))


def scan_of(file: DatabaseFile, map_name: str, beginning: str, after: int = 0) -> Iterator[Scanned]:
    """Yield the entries of a map, after one, whose keys have this beginning; the others are not looked at.

    SQLite picks them, which takes a fiftieth of the time of `scan`. That none is missing is seen by their number.

    Raises:
        DatabaseError: As for `scan`.
    """
    count = "SELECT count(*), coalesce(max(id), 0) FROM entries INDEXED BY entries_of_map WHERE map = ? AND id <= ?"
    query = f"SELECT {_COLUMNS} WHERE map = ? AND id > ? AND id <= ? AND substr(key, 1, ?) = ? ORDER BY id"
    newest = file.counts.of_map.get(map_name, files.NO_ENTRIES).newest
    with files.reported(file.path, "read"):
        _check(file, map_name, file.connection.execute(count, (map_name, newest)).fetchone())
        for first in range(after, newest, LOOK):  # in short looks, as `DatabaseFile.rows`
            picked = LONGEST, map_name, first, min(first + LOOK, newest), len(beginning), beginning
            for row in file.connection.execute(query, picked).fetchall():
                if (found := _sound(file, map_name, row)) is not None:
                    yield found


def _sound(file: DatabaseFile, map_name: str, row: tuple[Any, ...]) -> Scanned | None:
    """Return an entry that was read; one that is damaged is reported."""
    number, key, text, size, program, when, sealed, *rest = row
    if text is None:
        sound = sealed == layout.seal(number, map_name, key, size, program, when)
    else:
        sound = is_sound(map_name, key, text, *rest)
    if sound:
        return Scanned(number, key, text, when)
    file.report(number, map_name, key)
    return None


def _check(file: DatabaseFile, map_name: str, found: tuple[int, int]) -> None:
    expected = file.counts.of_map.get(map_name, files.NO_ENTRIES)
    if found != expected[1:]:
        raise layout.damaged(
            file.path, f"map {map_name!r} has {expected.entries} entries in it, and {found[0]} of them can be found"
        )


def give_all(file: DatabaseFile, map_name: str, take: Take) -> None:
    """Give all entries of a map to somebody."""
    for number, key, text, _ in scan(file, map_name):
        known = text if text is not None else text_at(file, map_name, number)
        if known is not None:
            take(key, known)


def text_at(file: DatabaseFile, map_name: str, number: int) -> str | None:
    """Return the value of an entry that was scanned; None if it is damaged."""
    what = "SELECT map, key, value, checksum, schema_version, metadata FROM entries WHERE id = ?"
    with files.reported(file.path, "read"):
        row = file.connection.execute(what, (number,)).fetchone()
    if row is None or row[0] != map_name or not is_sound(*row):
        file.report(number, map_name, None if row is None else row[1])
        return None
    return str(row[2])
