"""`concurrent.futures.Executor` over an environment: for libraries that take one, and for threads.

    pool = env.executor(retries=1)
    ys = list(pool.map(f, xs))

Guarantees: `submit` may be called from any thread and returns at once. A future is "running" from the moment at which
its call is handed to the environment, and then `cancel()` returns False, as with the standard library; what still waits
here is cancelled for good. Only so much is handed on as keeps the CPUs busy, so that a million submissions do not
starve the flows beside them. A crash fails its own future only; the pool is never broken by one.

Why a queue of its own, and not the environment's: only what has not left this process can be taken back for certain.

Rejected: one condition that all futures share, though each of theirs takes a microsecond and a kilobyte.
`concurrent.futures.wait` takes the locks of all its futures, in the order of the futures: with a lock that several
share, two threads could wait for each other.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import functools
import importlib
import itertools
import logging
import os
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, ParamSpec, TypeAlias, TypeVar, overload
from weakref import WeakValueDictionary

import attrs

from hyperflow import environment
from hyperflow.environment import Environment, changed
from hyperflow.errors import ConfigurationError, EnvironmentClosed, HyperflowError, MisuseError
from hyperflow.flow import ShowsItself, plain_function, show_call
from hyperflow.options import JobOptions, OptionChanges, Options

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("concurrent.futures")
"""Where the standard library's executors tell of an initializer that failed."""

AHEAD = 0.005
"""Seconds of work that each CPU has in advance, so that it does not wait for the next call."""

MOST_AHEAD = 250
"""Calls in advance for each CPU, however short they are."""


class InitializerFailed(HyperflowError):
    """The initializer of an executor raised an exception on a worker; the executor is broken."""


class BadMaxWorkers(ConfigurationError, ValueError):
    """`max_workers` makes no sense; a ValueError, as with the standard library's executors."""


def check_max_workers(max_workers: object) -> None:
    """Raise BadMaxWorkers unless this is a number of workers, or None."""
    if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
        raise BadMaxWorkers(
            f"max_workers={max_workers!r}: a whole number is needed, or None for one on each CPU; max_workers must be "
            "greater than 0"
        )


class _Future(cf.Future[T]):
    """A future that refuses to be waited for where that could never end: on the event loop which works for it."""

    dispatcher: Dispatcher

    def result(self, timeout: float | None = None) -> T:
        if not self.done():
            self.dispatcher.check_wait(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            self.dispatcher.check_wait(timeout)
        return super().exception(timeout)


_Call: TypeAlias = tuple[_Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A call that waits here."""


class Dispatcher:
    """Hands calls to an environment, on its loop: as many as keep the CPUs busy. `add` may come from any thread."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.loop: asyncio.AbstractEventLoop | None = None
        self.begin: Callable[[], object] = lambda: None
        """Called when there is something to do and `open` has not been called."""
        self.finished: threading.Event = threading.Event()
        """Set after `close`, when nothing waits or runs any more."""
        self.on_finished: Callable[[], object] = lambda: None
        """Called then, on the loop."""
        self._env: Environment | None = None
        self._waiting: deque[_Call] = deque()
        self._running: dict[asyncio.Future[Any], tuple[_Future[Any], float]] = {}
        self._seconds = 1.0  # how long a call takes a CPU, as far as is known
        self._refill = 0  # when fewer run, more are handed on
        self._woken = False
        self._closing = False
        self._ended = ""  # why nothing is evaluated any more
        self._lock = threading.RLock()  # the cycle collector may call `close` anywhere
        self._pid = os.getpid()

    def open(self, env: Environment) -> None:
        """Begin, on the loop of an environment."""
        self._env = env
        self.loop = asyncio.get_running_loop()
        self._turn()

    @property
    def at_once(self) -> int:
        """How many calls run side by side."""
        if (env := self._env) is None:
            return self.most or len(os.sched_getaffinity(0))
        cpus = max(1, env.evaluator.cpus // env.options.cpus)
        return min(cpus, self.most or cpus)

    @property
    def over(self) -> bool:
        """Whether nothing is evaluated any more, as far as is known."""
        return bool(self._ended) or (self.loop is not None and self.loop.is_closed())

    @property
    def in_child(self) -> bool:
        """Whether this is a forked child of the process that made it."""
        return self._pid != os.getpid()

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._running)

    def add(self, call: _Call) -> None:
        """Queue a call; raises RuntimeError after `close`, BrokenExecutor where nothing is evaluated any more."""
        with self._lock:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._ended:
                raise cf.BrokenExecutor(self._ended)
            self._waiting.append(call)
        if not self._woken:  # one wake-up for all that comes until it is heard
            self._wake()

    def close(self, cancel: bool = False) -> None:
        """Take no more calls."""
        with self._lock:
            self._closing = True
            waiting = list(self._waiting) if cancel else []
        for future, *_ in waiting:
            future.cancel()
        if self.loop is not None:
            self._wake()
        elif not self._waiting:  # it was never opened
            self.finished.set()

    def end(self, why: str) -> None:
        """Refuse what waits, and what comes."""
        with self._lock:
            self._ended = self._ended or why
        self._refuse_waiting()

    def check_wait(self, timeout: float | None = None) -> None:
        """Raise MisuseError where waiting could never end."""
        if self.in_child:
            raise MisuseError("this future belongs to the process that made it, and this is a forked child of that")
        if timeout != 0 and self.on_loop():
            raise MisuseError(
                "a future of this executor was waited for on the event loop that works for it, which would wait for "
                "ever; write: await asyncio.wrap_future(future)"
            )

    def on_loop(self) -> bool:
        """Whether this is the loop that works for it."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def _wake(self) -> None:
        if self.loop is None:  # `open` looks
            self.begin()
            return
        self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._turn)
        except RuntimeError:  # it is closed
            self.end("the event loop of this executor's environment has ended")
            self.finished.set()

    def _turn(self) -> None:
        self._woken = False
        try:
            if self._ended:
                self._refuse_waiting()
            elif self._waiting:
                self._fill()
        except BaseException:  # of a callback: the standard library's futures let through what is no Exception
            self._wake()
            raise
        self._look_for_end()

    def _fill(self) -> None:
        env, waiting = self._env, self._waiting
        assert env is not None
        at_once = self.at_once
        ahead = at_once * min(MOST_AHEAD, int(AHEAD / max(self._seconds, 1e-6)))
        self._refill = at_once + ahead // 2
        room = at_once + ahead - len(self._running)
        with environment.entered(env):
            while room > 0 and waiting:
                future, fn, args, kwargs = waiting.popleft()
                if future.set_running_or_notify_cancel():
                    self._start(env, future, fn, args, kwargs)
                    room -= 1

    def _start(
        self,
        env: Environment,
        future: _Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        try:
            started = env.evaluator.submit(fn, args, kwargs, env.options)
        except EnvironmentClosed:
            self._environment_closed(future)
            return
        except BaseException as error:  # noqa: BLE001 (what cannot be sent is this call's failure)
            future.set_exception(error)
            return
        self._running[started] = future, monotonic()
        started.add_done_callback(self._answered)

    def _answered(self, started: asyncio.Future[Any]) -> None:
        future, began = self._running.pop(started)
        share = (monotonic() - began) / (len(self._running) + 1)
        self._seconds += 0.2 * (share - self._seconds)
        try:
            self._answer(future, started)
            if self._waiting and len(self._running) < self._refill:
                self._fill()
        except BaseException:  # of a callback, as above
            self._wake()
            raise
        if self._closing:
            self._look_for_end()

    def _answer(self, future: _Future[Any], started: asyncio.Future[Any]) -> None:
        if started.cancelled():
            self._environment_closed(future)
        elif (error := started.exception()) is None:
            future.set_result(started.result())
        elif isinstance(error, InitializerFailed):
            logger.critical("Exception in initializer: %s", error)
            self._break(future, str(error))
        else:
            future.set_exception(error)

    def _environment_closed(self, future: _Future[Any]) -> None:
        self._break(future, "the environment of this executor was closed")

    def _break(self, future: _Future[Any], why: str) -> None:
        try:
            self.end(why)
        finally:
            future.set_exception(cf.BrokenExecutor(self._ended))

    def _look_for_end(self) -> None:
        if self._closing and not self.busy:
            self.finished.set()
            self.on_finished()

    def _refuse_waiting(self) -> None:
        while True:
            try:
                future, *_ = self._waiting.popleft()
            except IndexError:  # also if another thread was faster
                return
            if future.set_running_or_notify_cancel():
                future.set_exception(cf.BrokenExecutor(self._ended))


_prepared: set[str] = set()
"""On a worker: the executors whose initializer has run here."""


@attrs.frozen
class _Prepared(ShowsItself):
    """Calls a function after the initializer, which is called once in each worker."""

    initializer: Callable[..., object]
    initargs: tuple[Any, ...]
    executor: str = attrs.field(factory=lambda: os.urandom(8).hex())

    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.executor not in _prepared:
            from hyperflow.worker import worker  # noqa: PLC0415 (which runs this)

            try:
                self.initializer(*self.initargs)
            except BaseException as error:
                name = getattr(self.initializer, "__name__", "")
                raise InitializerFailed(f"the initializer {name} raised {type(error).__name__}: {error}") from error
            worker.keep()
            _prepared.add(self.executor)
        return fn(*args, **kwargs)

    def shown(self, args: tuple[Any, ...]) -> str:
        return show_call(args[0], args[1:], {})


def _chunk(fn: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> list[T]:
    return [fn(*item) for item in items]


_numbers = itertools.count()
_open: WeakValueDictionary[int, EnvironmentExecutor] = WeakValueDictionary()


def newest() -> EnvironmentExecutor | None:
    """Return the executor that was made last and is open: the one for libraries that are not told which to use."""
    found = [known() for known in _open.valuerefs()]  # others may be made meanwhile
    there = [one for one in found if one is not None and not one.over]
    return max(there, key=lambda one: one.number, default=None)


class EnvironmentExecutor(cf.Executor):
    """An executor over an environment that somebody else opened; `env.executor()` returns it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        options: OptionChanges,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if initializer is not None and not callable(initializer):  # pyright: ignore[reportUnnecessaryComparison]
            raise TypeError("initializer must be a callable")
        changed(Options(), JobOptions(), options)  # a bad option is refused here
        self._dispatcher = dispatcher
        self._prepare = _Prepared(initializer, initargs) if initializer is not None else None
        self.number: int = next(_numbers)
        """It counts those that were made."""
        _open[self.number] = self
        if "joblib" in sys.modules:
            with suppress(ImportError):  # it is too old
                importlib.import_module("hyperflow.joblib_backend")  # by its name: it stands above us

    @property
    def over(self) -> bool:
        """Whether it evaluates nothing any more, as far as is known."""
        return self._dispatcher.over

    @property
    def _max_workers(self) -> int:
        """How many calls run side by side: libraries look here, as the standard library's executors have it."""
        return self._dispatcher.at_once

    @overload
    def submit(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> cf.Future[T]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> cf.Future[T]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> cf.Future[Any]:
        """Evaluate `fn(*args, **kwargs)` on a worker; from any thread, at once.

        Raises:
            RuntimeError: The executor was shut down, its environment was closed, or this is a forked child.
        """
        if self._dispatcher.in_child:
            raise RuntimeError("this executor belongs to the process that made it, and this is a forked child of that")
        if type(fn) is not types.FunctionType:
            plain_function(fn, "submit", "await {name}(...)")
        if self._prepare is not None:
            fn, args = self._prepare, (fn, *args)
        future: _Future[Any] = _Future()
        future.dispatcher = self._dispatcher
        self._dispatcher.add((future, fn, args, kwargs))
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Do as `concurrent.futures.Executor.map`; with a chunksize, so many calls travel as one."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = zip(*iterables, strict=False)
        chunks = iter(lambda: tuple(itertools.islice(items, chunksize)), ())
        return _chained(super().map(functools.partial(_chunk, fn), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the environment stays open.

        Args:
            wait: Return when all that was submitted has ended. On the event loop of the environment that can never be;
                there, with work pending, it raises MisuseError: await the futures first.
            cancel_futures: Cancel what has not been handed to the environment.
        """
        if self._dispatcher.in_child:  # in a forked child there is nothing to end
            return
        _open.pop(self.number, None)
        self._dispatcher.close(cancel_futures)
        if wait:
            if self._dispatcher.busy and self._dispatcher.on_loop():
                raise MisuseError(
                    "an executor with work pending was shut down on the event loop that works for it, which would wait "
                    "for ever; await the futures before (await asyncio.wrap_future(future)), or write "
                    "shutdown(wait=False)"
                )
            if not self._dispatcher.on_loop():
                self._dispatcher.finished.wait()


def _chained(chunks: Iterator[list[T]]) -> Iterator[T]:
    """Return the results one by one, and keep none that was taken."""
    for results in chunks:
        results.reverse()
        while results:
            yield results.pop()


def over(
    env: Environment,
    most: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    options: OptionChanges,
) -> EnvironmentExecutor:
    """Return an executor over an environment that is open on the running loop."""
    check_max_workers(most)
    dispatcher = Dispatcher(most)
    executor = EnvironmentExecutor(dispatcher, options, initializer, initargs)
    dispatcher.open(env.using(**options))
    return executor
