"""Scalars: numbers, texts and plain data under an annotation, to and from JSON.

Guarantees: a value of another type than the annotation says is refused, not converted, with two exceptions that lose
nothing: an int where a float is annotated, and a numpy number where the Python number of its kind is.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

from hyperflow.database import plain
from hyperflow.errors import SerializationError

Out = Callable[[Any], Any]
In = Callable[[Any, Any], Any]


def show(hint: Any) -> str:
    """Return a type as the user would write it."""
    if hint is Any:
        return "plain data"
    return (
        hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    )


def short(value: Any) -> str:
    """Return a value as an error shows it."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__ must not hide the error that is being reported
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def plain_in(data: Any, _: Any) -> Any:
    """Read plain data."""
    return plain.from_json(data)


def wrong(value: Any, wanted: str) -> SerializationError:
    """Return the error for a value of another type than annotated."""
    return SerializationError(f"{short(value)} is a {type(value).__qualname__} where the annotation says {wanted}")


def none_out(value: Any) -> None:
    """Write None."""
    if value is not None:
        raise wrong(value, "None")


def none_in(data: Any, _: Any) -> None:
    """Read None."""
    none_out(data)


def python_number(value: Any) -> Any:
    """Return a numpy number as the Python number of the same value, anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _bool_out(value: Any) -> Any:
    number = python_number(value)
    if type(number) is not bool:
        raise wrong(value, "bool")
    return number


def _bool_in(data: Any, _: Any) -> Any:
    return _bool_out(data)


def _int_out(value: Any) -> Any:
    if type(value) is int:
        return plain.int_to_json(value)
    number = python_number(value)
    if type(number) is not int:
        raise wrong(value, "int")
    return plain.int_to_json(number)


def _int_in(data: Any, _: Any) -> Any:
    number = plain.from_json(data)
    if type(number) is not int:
        raise wrong(number, "int")
    return number


def float_out(value: Any) -> Any:
    """Write a float, or an int that is that float."""
    number = value if type(value) is float else python_number(value)
    if type(number) is int and float(number) == number:  # as in Python's own typing, an int is a float
        number = float(number)
    if type(number) is not float:
        raise wrong(value, "float")
    return plain.float_to_json(number)


def _float_in(data: Any, _: Any) -> Any:
    if type(data) is float:
        return data
    number = plain.from_json(data)
    if type(number) is int:
        return float(number)
    if type(number) is not float:
        raise wrong(number, "float")
    return number


def _str_out(value: Any) -> Any:
    text = str(value) if type(value).__module__ == "numpy" and isinstance(value, str) else value
    if type(text) is not str:
        raise wrong(value, "str")
    return plain.str_to_json(text)


def _str_in(data: Any, _: Any) -> Any:
    text = plain.from_json(data)
    if type(text) is not str:
        raise wrong(text, "str")
    return text


SCALARS: dict[Any, tuple[Out, In]] = {
    bool: (_bool_out, _bool_in),
    int: (_int_out, _int_in),
    float: (float_out, _float_in),
    str: (_str_out, _str_in),
}
