"""`concurrent.futures.Executor` over an environment: for libraries that take one, and for threads.

    pool = env.executor(retries=1)
    ys = list(pool.map(f, xs))

Guarantees: `submit` may be called from any thread and returns at once. A future is "running" from the moment at which
its evaluation is handed to the environment, and then `cancel()` returns False, as with the standard library; what still
waits here is cancelled for good. Only so much is handed on as keeps the CPUs busy, so that a million submissions do not
starve the flows beside them. A crash fails its own future only; the pool is never broken by one.

Why a queue of its own, and not the environment's: only what has not left this process can be taken back for certain.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import functools
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import attrs

from hyperflow import environment
from hyperflow.config import check_cpus
from hyperflow.environment import Environment, JobOptions, OptionChanges, Options, changed
from hyperflow.errors import HyperflowError, MisuseError
from hyperflow.remote import remote_eval

if TYPE_CHECKING:
    from hyperflow.flow import Job

P = ParamSpec("P")
T = TypeVar("T")

AHEAD = 0.005
"""Seconds of work that each CPU has in advance, so that it does not wait for the next call."""

MOST_AHEAD = 100
"""Calls in advance for each CPU, however short they are."""


class _Future(cf.Future[T]):
    """A future that refuses to be waited for where that could never end: on the event loop which works for it."""

    dispatcher: Dispatcher

    def _check(self, timeout: float | None) -> None:
        if timeout != 0 and not self.done() and _on_loop(self.dispatcher.loop):
            raise MisuseError(
                "a future of this executor was waited for on the event loop that works for it, which would wait for "
                "ever; write: await asyncio.wrap_future(future)"
            )

    def result(self, timeout: float | None = None) -> T:
        self._check(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._check(timeout)
        return super().exception(timeout)


@attrs.define(eq=False)
class _Call:
    """A call that waits here."""

    future: _Future[Any]
    flow: Callable[[], Job[Any]]


class Dispatcher:
    """Hands calls to an environment, on its loop: as many as keep the CPUs busy. `add` may come from any thread."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.env: Environment | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ended = ""
        """Why nothing is evaluated any more; "" while it is."""
        self._waiting: deque[_Call] = deque()
        self._running: dict[asyncio.Future[Any], tuple[_Future[Any], float]] = {}
        self._seconds = 1.0  # how long a call takes, as far as is known
        self._woken = False

    def open(self, env: Environment) -> None:
        """Begin, on the loop of an environment."""
        self.env = env
        self.loop = asyncio.get_running_loop()
        self._fill()

    def add(self, call: _Call) -> None:
        """Queue a call."""
        self._waiting.append(call)
        if not self._woken and self.loop is not None:  # one wake-up for all that comes until it is heard
            self._woken = True
            self.loop.call_soon_threadsafe(self._wake)

    def take_back(self) -> list[_Future[Any]]:
        """Forget what waits, and return the futures."""
        taken: list[_Future[Any]] = []
        while self._waiting:
            with suppress(IndexError):  # another thread was faster
                taken.append(self._waiting.popleft().future)
        return taken

    def end(self, why: str) -> None:
        """Refuse what waits, and what comes."""
        self.ended = why
        for future in self.take_back():
            if future.set_running_or_notify_cancel():
                future.set_exception(cf.BrokenExecutor(why))

    async def idle(self) -> None:
        """Wait until nothing waits or runs."""
        while self._waiting or self._running:
            self._fill()
            await asyncio.wait(self._running)

    def _wake(self) -> None:
        self._woken = False
        self._fill()

    def _room(self, env: Environment) -> int:
        cpus = max(1, env.evaluator.cpus // env.options.cpus)
        at_once = min(cpus, self.most or cpus)
        ahead = min(MOST_AHEAD, int(AHEAD / max(self._seconds, 1e-6)))
        return at_once * (1 + ahead) - len(self._running)

    def _fill(self) -> None:
        if self.env is None:
            return
        room = self._room(self.env)
        with environment.entered(self.env):
            while room > 0 and self._waiting:
                call = self._waiting.popleft()
                if call.future.set_running_or_notify_cancel():
                    self._start(call)
                    room -= 1

    def _start(self, call: _Call) -> None:
        try:
            started = call.flow().start()
        except BaseException as error:  # noqa: BLE001 (what cannot be sent is this call's failure)
            call.future.set_exception(error)
            return
        self._running[started] = call.future, monotonic()
        started.add_done_callback(self._answered)

    def _answered(self, started: asyncio.Future[Any]) -> None:
        future, began = self._running.pop(started)
        share = (monotonic() - began) / (len(self._running) + 1)
        self._seconds += 0.1 * (share - self._seconds)
        if started.cancelled():
            self.end("the environment of this executor was closed")
            future.set_exception(cf.BrokenExecutor(self.ended))
        elif (error := started.exception()) is None:
            future.set_result(started.result())
        elif isinstance(error, InitializerFailed):
            future.set_exception(cf.BrokenExecutor(str(error)))
            self.end(str(error))
        else:
            future.set_exception(error)
        if self._waiting:
            self._fill()


class InitializerFailed(HyperflowError):
    """The initializer of an executor raised an exception on a worker; the executor is broken."""


_prepared: set[str] = set()
"""On a worker: the executors whose initializer has run here."""


@attrs.frozen
class _Prepared:
    """Calls a function after the initializer, which is called once in each worker."""

    initializer: Callable[..., object]
    initargs: tuple[Any, ...]
    executor: str = attrs.field(factory=lambda: os.urandom(8).hex())

    def __call__(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.executor not in _prepared:
            try:
                self.initializer(*self.initargs)
            except BaseException as error:
                name = getattr(self.initializer, "__name__", "")
                raise InitializerFailed(f"the initializer {name} raised {type(error).__name__}: {error}") from error
            _prepared.add(self.executor)
        return fn(*args, **kwargs)


def _chunk(fn: Callable[..., T], items: Iterable[tuple[Any, ...]]) -> list[T]:
    return [fn(*item) for item in items]


def _on_loop(loop: asyncio.AbstractEventLoop | None) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


class EnvironmentExecutor(cf.Executor):
    """An executor over an environment that somebody else opened; `env.executor()` returns it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        options: OptionChanges,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        changed(Options(), JobOptions(), options)  # a bad option is refused here
        self._dispatcher = dispatcher
        self._options = options
        self._prepare = _Prepared(initializer, initargs) if initializer is not None else None
        self._shut = False
        self._pid = os.getpid()
        self._unfinished = 0
        self._changed = threading.Condition()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> cf.Future[T]:
        """Evaluate `fn(*args, **kwargs)` on a worker; from any thread, at once.

        Raises:
            RuntimeError: The executor was shut down, its environment was closed, or this is a forked child.
        """
        if self._pid != os.getpid():
            raise RuntimeError("this executor belongs to the process that made it, and this is a forked child of that")
        future: _Future[T] = _Future()
        future.dispatcher = self._dispatcher
        with self._changed:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._dispatcher.ended:
                raise cf.BrokenExecutor(self._dispatcher.ended)
            self._unfinished += 1
        future.add_done_callback(self._finished)
        called = functools.partial(self._prepare, fn) if self._prepare else fn
        self._dispatcher.add(_Call(future, functools.partial(remote_eval, called, *args, **kwargs)))
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
        return itertools.chain.from_iterable(super().map(functools.partial(_chunk, fn), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the environment stays open.

        Args:
            wait: Return when all that was submitted has ended. On the event loop of the environment that can never be;
                there, with work pending, it raises MisuseError: await the futures first.
            cancel_futures: Cancel what has not been handed to the environment.
        """
        with self._changed:
            self._shut = True
        if cancel_futures:
            for future in self._dispatcher.take_back():
                future.cancel()
        if wait and self._pid == os.getpid():
            self._wait()

    def _wait(self) -> None:
        if self._unfinished and _on_loop(self._dispatcher.loop):
            raise MisuseError(
                "an executor with work pending was shut down on the event loop that works for it, which would wait for "
                "ever; await the futures before (await asyncio.wrap_future(future)), or write shutdown(wait=False)"
            )
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished)

    def _finished(self, _: cf.Future[Any]) -> None:
        with self._changed:
            self._unfinished -= 1
            if not self._unfinished:
                self._changed.notify_all()


def over(
    env: Environment,
    most: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    options: OptionChanges,
) -> EnvironmentExecutor:
    """Return an executor over an environment that is open on the running loop."""
    check_cpus(most)
    dispatcher = Dispatcher(most)
    executor = EnvironmentExecutor(dispatcher, options, initializer, initargs)
    dispatcher.open(env.using(**options))
    return executor
