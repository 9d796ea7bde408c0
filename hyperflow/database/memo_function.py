"""What is known of a memoized function: its key, how its results are written, its fingerprint."""

from __future__ import annotations

import inspect
import types
import typing
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import attrs

from hyperflow import pages
from hyperflow.database import keys, records
from hyperflow.database.entries import FromCode, metadata_with
from hyperflow.database.fingerprint import Fingerprint
from hyperflow.database.hints import show
from hyperflow.database.values import Codec, codec_for
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import FunctionChanged, MisuseError, SerializationError
from hyperflow.flow import Cluster, Flow, Job

OnChange: TypeAlias = Literal["warn", "recompute", "ignore"]


class Unresolved:
    """Stands for a type that is not known (yet); a class, so that it stays itself when it is pickled."""


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
    on_change: OnChange = "warn"
    remedy: str = ""
    """What to type if the function has changed."""
    ignore: tuple[str, ...] = ()
    """Parameters that are not part of the key."""
    signature: inspect.Signature = attrs.field(init=False)
    kind: type[Flow[Any]] = attrs.field(init=False)
    """Job or Cluster, as the function itself returns."""
    is_simple: bool = attrs.field(init=False)
    """True if the function has no `*args`, `**kwargs` or keyword-only parameter; then arguments need no binding."""
    _places: list[int] = attrs.field(init=False)
    """Where the parameters of the key are among all."""
    _parameters: list[tuple[str, str, keys.Widening | None]] | None = attrs.field(default=None, init=False)
    """Name, how it stands in a key, and what makes an int a float where it is annotated so."""
    _codec: Codec | None = attrs.field(default=None, init=False)
    _fingerprint: Fingerprint | None = attrs.field(default=None, init=False)
    _metadata: tuple[str, str] = attrs.field(default=("", ""), init=False)
    """A fingerprint, and the metadata of results that have it."""
    _texts_of: str = attrs.field(default="", init=False)
    """The fingerprint of the function whose text was recorded last."""
    _told: weakref.ref[Any] | None = attrs.field(default=None, init=False)
    """The database of the run in which a change was told."""

    def __attrs_post_init__(self) -> None:
        self.signature = inspect.signature(self.fn)
        self.kind = Cluster if _is_of_cluster(self.fn, self.hints) else Job
        simple = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self.is_simple = all(parameter.kind in simple for parameter in self.signature.parameters.values())
        self._places = [place for place, name in enumerate(self.signature.parameters) if name not in self.ignore]

    def __reduce__(self) -> tuple[Any, ...]:  # without what is made at first use, which does not pickle
        same = (self.fn, self.name, self.map_name, self.hints, self.result, self.key_hint)
        return type(self), (*same, self.on_change, self.remedy, self.ignore)

    @property
    def takes_one(self) -> bool:
        """True if it has one parameter, and a call needs no binding."""
        return self.is_simple and len(self.signature.parameters) == 1

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

    def keys_of(self, calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[str]:
        """Return the keys of several calls."""
        parameters = self._parameters
        if parameters is not None and self.takes_one and self.key_hint is Unresolved and not self.ignore:
            ((_, head, widen),) = parameters
            head, writer = "{" + head, keys.writer(self.map_name)
            if widen is None and all(len(args) == 1 and not kwargs for args, kwargs in calls):
                return [f"{head}{writer[type(args[0])](args[0])}}}" for args, _ in calls]
        return [self.key(args, kwargs) for args, kwargs in calls]

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
                self.result = result_type(inner, self.name, records.hints_of(inner))
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

    @property
    def has_new_texts(self) -> bool:
        """Whether what the function says has not been recorded yet."""
        return not self.has_told(self.fingerprint)

    def has_told(self, fingerprint: Fingerprint) -> bool:
        """Whether what the function said then is recorded already."""
        return self._texts_of == fingerprint.text

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
                f"and recorded results are returned as they are. {self.remedy}; {pages.about_error(FunctionChanged)}"
            )
            warnings.warn_explicit(words, FunctionChanged, code.co_filename, code.co_firstlineno)
        return self.on_change == "warn"


def _is_of_cluster(fn: Any, hints: dict[str, Any]) -> bool:
    hint = hints.get("return")
    origin = typing.get_origin(hint) or hint
    return getattr(fn, "level", "") == "cluster" or (isinstance(origin, type) and issubclass(origin, Cluster))


def result_type(inner: Any, shown: str, hints: dict[str, Any], where: str = "@memoize") -> Any:
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
