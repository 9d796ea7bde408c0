"""remote_eval and remote_map: plain function calls, evaluated on the workers of the current environment."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

from hyperflow import chunks, environment, failures
from hyperflow.errors import ConfigurationError
from hyperflow.failures import Errors, Failed
from hyperflow.flow import Job, Native, Step, plain_function, show_call

new: Any = object.__new__
frame_above = sys._getframe  # pyright: ignore[reportPrivateUsage]
peek = environment.peek
"""Bound once, for `remote_eval`."""

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")


class RemoteEval(Step):
    """A call to be evaluated on a worker."""

    __slots__ = ("args", "fn", "kwargs")

    is_evaluation = True

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def start(self) -> asyncio.Future[Any]:
        env = environment.peek() or environment.current()
        return env.evaluator.submit(self.fn, self.args, self.kwargs, env.options)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.start().__await__()

    def call(self) -> str:
        return show_call(self.fn, self.args, self.kwargs)

    def __repr__(self) -> str:
        name, _, arguments = show_call(self.fn, self.args, self.kwargs).partition("(")
        return f"hyperflow.remote_eval({name}{', ' * (arguments != ')')}{arguments}"


@overload
def remote_eval(fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...
@overload
def remote_eval(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Job[T]: ...
def remote_eval(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job[Any]:
    """Evaluate `fn(*args, **kwargs)` on a worker, with the CPUs that `using(cpus=...)` asks for.

    Args:
        fn: Any callable: of a module, of the script, a lambda, a closure, a bound method, `async def`.
        args: Pickled when the flow runs, not when it is made.
        kwargs: The same.

    Awaiting it raises the exception that fn raised, with the remote traceback as a note; or WorkerDied,
    TimeLimitExceeded, ImpossibleRequest, SerializationError, NodeLost. Cancelling kills the worker's process group and
    returns at once; the CPUs are free when the group has ended.

    **What fn refers to** travels as it is when the flow starts: captured variables, globals of the script, defaults,
    attributes, other functions, classes and their attributes. A change is seen by the next call. Not seen is what
    cannot be looked at: changes of importable modules and what they hold (workers import them), of names, docstrings,
    annotations and what dataclasses and attrs noted of fields, and of the inside of C objects whose pickle does not
    show it.

    **What a call changes** in a captured list, array, dict, random generator or other object, or binds anew with
    `nonlocal`, no other call sees: each starts with what was captured. So two calls with a captured `default_rng(1)`
    draw the same numbers; for a stream of its own take `hf.seed_sequence()`.

    **What fn sets in its process** is put back before the next evaluation: working directory, umask, environment,
    limits, priority, locale, context variables (of decimal, and numpy's error state), filters of warnings, standard
    streams, time limit of sockets, and a seed of `random` or `numpy.random`. Where that cannot be done, another process
    takes the worker's place; so it does when fn leaves threads. What a module sets while it is imported stays; so to
    set something for all evaluations, do it in a module that they import. What stays, too, is what is inside Python:
    modules, attributes of functions and classes, results of a `functools.cache`, and, if fn captured nothing that can
    change, globals that it binds. The next evaluation there finds them. Where that matters, ask for
    `using(fresh_process=True)`.

    Cost: about 10 microseconds each when many are under way, 0.1 ms for one alone. A function that captured something
    that can change is pickled for each call. A large array, captured or an argument, is copied once, however many
    evaluations get it, and compared with the copy each time (5 ms for 100 MB). One that is marked read-only
    (`a.flags.writeable = False`) is not compared. What never changes is best stored once: `hf.put`.
    """
    if type(fn) is not types.FunctionType:
        plain_function(fn, "remote_eval", "await {name}(...)")
    # As Job(RemoteEval(fn, args, kwargs)) does it; each evaluation begins here, and the calls would be a third of it.
    step: RemoteEval = new(RemoteEval)
    step.fn, step.args, step.kwargs = fn, args, kwargs
    flow: Job[Any] = new(Job)
    flow.step = step
    if peek() is None:
        flow.made_at = None
    else:
        frame = frame_above(1)
        flow.made_at = frame.f_code, frame.f_lasti
    return flow


@overload
def remote_map(
    fn: Callable[[X], Coroutine[Any, Any, T]],
    xs: Iterable[X],
    chunk_size: int | Literal["auto"] = "auto",
    *,
    errors: Literal["raise"] = "raise",
) -> Job[list[T]]: ...
@overload
def remote_map(
    fn: Callable[[X], T],
    xs: Iterable[X],
    chunk_size: int | Literal["auto"] = "auto",
    *,
    errors: Literal["raise"] = "raise",
) -> Job[list[T]]: ...
@overload
def remote_map(
    fn: Callable[[X], Coroutine[Any, Any, T]],
    xs: Iterable[X],
    chunk_size: int | Literal["auto"] = "auto",
    *,
    errors: Literal["return"],
) -> Job[list[T | Failed]]: ...
@overload
def remote_map(
    fn: Callable[[X], T], xs: Iterable[X], chunk_size: int | Literal["auto"] = "auto", *, errors: Literal["return"]
) -> Job[list[T | Failed]]: ...
def remote_map(
    fn: Callable[[Any], Any],
    xs: Iterable[Any],
    chunk_size: int | Literal["auto"] = "auto",
    *,
    errors: Errors = "raise",
    **others: object,
) -> Job[list[Any]]:
    """Evaluate `fn(x)` on workers for every x, many in one message, and return the results in the order of xs.

    Args:
        fn: As for remote_eval; called once for each item.
        xs: Read as needed. The first run uses an iterator up.
        chunk_size: Items in one evaluation; "auto" aims at 20 ms for each chunk.
        errors: "raise": the first failure cancels the rest and is raised unchanged, with the item as a note. "return":
            the rest goes on, and a `Failed` takes the place of each result that is missing; see `map_concurrently`.

    A chunk is computed with its items and with what fn captured as they are when it is submitted. Chunks are submitted
    while the map runs: what changes meanwhile counts for the later ones. A second try takes what was submitted.

    The items of a chunk share what fn captured, and their process: what fn changes or sets for one item, the next item
    of the chunk sees.
    A chunk is one evaluation: options such as `time_limit` and `retries` apply to a chunk. When one crashes, exceeds
    its time limit, or has a result that cannot be sent, its items are evaluated again one by one, those that had ended
    included, each with these options: so a crash costs one item, and the error names it. (One of more than a hundred
    items, or of very large ones, is cut into smaller chunks first. One that could not even be read on the worker, so
    that nothing was evaluated, is packed anew.)
    """
    failures.check(errors, "remote_map", others)
    if chunk_size != "auto" and (type(chunk_size) is not int or chunk_size < 1):
        raise ConfigurationError(f'chunk_size={chunk_size!r}: a whole number of at least 1 is needed, or "auto"')
    size = None if chunk_size == "auto" else chunk_size
    plain_function(fn, "remote_map", "await hyperflow.map_concurrently({name}, ...)")
    return Job(Native("remote_map", chunks.run, (fn, xs, size, errors)))
