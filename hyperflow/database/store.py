"""The store: a program's results database, for the event loop. Here in a file; see `server` for PostgreSQL.

Guarantees:
- `insert` returns when the entry is on the disk, not before; when it raises, the entry was not recorded. A thousand
  inserts at a time cost one fsync (see `thread`).
- Which keys there are is known in memory after the first use (see `index`), and values that were read or recorded
  lately (see `kept`): a `lookup` of what is not there, or of these, neither waits nor leaves the loop. Lookups of one
  turn of the loop that ask the file are one question.
- Closing waits until everything queued is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyperflow import program
from hyperflow.database import background, place, scanning
from hyperflow.database.entries import DamagedEntry, Entry, Row, warn_of
from hyperflow.database.file import DatabaseFile, Watermark, copy_database
from hyperflow.database.index import Index, digest
from hyperflow.database.kept import Kept
from hyperflow.database.ownership import Ownership
from hyperflow.database.thread import Batches, DatabaseThread
from hyperflow.errors import ConfigurationError, DatabaseError

if TYPE_CHECKING:
    from hyperflow.database.server import SharedStore

logger = logging.getLogger("hyperflow")

T = TypeVar("T")

LONGEST_VALUE = 900_000_000
"""Characters; SQLite stores no more than a billion bytes in one place."""


def open_database(
    target: str | os.PathLike[str], program_id: str, patience: float | None = None
) -> AbstractAsyncContextManager[Store | SharedStore]:
    """Open a program's results database for a scope, and make it if it is not there.

    Leaving the scope waits until everything queued is recorded, also when cancelled.

    Args:
        target: A file, which only one process at a time can have open; or `postgresql://user@host/database`, which
            many can. The URL has no password in it: `~/.pgpass` is the place for that.
        program_id: Goes into every entry. Other users see it when they find the file locked or list the connections.
        patience: How many seconds a server may be away or silent, when it is opened and later; None for a minute.

    Raises:
        ConfigurationError: The place cannot be used: a directory, read-only, writable by others; or the URL is wrong.
        DatabaseError: The file is in use, damaged, not hyperflow's, or of a newer version; or the server refuses us.
    """
    if not program.is_url(target):
        return _scope(lambda: Store(Path(target), program_id))
    url = program.checked_url(str(target))
    try:
        from hyperflow.database.server import SharedStore  # noqa: PLC0415 - psycopg is optional
    except ImportError as error:
        raise ConfigurationError(
            f"database={url!r} needs psycopg ({error}); type: pip install 'hyperflow[postgresql]'"
        ) from error
    return _scope(lambda: SharedStore(url, program_id, patience))


@asynccontextmanager
async def _scope(start: Callable[[], Store | SharedStore]) -> AsyncIterator[Store | SharedStore]:
    store = start()
    await store.thread.wait_opened()
    try:
        yield store
    except BaseException:
        try:
            await store.close()
        except DatabaseError as error:  # the first error is the one to raise
            logger.error("%s", error)
        raise
    await store.close()


@contextmanager
def _opened(path: Path, program_id: str, index: Index, kept: Kept) -> Iterator[DatabaseFile]:
    place.check(path)
    ownership = Ownership.acquire(path, program_id)
    try:
        with closing(DatabaseFile.open(path, program_id, index, kept)) as file, ExitStack() as stack:
            if file.wal and file.counts.total.entries and path.stat().st_size <= background.LARGEST:
                stack.callback(background.BackgroundCheck(path).stop)
            yield file
    finally:
        ownership.release()


class Store:
    """A results database in a file; made by `open_database`, used from one event loop.

    Its methods raise DatabaseError when the file cannot be read or written, or the database was closed.
    """

    def __init__(self, path: Path, program_id: str) -> None:
        self.path = place.resolved(path)
        self.flights: dict[Any, Any] = {}
        index, kept = self._index, self._kept = Index(), Kept()
        self.thread = DatabaseThread(
            str(self.path), lambda: _opened(self.path, program_id, index, kept), DatabaseFile.tidy
        )
        self._inserts = Batches(self.thread, _insert)
        self._lookups = Batches(self.thread, _look_up)

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is on the disk. What a cancelled caller inserts may be recorded."""
        self._check(value)
        await self._inserts.add((map_name, key, value))

    def record(self, map_name: str, key: str, value: str) -> asyncio.Future[None]:
        """Record a value; the future is done when it is on the disk."""
        self._check(value)
        return self._inserts.put((map_name, key, value))

    def _check(self, value: str) -> None:
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.path}: store a file's path")

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None."""
        known, text = self.peek(map_name, key)
        if known:
            return text
        text, damaged = await self._lookups.add((map_name, key))
        warn_of(damaged)
        return text

    def peek(self, map_name: str, key: str) -> tuple[bool, str | None]:
        """Return whether it is known at once what a key has, and that."""
        self.thread.check()
        text = self._kept.get(map_name, key)
        if text is not None:
            return True, text
        index = self._index
        # Where something is damaged, the file is asked: its answers bring the reports.
        return index.complete and index.whole and not index.newest(digest(map_name, key)), None

    def ask(self, map_name: str, key: str) -> asyncio.Future[tuple[str | None, list[str]]]:
        """Read what a key has; all that is asked in one turn of the loop is one question."""
        return self._lookups.put((map_name, key))

    def peek_all(self, map_name: str, keys: list[str]) -> list[tuple[bool, str | None]] | None:
        """Return what `peek` says of each key; None if it is known that nothing is there for any of them."""
        self.thread.check()
        index = self._index
        sure = index.complete and index.whole and self._kept.has_none(map_name, keys)
        if sure and index.has_none([digest(map_name, key) for key in keys]):
            return None
        return [self.peek(map_name, key) for key in keys]

    def ask_all(self, names: list[tuple[str, str]]) -> asyncio.Future[list[tuple[str | None, list[str]]]]:
        """Read what some keys have; each name is a map and a key."""
        return self._lookups.put_all(names)

    def record_all(self, entries: list[Entry]) -> asyncio.Future[list[None]]:
        """Record entries; the future is done when they are on the disk. Their values are not too long."""
        self.thread.check()
        return self._inserts.put_all(entries)

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first."""
        self.thread.check()
        return await self._ask(lambda file: file.read_all(map_name, list(file.load(map_name).items())))

    async def each(self, map_name: str, take: scanning.Take) -> None:
        """Give every entry of a map to somebody, the oldest first, also those that newer ones hide; in a thread."""
        self.thread.check()
        await self._ask(lambda file: scanning.give_all(file, map_name, take))

    async def watermark(self, source: str) -> Watermark | None:
        """Return how far the file of another program has been ingested; see `ingest`."""
        self.thread.check()
        return await self._ask(lambda file: file.watermark(source))

    async def ingest(self, rows: list[Row], source: str, since: Watermark | None, watermark: Watermark) -> bool:
        """Record entries of another program as they are, and move its watermark, in one transaction.

        Returns False if its watermark is not `since` any more. Cancelling takes nothing back.
        """
        self.thread.check()
        return await asyncio.shield(self.thread.call(lambda file: file.ingest(rows, source, since, watermark)))

    async def close(self) -> None:
        """Record what is queued, close the file and give back its lock. If cancelled, it still finishes this first."""
        await self.thread.close(self._inserts, self._lookups)

    async def _ask(self, run: Callable[[DatabaseFile], T]) -> T:
        """Run a reading function in the thread, and report the damage that it met with."""

        def read(file: DatabaseFile) -> tuple[T, list[str]]:
            return run(file), file.damaged

        result, damaged = await self.thread.call(read)
        warn_of(damaged)
        return result


def _insert(file: DatabaseFile, entries: list[Entry]) -> list[None]:
    file.insert(entries)
    return [None] * len(entries)


def _look_up(file: DatabaseFile, asked: list[tuple[str, str]]) -> list[tuple[str | None, list[str]]]:
    """Return the values of some keys, each with all damage that nobody was told of.

    It is taken off there and not here: an answer may reach nobody, because who asked was cancelled.
    """
    return [(file.lookup(map_name, key), file.damaged) for map_name, key in asked]


__all__ = ("DamagedEntry", "Store", "copy_database", "open_database")
