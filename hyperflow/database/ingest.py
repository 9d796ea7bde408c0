"""Ingest: the entries that a Job recorded in a file of its own come into its program's database.

Guarantees:
- The caller only reads the Job's file, in pieces, while the Job may be writing to it: neither waits long for the other.
- Entries keep their program, time and order. Each comes once, however often this is called and whatever was killed in
  between: a piece and the watermark after it are one transaction.
- What the Job was started with (entries of other programs, by `start_from`) does not come.
- A damaged entry is reported and skipped; so is a gap, and a log whose end is damaged. What a killed Job had recorded
  is there. If the end of its file is missing, that is an error, and the file is left to be repaired.

The watermark stands under the Job's program id, with the time and the checksum of its entry: a run directory may be
moved, and a Job that began again in another file is read from its beginning.

Ids in a file have no gaps, because nothing is ever removed. A gap seen while the Job is writing is a page that is not
there yet, which happens on network file systems whose locks do not reach from node to node. What comes after it is left
for the next call. So is everything while the journal of a killed Job lies there, until the caller knows that the Job
has ended.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import attrs

from hyperflow.database import file as files
from hyperflow.database import layout, leftover, place
from hyperflow.database.entries import NO_METADATA, Row, is_sound, warn_of
from hyperflow.database.file import Watermark
from hyperflow.database.store import Store
from hyperflow.errors import DatabaseError

PIECE = 5_000
"""Entries in one transaction, which is for so long, other inserts have to wait."""

PIECE_CHARACTERS = 16 * 1024 * 1024
"""Characters of values after which a piece ends, because it is held in memory."""


@attrs.frozen
class Ingested:
    """What came of reading a file: its last entry (or 0), and how many were taken, and skipped, this time."""

    newest: int
    count: int
    damaged: int = 0


@attrs.frozen
class _Piece:
    rows: list[Row]
    damaged: list[str]
    watermark: Watermark | None
    last: bool
    failure: DatabaseError | None = None
    """What is to be raised when the piece has been taken."""


async def ingest(store: Store, source: Path, program_id: str, *, ended: bool = False) -> Ingested:
    """Copy what a program recorded in its own file into this store; call it as often as you like.

    Cancelling loses nothing: what came stays, and the next call goes on from there.

    Args:
        store: The open database that receives them.
        source: The other program's database. One that is not there, or empty, has recorded nothing yet.
        program_id: The program whose entries come; unique for each file that is written.
        ended: Nobody writes to the source any more, which has to be certain: what a killed writer left half done
            is then tidied up first.

    Raises:
        ConfigurationError: The source is no ordinary file of this user's, that nobody else can write.
        DatabaseError: The source is damaged or not hyperflow's; or it cannot be written to this store.
    """
    watermark = await store.watermark(program_id)
    count = damaged = 0
    while True:
        piece = await asyncio.to_thread(_read, source, program_id, watermark, ended)
        reached = piece.watermark
        if reached not in (None, watermark) and not await store.ingest(piece.rows, program_id, watermark, reached):
            watermark = await store.watermark(program_id)
            continue  # another call has ingested this piece
        count += len(piece.rows)
        damaged += len(piece.damaged)
        warn_of(piece.damaged)
        watermark = reached
        if piece.failure is not None:
            raise piece.failure
        if piece.last:
            return Ingested(watermark.newest if watermark else 0, count, damaged)


def _read(source: Path, program_id: str, watermark: Watermark | None, ended: bool) -> _Piece:
    """Read the next piece of a file, in one short look, so that its writer need not wait."""
    source = place.resolved(source)
    if not source.parent.is_dir():
        return _Piece([], [], watermark, True)
    there = place.check(source)
    left = leftover.find(source) if ended else None
    if not there:
        return _Piece([], [], watermark, True)
    mode = "rw" if ended else "ro"
    try:
        with (
            files.reported(source, "read"),
            closing(sqlite3.connect(f"{source.as_uri()}?mode={mode}", uri=True, timeout=files.BUSY_SECONDS)) as opened,
        ):
            layout.prepare(opened)
            if ended and not place.is_local(source):
                opened.execute("PRAGMA locking_mode = EXCLUSIVE")  # a WAL is read without shared memory then
            lost = left.lost(opened) if left and place.is_local(source) else []
            opened.execute("BEGIN")
            piece = _next(opened, source, program_id, watermark, ended)
            return attrs.evolve(piece, damaged=[*piece.damaged, *lost])  # the log is gone when the next piece is read
    except DatabaseError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_READONLY_ROLLBACK and not ended:
            return _Piece([], [], watermark, True)
        raise


def _next(
    opened: sqlite3.Connection, source: Path, program_id: str, watermark: Watermark | None, ended: bool
) -> _Piece:
    (version,) = opened.execute("PRAGMA user_version").fetchone()
    if not ended and not opened.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return _Piece([], [], watermark, True)  # the Job is just making it
    layout.check_tables(opened, source, version)
    since = 0
    if watermark is not None:
        found = opened.execute("SELECT id, time, checksum FROM entries WHERE id = ?", watermark[:1]).fetchone()
        since = watermark.newest if found == watermark else 0
    # Of an older hyperflow, columns are missing.
    added = "schema_version, metadata" if version > 1 else f"1, '{NO_METADATA}'"
    query = (
        f"SELECT id, size, {'seal' if version > 2 else 'NULL'}, map, key, CASE WHEN program = ? THEN value END, "
        f"program, time, checksum, {added} FROM entries WHERE id > ? ORDER BY id"
    )
    rows: list[Row] = []
    damaged: list[str] = []
    characters = 0
    for number, size, sealed, *row in opened.execute(query, (program_id, since)):
        map_name, key, value, program, time, digest, schema_version, metadata = row
        if number != since + 1:
            if not ended:
                break
            damaged.append(f"entries {since + 1} to {number - 1} in {source} are missing")
        since, watermark = number, Watermark(number, time, digest)
        sealed_well = sealed is None or sealed == layout.seal(number, map_name, key, size, program, time)
        if program != program_id and sealed_well:
            continue
        if sealed_well and is_sound(map_name, key, value, digest, schema_version, metadata):
            rows.append((map_name, key, value, program, time, digest, schema_version, metadata))
            characters += len(value)
        else:
            damaged.append(f"entry {number} in {source} is damaged; it was not ingested")
        if len(rows) >= PIECE or characters > PIECE_CHARACTERS:
            return _Piece(rows, damaged, watermark, False)
    if ended and version > 2:
        try:
            layout.Counts.read(opened, source)
        except DatabaseError as failure:
            return _Piece(rows, damaged, watermark, True, failure)
    return _Piece(rows, damaged, watermark, True)


__all__ = ("Ingested", "ingest")
