"""Once: what was found out about code is kept for as long as the code is there."""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def once_for_code(find: Callable[[types.CodeType], T]) -> Callable[[types.CodeType], T]:
    """Remember what was found for as long as the code is there: a program may make new code in each step."""
    known: weakref.WeakKeyDictionary[types.CodeType, T] = weakref.WeakKeyDictionary()

    @functools.wraps(find)
    def found(code: types.CodeType) -> T:
        result = known.get(code)
        if result is None:
            result = known[code] = find(code)
        return result

    return found
