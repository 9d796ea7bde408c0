"""The store: a program's results database, for the event loop.

Guarantees:
- `insert` returns when the entry is on the disk, not before; when it raises, the entry was not recorded.
- One thread per open database does all of SQLite's work. All inserts that are queued when it comes round go into one
  transaction, so a thousand at a time cost one fsync.
- A map's keys, and its values unless they are long, are in memory after its first use: a `lookup` then neither waits
  nor leaves the loop.
- Closing waits until everything queued is recorded. A loop that is closed without that does not keep the thread.
- Nobody waits for ever: a store that was closed, failed, or belongs to the parent of a forked process says so.

Inserts are collected on the loop while the thread commits, and handed over together. That needs no lock, and adapts by
itself: a lone insert goes at once, a storm in batches as large as one fsync is long.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs

from hyperflow.database import place
from hyperflow.database.file import DatabaseFile, Entry, Found, copy_database
from hyperflow.database.ownership import Ownership
from hyperflow.errors import DatabaseError

T = TypeVar("T")

LOOP_CHECK = 1.0
"""Seconds after which an idle thread looks whether its loop still exists."""

LONGEST_VALUE = 900_000_000
"""Characters; SQLite stores no more than a billion bytes in one place."""


class DamagedEntry(RuntimeWarning):
    """An entry of the results database is not what was written; it counts as absent."""


@attrs.frozen
class _Job:
    run: Callable[[DatabaseFile], Any]
    future: asyncio.Future[Any]


class _Thread:
    """The thread that does all of SQLite's work for one open database."""

    def __init__(self, path: Path, program_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that an interpreter whose loop is never closed can end; `_at_exit` then closes in order.
        self._thread = threading.Thread(
            target=self._run, args=(path, program_id), name=f"hyperflow-database {path.name}", daemon=True
        )
        self._pid = os.getpid()
        self._finishing = False
        atexit.register(self._at_exit)
        self._thread.start()

    def call(self, run: Callable[[DatabaseFile], T]) -> asyncio.Future[T]:
        """Run a function in the thread and return the future of its result."""
        if self._finishing:
            raise DatabaseError("the results database was closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(run, future))
        return future

    def finish(self) -> asyncio.Future[None]:
        """End the thread after all calls made so far; the future is done when the file is closed."""
        self._finishing = True
        self._jobs.put(None)
        return self.closed

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:  # a forked child has a copy of this, but no thread
            self._jobs.put(None)
            self._thread.join(10)

    def _run(self, path: Path, program_id: str) -> None:
        try:
            ownership, file = _open(path, program_id)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the one who opens is told
            self._tell(self.opened, None, error)
            atexit.unregister(self._at_exit)
            return
        try:
            if self._tell(self.opened, None, None):
                self._serve(file)
        finally:
            try:
                file.close()
            finally:
                ownership.release()
                atexit.unregister(self._at_exit)
                self._tell(self.closed, None, None)

    def _serve(self, file: DatabaseFile) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=LOOP_CHECK)
            except queue.Empty:
                if self._loop.is_closed():
                    return
                continue
            if job is None:
                return
            result, failure = None, None
            try:
                result = job.run(file)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the one who asked is told
                failure = error
            if not self._tell(job.future, result, failure):
                return
            del job, result, failure  # or a large value would be kept until the next job
            file.tidy()

    def _tell(self, future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> bool:
        """Give a future its result on the loop; return False if the loop has been closed."""
        try:
            self._loop.call_soon_threadsafe(_resolve, future, result, failure)
        except RuntimeError:
            return False
        return True


def _resolve(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)


async def _settled(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, also when cancelled meanwhile; raise that afterwards."""
    interrupted: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _open(path: Path, program_id: str) -> tuple[Ownership, DatabaseFile]:
    place.check(path)
    ownership = Ownership.acquire(path, program_id)
    try:
        return ownership, DatabaseFile.open(path, program_id)
    except BaseException:
        ownership.release()
        raise


class Store:
    """A program's results database; opened with `open_database`, used from one event loop."""

    def __init__(self, path: Path, thread: _Thread) -> None:
        self.path = path
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._closing: asyncio.Future[None] | None = None
        self._queued: list[tuple[Entry, asyncio.Future[None]]] = []
        self._handing_over = False
        self._maps: dict[str, dict[str, Found]] = {}
        self._loads: dict[str, asyncio.Future[None]] = {}

    async def insert(self, map_name: str, key: str, value: str) -> None:
        """Record a value, and return when it is on the disk.

        Cancelling does not take it back: it may be recorded all the same.

        Raises:
            DatabaseError: It was not recorded: the disk is full, or the database was closed.
        """
        self._check_open()
        if len(value) > LONGEST_VALUE:
            raise DatabaseError(f"a value of {len(value)} characters is too long for {self.path}: store a file's path")
        future: asyncio.Future[None] = self._loop.create_future()
        self._queued.append(((map_name, key, value), future))
        if not self._handing_over:
            self._handing_over = True
            self._loop.call_soon(self._hand_over)  # so that all inserts of this turn of the loop go together
        await future

    async def lookup(self, map_name: str, key: str) -> str | None:
        """Return the newest value of a key, or None; does not wait once the map is in memory.

        Raises:
            DatabaseError: The file cannot be read, or the database was closed.
        """
        self._check_open()
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
        self._check_open()
        places = list((await self._loaded(map_name)).items())
        return await self._ask(lambda file: file.read_all(map_name, places))

    async def close(self) -> None:
        """Record what is queued, close the file and give back its lock; cancelling waits for that all the same."""
        if os.getpid() != self._pid:  # a forked child leaves its parent's store alone
            return
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await _settled(self._closing)
        self._closing.result()

    async def _close(self) -> None:
        while self._handing_over:
            await asyncio.sleep(0)  # lets a batch be handed over
            await self._thread.call(lambda file: None)  # comes after it
        await self._thread.finish()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise DatabaseError(f"the results database {self.path} was closed; use it while its program runs")
        if os.getpid() != self._pid:
            raise DatabaseError(
                f"the results database {self.path} belongs to process {self._pid}; a process forked from it cannot "
                "use it. Return results from the evaluation and record them in the job"
            )

    def _hand_over(self) -> None:
        batch, self._queued = self._queued, []
        entries = [entry for entry, _ in batch]

        def commit(file: DatabaseFile) -> list[Found]:
            return file.insert(entries)

        self._thread.call(commit).add_done_callback(lambda done: self._committed(batch, done))

    def _committed(self, batch: list[tuple[Entry, asyncio.Future[None]]], done: asyncio.Future[list[Found]]) -> None:
        failure = done.exception()
        if failure is not None:
            for _, future in batch:
                if not future.done():
                    error = DatabaseError(str(failure))  # one for each: a traceback grows where it is raised
                    error.__cause__ = failure
                    future.set_exception(error)
        else:
            for ((map_name, key, _), future), found in zip(batch, done.result(), strict=True):
                entries = self._maps.get(map_name)
                if entries is not None:
                    entries[key] = found
                if not future.done():
                    future.set_result(None)
        if self._queued:
            self._hand_over()
        else:
            self._handing_over = False

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

        result, damaged = await self._thread.call(read)
        for report in damaged:
            warnings.warn(report, DamagedEntry, stacklevel=2)
        return result


@asynccontextmanager
async def open_database(path: str | os.PathLike[str], program_id: str) -> AsyncIterator[Store]:
    """Open a program's results database for a scope; it is made if it is not there.

    Leaving the scope waits until everything queued is recorded, also when cancelled.

    Args:
        path: The file. Only one process at a time may have it open.
        program_id: Is noted with every entry, and told to others who want the file.

    Raises:
        ConfigurationError: The place cannot be used: a directory, read-only, writable by others.
        DatabaseError: The file is in use, damaged, not hyperflow's, or of a newer version.
    """
    file = place.resolved(Path(path))
    thread = _Thread(file, program_id)
    try:
        await _settled(thread.opened)
        thread.opened.result()
    except asyncio.CancelledError:
        if thread.opened.exception() is None:
            await _settled(thread.finish())
        raise
    store = Store(file, thread)
    try:
        yield store
    finally:
        await store.close()


__all__ = ("DamagedEntry", "Store", "copy_database", "open_database")
