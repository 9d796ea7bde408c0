"""Memo: the results of a function that returns a flow are recorded, and not computed again.

Guarantees:
- A result is recorded, on the disk, before anyone sees it. A recorded one is returned without running the function.
- Overlapping calls with the same arguments run once (see `single_flight`). A failure reaches all and is not recorded.
- The key is name, version and arguments, bound to the parameters as Python does: `f(1)`, `f(x=1)` and a default of 1
  are one call. What `ignore` names is no part of it. Nor is source text, so a new comment forgets nothing. A changed
  result needs a new `version`.
- The first caller gets what every later one gets: the value as it was recorded, made again for each.
- A function that has changed since its results were recorded does not go unnoticed (`on_change`).
- What cannot be a key, or cannot be stored, is refused; if the annotations show it, before anything runs.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from hyperflow import flow as flows
from hyperflow import saying
from hyperflow.database import records
from hyperflow.database.memo_function import Memo, OnChange, Unresolved, result_type
from hyperflow.database.recording import MemoStep, run, started
from hyperflow.environment import BulkMap, MapOwner
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.flow import Cluster, Flow, Job

P = ParamSpec("P")
T = TypeVar("T")


class MemoCall(MemoStep):
    """A call of a memoized function."""

    __slots__ = ()

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return run(self.fn.__memo__, self.args, self.kwargs)

    def start(self) -> asyncio.Future[Any]:
        return started(self.fn.__memo__, self.args, self.kwargs)

    def open_map(self, owner: MapOwner) -> BulkMap:
        from hyperflow.database.memo_map import MemoMap  # noqa: PLC0415 (only maps need it)

        return MemoMap(owner, self.fn.__memo__)

    def way(self) -> object:
        return self.fn.__memo__


class Memoized(flows.MakesFlows):
    """What `memoize` makes of a function: calling it describes a Job, and runs nothing.

    A class and not a closure, because a function that refers to itself cannot travel with a user's closure.
    """

    def __init__(self, memo: Memo) -> None:
        functools.update_wrapper(self, memo.fn)
        self.__wrapped__ = memo.fn
        self.__memo__ = memo

    def __call__(self, *args: Any, **kwargs: Any) -> Flow[Any]:
        memo = self.__memo__
        if kwargs or len(args) != len(memo.signature.parameters) or not memo.is_simple:
            memo.signature.bind(*args, **kwargs)  # a wrong call fails here, as it would without memoize
        return memo.kind(MemoCall(self, args, kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By name where there is one; `__main__` is another module on a worker.
        name = getattr(self, "__qualname__", "")
        if self.__module__ != "__main__":
            try:
                if operator.attrgetter(name)(sys.modules[self.__module__]) is self:
                    return str(name)
            except (AttributeError, KeyError):
                pass
        return type(self), (self.__memo__,)

    def __repr__(self) -> str:
        return f"<memoized {self.__memo__.name}>"


class Memoizer(Protocol):
    """What `memoize(...)` gives: it keeps the kind of flow."""

    @overload
    def __call__(self, fn: Callable[P, Cluster[T]], /) -> Callable[P, Cluster[T]]: ...
    @overload
    def __call__(self, fn: Callable[P, Job[T]], /) -> Callable[P, Job[T]]: ...
    @overload
    def __call__(self, fn: Callable[P, Flow[T]], /) -> Callable[P, Flow[T]]: ...


def memoize(name: str, *, version: int | str = 1, on_change: OnChange = "warn", ignore: Iterable[str] = ()) -> Memoizer:
    """Record the results of a function that returns a flow, and return recorded ones without running it.

        @hf.memoize("half", version=1)
        def half(x: int) -> hf.Job[float]:
            return hf.remote_eval(f, x)

    The arguments may be numbers, str, bytes, None, Path, Fraction, Decimal, dates, enums, numpy arrays, tuples, lists,
    dicts, sets, attrs classes, dataclasses, NamedTuples, nested at will, and types known by `database.register`. The
    result's type is that of the annotation; without one it is plain data. The options of `using` are not part of the
    key: when it runs, those of the first caller apply.

    A key is computed once in a Job, even when many flows ask at the same time. Jobs of a Cluster that run at the same
    time are not promised that. With SQLite files, each begins with what the program knew when the Job was submitted,
    and two Jobs compute a key that both need, once each. On a PostgreSQL server a Job sees what others have recorded,
    and only Jobs that ask at the same time compute it both. What must not run twice belongs into one Job, or under
    `with_lock`, with its result in a file or on a server.

    A recorded call costs some microseconds. One that runs costs its evaluation and an fsync, which it shares with
    those that end at the same time. Cancelling a call cancels the computation if nobody else waits for it.

    Args:
        name: Names the results in the database (map `memoize:name:version`).
        version: Change it when the function would now give other results.
        on_change: What to do with results that were recorded when the function was another one: "warn" once per
            function and run, saying what to type, and return them; "recompute": treat them as absent, and record new
            ones; "ignore".
        ignore: Names of arguments that do not change the result, as `ignore=("verbose",)`: calls that differ in them
            only are one call, which runs with those of the first caller. A name that is added later makes other keys:
            what was recorded before with that argument in the key is not found.

    A function has changed if its code has, or a value that it refers to: globals, closure, defaults, also through other
    functions and classes of yours. New comments, docstrings and line breaks are no change. Not seen are: code of
    installed packages and of the standard library, the inside of objects of their classes (numpy arrays are seen),
    what is found by a computed name, files, and a list or dict that changes in place after the first call in a process.
    Results of another minor version of Python, or of an older hyperflow, are not judged.

    Raises:
        MisuseError: When it decorates something that returns no flow, or `ignore` names what is no parameter of it.
        ConfigurationError: `version` or `on_change` makes no sense.
        SerializationError: At the call, when an argument cannot be in a key, or the result cannot be stored.
    """
    _check_arguments(name, version, on_change)
    following = version + 1 if isinstance(version, int) else f"{version}-2"
    remedy = f"If it gives other results now, write: @hyperflow.memoize({name!r}, version={following!r}). {ON_CHANGE}"
    local_names = records.names_of_caller()
    ignored = _ignored(name, ignore)

    def decorate(fn: Callable[..., Flow[Any]], /) -> Any:
        where = f"@memoize({name!r})"
        map_name = map_of(name, version)
        return memoized(fn, map_name, where, local_names, on_change=on_change, remedy=remedy, ignore=ignored)

    return decorate


def memoized(  # noqa: PLR0913 (two callers know different parts)
    fn: Callable[P, Flow[T]],
    map_name: str,
    where: str,
    local_names: dict[str, Any],
    result: Any = Unresolved,
    key: Any = Unresolved,
    *,
    on_change: OnChange = "warn",
    remedy: str = "",
    ignore: tuple[str, ...] = (),
) -> Callable[P, Job[T]]:
    """Return the memoized form of a function; errors name `where`, which is what the user called.

    Annotations may refer to `local_names` besides the function's globals. `result` is the type of results where it is
    known otherwise. With `key`, the function has one argument, which is of this type and the key itself. `remedy`
    is what to type if the function has changed. The parameters `ignore` are not part of the key.
    """
    shown = getattr(fn, "__qualname__", None) or repr(fn)
    _check_kind(fn, shown, where)
    inner = inspect.unwrap(fn)
    hints = records.hints_of(inner, local_names)
    annotated = result_type(inner, shown, hints, where)
    result = annotated if result is Unresolved else result
    memo = Memo(fn, shown, map_name, hints, result, key, on_change, remedy, ignore)
    for name in ignore:
        if name not in memo.signature.parameters:
            there = ", ".join(memo.signature.parameters) or "none"
            raise MisuseError(f"{where}: ignore={ignore!r}: {shown} has no parameter {name!r}; it has {there}")
    parameters = len(memo.signature.parameters)
    if key is not Unresolved and parameters != 1:
        raise MisuseError(
            f"{where}: the map's key is the argument of {shown}, so it has to have one, not {parameters}; take a tuple "
            "or a record, or use @hyperflow.memoize('name')"
        )
    return cast("Callable[P, Job[T]]", Memoized(memo))


MAP_OF = "memoize:"
"""The maps of memoized functions begin with it."""


def map_of(name: str, version: int | str) -> str:
    """Return the map that has the results of a memoized function."""
    return f"{MAP_OF}{name}:{version}"


ON_CHANGE = (
    'If they are to be computed again whenever it changes: on_change="recompute". If the change does not matter: '
    'on_change="ignore"'
)


def check_on_change(on_change: object) -> None:
    """Raise ConfigurationError if there is no such answer to a change."""
    if on_change not in typing.get_args(OnChange):
        raise ConfigurationError(f'memoize(on_change={on_change!r}): "warn", "recompute" or "ignore" is needed')


def _check_arguments(name: object, version: object, on_change: object) -> None:
    check_on_change(on_change)
    if not isinstance(name, str) or name == "":
        raise MisuseError("memoize needs a name for the results: @hyperflow.memoize('name', version=1)")
    if not isinstance(version, int | str) or isinstance(version, bool):
        raise ConfigurationError(f"memoize(version={version!r}): an int or str is needed")
    if reason := saying.unfit_name(name) or saying.unfit_name(str(version)):
        raise MisuseError(f"memoize({name!r}, version={version!r}): {reason}")


def _ignored(name: object, ignore: object) -> tuple[str, ...]:
    names = tuple(ignore) if isinstance(ignore, Iterable) and not isinstance(ignore, str | bytes) else None
    if names is None or not all(isinstance(one, str) for one in names):
        example = ignore if isinstance(ignore, str) else "verbose"
        raise MisuseError(
            f"memoize({name!r}, ignore={ignore!r}): names of parameters are needed, as in ignore=({example!r},)"
        )
    return names


def _check_kind(fn: Any, shown: str, where: str) -> None:
    flows.function(fn, where)
    inner = inspect.unwrap(fn)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise MisuseError(f"{where}: {shown} is a generator; memoize is for functions that return a flow of one result")
    if inspect.iscoroutinefunction(fn):
        raise MisuseError(
            f"{where}: {shown} is an `async def`, which returns no flow; put @hyperflow.job between them:\n"
            f"    @hyperflow.{where.lstrip('@')}\n    @hyperflow.job\n    async def {inner.__name__}(...): ..."
        )
