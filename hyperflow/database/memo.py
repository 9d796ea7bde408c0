"""Memo: the results of a function that returns a flow are recorded, and not computed again.

Guarantees:
- A result is recorded, on the disk, before anyone sees it. A recorded one is returned without running the function.
- Overlapping calls with the same arguments run once (see `single_flight`). A failure reaches all and is not recorded.
- The key is name, version and arguments, bound to the parameters as Python does: `f(1)`, `f(x=1)` and a default of 1
  are one call. Source text is no part of it, so a new comment forgets nothing. A changed result needs a new `version`.
- The first caller gets what every later one gets: the value as it was recorded, made again for each.
- What cannot be a key, or cannot be stored, is refused; if the annotations show it, before anything runs.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

import attrs

from hyperflow import environment, saying
from hyperflow import flow as flows
from hyperflow.database import keys, records, single_flight
from hyperflow.database.hints import show
from hyperflow.database.values import Codec, codec_for
from hyperflow.errors import ConfigurationError, DatabaseError, MisuseError, SerializationError
from hyperflow.flow import Cluster, Flow, Job

P = ParamSpec("P")
T = TypeVar("T")


class Unresolved:
    """Stands for a type that is not known (yet); a class, so that it stays itself when it is pickled."""


@attrs.frozen(repr=False)
class MemoCall(flows.CallStep):
    """A call of a memoized function."""

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return run(self.fn.__memo__, self.args, self.kwargs)


@attrs.define(eq=False)
class Memo:
    """What is known of a memoized function: the function, where its results are, and how they are written."""

    fn: Callable[..., Any]
    name: str
    map_name: str
    hints: dict[str, Any]
    result: Any
    """The type of results."""
    key_hint: Any
    """If not Unresolved: there is one argument of this type, and it is the key itself."""
    signature: inspect.Signature = attrs.field(init=False)
    kind: type[Flow[Any]] = attrs.field(init=False)
    """Job or Cluster, as the function itself returns."""
    is_simple: bool = attrs.field(init=False)
    """True if the function has no `*args`, `**kwargs` or keyword-only parameter; then arguments need no binding."""
    _parameters: list[tuple[str, str, keys.Widening | None]] | None = attrs.field(default=None, init=False)
    """Name, how it stands in a key, and what makes an int a float where it is annotated so."""
    _codec: Codec | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.signature = inspect.signature(self.fn)
        self.kind = Cluster if _is_of_cluster(self.fn, self.hints) else Job
        simple = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.is_simple = all(parameter.kind in simple for parameter in self.signature.parameters.values())

    def __reduce__(self) -> tuple[Any, ...]:  # without what is made at first use, which does not pickle
        return type(self), (self.fn, self.name, self.map_name, self.hints, self.result, self.key_hint)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the canonical text of the arguments; an error names the parameter that cannot be in a key."""
        parameters = self._parameters
        if parameters is None:
            parameters = self._parameters = self._prepare()
        if len(args) == len(parameters) and not kwargs and self.is_simple:
            values: Any = args
        else:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments.values()
        texts = []
        for (name, head, widen), value in zip(parameters, values, strict=True):
            widened = value if widen is None else widen(value)
            try:
                texts.append(head + keys.encode(widened, self.map_name))
            except SerializationError as error:
                raise SerializationError(f"argument {name} of {self.name}: {error}") from error
        if self.key_hint is not Unresolved:
            return texts[0]
        texts.sort()
        return "{" + ",".join(texts) + "}"

    def _prepare(self) -> list[tuple[str, str, keys.Widening | None]]:
        hints = self.hints or records.hints_of(inspect.unwrap(self.fn))
        if self.key_hint is not Unresolved:
            return [(name, "", keys.widening(self.key_hint)) for name in self.signature.parameters]
        found = []
        for name, parameter in self.signature.parameters.items():
            hint = hints.get(name)
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL and hint is not None:
                hint = types.GenericAlias(tuple, (hint, ...))
            if parameter.kind is inspect.Parameter.VAR_KEYWORD and hint is not None:
                hint = types.GenericAlias(dict, (str, hint))
            found.append((name, keys.encode(name) + ":", keys.widening(hint)))
        return found

    @property
    def codec(self) -> Codec:
        """How results are written; raises SerializationError if the annotation's type cannot be stored."""
        if self._codec is None:
            inner = inspect.unwrap(self.fn)
            if self.result is Unresolved:
                self.result = _result_type(inner, self.name, records.hints_of(inner))
            if self.result is Unresolved:
                raise MisuseError(
                    f"the annotations of {self.name} cannot be resolved: {inner.__annotations__['return']!r}. Define "
                    "the types at the top level of the module and import them also when it runs, not only for type "
                    "checkers"
                )
            try:
                self._codec = codec_for(self.result)
            except SerializationError as error:
                raise SerializationError(f"results of {self.name} cannot be recorded: {error}") from error
        return self._codec


def _is_of_cluster(fn: Any, hints: dict[str, Any]) -> bool:
    hint = hints.get("return")
    origin = typing.get_origin(hint) or hint
    return getattr(fn, "level", "") == "cluster" or (isinstance(origin, type) and issubclass(origin, Cluster))


class Memoized:
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


async def run(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the recorded result of a call, or compute and record it."""
    codec = memo.codec
    key = memo.key(args, kwargs)
    database = environment.current(memo.name).database
    text = await database.lookup(memo.map_name, key)
    if text is None:
        show_call = functools.partial(flows.show_call, memo.fn, args, kwargs)
        compute = functools.partial(_compute, memo, key, args, kwargs)
        text = await single_flight.once(database, (memo.map_name, key), show_call, compute)
    try:
        return codec.decode(text)
    except SerializationError as error:
        raise DatabaseError(
            f"the recorded result of {flows.show_call(memo.fn, args, kwargs)} is no {show(codec.hint)} any more: "
            f"{error}. If the type has changed, give @memoize a higher version"
        ) from error


async def _compute(memo: Memo, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    database = environment.current(memo.name).database
    recorded = await database.lookup(memo.map_name, key)
    if recorded is not None:
        return recorded
    made = memo.fn(*args, **kwargs)
    if not isinstance(made, Flow):
        if inspect.iscoroutine(made):
            made.close()
        raise MisuseError(
            f"{memo.name} returned {made!r:.80}, but memoize is for functions that return a flow: put @hyperflow.job "
            f"between @hyperflow.memoize and an `async def`, or let a `def` return hyperflow.remote_eval(...)"
        )
    value = await made
    try:
        text = memo.codec.encode_checked(value)
    except SerializationError as error:
        raise SerializationError(
            f"the result of {flows.show_call(memo.fn, args, kwargs)} cannot be recorded: {error}"
        ) from error
    await database.insert(memo.map_name, key, text)
    return text


class Memoizer(Protocol):
    """What `memoize(...)` gives: it keeps the kind of flow."""

    @overload
    def __call__(self, fn: Callable[P, Cluster[T]], /) -> Callable[P, Cluster[T]]: ...
    @overload
    def __call__(self, fn: Callable[P, Job[T]], /) -> Callable[P, Job[T]]: ...
    @overload
    def __call__(self, fn: Callable[P, Flow[T]], /) -> Callable[P, Flow[T]]: ...


def memoize(name: str, *, version: int | str = 1) -> Memoizer:
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

    Raises:
        MisuseError: When it decorates something that returns no flow.
        SerializationError: At the call, when an argument cannot be in a key, or the result cannot be stored.
    """
    _check_arguments(name, version)
    local_names = records.names_of_caller()

    def decorate(fn: Callable[..., Flow[Any]], /) -> Any:
        return memoized(fn, f"memoize:{name}:{version}", f"@memoize({name!r})", local_names)

    return decorate


def memoized(
    fn: Callable[P, Flow[T]],
    map_name: str,
    where: str,
    local_names: dict[str, Any],
    result: Any = Unresolved,
    key: Any = Unresolved,
) -> Callable[P, Job[T]]:
    """Return the memoized form of a function; errors name `where`, which is what the user called.

    Annotations may refer to `local_names` besides the function's globals. `result` is the type of results where it is
    known otherwise. With `key`, the function has one argument, which is of this type and the key itself.
    """
    shown = getattr(fn, "__qualname__", None) or repr(fn)
    _check_kind(fn, shown, where)
    inner = inspect.unwrap(fn)
    hints = records.hints_of(inner, local_names)
    annotated = _result_type(inner, shown, hints, where)
    memo = Memo(fn, shown, map_name, hints, annotated if result is Unresolved else result, key)
    parameters = len(memo.signature.parameters)
    if key is not Unresolved and parameters != 1:
        raise MisuseError(
            f"{where}: the map's key is the argument of {shown}, so it has to have one, not {parameters}; take a tuple "
            "or a record, or use @hyperflow.memoize('name')"
        )
    return cast("Callable[P, Job[T]]", Memoized(memo))


def _check_arguments(name: object, version: object) -> None:
    if not isinstance(name, str) or name == "":
        raise MisuseError("memoize needs a name for the results: @hyperflow.memoize('name', version=1)")
    if not isinstance(version, int | str) or isinstance(version, bool):
        raise ConfigurationError(f"memoize(version={version!r}): an int or str is needed")
    if reason := saying.unfit_name(name) or saying.unfit_name(str(version)):
        raise MisuseError(f"memoize({name!r}, version={version!r}): {reason}")


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


def _result_type(inner: Any, shown: str, hints: dict[str, Any], where: str = "@memoize") -> Any:
    """Return the T of an annotation Flow[T], Any if there is none, Unresolved if it names what is not known (yet)."""
    if "return" not in getattr(inner, "__annotations__", {}):
        return Any
    if "return" not in hints:
        return Unresolved
    hint = hints["return"]
    if inspect.iscoroutinefunction(inner):  # under @job: annotated with the plain result
        return hint
    origin = typing.get_origin(hint) or hint
    if isinstance(origin, type) and issubclass(origin, Flow):
        return (typing.get_args(hint) or (Any,))[0]
    if hint is Any:
        return Any
    raise MisuseError(
        f"{where}: {shown} is annotated to return {show(hint)}, which is no flow; let it return "
        f"hyperflow.Job[{show(hint)}], as in `return hyperflow.remote_eval(...)`"
    )
