"""Taking over: what a Job recorded in a file of its own comes into its program's database.

Guarantees:
- The program's database has one writer, which is the caller. The Job's file is only read, in pieces, while the Job may
  be writing to it: neither waits long for the other.
- Entries keep their program and time, and their order. Each is taken once, however often this is called and whatever
  was killed in between: a piece and the mark of how far it reached are one transaction.
- What the Job was started with (entries of other programs, by `start_from`) is not taken.
- A damaged entry is reported and left out. What a killed Job had recorded is there.

The mark is kept under the Job's program id, together with that entry's time and checksum: a run directory may be moved,
and a Job that began anew in another file is read from its beginning.

Ids in a file have no gaps, because nothing is ever removed. A gap seen while the Job is writing is a page that is not
there yet, which happens on network file systems whose locks do not reach from node to node. What comes after it waits
for the next time; so does everything while a killed Job's journal lies there, until the caller knows that it has ended.
"""

from __future__ import annotations

import asyncio
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path

import attrs

from hyperflow.database import file as files
from hyperflow.database import place
from hyperflow.database.file import Mark, Row
from hyperflow.database.store import DamagedEntry, Store
from hyperflow.errors import DatabaseError

PIECE = 5_000
"""Entries in one transaction: others who insert meanwhile wait for no more than one."""

PIECE_CHARACTERS = 16 * 1024 * 1024
"""Characters of values after which a piece ends, because it is held in memory."""


@attrs.frozen
class Taken:
    """What came of taking a file over.

    Args:
        newest: The last entry of the file that has been looked at, 0 if there is none.
        count: Entries that were taken this time.
        damaged: Entries that were left out this time; a warning has named each.
    """

    newest: int
    count: int
    damaged: int = 0


@attrs.frozen
class _Piece:
    rows: list[Row]
    damaged: list[str]
    mark: Mark | None
    last: bool


async def take_over(store: Store, source: Path, program_id: str, *, ended: bool = False) -> Taken:
    """Take what a program recorded in its own file into this store; call it as often as you like.

    Cancelling loses nothing: what was taken stays, the next call goes on from there.

    Args:
        store: The open database that receives them.
        source: The other program's database. One that is not there, or empty, has recorded nothing yet.
        program_id: The program whose entries are taken; unique for each file that is written.
        ended: Nobody writes to the source any more. Then what a killed writer left half done is tidied up first; never
            say so while that is not certain.

    Raises:
        ConfigurationError: The source is no ordinary file of this user's, that nobody else can write.
        DatabaseError: The source is damaged or not hyperflow's; or it cannot be written to this store.
    """
    mark = await store.taken(program_id)
    count = damaged = 0
    while True:
        piece = await asyncio.to_thread(_read, source, program_id, mark, ended)
        reached = piece.mark
        if reached is not None and reached != mark and not await store.take(piece.rows, program_id, mark, reached):
            mark = await store.taken(program_id)
            continue  # another call has taken this piece
        for report in piece.damaged:
            warnings.warn(report, DamagedEntry, stacklevel=2)
        count += len(piece.rows)
        damaged += len(piece.damaged)
        mark = reached
        if piece.last:
            return Taken(mark.newest if mark else 0, count, damaged)


def _read(source: Path, program_id: str, mark: Mark | None, ended: bool) -> _Piece:
    """Read the next piece of a file, in one short look, so that its writer need not wait."""
    source = place.resolved(source)
    if not source.parent.is_dir() or not place.check(source):
        return _Piece([], [], mark, True)
    mode = "rw" if ended else "ro"
    try:
        with (
            files.reported(source, "read"),
            closing(sqlite3.connect(f"{source.as_uri()}?mode={mode}", uri=True, timeout=files.BUSY_SECONDS)) as opened,
        ):
            opened.text_factory = files.lenient_text
            if ended and not place.is_local(source):
                opened.execute("PRAGMA locking_mode = EXCLUSIVE")  # a WAL is read without shared memory then
            opened.execute("BEGIN")
            return _next(opened, source, program_id, mark, ended)
    except DatabaseError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_READONLY_ROLLBACK and not ended:
            return _Piece([], [], mark, True)
        raise


def _next(opened: sqlite3.Connection, source: Path, program_id: str, mark: Mark | None, ended: bool) -> _Piece:
    since = mark.newest if mark is not None and _is_there(opened, mark) else 0
    query = (
        "SELECT id, map, key, CASE WHEN program = ?1 THEN value END, program, time, checksum FROM entries "
        "WHERE id > ?2 ORDER BY id"
    )
    rows: list[Row] = []
    damaged: list[str] = []
    characters = 0
    for number, map_name, key, value, program, time, checksum in opened.execute(query, (program_id, since)):
        if number != since + 1 and not ended:
            break
        since, mark = number, Mark(number, time, checksum)
        if program != program_id:
            continue
        if all(isinstance(text, str) for text in (map_name, key, value)) and checksum == files.checksum(
            map_name, key, value
        ):
            rows.append((map_name, key, value, program, time, checksum))
            characters += len(value)
        else:
            damaged.append(f"entry {number} in {source} is damaged; it was not taken over")
        if len(rows) >= PIECE or characters > PIECE_CHARACTERS:
            return _Piece(rows, damaged, mark, False)
    return _Piece(rows, damaged, mark, True)


def _is_there(opened: sqlite3.Connection, mark: Mark) -> bool:
    found = opened.execute("SELECT time, checksum FROM entries WHERE id = ?", (mark.newest,)).fetchone()
    return bool(found == (mark.time, mark.checksum))


__all__ = ("Taken", "take_over")
