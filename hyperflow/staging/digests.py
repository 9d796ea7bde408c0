"""The digest book: digests of files that were read before, so that a later run does not read 100 GB again.

    $XDG_CACHE_HOME/hyperflow/digests.sqlite      by default under ~/.cache

Guarantees: a digest in the book counts only for a file of the same path, size, device and inode that was neither
written nor had its inode changed since, and only if it was older than YOUNG when it was read: within the granularity of
its times it could have been changed once more. A row is compared with a checksum of its own. The book is a short cut
and nothing else: where it is damaged, locked for long, or cannot be written, files are read.

It is for the user alone, and in no run's directory, because a File is known before there is a run, and to many runs.
Small files are not in it: to read them takes no longer.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hyperflow import private
from hyperflow.errors import HyperflowError
from hyperflow.staging import content
from hyperflow.staging.content import State

if TYPE_CHECKING:
    import sqlite3

WORTH = 1 << 20
"""Bytes from which a digest is written down."""

YOUNG = 2.0
"""Seconds for which a change may not show in the times of a file."""

MOST = 1_000_000
"""Rows; beyond that, the oldest go."""

PATIENCE = 1.0
"""Seconds to wait for another process that writes."""

_TABLE = (
    "CREATE TABLE IF NOT EXISTS digests "
    "(path BLOB PRIMARY KEY, state TEXT, digest TEXT, proof TEXT, used REAL) WITHOUT ROWID"
)


def place() -> Path:
    """Return where the book is, whether it is there or not."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # as the standard has it: a relative one is ignored
        cache = os.path.join(os.environ.get("HOME") or os.devnull, ".cache")  # without a home, there is none
    return Path(cache) / "hyperflow" / "digests.sqlite"


class Book:
    """The book, open; without a database it only reads files."""

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self._database = database

    def digest(self, path: Path) -> tuple[str, State]:
        """Return the digest of a file, from the book or from itself, and the state that goes with it.

        Raises:
            FileChanged: It changes while it is read.
            OSError: It cannot be read, or is no ordinary file.
        """
        found = os.stat(path)
        state = State.of(found)
        if state.size < WORTH or self._database is None:
            return content.digest_file(path)
        name = os.fsencode(os.path.abspath(path))
        if (digest := self._look_up(name, state)) and os.access(path, os.R_OK):
            return digest, state
        now = time.time_ns()
        digest, state = content.digest_file(path)
        if max(state.mtime, state.ctime) < now - YOUNG * 10**9:
            self._write(name, state, digest)
        return digest, state

    def _look_up(self, name: bytes, state: State) -> str:
        import sqlite3  # noqa: PLC0415 (it is imported already, see `opened`)

        assert self._database is not None
        with suppress(sqlite3.Error):
            query = "SELECT digest, proof FROM digests WHERE path = ? AND state = ?"
            row = self._database.execute(query, (name, repr(tuple(state)))).fetchone()
            if row is not None and row[1] == _proof(name, state, row[0]):
                return str(row[0])
        return ""

    def _write(self, name: bytes, state: State, digest: str) -> None:
        import sqlite3  # noqa: PLC0415 (see above)

        assert self._database is not None
        row = name, repr(tuple(state)), digest, _proof(name, state, digest), time.time()
        with suppress(sqlite3.Error), self._database:
            self._database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", row)
            if os.urandom(1) == b"\0":  # now and then
                old = "SELECT path FROM digests ORDER BY used DESC LIMIT -1 OFFSET ?"
                self._database.execute(f"DELETE FROM digests WHERE path IN ({old})", (MOST,))


def _proof(name: bytes, state: State, digest: str) -> str:
    return hashlib.sha256(b"%s\0%r\0%s" % (name, tuple(state), digest.encode())).hexdigest()[:16]


@contextmanager
def opened() -> Iterator[Book]:
    """Open the book; one without a database if that cannot be."""
    database: sqlite3.Connection | None = None
    with suppress(ImportError):
        database = _connect(place())
    try:
        yield Book(database)
    finally:
        if database is not None:
            database.close()


def _connect(path: Path) -> sqlite3.Connection | None:
    import sqlite3  # noqa: PLC0415 (a program without files does not need it)

    for _ in range(2):
        try:
            private.make_all(path.parent)
            private.Held.open(path.parent).close()
            database = sqlite3.connect(path, timeout=PATIENCE)
        except (OSError, HyperflowError, sqlite3.Error):
            return None
        try:
            database.execute("PRAGMA synchronous = OFF")
            database.execute(_TABLE)
        except sqlite3.OperationalError:  # locked, full, read-only
            database.close()
            return None
        except sqlite3.DatabaseError:  # damaged: nothing is lost but time
            database.close()
            with suppress(OSError):
                path.unlink()
            continue
        return database
    return None
