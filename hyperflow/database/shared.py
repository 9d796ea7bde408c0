"""The shared store: a results database on a PostgreSQL server, which many programs and Jobs write to at a time.

Guarantees:
- `insert` returns when the entry is committed. Requests of one moment go together (see `thread`): a thousand inserts
  cost one commit, a thousand lookups one round trip.
- `lookup` asks the server each time, so it sees at once what another process has recorded. (Rejected: a cache. It would
  make a lookup cheaper than a round trip, and show values that others have long replaced.)
- The newest entry of a key counts, for everybody. When two processes compute one memoized call at the same time, each
  goes on with its own result, and everybody who looks later finds the one that was recorded last. (Within one process
  it is computed once.)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing

from hyperflow.database import plain
from hyperflow.database.entries import Entry
from hyperflow.database.server import Answer, Server
from hyperflow.database.store import DamagedEntry
from hyperflow.database.thread import Batches, DatabaseThread
from hyperflow.errors import DatabaseError

LONGEST_VALUE = 100_000_000
"""Characters; PostgreSQL stores no more than a billion bytes in one place, and takes twice as many to send them."""


class SharedStore:
    """A results database on a server; made by `open_database`, used from one event loop."""

    def __init__(self, url: str, program_id: str) -> None:
        self.url = url
        self.thread = DatabaseThread(url, lambda: closing(Server.open(url, program_id)))
        self._inserts: Batches[Server, Entry, None] = Batches(self.thread, Server.insert)
        self._lookups: Batches[Server, tuple[str, str], Answer] = Batches(self.thread, Server.lookup)

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is committed.

        Cancelling does not take it back: it may be recorded all the same.

        Raises:
            DatabaseError: It was not recorded: the server cannot be reached, or the database was closed.
        """
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.url}: store a file's path")
        for text in (map_name, key, value):
            self._check_text(text)
        await self._inserts.add((map_name, key, value))

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None; asks the server.

        Raises:
            DatabaseError: The server cannot be reached, or the database was closed.
        """
        self.thread.check()
        for text in (map_name, key):
            self._check_text(text)
        answer = await self._lookups.add((map_name, key))
        _report(answer.damaged)
        return answer.text

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first.

        Raises:
            DatabaseError: The server cannot be reached, or the database was closed.
        """
        self.thread.check()
        self._check_text(map_name)
        found, damaged = await self.thread.call(lambda server: server.read_all(map_name))
        _report(damaged)
        return found

    async def close(self) -> None:
        """Record what is queued, and close the connection; cancelling waits for that all the same."""
        await self.thread.close(self._inserts, self._lookups)

    def _check_text(self, text: str) -> None:
        # One that the server cannot take would make all others of its batch fail.
        if "\0" in text or not plain.is_text(text):
            raise DatabaseError(f"{text!r:.60} cannot be recorded in {self.url}: it has characters that are no text")


def _report(damaged: Sequence[str]) -> None:
    for report in damaged:
        warnings.warn(report, DamagedEntry, stacklevel=3)
