"""An executor with workers of its own on this machine, in place of ProcessPoolExecutor.

Guarantees: it starts with the first call and keeps nobody waiting for that; it ends with `shutdown`, with the last
reference to it, or with the interpreter, and leaves no process. Its event loop is in a thread of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import functools
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, Unpack

from hyperflow._job import open_local_job
from hyperflow.config import check_cpus
from hyperflow.environment import OptionChanges
from hyperflow.executor import Dispatcher, EnvironmentExecutor

P = ParamSpec("P")
T = TypeVar("T")


class Executor(EnvironmentExecutor):
    """An executor with workers of its own on this machine; in place of ProcessPoolExecutor.

        with hf.Executor(max_workers=4) as pool:
            ys = list(pool.map(f, xs))

    Args:
        max_workers: How many calls run side by side; None for one on each CPU that this process may use, which inside
            an evaluation are the CPUs of that.
        initializer: Called with `initargs` once in each worker, before its first call; what it sets there stays.
        initargs: Its arguments.
        options: Those of `hyperflow.using`, for all calls: cpus=2, retries=1, ...

    Functions need not be importable. A call whose worker dies raises WorkerDied; all others go on. Workers start in the
    background. They end with `shutdown`, with the last reference to the executor, and with the interpreter, which waits
    for what was submitted.

    Raises:
        ConfigurationError: `max_workers` or an option makes no sense.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[OptionChanges],
    ) -> None:
        check_cpus(max_workers)
        dispatcher = Dispatcher(max_workers)
        super().__init__(dispatcher, options, initializer, initargs)
        self._host = _Host(dispatcher, max_workers, options)
        self._at_end = weakref.finalize(self, self._host.close)
        self._at_end.atexit = False
        _open.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> cf.Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._host.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when all that was submitted has ended.

        Args:
            wait: Return only then.
            cancel_futures: Cancel what no worker has yet.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._pid == os.getpid():
            self._host.close()
            if wait:
                self._host.join()


class _Host:
    """A thread with an event loop and an environment. It knows nothing of the executor, which may go before it."""

    def __init__(self, dispatcher: Dispatcher, cpus: int | None, options: OptionChanges) -> None:
        self._dispatcher = dispatcher
        self._cpus = cpus
        self._options = options
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._wake: Callable[[], object] = lambda: None

    def start(self) -> None:
        """Start it, if it does not run."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._main, name="hyperflow executor", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """Let it end when nothing is left to do."""
        self._closing.set()
        self._wake()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread is not None:
            self._thread.join()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 (every caller has to learn why)
            self._dispatcher.end(f"the workers of this executor could not be started or kept: {error}")

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        async with open_local_job(cpus=self._cpus) as env:
            closing = asyncio.Event()
            self._wake = functools.partial(_tell, loop, closing)
            if self._closing.is_set():
                closing.set()
            self._dispatcher.open(env.using(**self._options))
            await closing.wait()
            await self._dispatcher.idle()


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(event.set)


_open: weakref.WeakSet[Executor] = weakref.WeakSet()
"""Executors with workers of their own: the interpreter's end waits for them."""


def _finish_all() -> None:
    for executor in list(_open):
        executor.shutdown()


# Not `atexit`: by then the thread pools that the end of an environment needs take no more work. The standard library's
# own executors do the same.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
