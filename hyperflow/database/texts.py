"""Texts: what the functions and values say that a fingerprint covers, for people who ask what has changed.

Guarantees: a text is that of the code which runs. A source file that has changed since it was read tells nothing.
"""

from __future__ import annotations

import inspect
import linecache
import types
from collections.abc import Iterable, Iterator
from typing import Any

from hyperflow.database import instructions
from hyperflow.saying import short_repr

MOST_CHARACTERS = 8000
"""Of all texts of one function and what it refers to."""

LONGEST_VALUE = 200


def of(functions: Iterable[types.FunctionType], captured: Iterable[tuple[Any, str | None, Any]]) -> dict[str, str]:
    """Return texts by name: of functions, as far as their source is there, and of plain values that have names."""
    found: dict[str, str] = {}
    left = MOST_CHARACTERS
    for name, text in (*_of_functions(functions), *_of_values(captured)):
        if name not in found and len(text) <= left:
            found[name] = text
            left -= len(text)
    return found


def _of_functions(functions: Iterable[types.FunctionType]) -> Iterator[tuple[str, str]]:
    compiled: dict[str, types.CodeType | None] = {}
    for fn in functions:
        file = fn.__code__.co_filename
        if file not in compiled:
            compiled[file] = _compiled(file)
        if text := _source(fn.__code__, compiled[file]):
            yield fn.__qualname__.replace("<locals>.", ""), text


def _of_values(captured: Iterable[tuple[Any, str | None, Any]]) -> Iterator[tuple[str, str]]:
    for _, name, value in captured:
        if name is not None and type(value) in (bool, int, float, complex, str, bytes, tuple, list, dict, type(None)):
            yield name, short_repr(value, LONGEST_VALUE)


def _compiled(file: str) -> types.CodeType | None:
    linecache.checkcache(file)
    try:
        return compile("".join(linecache.getlines(file)), file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _source(code: types.CodeType, whole: types.CodeType | None) -> str:
    """Return the source of code, "" where it is not there or is that of other code."""
    same = None if whole is None else _at(whole, code.co_name, code.co_firstlineno)
    if same is None or instructions.digest_of(same) != instructions.digest_of(code):
        return ""
    return "".join(inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))


def _at(code: types.CodeType, name: str, line: int) -> types.CodeType | None:
    waiting = [code]
    while waiting:
        one = waiting.pop()
        if one.co_name == name and one.co_firstlineno == line:
            return one
        waiting.extend(constant for constant in one.co_consts if isinstance(constant, types.CodeType))
    return None
