"""Conditions: which arguments somebody looks for, by value or by a test.

1 and 1.0 are alike here, 1 and True are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hyperflow.database import keys, plain
from hyperflow.database.shown import Record
from hyperflow.errors import SerializationError

Test = Callable[[Any, Any], bool]
"""Takes an argument, as JSON data and as a value."""


def text_of(value: Any) -> str | None:
    """Return the text of a value as a key, None if it cannot be one."""
    try:
        return keys.encode(value)
    except SerializationError:
        return None


def loose(data: Any) -> str:
    """Return JSON data as a text in which 1 and 1.0 are the same, and 1 and true are not."""
    return json.dumps(_in_floats(data), sort_keys=True)


def _in_floats(data: Any) -> Any:
    if isinstance(data, list):
        return [_in_floats(item) for item in data]
    if isinstance(data, dict):
        return {name: _in_floats(item) for name, item in data.items()}
    return plain.as_float(data) if type(data) is int else data


def equal(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, as they say themselves."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays, and whatever a class's own == raises
        return False


def test_of(value: Any) -> Test:
    """Return a test for this value; a function is the test itself."""
    if callable(value) and not isinstance(value, type | Record):
        return lambda data, found: bool(value(found))
    text = text_of(value)
    wanted = None if text is None else loose(json.loads(text))
    return lambda data, found: (
        (wanted is not None and loose(data) == wanted)
        or (not isinstance(value, bool) and not isinstance(found, bool) and equal(found, value))
    )
