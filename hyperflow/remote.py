"""remote_eval and remote_map: plain function calls, evaluated on the workers of the current environment."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

import attrs

from hyperflow import environment
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.flow import Job, Native, Step, function, show_call

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")

CHUNK_SECONDS = 0.02
"""How long a chunk of remote_map should take: much longer than a round trip, too short to notice."""

LARGEST_CHUNK = 100_000


@attrs.frozen(repr=False, eq=False)
class RemoteEval(Step):
    """A call to be evaluated on a worker."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def start(self) -> asyncio.Future[Any]:
        env = environment.peek() or environment.current()
        return env.evaluator.submit(self.fn, self.args, self.kwargs, env.options)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.start().__await__()

    def __repr__(self) -> str:
        name, _, arguments = show_call(self.fn, self.args, dict(self.kwargs)).partition("(")
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
    cannot be looked at: changes of importable modules and what they hold (workers import them), of names, docstrings
    and annotations, and of the inside of C objects whose pickle does not show it.

    **What a call changes** in a captured list, array, dict, random generator or other object, no other call sees: each
    starts with what was captured. So two calls with a captured `default_rng(1)` draw the same numbers; for a stream of
    its own take `hf.seed_sequence()`. What stays on the worker is what fn does to the process: the working
    directory, the environment, modules, globals and class attributes that it binds, the results of a
    `functools.cache`. The next evaluation there finds them. Where that matters, ask for `using(fresh_process=True)`.

    Cost: about 10 microseconds each when many are under way, 0.1 ms for one alone. A function that captured something
    that can change is pickled for each call. A large array, captured or an argument, is copied once, however many
    evaluations get it, and compared with the copy each time (5 ms for 100 MB). One that is marked read-only
    (`a.flags.writeable = False`) is not compared. What never changes is best stored once: `hf.put`.
    """
    if type(fn) is not types.FunctionType:
        function(fn, "remote_eval")
    return Job(RemoteEval(fn, args, kwargs))


def apply_to_all(fn: Callable[[Any], Any], items: list[Any]) -> list[Any] | Coroutine[Any, Any, list[Any]]:
    """On a worker: evaluate a chunk of remote_map."""
    results: list[Any] = []
    try:
        for item in items:
            result = fn(item)
            if type(result) is types.CoroutineType:  # also of a lambda or an object that calls an async function
                return _apply_to_rest(fn, items, results, result)
            results.append(result)
    except Exception as error:
        _note_item(error, items[len(results)])
        raise
    return results


async def _apply_to_rest(
    fn: Callable[[Any], Awaitable[Any]], items: list[Any], results: list[Any], first: Awaitable[Any]
) -> list[Any]:
    """Evaluate the rest of a chunk whose function turned out to be async; `first` is what it returned last."""
    try:
        results.append(await first)
        for item in items[len(results) :]:
            results.append(await fn(item))  # noqa: PERF401 (their number tells which item failed)
    except Exception as error:
        _note_item(error, items[len(results)])
        raise
    return results


def _note_item(error: Exception, item: object) -> None:
    with contextlib.suppress(Exception):  # the item's repr may fail, and a frozen exception takes no note
        error.add_note(f"(in remote_map, for the item {item!r:.200})")


async def _remote_map(fn: Callable[[Any], Any], xs: Iterable[Any], chunk_size: int | None) -> list[Any]:
    """Keep all CPUs busy with chunks; the automatic size follows how long chunks take."""
    loop = asyncio.get_running_loop()
    env = environment.current()
    if env.level == "cluster":
        raise MisuseError(
            "remote_map in a Cluster computation would take a Slurm job for each few items; put it into a @job, and "
            "write: await hyperflow.remote_eval_job(that_job(...))"
        )
    source = iter(xs)
    results: list[list[Any]] = []
    going: dict[asyncio.Future[Any], tuple[int, int, float]] = {}
    size = chunk_size or 1
    exhausted = False
    try:
        while True:
            room = 3 * max(1, env.evaluator.cpus // env.options.cpus)
            while not exhausted and len(going) < room:
                chunk: list[Any] = []
                for x in source:
                    chunk.append(x)
                    if len(chunk) >= size:
                        break
                else:
                    exhausted = True
                if chunk:
                    future = env.evaluator.submit(apply_to_all, (fn, chunk), {}, env.options)
                    going[future] = (len(results), len(chunk), loop.time())
                    results.append([])
            if not going:
                return [result for chunk in results for result in chunk]
            done, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                place, count, began = going.pop(future)
                results[place] = future.result()
                if chunk_size is None:
                    each = max((loop.time() - began) / 3, 1e-9) / count
                    size = max(1, min(2 * size, LARGEST_CHUNK, int(CHUNK_SECONDS / each)))
    finally:
        for future in going:
            if not future.cancel() and not future.cancelled():
                future.exception()  # retrieved: it failed together with the one that is raised


@overload
def remote_map(
    fn: Callable[[X], Coroutine[Any, Any, T]], xs: Iterable[X], chunk_size: int | Literal["auto"] = "auto"
) -> Job[list[T]]: ...
@overload
def remote_map(fn: Callable[[X], T], xs: Iterable[X], chunk_size: int | Literal["auto"] = "auto") -> Job[list[T]]: ...
def remote_map(
    fn: Callable[[Any], Any], xs: Iterable[Any], chunk_size: int | Literal["auto"] = "auto"
) -> Job[list[Any]]:
    """Evaluate `fn(x)` on workers for every x, many in one message, and return the results in the order of xs.

    Args:
        fn: As for remote_eval; called once for each item.
        xs: Read as needed. The first run uses an iterator up.
        chunk_size: Items in one evaluation; "auto" aims at 20 ms for each chunk.

    The items of a chunk share what fn captured: what fn changes in it for one item, the next item of the chunk sees.
    A chunk is one evaluation: options such as `time_limit` and `retries` apply to a chunk. The first failure cancels
    the rest and is raised unchanged, with the item as a note.
    """
    if chunk_size != "auto" and (type(chunk_size) is not int or chunk_size < 1):
        raise ConfigurationError(f'chunk_size={chunk_size!r}: a whole number of at least 1 is needed, or "auto"')
    size = None if chunk_size == "auto" else chunk_size
    return Job(Native("remote_map", _remote_map, (function(fn, "remote_map"), xs, size)))
