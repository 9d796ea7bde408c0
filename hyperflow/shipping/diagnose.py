"""Which part of a value cannot be sent: for errors that name the variable that holds it."""

from __future__ import annotations

import copyreg
import functools
import itertools
import pickle
import types
from collections.abc import Iterator
from typing import Any

from hyperflow.errors import SerializationError
from hyperflow.saying import in_words, short_repr, short_str
from hyperflow.shipping import captures
from hyperflow.shipping.pickler import by_value


def explain(what: str, obj: Any, error: BaseException) -> SerializationError:
    """Return an error that names the innermost part of obj that cannot be pickled."""
    try:
        path, part, cause = _innermost(obj, "", error, set(), 0)
    except BaseException:  # the object's own methods may raise anything
        path, part, cause = "", obj, error
    where = f": {path} = {short_repr(part, 60)}" if path else ""
    reason = short_str(cause, 1000) if isinstance(cause, pickle.PicklingError) else in_words(cause)
    instead = "Make it inside the function, or pass what it is made of (a path, a number) in its place"
    if isinstance(part, (types.GeneratorType, types.AsyncGeneratorType)) and not path:
        instead = "What a generator function yields is had by: async for x in hyperflow.remote_stream(function, ...)"
    return SerializationError(f"{what} cannot be sent to another process{where}; {reason}. {instead}")


def _innermost(obj: Any, path: str, error: BaseException, seen: set[int], depth: int) -> tuple[str, Any, BaseException]:
    """Return the way to the innermost part of obj that cannot be pickled, the part, and its error."""
    if depth < 8 and id(obj) not in seen:
        seen.add(id(obj))
        for name, part in _parts(obj):
            try:
                by_value(part)
            except BaseException as inner:  # the same
                return _innermost(part, f"{path}{name}" if path else name.lstrip("., "), inner, seen, depth + 1)
    return path, obj, error


_HIDDEN = {types.MethodType: ("__self__", "__func__"), functools.partial: ("func", "args", "keywords")}
"""What is in neither `__dict__` nor slots."""


def _parts(obj: Any) -> Iterator[tuple[str, Any]]:
    """Yield what obj is made of, each with the words that lead there."""
    if isinstance(obj, types.FunctionType):
        name = obj.__qualname__
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            yield f", variable {variable!r} captured by {name}", captures.contents(cell)
        for variable, value in captures.referenced_globals(obj).items():
            if value is not obj:
                yield f", global variable {variable!r} used by {name}", value
        for position, value in enumerate(obj.__defaults__ or ()):
            yield f", default value {position} of {name}", value
    elif isinstance(obj, dict):
        for key, value in itertools.islice(obj.items(), 1000):
            yield f"[{short_repr(key, 60)}]", value
    elif isinstance(obj, (list, tuple)):
        for position, value in enumerate(itertools.islice(obj, 1000)):
            yield f"[{position}]", value
    elif isinstance(obj, (set, frozenset)):
        for value in itertools.islice(obj, 1000):
            yield "{...}", value
    elif not isinstance(obj, type):
        for name, value in list(getattr(obj, "__dict__", {}).items()):
            yield f".{name}", value
        hidden = [*_HIDDEN.get(type(obj), ()), *copyreg._slotnames(type(obj))]  # type: ignore[attr-defined]
        for name in hidden:
            if hasattr(obj, name):
                yield f".{name}", getattr(obj, name)
