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
import contextvars
import functools
import inspect
import operator
import sys
import types
import typing
import warnings
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from hyperflow import environment, saying
from hyperflow import flow as flows
from hyperflow.aio import Outcome
from hyperflow.database import keys, records, single_flight
from hyperflow.database.entries import FromCode, metadata_with, warn_of, with_origin
from hyperflow.database.fingerprint import Fingerprint
from hyperflow.database.hints import show
from hyperflow.database.kept import LONGEST
from hyperflow.database.origins import Making
from hyperflow.database.values import Codec, codec_for
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import ConfigurationError, DatabaseError, FunctionChanged, MisuseError, SerializationError
from hyperflow.fields import define, field, frozen
from hyperflow.flow import Cluster, Flow, Job

P = ParamSpec("P")
T = TypeVar("T")

OnChange: TypeAlias = Literal["warn", "recompute", "ignore"]


class Unresolved:
    """Stands for a type that is not known (yet); a class, so that it stays itself when it is pickled."""


@frozen(shown=False)
class MemoCall(flows.CallStep):
    """A call of a memoized function."""

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return run(self.fn.__memo__, self.args, self.kwargs)

    def start(self) -> asyncio.Future[Any]:
        return _started(self.fn.__memo__, self.args, self.kwargs)


@define(eq=False)
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
    on_change: OnChange = "warn"
    remedy: str = ""
    """What to type if the function has changed."""
    ignore: tuple[str, ...] = ()
    """Parameters that are not part of the key."""
    signature: inspect.Signature = field(init=False)
    kind: type[Flow[Any]] = field(init=False)
    """Job or Cluster, as the function itself returns."""
    is_simple: bool = field(init=False)
    """True if the function has no `*args`, `**kwargs` or keyword-only parameter; then arguments need no binding."""
    _places: list[int] = field(init=False)
    """Where the parameters of the key are among all."""
    _parameters: list[tuple[str, str, keys.Widening | None]] | None = field(default=None, init=False)
    """Name, how it stands in a key, and what makes an int a float where it is annotated so."""
    _codec: Codec | None = field(default=None, init=False)
    _fingerprint: Fingerprint | None = field(default=None, init=False)
    _metadata: tuple[str, str] = field(default=("", ""), init=False)
    """A fingerprint, and the metadata of results that have it."""
    _texts_of: str = field(default="", init=False)
    """The fingerprint of the function whose text was recorded last."""
    _told: weakref.ref[Any] | None = field(default=None, init=False)
    """The database of the run in which a change was told."""

    def __post_init__(self) -> None:
        self.signature = inspect.signature(self.fn)
        self.kind = Cluster if _is_of_cluster(self.fn, self.hints) else Job
        simple = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.is_simple = all(parameter.kind in simple for parameter in self.signature.parameters.values())
        self._places = [place for place, name in enumerate(self.signature.parameters) if name not in self.ignore]

    def __reduce__(self) -> tuple[Any, ...]:  # without what is made at first use, which does not pickle
        same = (self.fn, self.name, self.map_name, self.hints, self.result, self.key_hint)
        return type(self), (*same, self.on_change, self.remedy, self.ignore)

    @property
    def parameters(self) -> list[str]:
        """The names of the arguments in the key."""
        names = list(self.signature.parameters)
        return [names[place] for place in self._places]

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the canonical text of the arguments; an error names the parameter that cannot be in a key."""
        parameters = self._parameters
        if parameters is None:
            parameters = self._parameters = self._prepare()
        if len(args) == len(parameters) and not kwargs and self.is_simple and not self.ignore:
            values: Any = args
        else:
            bound = self.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments.values()
            if self.ignore:
                every = list(values)
                values = [every[place] for place in self._places]
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
        for name in self.parameters:
            parameter = self.signature.parameters[name]
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

    def metadata(self, code: str) -> str:
        """Return what is recorded beside each result: for the function itself, and for who reads it without it."""
        if self._metadata[0] != code:
            inner = inspect.unwrap(self.fn)
            hints = self.hints or records.hints_of(inner)
            classes: dict[str, str] = {}
            for hint in (*(hints.get(name) for name in self.parameters), self.codec.hint):
                classes |= records.modules_in(hint)
            function = f"{getattr(inner, '__module__', '')}.{self.name}"
            # Where the key is the argument itself, it says nothing of the parameter.
            parameters = [] if self.key_hint is not Unresolved else self.parameters
            about = metadata_with(code=code, function=function, parameters=parameters, classes=classes)
            self._metadata = code, about
        return self._metadata[1]

    def new_texts(self, fingerprint: Fingerprint) -> dict[str, str]:
        """Return what the function says, for the first result of it; none for the others."""
        if self._texts_of == fingerprint.text:
            return {}
        from hyperflow.database import texts  # noqa: PLC0415 (once for each function that computes something)

        self._texts_of = fingerprint.text
        return texts.of(fingerprint.functions, fingerprint.captured)

    @property
    def fingerprint(self) -> Fingerprint:
        """The function's fingerprint; made at the first call, and again when a captured name is bound anew."""
        # Not again in each run: what a function appends to a list of the script is its effect, and no change of it.
        if self._fingerprint is None or not self._fingerprint.is_current():
            self._fingerprint = Fingerprint.of(self.fn, self.ignore)
        return self._fingerprint

    def counts(self, text: str | None, database: ResultsDatabase) -> bool:
        """Whether a recorded result may be returned; warns if the function was another one when it was recorded."""
        if type(text) is not FromCode or not text.code or self.on_change == "ignore":
            return text is not None
        if not self.fingerprint.differs(text.code):
            return True
        if self.on_change == "warn" and (self._told is None or self._told() is not database):
            self._told = weakref.ref(database)
            code = inspect.unwrap(self.fn).__code__
            words = (
                f"{self.name} has changed since results of it were recorded (its code, or a value that it refers to), "
                f"and recorded results are returned as they are. {self.remedy}"
            )
            warnings.warn_explicit(words, FunctionChanged, code.co_filename, code.co_firstlineno)
        return self.on_change == "warn"


def _is_of_cluster(fn: Any, hints: dict[str, Any]) -> bool:
    hint = hints.get("return")
    origin = typing.get_origin(hint) or hint
    return getattr(fn, "level", "") == "cluster" or (isinstance(origin, type) and issubclass(origin, Cluster))


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


async def run(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the recorded result of a call, or compute and record it."""
    codec = memo.codec
    key = memo.key(args, kwargs)
    database = environment.current(memo.name).database
    known, text = database.peek(memo.map_name, key)
    if not known or not memo.counts(text, database):
        joined = _joined(memo, key, args, kwargs, database, known)
        try:
            return await joined
        finally:
            del joined  # it knows the error, whose traceback knows this frame
    if (making := environment.peek_making()) is not None:
        making.read(memo.map_name, key)
    assert text is not None
    return _decoded(codec, text, memo, args, kwargs)


def _started(memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> asyncio.Future[Any]:
    """Begin to look up, or to compute, the result of a call; in most cases that needs no task."""
    try:
        codec = memo.codec
        key = memo.key(args, kwargs)
        database = environment.current(memo.name).database
        known, text = database.peek(memo.map_name, key)
        if not known or not memo.counts(text, database):
            return _joined(memo, key, args, kwargs, database, known)
        if (making := environment.peek_making()) is not None:
            making.read(memo.map_name, key)
        assert text is not None
        found = Outcome()
        found.set_result(_decoded(codec, text, memo, args, kwargs))
    except Exception as error:  # noqa: BLE001 (who awaits the call gets it)
        found = Outcome()
        found.set_exception(error)
    return found


def _joined(
    memo: Memo, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], database: ResultsDatabase, known: bool
) -> asyncio.Future[Any]:
    """Return what a caller waits for who found no recorded result that counts."""
    making = environment.peek_making()
    taken = None if making is None else functools.partial(making.read, memo.map_name, key)
    flight = database.flights.get((memo.map_name, key))
    if flight is not None:
        joined: asyncio.Future[Any] = flight.join(taken)
        return joined
    flight = Recording(memo, key, args, kwargs, database, known)
    joined = flight.join(taken)
    flight.begin()
    try:
        return joined
    finally:
        del joined  # it may know an error, whose traceback knows this frame


def _decoded(codec: Codec, text: str, memo: Memo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return codec.decode(text)
    except SerializationError as error:
        raise DatabaseError(
            f"the recorded result of {flows.show_call(memo.fn, args, kwargs)} is no {show(codec.hint)} any more: "
            f"{error}. If the type has changed, give @memoize a higher version"
        ) from error


class Recording(single_flight.Flight):
    """A call whose result is computed and recorded, unless the database turns out to have it."""

    __slots__ = (
        "_args",
        "_checked",
        "_context",
        "_database",
        "_fingerprint",
        "_key_text",
        "_known",
        "_kwargs",
        "_making",
        "_memo",
        "_step",
        "_text",
    )

    _step: Callable[[Recording, Any], None]
    """What goes on with the result of what is waited for; no bound method, which would be a cycle."""

    def __init__(
        self,
        memo: Memo,
        key: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        database: ResultsDatabase,
        known: bool,
    ) -> None:
        super().__init__(database.flights, (memo.map_name, key))
        self._memo, self._key_text, self._args, self._kwargs = memo, key, args, kwargs
        self._database = database
        self._known = known
        """The database is known to have nothing that counts."""
        self._checked: tuple[Any] | None = None
        """The value that was made of its text to check that, for one caller; not a long one, which takes memory."""

    @property
    def name(self) -> str:
        return flows.show_call(self._memo.fn, self._args, self._kwargs)

    def again(self) -> Recording:
        return Recording(self._memo, self._key_text, self._args, self._kwargs, self._database, False)

    def begin(self) -> None:
        try:
            if self._known:
                self._compute()
            else:
                self._context = contextvars.copy_context()
                self._step = Recording._looked
                self.wait_for(self._database.ask(self._memo.map_name, self._key_text))
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise

    def went_well(self, result: Any) -> None:
        self._step(self, result)

    def value(self, result: Any) -> Any:
        checked, self._checked = self._checked, None
        if checked is not None:
            return checked[0]
        return _decoded(self._memo.codec, result, self._memo, self._args, self._kwargs)

    def _looked(self, answer: tuple[str | None, list[str]]) -> None:
        text, damaged = answer
        warn_of(damaged)
        if text is not None and self._memo.counts(text, self._database):
            self.succeed(text)
        else:
            self._context.run(self._compute)

    def _compute(self) -> None:
        memo = self._memo
        self._fingerprint = memo.fingerprint
        self._making = Making()
        making, inside = environment.set_making(self._making), single_flight.inside.set(self)
        try:
            made = memo.fn(*self._args, **self._kwargs)
            if not isinstance(made, Flow):
                if inspect.iscoroutine(made):
                    made.close()
                raise MisuseError(
                    f"{memo.name} returned {made!r:.80}, but memoize is for functions that return a flow: put "
                    f"@hyperflow.job between @hyperflow.memoize and an `async def`, or let a `def` return "
                    f"hyperflow.remote_eval(...)"
                )
            # Memoized calls that only call each other would use up the stack.
            nested = type(made.step) is MemoCall
            going = flows.Step.start(made.used().step) if nested else made.start()
        finally:
            single_flight.inside.reset(inside)
            environment.end_making(making)
        self._step = Recording._computed
        self.wait_for(going)

    def _computed(self, value: Any) -> None:
        memo = self._memo
        try:
            text = self._text = memo.codec.encode(value)
            made = memo.codec.decode(text)  # what cannot be read back must not be recorded
        except SerializationError as error:
            raise SerializationError(f"the result of {self.name} cannot be recorded: {error}") from error
        if len(text) <= LONGEST:
            self._checked = (made,)
        code = self._fingerprint.text
        about = with_origin(memo.metadata(code), self._making.text(memo.new_texts(self._fingerprint)))
        self._step = Recording._recorded
        entry = FromCode.of(self._text, code, about)
        self.wait_for(self._database.record(memo.map_name, self._key_text, entry))

    def _recorded(self, _: None) -> None:
        self.succeed(self._text)


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
    annotated = _result_type(inner, shown, hints, where)
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
