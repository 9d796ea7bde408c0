"""The store: a program's results database in a file, for the event loop.

Guarantees:
- `insert` returns when the entry is on the disk, not before; when it raises, the entry was not recorded.
- One thread per open database does all of SQLite's work (see `thread`), with group commit: all inserts that are queued
  when it comes round are one transaction, so a thousand at a time cost one fsync.
- A map's keys, and its values unless they are long, are in memory after its first use: a `lookup` then neither waits
  nor leaves the loop.
- Closing waits until everything queued is recorded.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hyperflow.database import place
from hyperflow.database.file import DatabaseFile, Found, Row, Watermark, copy_database
from hyperflow.database.ownership import Ownership
from hyperflow.database.thread import Batches, DatabaseThread
from hyperflow.errors import DatabaseError

T = TypeVar("T")

LONGEST_VALUE = 900_000_000
"""Characters; SQLite stores no more than a billion bytes in one place."""


class DamagedEntry(RuntimeWarning):
    """An entry of the results database is not what was written; it counts as absent."""


@contextmanager
def _opened(path: Path, program_id: str) -> Iterator[DatabaseFile]:
    place.check(path)
    ownership = Ownership.acquire(path, program_id)
    try:
        with closing(DatabaseFile.open(path, program_id)) as file:
            yield file
    finally:
        ownership.release()


class Store:
    """A results database in a file; made by `open_database`, used from one event loop."""

    def __init__(self, path: Path, program_id: str) -> None:
        self.path = place.resolved(path)
        self.thread = DatabaseThread(str(self.path), lambda: _opened(self.path, program_id))
        self._loop = asyncio.get_running_loop()
        self._inserts = Batches(self.thread, DatabaseFile.insert, self._remember)
        self._maps: dict[str, dict[str, Found]] = {}
        self._loads: dict[str, asyncio.Future[None]] = {}

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is on the disk.

        Cancelling does not take it back: it may be recorded all the same.

        Raises:
            DatabaseError: It was not recorded: the disk is full, or the database was closed.
        """
        self.thread.check()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.path}: store a file's path")
        await self._inserts.add((map_name, key, value))

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None; does not wait once the map is in memory.

        Raises:
            DatabaseError: The file cannot be read, or the database was closed.
        """
        self.thread.check()
        entries = self._maps.get(map_name)
        if entries is None:
            entries = await self._loaded(map_name)
        found = entries.get(key)
        if found is None or found.text is not None:
            return None if found is None else found.text
        number = found.id
        return await self._ask(lambda file: file.read(map_name, key, number))

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        """Return every key of a map with its newest value, the oldest key first.

        Raises:
            DatabaseError: The file cannot be read, or the database was closed.
        """
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

        Raises:
            DatabaseError: None of them was recorded.
        """
        self.thread.check()

        def remember(done: asyncio.Future[list[Found] | None]) -> None:
            places = None if done.exception() else done.result()
            if places is not None:
                self._remember(rows, places)

        future = self.thread.call(lambda file: file.ingest(rows, source, since, watermark))
        # In a callback, because this task may be cancelled and those who look up are to see the entries all the same.
        future.add_done_callback(remember)
        return await asyncio.shield(future) is not None

    def _remember(self, entries: Sequence[Sequence[Any]], places: Sequence[Found]) -> None:
        for (map_name, key, *_), found in zip(entries, places, strict=True):
            loaded = self._maps.get(map_name)
            if loaded is not None:
                loaded[key] = found

    async def close(self) -> None:
        """Record what is queued, close the file and give back its lock; cancelling waits for that all the same."""
        await self.thread.close(self._inserts)

    async def _loaded(self, map_name: str) -> dict[str, Found]:
        """Return a map's entries, reading its keys at the first use; all who come meanwhile wait for that one."""
        while map_name not in self._maps:
            load = self._loads.get(map_name)
            if load is None:
                load = self._loads[map_name] = self._loop.create_task(self._load(map_name))
                load.add_done_callback(lambda done: done.cancelled() or done.exception())  # counts as seen
            await asyncio.shield(load)
        return self._maps[map_name]

    async def _load(self, map_name: str) -> None:
        try:
            self._maps[map_name] = await self._ask(lambda file: file.load(map_name))
        finally:
            del self._loads[map_name]

    async def _ask(self, run: Callable[[DatabaseFile], T]) -> T:
        """Run a reading function in the thread, and report the damage that it met with."""

        def read(file: DatabaseFile) -> tuple[T, list[str]]:
            result = run(file)
            damaged, file.damaged = file.damaged, []
            return result, damaged

        result, damaged = await self.thread.call(read)
        for report in damaged:
            warnings.warn(report, DamagedEntry, stacklevel=2)
        return result


__all__ = ("DamagedEntry", "Store", "copy_database")
