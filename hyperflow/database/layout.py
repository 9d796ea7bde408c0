"""Layout: the tables of a database file, and what shows that all of them is there.

SQLite does not see a flipped byte. In a value it changes the value; in a page of an index, or of the tree that holds a
table, it makes any number of entries vanish, without an error. So a file has, beside its entries:

- in each entry a checksum of its content (see `entries`), and a seal of what is of this file only: its id, its program,
  its time, and once more its map and key, so that a long value need not be read to know whose it is;
- the counts: for each map how many entries it has and the newest one's id, and the same for the whole file and for
  the watermarks. They change in the transaction that adds entries. All are read when the file is opened.

Who reads a map, or the index (see `index`, whose table is not part of a version: it is made when it is needed, and a
file is whole without it), compares what was found with the counts; so nothing else has to be read at opening. What is
missing is an error, and `hyperflow repair` makes a new file of all that is whole (see `repair`).

Rejected: checksums for pages, which SQLite has in an extension that Python does not come with.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import attrs

from hyperflow.database import place
from hyperflow.errors import DatabaseError

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
    """
ALTER TABLE entries ADD COLUMN seal INTEGER;
CREATE TABLE IF NOT EXISTS taken (
    program TEXT PRIMARY KEY,
    newest INTEGER NOT NULL,
    time REAL NOT NULL,
    checksum BLOB NOT NULL
);
ALTER TABLE taken ADD COLUMN seal INTEGER;
UPDATE taken SET seal = seal(program, newest, time, checksum);
CREATE TABLE counts (
    id INTEGER PRIMARY KEY,
    map TEXT NOT NULL,
    count INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    seal INTEGER NOT NULL
);
INSERT INTO counts
    SELECT row_number() OVER (ORDER BY min(id)), map, count(*), max(id), 0 FROM entries NOT INDEXED GROUP BY map;
INSERT INTO counts SELECT 0, '', coalesce(sum(count), 0), coalesce(max(newest), 0), 0 FROM counts;
INSERT INTO counts SELECT -1, '', count(*), 0, 0 FROM taken NOT INDEXED;
UPDATE counts SET seal = seal(id, map, count, newest);
""",
)
"""What makes each version of the layout of the one before; the first one makes the tables of an empty file.

`taken` has how far the files of other programs have been ingested (see `ingest`); older files may have it, too."""

TOTAL, WATERMARKS = 0, -1
"""The rows of `counts` that are not about one map."""


def seal(*parts: object) -> int:
    """Return a check sum of some numbers and texts. It finds every change of one byte."""
    return crc32(repr(parts).encode())


def seals(
    numbers: Iterable[int],
    maps: Iterable[str],
    keys: Iterable[str],
    sizes: Iterable[int],
    programs: Iterable[str],
    times: Iterable[float],
) -> Iterator[int]:
    """Yield the `seal` of each of some entries. What many have in common is put into words once."""
    last_map = last_program = last_time = None
    name = tail = ""
    for number, map_name, key, size, program, when in zip(numbers, maps, keys, sizes, programs, times, strict=False):
        if map_name is not last_map:
            last_map, name = map_name, repr(map_name)
        if program is not last_program or when is not last_time:
            last_program, last_time, tail = program, when, f"{program!r}, {when!r})"
        yield crc32(f"({number}, {name}, {key!r}, {size}, {tail}".encode())


def prepare(connection: sqlite3.Connection) -> None:
    """Give a connection what the schemas and the readers of damaged texts need."""
    connection.text_factory = lenient_text
    connection.create_function("seal", -1, seal, deterministic=True)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def lenient_text(data: bytes) -> str:
    """Return a text that may be damaged: reading goes on, and the checksum finds it out."""
    return data.decode("utf-8", "replace")


def damaged(path: Path, how: str) -> DatabaseError:
    """Return the error that a file is damaged, with what to type."""
    return DatabaseError(
        f"{path} is damaged: {how}. It was left as it is. To go on with all that is whole in it, type: "
        f"{place.repair_command(path)}"
    )


@functools.cache
def _tables(version: int) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table and index of a version of the layout, as SQLite itself tells them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        prepare(model)
        for schema in SCHEMAS[:version]:
            model.executescript(schema)
        return _columns(model)


def _columns(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    names = connection.execute("SELECT name, type, tbl_name FROM sqlite_master").fetchall()
    return {
        name: [(kind, table), *connection.execute("SELECT * FROM pragma_table_xinfo(?)", (name,))]
        if kind == "table"
        else [(kind, table), *connection.execute("SELECT * FROM pragma_index_xinfo(?)", (name,))]
        for name, kind, table in names
    }


def check_tables(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Raise DatabaseError unless the tables are those of this version, and the file is as large as it should be."""
    found = _columns(connection)
    wrong = [name for name, columns in _tables(version).items() if found.get(name) != columns]
    if wrong:
        raise damaged(path, f"{' and '.join(sorted(wrong))} in it are not as hyperflow has made them")
    if connection.execute("PRAGMA encoding").fetchone() != ("UTF-8",):
        raise damaged(path, "its header does not say how texts are written")
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    if path.stat().st_size > pages * size:
        raise damaged(path, f"it is larger than the {pages} pages of {size} bytes that its header tells of")


class Count(NamedTuple):
    """The row of a map in `counts`: how many entries it has, and the newest one's id."""

    id: int
    entries: int
    newest: int


@attrs.define
class Counts:
    """The counts of an open file."""

    total: Count
    watermarks: int
    of_map: dict[str, Count]

    @classmethod
    def read(cls, connection: sqlite3.Connection, path: Path) -> Counts:
        """Read all counts, and compare them with each other and with the newest entry.

        Raises:
            DatabaseError: They contradict each other, so entries or counts are missing.
        """
        rows = connection.execute("SELECT id, map, count, newest, seal FROM counts").fetchall()
        if any(row[-1] != seal(*row[:-1]) for row in rows):
            raise damaged(path, "a count of its entries is not as it was written")
        counts = {name: Count(number, *rest) for number, name, *rest, _ in rows if number > TOTAL}
        general = {row[0]: Count(row[0], *row[2:4]) for row in rows if row[0] <= TOTAL}
        if general.keys() != {TOTAL, WATERMARKS} or len(counts) + 2 != len(rows):
            raise damaged(path, "counts of its entries are missing")
        total = general[TOTAL]
        expected = (
            sum(each.entries for each in counts.values()),
            max((each.newest for each in counts.values()), default=0),
        )
        if total[1:] != expected:
            raise damaged(path, f"its maps have {expected[0]} entries together, and the file {total.entries}")
        (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        if newest != total.newest:
            raise damaged(path, f"its newest entry is {total.newest}, and {newest} is the newest that can be found")
        return cls(total, general[WATERMARKS].entries, counts)

    def after(self, maps: Iterable[str], first: int, watermarks: int) -> Counts:
        """Return the counts when entries of these maps have been added, the first one with the id `first`."""
        names = list(maps)
        of_map, count = dict(self.of_map), len(names)
        newest = dict(zip(names, range(first, first + count), strict=True))
        for name, more in Counter(names).items():
            before = of_map.get(name) or Count(len(of_map) + 1, 0, 0)
            of_map[name] = Count(before.id, before.entries + more, newest[name])
        total = Count(TOTAL, self.total.entries + count, first + count - 1 if count else self.total.newest)
        return Counts(total, watermarks, of_map)

    def write(self, connection: sqlite3.Connection, before: Counts) -> None:
        """Write what has changed since."""
        changed = [(each.id, name, *each[1:]) for name, each in self.of_map.items() if before.of_map.get(name) != each]
        changed.append((TOTAL, "", *self.total[1:]))
        if self.watermarks != before.watermarks:
            changed.append((WATERMARKS, "", self.watermarks, 0))
        connection.executemany(
            "INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?, ?)", [(*row, seal(*row)) for row in changed]
        )
