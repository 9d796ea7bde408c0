"""remote_stream: what a generator yields on a worker, as it comes.

It is one evaluation, which sends pieces while it runs (worker/producing.py, head/pieces.py). Whoever stops reading ends
it: by leaving the loop, by `aclose`, by an error, or with the task in which it was started.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from hyperflow import environment, failures
from hyperflow.environment import changed
from hyperflow.errors import MisuseError
from hyperflow.flow import plain_function, show_call
from hyperflow.options import JobOptions, OptionChanges, Options
from hyperflow.pieces import Pieces
from hyperflow.worker import producing, worker

P = ParamSpec("P")
T = TypeVar("T")


class RemoteStream(Generic[T]):
    """The values of a generator on a worker; made by `remote_stream`. It begins with the first one that is asked for.

    It can be read once, by one at a time. Leaving `async for` ends it, unless a variable still knows it: then `aclose`
    does, or `async with`, or the end of the task that began it.
    """

    __slots__ = ("__weakref__", "_args", "_changes", "_close", "_fn", "_kwargs", "_pieces", "_running", "_task")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], changes: OptionChanges
    ) -> None:
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._changes = changes
        self._pieces = Pieces()
        self._running: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._close = _closing(weakref.ref(self))

    def using(self, **options: Unpack[OptionChanges]) -> RemoteStream[T]:
        """Return the same with changed options: `remote_stream(simulate, x).using(cpus=4)`."""
        changed(Options(), JobOptions(), options)  # a bad option is refused here
        return RemoteStream(self._fn, self._args, self._kwargs, {**self._changes, **options})

    @property
    def delivered(self) -> int:
        """How many values have been read."""
        return self._pieces.delivered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        running = self._running or self._begin()
        pieces = self._pieces
        if pieces.is_awaited:
            raise MisuseError(f"{self!r} is being read already; each reader needs a stream of its own")
        while not pieces and not running.done():
            await pieces.changed()
        if pieces:
            value: T = pieces.take()
            return value
        self._forget()
        raise self._end(running) or StopAsyncIteration

    def _begin(self) -> asyncio.Future[Any]:
        env = environment.current(repr(self))
        options, _ = changed(env.options, env.job_options, self._changes)
        self._running = env.evaluator.stream(_producing(self._fn), self._args, self._kwargs, options, self._pieces)
        # The cells of a notebook are tasks of their own.
        self._task = asyncio.current_task() if environment.peek() is not None else None
        if self._task is not None:
            self._task.add_done_callback(self._close)
        return self._running

    def _end(self, running: asyncio.Future[Any]) -> BaseException | None:
        """Return what a stream has ended with that has nothing more."""
        if self._pieces.broken is not None:
            return self._pieces.broken
        if running.cancelled():
            return asyncio.CancelledError()
        error = running.exception()
        if error is not None and self.delivered:
            failures.add_note(error, f"({self.delivered} pieces of this stream had been delivered)")
        return error

    def _forget(self) -> None:
        """Nobody reads any more."""
        self._pieces.drop()
        if self._task is not None:
            self._task.remove_done_callback(self._close)
            self._task = None

    def cancel(self) -> None:
        """End the generator, as cancelling an evaluation does; what has come and was not read is dropped."""
        self._forget()
        if self._running is not None and not self._running.done():
            self._running.cancel()
        elif self._running is not None and not self._running.cancelled():
            self._running.exception()  # it counts as seen: who left does not ask

    async def aclose(self) -> None:
        """Do the same, as `contextlib.aclosing` expects it. The CPUs are free when the process has gone."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            self.cancel()

    def __repr__(self) -> str:
        name, _, arguments = show_call(self._fn, self._args, self._kwargs).partition("(")
        return f"hyperflow.remote_stream({name}{', ' * (arguments != ')')}{arguments}"


def _closing(stream: weakref.ref[RemoteStream[Any]]) -> Callable[[object], None]:
    """Return what ends a stream, if it is still there, with the task that began it."""

    def close(_: object) -> None:
        if (one := stream()) is not None:
            one.cancel()

    return close


def _producing(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return what runs on the worker; it is counted and shown as the user's function."""

    def produce(*args: Any, **kwargs: Any) -> Any:
        return producing.produce(fn(*args, **kwargs), show_call(fn, args, kwargs), worker.outlet())

    produce.__name__ = getattr(fn, "__name__", "produce")
    produce.__qualname__ = getattr(fn, "__qualname__", produce.__name__)
    return produce


@overload
def remote_stream(fn: Callable[P, AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> RemoteStream[T]: ...
@overload
def remote_stream(fn: Callable[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> RemoteStream[T]: ...
def remote_stream(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteStream[Any]:
    """Run a generator function on a worker, and iterate over what it yields: `async for x in remote_stream(fn): ...`.

    Args:
        fn: A generator function, or an async one; what else holds for functions, see `remote_eval`.
        args: Pickled when the first value is asked for.
        kwargs: The same.

    Values come as they are yielded. At most 16 are on their way, or 64 MB of them: then the generator waits until some
    have been read. So it may be endless. Leaving the loop ends its process, as cancelling an evaluation does; so does
    the end of the flow. The generator's `finally` does not run then.

    All options count, `time_limit` for the whole of it, waiting for the reader included; `straggler_factor` does not.

    **What was delivered** comes once and in order. `retries`, and another worker after the loss of a node, start it
    again only as long as nothing of it has been read. After that, an error of fn is raised behind the values that came
    before it, with a note that says how many were read, and the loss of its node is StreamBroken.

    Raises:
        MisuseError: fn is no generator function: at once for an `async def` without `yield`, else from the worker.
        StreamBroken: Its worker is lost, and pieces of it had been read.
        HyperflowError: What `remote_eval` raises, too.
    """
    plain_function(fn, "remote_stream", "await {name}(...)")
    if inspect.iscoroutinefunction(fn):
        raise MisuseError(
            f"remote_stream takes a generator function, and {fn.__qualname__} has no `yield`; for one result write: "
            f"await hyperflow.remote_eval({fn.__qualname__}, ...)"
        )
    return RemoteStream(fn, args, kwargs, {})
