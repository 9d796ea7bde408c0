"""How an evaluation ended, as bytes: its result, or its exception, or why either cannot be sent."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from hyperflow import failures
from hyperflow.errors import MisuseError
from hyperflow.shipping import diagnose, exceptions, pickler, plain_arrays
from hyperflow.shipping.importable import plain_is_enough
from hyperflow.wire.frames import Outcome

dumps = pickle.dumps
"""As it was before any function could patch it."""

SCALARS = frozenset([int, float, bool, type(None)])
"""Types whose pickles name nothing and have no buffers."""


def dumps_result(value: Any, buffers: list[memoryview]) -> bytes:
    """Pickle a result; classes of the script go back under the number that they came with."""
    if type(value) in SCALARS:
        return dumps(value, pickler.PROTOCOL)
    found: list[pickle.PickleBuffer] = []
    try:
        if type(value) in plain_arrays.reducers:
            data = plain_arrays.dumps(value, found.append)
        else:
            data = dumps(value, pickler.PROTOCOL, buffer_callback=found.append)
    except BaseException:  # whatever a user's __reduce__ raises
        data = b""
    if not data or not plain_is_enough(data):
        beside = pickler.Beside()
        data = pickler.by_value(value, beside, going_home=True)
        found = beside.buffers
    if found:
        plain_arrays.learn()
        buffers += [buffer.raw() for buffer in found]
    return data


def unsendable(value: object, error: BaseException) -> tuple[Outcome, bytes]:
    """Return what is sent in place of a result that cannot be."""
    if isinstance(error, MisuseError):  # it is a flow
        return raised(error)
    return Outcome.UNSENDABLE_VALUE, dumps(str(diagnose.explain("the result", value, error)))


def text(error: BaseException) -> str:
    """Return an exception's own words."""
    try:
        return "".join(traceback.format_exception_only(error)).strip()
    except BaseException:  # a user's method may raise anything
        return type(error).__name__


def raised(error: BaseException) -> tuple[Outcome, bytes]:
    """Return how an exception is sent to the head."""
    trace = error.__traceback__
    # Our own frame teaches nobody. (Not by assignment, nor by its own method: a frozen exception would refuse.)
    BaseException.with_traceback(error, trace.tb_next if trace is not None else None)
    failures.shorten(error)
    words = exceptions.in_words(error)
    if not isinstance(error, Exception):
        return Outcome.EXITED, dumps(words)
    data = exceptions.dumps(error, lambda it: pickler.by_value(it, going_home=True))
    if isinstance(error, StopIteration):
        words = (f"{StopIteration.__module__}.{StopIteration.__qualname__}", *words[1:])
    if data is None:
        return Outcome.UNSENDABLE_ERROR, dumps(words)
    # The words go beside it: perhaps the head cannot rebuild the exception.
    return Outcome.RAISED, dumps((data, words))
