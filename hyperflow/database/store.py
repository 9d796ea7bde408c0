"""The store: a program's results database, for the event loop. Here in a file; see `server` for PostgreSQL.

Guarantees:
- `insert` returns when the entry is on the disk, not before; when it raises, the entry was not recorded. A thousand
  inserts at a time cost one fsync (see `thread`).
- A map's keys, and its values unless they are long, are in memory after its first use: a `lookup` then neither waits
  nor leaves the loop.
- Closing waits until everything queued is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hyperflow import program
from hyperflow.database import background, place, single_flight
from hyperflow.database.entries import DamagedEntry, warn_of
from hyperflow.database.file import ABSENT, DatabaseFile, Found, Row, Watermark, copy_database
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
def _opened(path: Path, program_id: str) -> Iterator[DatabaseFile]:
    place.check(path)
    ownership = Ownership.acquire(path, program_id)
    try:
        with closing(DatabaseFile.open(path, program_id)) as file, ExitStack() as stack:
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
        self.thread = DatabaseThread(str(self.path), lambda: _opened(self.path, program_id), DatabaseFile.tidy)
        self._inserts = Batches(self.thread, DatabaseFile.insert, self._remember)
        self._maps: dict[str, dict[str, Found]] = {}

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is on the disk. What a cancelled caller inserts may be recorded."""
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.path}: store a file's path")
        await self._inserts.add((map_name, key, value))

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None; does not wait once the map is in memory."""
        self.thread.check()
        entries = self._maps.get(map_name)
        if entries is None:
            entries = await self._loaded(map_name)
        found = entries.get(key, ABSENT)
        if found.text is not None or not found.id:
            return found.text
        return await self._ask(lambda file: file.read(map_name, key, found.id))

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first."""
        self.thread.check()
        places = list((await self._loaded(map_name)).items())
        return await self._ask(lambda file: file.read_all(map_name, places))

    async def watermark(self, source: str) -> Watermark | None:
        """Return how far the file of another program has been ingested; see `ingest`."""
        self.thread.check()
        return await self._ask(lambda file: file.watermark(source))

    async def ingest(self, rows: list[Row], source: str, since: Watermark | None, watermark: Watermark) -> bool:
        """Record entries of another program as they are, and move its watermark, in one transaction.

        Returns False if its watermark is not `since` any more. Cancelling takes nothing back.
        """
        self.thread.check()

        def remember(done: asyncio.Future[list[Found] | None]) -> None:
            places = None if done.exception() else done.result()
            if places is not None:
                self._remember(rows, places)

        future = self.thread.call(lambda file: file.ingest(rows, source, since, watermark))
        # In a callback, because this task may be cancelled, and lookups must see the entries even then.
        future.add_done_callback(remember)
        return await asyncio.shield(future) is not None

    def _remember(self, entries: Sequence[Sequence[Any]], places: Sequence[Found]) -> None:
        for (map_name, key, *_), found in zip(entries, places, strict=True):
            if map_name in self._maps:
                self._maps[map_name][key] = found

    async def close(self) -> None:
        """Record what is queued, close the file and give back its lock. If cancelled, it still finishes this first."""
        await self.thread.close(self._inserts)

    async def _loaded(self, map_name: str) -> dict[str, Found]:
        """Return a map's entries, reading its keys at the first use. Concurrent callers share this one read."""

        async def load() -> None:
            self._maps[map_name] = await self._ask(lambda file: file.load(map_name))

        if map_name not in self._maps:
            await single_flight.once(self, map_name, lambda: f"map {map_name!r}", load)
        return self._maps[map_name]

    async def _ask(self, run: Callable[[DatabaseFile], T]) -> T:
        """Run a reading function in the thread, and report the damage that it met with."""

        def read(file: DatabaseFile) -> tuple[T, list[str]]:
            result = run(file)
            damaged, file.damaged = file.damaged, []
            return result, damaged

        result, damaged = await self.thread.call(read)
        warn_of(damaged)
        return result


__all__ = ("DamagedEntry", "Store", "copy_database", "open_database")
