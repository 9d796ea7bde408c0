"""The thread that does all the work on one open database, and how the event loop hands it work.

Guarantees:
- Group commit: all items that come while the thread is busy are the next batch. That needs no lock and no setting: a
  lone item goes at once, many go in batches as large as one fsync, or one round trip to a server, leaves time for.
- Each caller gets a failure as an error of its own.
- No caller hangs: a database that was closed, or belongs to the parent of a forked process, says so. If the thread ends
  by an error of its own, all who wait and all who come later get that, and closing works.
- The thread ends when its loop is closed, also if the database was not.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, suppress
from typing import Any, Generic, TypeVar

from hyperflow.aio import settled
from hyperflow.errors import DatabaseError
from hyperflow.saying import in_words

logger = logging.getLogger("hyperflow")

LOOP_CHECK = 1.0
"""Seconds after which an idle thread checks that its loop still exists."""

H = TypeVar("H")
"""What the thread holds open."""

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


class DatabaseThread(Generic[H]):
    """The thread that opens, holds and closes a database.

    `opener` runs in the thread, and so does the end of its scope. `tidy` does what can wait until a caller has its
    answer. `hurry` is called, on the loop, when a caller who waits for the opening is cancelled.
    """

    def __init__(
        self,
        name: str,
        opener: Callable[[], AbstractContextManager[H]],
        tidy: Callable[[H], None] = lambda held: None,
        hurry: Callable[[], object] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[[Any], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self.name = name
        self._tidy = tidy
        self._hurry = hurry
        self._under_way: asyncio.Future[Any] | None = None
        self._failure: DatabaseError | None = None
        """Why the thread has ended, if that was not asked for."""
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        # A daemon, so that an interpreter whose loop is never closed can end; `_at_exit` then closes in order.
        self._thread = threading.Thread(
            target=self._run, args=(opener,), name=f"hyperflow-database {name.rpartition('/')[2]}", daemon=True
        )
        self._pid = os.getpid()
        self._closing: asyncio.Task[None] | None = None
        self._finishing = False
        atexit.register(self._at_exit)
        self._thread.start()

    async def wait_opened(self) -> None:
        """Wait until the database is open, or raise what opening it raised; a cancelled caller closes it again."""
        try:
            await settled(self.opened, on_cancel=self._hurry)
            self.opened.result()
        except asyncio.CancelledError:
            if self.opened.exception() is None:
                await settled(self._finish())
            raise

    def check(self) -> None:
        """Raise if the database was closed, or is not this process's, or its thread has ended by an error."""
        if self._closing is not None:
            raise DatabaseError(f"the results database {self.name} was closed; use it while its program runs")
        if not self._is_ours():
            raise DatabaseError(
                f"the results database {self.name} belongs to process {self._pid}; a process forked from it cannot "
                "use it. Return results from the evaluation and record them in the job"
            )
        if self._failure is not None:
            raise _another(self._failure)

    def call(self, run: Callable[[H], T]) -> asyncio.Future[T]:
        """Run a function in the thread, and return the future of its result."""
        if self._finishing:
            raise DatabaseError("the results database was closed")
        future: asyncio.Future[T] = self._loop.create_future()
        if self._failure is not None:
            future.set_exception(_another(self._failure))
            return future
        self._calls.put((run, future))
        return future

    def _finish(self) -> asyncio.Future[None]:
        """End the thread after all calls made so far; the future is done when the database is closed."""
        self._finishing = True
        self._calls.put(None)
        return self.closed

    async def close(self, *batches: Batches[H, Any, Any]) -> None:
        """Finish the batches, and close the database; a cancelled caller waits for that, too."""
        if not self._is_ours():
            return
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(batches))
        await settled(self._closing)
        self._closing.result()

    async def _close(self, batches: tuple[Batches[H, Any, Any], ...]) -> None:
        for batch in batches:
            await batch.drained()
        await settled(self._finish())
        self.closed.result()

    def _is_ours(self) -> bool:  # a forked child has a copy of this object, but no thread
        return os.getpid() == self._pid

    def _at_exit(self) -> None:
        if self._is_ours():
            self._calls.put(None)
            self._thread.join(10)

    def _run(self, opener: Callable[[], AbstractContextManager[H]]) -> None:
        opened, served, failure = False, False, None
        try:
            with opener() as held:
                opened = True
                if self._tell(self.opened, None, None):
                    self._serve(held)
                served = True
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody may wait for this thread
            failure = error
        atexit.unregister(self._at_exit)
        if not opened:
            self._tell(self.opened, None, failure)
        elif failure is not None and not served:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._fail, failure)
            failure = None
        self._tell(self.closed, None, failure if opened else None)

    def not_opened(self, opened: asyncio.Future[None]) -> None:
        """Nobody waited for the opening; if it has failed, those who have asked for something are to know."""
        if not opened.cancelled() and (error := opened.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Give all who wait for the thread, which has ended, an error; so do `call` and `check` from now on."""
        said = f"the thread of the results database {self.name} has ended: {type(error).__name__}: {in_words(error)}"
        self._failure = DatabaseError(
            f"{said}. What was acknowledged is recorded; start the program again, and report this if it comes again"
        )
        self._failure.__cause__ = error
        logger.error("%s", said)
        waiting = [self._under_way] if self._under_way is not None else []
        with suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()
                if call is not None:
                    waiting.append(call[1])
        for future in waiting:
            _resolve(future, None, _another(self._failure))

    def _serve(self, held: H) -> None:
        while True:
            try:
                call = self._calls.get(timeout=LOOP_CHECK)
            except queue.Empty:
                if self._loop.is_closed():
                    return
                continue
            if call is None:
                return
            run, future = call
            self._under_way = future
            result, failure = None, None
            try:
                result = run(held)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
                failure = error
            if not self._tell(future, result, failure):
                return
            self._under_way = None
            del call, run, future, result, failure  # or a large value would be kept until the next call
            self._tidy(held)

    def _tell(self, future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> bool:
        """Give a future its result on the loop; return False if the loop has been closed."""
        try:
            self._loop.call_soon_threadsafe(_resolve, future, result, failure)
        except RuntimeError:
            return False
        return True


def _another(error: DatabaseError) -> DatabaseError:
    """Return an error of its own for each who gets it: a traceback grows where it is raised."""
    again = DatabaseError(*error.args)
    again.__cause__ = error.__cause__
    return again


def _resolve(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)


class Batches(Generic[H, Item, Result]):
    """Collects the items of one turn of the loop, and all that come while the thread has the previous batch.

    `run` returns one result for each item, in order.
    """

    def __init__(
        self,
        thread: DatabaseThread[H],
        run: Callable[[H, list[Item]], list[Result]],
    ) -> None:
        self._thread = thread
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Item] = []
        self._wanted: list[tuple[int, asyncio.Future[Any]]] = []
        """Who waits, with how many items; 0 for one whose result is wanted, and not a list."""
        self._busy = False

    def put(self, item: Item) -> asyncio.Future[Result]:
        """Put an item into the next batch, and return the future of its result; cancelling does not take it back."""
        return self._put((item,), 0)

    def put_all(self, items: list[Item]) -> asyncio.Future[list[Result]]:
        """The same for some items, which stay together."""
        return self._put(items, len(items))

    def _put(self, items: Collection[Item], count: int) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.extend(items)
        self._wanted.append((count, future))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)  # so that all of this turn of the loop go together
        return future

    async def add(self, item: Item) -> Result:
        """Put an item into the next batch, and return its result; cancelling does not take it back."""
        future = self.put(item)
        try:
            return await future
        finally:
            del future  # it knows the error, whose traceback knows this frame

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._busy:
            await asyncio.sleep(0)  # lets a batch be handed over
            with suppress(DatabaseError):  # the thread has ended by itself
                await self._thread.call(lambda held: None)  # comes after it

    def _hand_over(self) -> None:
        items, wanted = self._waiting, self._wanted
        self._waiting, self._wanted = [], []
        self._thread.call(lambda held: self._run(held, items)).add_done_callback(lambda done: self._done(wanted, done))

    def _done(self, wanted: list[tuple[int, asyncio.Future[Any]]], done: asyncio.Future[list[Result]]) -> None:
        failure = done.exception()
        if failure is not None:
            for _, future in wanted:
                if not future.done():
                    error = DatabaseError(str(failure))  # one for each: a traceback grows where it is raised
                    error.__cause__ = failure
                    future.set_exception(error)
        else:
            results, at = done.result(), 0
            for count, future in wanted:
                if not future.done():
                    future.set_result(results[at : at + count] if count else results[at])
                at += count or 1
        if self._waiting:
            self._hand_over()
        else:
            self._busy = False
