"""An executor with workers of its own on this machine, in place of ProcessPoolExecutor.

Guarantees: it starts with the first call and keeps nobody waiting for that; it ends with `shutdown`, with the last
reference to it, or with the interpreter, and leaves no process. Its event loop is in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Any, Unpack

import attrs

from hyperflow._job import open_here, run_in_new_loop
from hyperflow.aio import before_exit
from hyperflow.errors import MisuseError
from hyperflow.executor import Dispatcher, EnvironmentExecutor, check_max_workers
from hyperflow.offers import Machine, Offers
from hyperflow.options import OptionChanges
from hyperflow.worker.worker import worker_info


class Executor(EnvironmentExecutor):
    """An executor with workers of its own on this machine; in place of ProcessPoolExecutor.

        with hf.Executor(max_workers=4) as pool:
            ys = list(pool.map(f, xs))

    Args:
        max_workers: How many calls run side by side; None for one on each CPU that this process may use, which inside
            an evaluation are the CPUs of that. Workers are pinned only if all these CPUs are used.
        initializer: Called with `initargs` once in each worker, before its first call; what it sets there stays.
        initargs: Its arguments.
        machine: What this machine offers where that cannot be found out: {"gpus": ["0", "1"], "memory": "8G",
            "resources": {"licence": 4}}, as the arguments of open_local_job.
        options: Those of `hyperflow.using`, for all calls: cpus=2, retries=1, ...

    Functions need not be importable. A call whose worker dies raises WorkerDied; all others go on. Workers start in the
    background. They end with `shutdown`, with the last reference to the executor, and with the interpreter, which waits
    for what was submitted.

    Raises:
        ConfigurationError: `max_workers` or an option makes no sense. (For `max_workers` it is a ValueError, too.)
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        machine: Machine | None = None,
        **options: Unpack[OptionChanges],
    ) -> None:
        check_max_workers(max_workers)
        offers = Offers(**(machine or {}))
        dispatcher = Dispatcher(max_workers)
        super().__init__(dispatcher, options, initializer, initargs)
        if max_workers is None and (cpus := _own_cpus()) is not None:
            dispatcher.most = max(1, cpus // options.get("cpus", 1))
        self._host = _Host(dispatcher, options, offers)
        dispatcher.begin = self._host.begin
        weakref.finalize(self, dispatcher.close).atexit = False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when all that was submitted has ended.

        Args:
            wait: Return only then.
            cancel_futures: Cancel what no worker has yet.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and not self._dispatcher.in_child:
            self._host.join()


def _own_cpus() -> int | None:
    """Inside an evaluation, return how many CPUs it has."""
    try:
        return len(worker_info().cpus)
    except MisuseError:
        return None


class _Host:
    """A thread with an event loop and an environment. It knows nothing of the executor, which may go before it."""

    def __init__(self, dispatcher: Dispatcher, options: OptionChanges, offers: Offers) -> None:
        self.dispatcher = dispatcher
        self._offers = offers
        self._options = options
        self._lock = threading.Lock()
        self.thread: threading.Thread | None = None
        _hosts.add(self)

    def begin(self) -> None:
        """Start the thread, if nobody has."""
        with self._lock:
            if _exiting.is_set():
                self._failed(RuntimeError("the interpreter ends"))
            elif self.thread is None:
                thread = threading.Thread(target=self._main, name="hyperflow executor", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # there are too many, or the interpreter ends
                    self._failed(error)
                else:
                    self.thread = thread

    def join(self) -> None:
        """Wait until it has ended."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()

    def _main(self) -> None:
        try:
            run_in_new_loop(self._run())
        except BaseException as error:  # noqa: BLE001 (every caller has to learn why)
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self.dispatcher.end(f"the workers of this executor could not be started or kept: {error}")
        self.dispatcher.finished.set()

    async def _run(self) -> None:
        dispatcher, finished = self.dispatcher, asyncio.Event()
        dispatcher.on_finished = finished.set
        cpus = dispatcher.most and dispatcher.most * self._options.get("cpus", 1)
        async with open_here(attrs.evolve(self._offers, cpus=cpus), shared=True) as env:
            dispatcher.open(env.using(**self._options))
            await finished.wait()


_hosts: weakref.WeakSet[_Host] = weakref.WeakSet()
"""The interpreter's end waits for them, also where nobody knows the executor any more."""


_exiting = threading.Event()
"""Set when the interpreter ends: what began then, in `atexit`, nobody would wait for."""


def _finish_all() -> None:
    _exiting.set()
    hosts = list(_hosts)
    for host in hosts:
        host.dispatcher.close()
    for host in hosts:
        host.join()


before_exit(_finish_all)
