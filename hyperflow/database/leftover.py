"""The write-ahead log (WAL) that a killed program leaves beside its database file: is it there, and is it whole?

SQLite takes a file without its log, or a log up to its first damaged byte, and says nothing. It says nothing of a log
that was cut, either: what is missing at the end counts as never written. But the log's index, a third file (-shm),
tells how many pages were committed, for SQLite writes it after the log is on the disk.
"""

from __future__ import annotations

import itertools
import logging
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

import attrs

from hyperflow.database import place
from hyperflow.errors import DatabaseError

logger = logging.getLogger("hyperflow")


def wal_file(path: Path) -> Path:
    """Return where the write-ahead log of a database is."""
    return path.with_name(f"{path.name}-wal")


@attrs.frozen
class Log:
    """The log of a killed program; look at it with `find` before SQLite does, which makes a new index."""

    path: Path
    committed: int = 0
    """How many pages in it were committed, as its index tells; 0 if that is not known."""
    salts: bytes = b""
    """The numbers of the log that the index is of."""

    def lost(self, connection: sqlite3.Connection) -> list[str]:
        """Report commits that SQLite does not read. Called before anything is written.

        After a loss of power it may also tell of a commit that nobody was promised.
        """
        valid = max(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1], 0)
        (page,) = connection.execute("PRAGMA page_size").fetchone()
        what = f"the last entries of {self.path.name[:-4]}, in the log {self.path} that a killed program has left"
        with self.path.open("rb") as file:
            salts = file.read(32)[16:24]
            if valid < self.committed and (valid == 0 or salts == self.salts):
                return [f"{what}, are missing or damaged: of {self.committed} pages, {valid} can be read"]
            for number in itertools.count(valid):
                file.seek(32 + number * (24 + page))
                frame = file.read(24)
                if len(frame) < 24:
                    return []
                # Of this log and not of an earlier one, which it overwrites; and the end of a commit.
                ours = sum(one != other for one, other in zip(frame[8:16], salts, strict=True)) < 2
                if ours and any(frame[4:8]):
                    return [f"{what}, are damaged and were not read"]
        return []


def find(database: Path) -> Log | None:
    """Return the log of a database that nobody has open, if there is one; raise DatabaseError if it is there alone."""
    log = wal_file(database)
    for part in (log, database.with_name(f"{database.name}-shm")):
        if part.exists() and not part.is_file():  # a pipe would be waited for
            raise DatabaseError(f"{part} belongs to {database}, and is no ordinary file; move it away")
    if not log.exists():
        return None
    if log.stat().st_size and (not database.exists() or not database.stat().st_size):
        what = "is empty" if database.exists() else "is not there any more"
        advice = (
            f"To go on with what is in the log, type: {place.repair_command(database)}"
            if database.exists()
            else "Put the file back, or move the log away"
        )
        raise DatabaseError(
            f"{database} {what}, but {log}, which has the last entries of a program that was killed, is. {advice}"
        )
    with suppress(OSError), database.with_name(f"{database.name}-shm").open("rb") as file:
        index = file.read(100)
        # Its header is there twice; the last number tells how many pages are in the database, too.
        committed, copied = (int.from_bytes(index[start : start + 4], sys.byteorder) for start in (16, 96))
        if len(index) == 100 and index[:48] == index[48:96] and copied < committed:
            return Log(log, committed, index[32:40])
    return Log(log)


def warn_of_missing(database: Path) -> None:
    """Tell if a database without a log is empty, or should have a log."""
    if not database.exists():
        return
    with database.open("rb") as file:
        header = file.read(100)
        if not header:
            logger.warning("%s is empty and counts as a new results database; what it had is lost", database)
        elif header[18:19] == b"\2":  # the program has not closed it
            logger.warning(
                "%s was not closed by the program that used it last, and its log %s is not there: if you have not "
                "looked at it with another program since, its last entries are lost",
                database,
                wal_file(database),
            )
