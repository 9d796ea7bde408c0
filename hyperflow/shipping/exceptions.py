"""Exceptions to bytes and back: as themselves if they survive the way, else in words.

Guarantees: whatever the methods of an exception do, what its receiver gets is an exception that its future can carry.

An exception whose `__init__` takes other arguments than it handed to `super().__init__()` cannot be unpickled. It is
rebuilt without its `__init__`, from its class, `args` and attributes. What was rejected: to send only the text, as the
caller's `except` clauses would no longer find it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

from hyperflow.errors import RemoteError
from hyperflow.saying import short_str
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
    return f"{kind.__module__}.{kind.__qualname__}", short_str(error, LONGEST_TEXT), trace


def dumps(error: Exception, dump: Callable[[Any], bytes], load: Callable[[bytes], Any] = pickle.loads) -> bytes | None:
    """Pickle an exception as itself, or what stands for it; return None if it does not survive the way."""
    if isinstance(error, StopIteration):  # no future can carry one
        return None
    try:
        data = dump(error)
        copy = load(data)
        if type(copy) is type(error) and copy.args == error.args:
            return data
    except BaseException:  # whatever its __reduce__ or __init__ raises
        pass
    try:
        data = dump(Instead(rebuild, type(error), error.args, dict(vars(error))))
        return data if type(load(data)) is type(error) else None
    except BaseException:  # the same
        return None


def loads(data: bytes, words: tuple[str, str, str]) -> Exception:
    """Return an exception that was pickled; in words if it cannot be made here, although it could over there."""
    try:
        error = pickle.loads(data)
    except BaseException:  # whatever a user's __reduce__ or __init__ raises
        return RemoteError(*words)
    # (No future can carry a StopIteration.)
    return error if isinstance(error, Exception) and not isinstance(error, StopIteration) else RemoteError(*words)


def rebuild(kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Exception:
    """Make an exception without calling its `__init__`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error
