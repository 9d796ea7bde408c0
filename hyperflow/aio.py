"""Small things that asyncio lacks: to keep waiting after a cancel, a value whose changes can be awaited, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


async def settled(*futures: asyncio.Future[Any], on_cancel: Callable[[], object] | None = None) -> None:
    """Wait until all futures are done, even if this task is cancelled; then raise that CancelledError.

    For what must not be left behind half done: a thread at work, a process that ends, a file being closed. The futures
    are not cancelled, and their results and errors are not looked at: ask them afterwards. Futures, not coroutines: one
    that has not begun would never run if this task were cancelled first.

    Args:
        on_cancel: Called at each cancel, to make the futures end sooner. It must not raise.
    """
    interrupted: asyncio.CancelledError | None = None
    while waiting := [future for future in futures if not future.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as error:
            interrupted = error
            if on_cancel is not None:
                on_cancel()
    try:
        if interrupted is not None:
            raise interrupted
    finally:
        del interrupted  # else it would know this frame, and the frame it


def before_exit(callback: Callable[[], object]) -> None:
    """Call something in the main thread when the interpreter ends, while event loops can still do all that they do.

    Not `atexit`: by then thread pools take no more work. What is registered here is called in reverse order, so the
    standard library's pools have to be first. Its executors end in the same way.
    """
    import concurrent.futures.thread  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] (it registers its end)

    threading._register_atexit(callback)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage, reportUnknownMemberType]


def cancelling() -> bool:
    """Whether somebody cancels this task; False where there is none."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return False
    return task is not None and task.cancelling() > 0


class Outcome(asyncio.Future[Any]):
    """The future of a user's call that is no task; errors are to name the call, as those of tasks."""

    __slots__ = ()


class Changing(Generic[T]):
    """A value, and a way to wait until it is another one.

    Guarantees: a waiter that is behind returns at once. All waiters wake up at each change. Values that follow each
    other faster than a waiter runs are skipped, but never the last one. Only for one event loop's thread.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._subscribers: list[Callable[[], object]] = []

    @property
    def value(self) -> T:
        return self._value

    def set(self, value: T) -> bool:
        """Replace the value, and wake the waiters if it is another one; return whether it is."""
        if value == self._value:
            return False
        self._value = value
        self._wake()
        return True

    def fail(self, failure: Exception) -> None:
        """Say that no more changes come: `changed` raises this when there is nothing new to return."""
        self._failure = failure
        self._wake()

    async def changed(self, seen: T) -> T:
        """Wait until the value differs from `seen`, and return it.

        If `fail` is called while waiting, raise its exception.
        """
        while self._value == seen:
            self.check()
            await self._news.wait()
        return self._value

    def check(self) -> None:
        """Raise what `fail` was given, if it was."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # each waiter would make it longer

    def subscribe(self, callback: Callable[[], object]) -> None:
        """Call this at each change, and at `fail`: for callers without a task of their own. It must not raise."""
        self._subscribers.append(callback)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
        for callback in self._subscribers:
            callback()
