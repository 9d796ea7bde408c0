"""Exceptions to bytes and back: as themselves if they survive the way, else in words.

Guarantees: whatever the methods of an exception do, what its receiver gets is an exception that its future can carry.

An exception whose `__init__` takes other arguments than it handed to `super().__init__()` cannot be unpickled. It is
rebuilt without its `__init__`, from its class, `args` and attributes. What was rejected: to send only the text, as the
caller's `except` clauses would no longer find it. The same holds for exceptions inside others, as in a group; of these,
one that does not survive is replaced by its words, so that the others arrive as themselves.
"""

from __future__ import annotations

import linecache
import pickle
import re
import traceback
import types
from collections.abc import Callable
from typing import Any, TypeAlias

from hyperflow.errors import RemoteError
from hyperflow.saying import kind_name, short_str
from hyperflow.shipping.rebuild import Instead

LONGEST_TEXT = 100_000
"""Characters of an exception's text that travel."""


def in_words(error: BaseException) -> tuple[str, str, str]:
    """Return name of the class, text and traceback: the arguments of a RemoteError."""
    try:
        trace = "".join(traceback.format_exception(error)).rstrip()
    except BaseException:  # a user's method may raise anything
        trace = "(the traceback could not be formatted)"
    kind = type(error)
    try:
        name = f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:  # the same, of a metaclass
        name = kind_name(error)
    return name, short_str(error, LONGEST_TEXT), trace


def stopped(call: str, error: BaseException | None = None) -> RuntimeError:
    """Return what stands for a StopIteration, which no future can carry, as in a generator."""
    instead = RuntimeError(f"{call} raised StopIteration")
    instead.__cause__ = error
    return instead


def without_notes(trace: str, error: BaseException) -> str:
    """Return a traceback without the notes that the error has brought along: they need not be read twice."""
    notes: object = getattr(error, "__notes__", None)
    for note in notes if isinstance(notes, list) else ():
        trace = trace.replace(f"\n{note}", "", 1)
    return trace


_PLACE = r'(?m)^  File "(.+)", line (\d+), in .*$'


def with_lines(trace: str) -> str:
    """Return a remote traceback with the lines of code that only this process knows: those of a notebook's cells."""

    def completed(place: re.Match[str]) -> str:
        known: Any = linecache.cache.get(place[1])
        if trace.startswith("\n    ", place.end()) or known is None or len(known) < 4 or known[1] is not None:
            return place[0]
        line = linecache.getline(place[1], int(place[2])).strip()
        return f"{place[0]}\n    {line}" if line else place[0]

    return re.sub(_PLACE, completed, trace)


_Dump: TypeAlias = Callable[[Any], bytes]
_Load: TypeAlias = Callable[[bytes], Any]


def dumps(error: Exception, dump: _Dump, load: _Load = pickle.loads) -> bytes | None:
    """Pickle an exception as itself, or what stands for it; return None if it does not survive the way."""
    if isinstance(error, StopIteration):  # no future can carry one
        return None
    pair = _way(error, dump, load, DEEPEST)
    return None if pair is None else pair[1]


DEEPEST = 10
"""How deep exceptions may be in others to be looked at."""


def _way(error: BaseException, dump: _Dump, load: _Load, depth: int) -> tuple[Any, bytes] | None:
    """Return what to pickle for an exception, and the pickle; None if there is no way."""
    try:
        data = dump(error)
        copy = load(data)
        if type(copy) is type(error) and copy.args == error.args:
            return error, data
    except BaseException:  # whatever its __reduce__ or __init__ raises
        pass
    try:
        made_of = (error.message, [*error.exceptions]) if isinstance(error, BaseExceptionGroup) else error.args
        parts = (error.args, dict(vars(error)), made_of)
        stand_in = Instead(rebuild, type(error), *(_replaced(part, dump, load, depth) for part in parts))
        data = dump(stand_in)
        return (stand_in, data) if type(load(data)) is type(error) else None
    except BaseException:  # the same
        return None


def _replaced(value: Any, dump: _Dump, load: _Load, depth: int) -> Any:
    """Return a value with what stands for the exceptions in it."""
    if depth:
        if isinstance(value, BaseException):
            pair = _way(value, dump, load, depth - 1)
            return RemoteError(*in_words(value)) if pair is None else pair[0]
        if type(value) in (list, tuple):
            return type(value)(_replaced(part, dump, load, depth - 1) for part in value)
        if type(value) is dict:
            return {key: _replaced(part, dump, load, depth - 1) for key, part in value.items()}
    return value


def loads(data: bytes, words: tuple[str, str, str]) -> Exception:
    """Return an exception that was pickled; in words if it cannot be made here, although it could over there."""
    try:
        error = pickle.loads(data)
    except BaseException:  # whatever a user's __reduce__ or __init__ raises
        return RemoteError(*words)
    # By its type: an object may say that it is of another class. (No future can carry a StopIteration.)
    kind = type(error)
    return error if issubclass(kind, Exception) and not issubclass(kind, StopIteration) else RemoteError(*words)


def rebuild(
    kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any], made_of: tuple[Any, ...]
) -> Exception:
    """Make an exception without calling its `__init__`, nor a `__new__` of its own."""
    made_by = next(base for base in kind.__mro__ if type(vars(base).get("__new__")) is types.BuiltinFunctionType)
    error: Any = made_by.__new__(kind, *made_of)
    error.args = args
    error.__dict__.update(attributes)
    return error  # type: ignore[no-any-return]
