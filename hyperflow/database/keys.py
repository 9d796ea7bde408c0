"""Keys: one canonical JSON text for each value.

Guarantees: the text depends on nothing but the value: not on PYTHONHASHSEED, the order in which a dict or set was
filled, the process, or whether a class was defined in the script that runs or imported. Values that differ have
different texts: 1, 1.0 and True are three keys, and so are (1, 2) and [1, 2]. All not-a-numbers are one key; 0.0 and
-0.0 are two.

Where an annotation says float, an int counts as that float (as in Python's own typing): `f(1)` and `f(1.0)` are one
call of `def f(x: float)`. The same holds inside containers and for the fields of records.

A class goes by its qualified name alone, without the module, which is `__main__` or something else depending on how the
program was started. Two classes of one name from different modules would be confused in the keys of one map, so the
second one is refused.

Rejected: pickle bytes (differ between processes and versions), repr (addresses, no promise), hash() (seeded), and
source text (a comment would forget a week of results: use `version=`).
"""

from __future__ import annotations

import collections
import enum
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from hyperflow.database import plain, records
from hyperflow.errors import SerializationError

Writer = Callable[[Any, str], str]
"""Writes a value; the second argument names the map, for which class names have to be unique."""

Widening = Callable[[Any], Any]

_modules_of_classes: dict[tuple[str, str], str] = {}


def encode(value: Any, where: str = "") -> str:
    """Return the canonical text of a value.

    Args:
        value: None, bool, int, float, complex, str, bytes, Path, Fraction, Decimal, datetime and the like, Enum,
            list, tuple, dict, set, numpy arrays and numbers, attrs classes, dataclasses, NamedTuples, registered
            types, nested at will.
        where: The map; two classes of one name in it are refused.

    Raises:
        SerializationError: A part has another type; the message shows how to register it.
    """
    try:
        return _text(value, where)
    except RecursionError:
        raise SerializationError("it contains itself, or is nested too deeply to be a key") from None


def decode(text: str, makers: plain.Makers = plain.NONE) -> Any:
    """Return the value of a key, given what makes its classes (`records.makers` of the key's type)."""
    return plain.from_json(json.loads(text), makers) if '"!' in text else json.loads(text)


def _text(value: Any, where: str) -> str:
    cls = type(value)
    try:
        writer = _WRITERS[cls]
    except KeyError:
        writer = _WRITERS[cls] = _writer_for(cls)
    return writer(value, where)


def _int(value: int, _: str) -> str:
    return repr(value) if value.bit_length() < plain.LONG_INT else f'{{"!int":"{hex(value)}"}}'


def _float(value: float, _: str) -> str:
    return repr(value) if math.isfinite(value) else f'{{"!float":"{value!r}"}}'


def _str(value: str, _: str) -> str:
    return quoted(value) if plain.is_text(value) else plain.dumps(plain.str_to_json(value))


def _items(values: Iterable[Any], where: str) -> str:
    return ",".join([_text(value, where) for value in values])


def _dict(value: dict[Any, Any], where: str) -> str:
    if all(map(plain.is_plain_name, value)):
        return "{" + ",".join([f"{quoted(name)}:{_text(value[name], where)}" for name in sorted(value)]) + "}"
    pairs = sorted((_text(key, where), _text(item, where)) for key, item in value.items())
    return '{"!dict":[' + ",".join([f"[{key},{item}]" for key, item in pairs]) + "]}"


def _set(tag: str) -> Writer:
    return lambda value, where: f'{{"{tag}":[{",".join(sorted(_text(item, where) for item in value))}]}}'


_BUILT_IN: dict[type, Writer] = {
    type(None): lambda value, _: "null",
    bool: lambda value, _: "true" if value else "false",
    int: _int,
    float: _float,
    str: _str,
    list: lambda value, where: f"[{_items(value, where)}]",
    tuple: lambda value, where: f'{{"!tuple":[{_items(value, where)}]}}',
    dict: _dict,
    collections.OrderedDict: _dict,
    collections.defaultdict: _dict,
    collections.Counter: _dict,
    set: _set("!set"),
    frozenset: _set("!frozenset"),
}
_WRITERS = dict(_BUILT_IN)


def _forget_writers() -> None:
    _WRITERS.clear()
    _WRITERS.update(_BUILT_IN)


plain.when_registered(_forget_writers)


def _writer_for(cls: type) -> Writer:
    leaf = plain.leaf_for(cls)
    if leaf is not None and leaf.tag == "!numpy":
        return _numpy_number
    if leaf is not None:
        return _leaf_writer(leaf)
    if issubclass(cls, enum.Enum):
        return _enum_writer(cls)
    if records.is_record(cls):
        return _record_writer(cls)
    raise SerializationError(f"a {cls.__qualname__} cannot be part of a key; {plain.recipe(cls)}")


def _numpy_number(value: Any, where: str) -> str:
    """A numpy number is the Python number of the same value: parameters often come from linspace or arange."""
    number = value.item()
    return plain.dumps(plain.to_json(value)) if type(number) is type(value) else _text(number, where)


def _leaf_writer(leaf: plain.Leaf) -> Writer:
    if leaf.name:
        head = f'{{"{leaf.tag}":[{quoted(leaf.name)},'
        return lambda value, where: f"{head}{_text(leaf.encode(value), where)}]}}"
    return lambda value, where: f'{{"{leaf.tag}":{_text(leaf.encode(value), where)}}}'


def _unique(cls: type, where: str) -> None:
    """Refuse a second class of the same name in one map."""
    # `__main__` is whatever module was started, so it says nothing against being the same class.
    if cls.__module__ == "__main__":
        return
    first = _modules_of_classes.setdefault((where, cls.__qualname__), cls.__module__)
    if first != cls.__module__:
        raise SerializationError(
            f"{first}.{cls.__qualname__} and {cls.__module__}.{cls.__qualname__} would be mixed up in the keys of "
            f"{where or 'one map'}; give one of them another name with "
            f"hyperflow.database.register({cls.__name__}, encode, decode, name='another name')"
        )


def _enum_writer(cls: type[enum.Enum]) -> Writer:
    head = f'{{"!enum":[{quoted(cls.__qualname__)},'

    def write(value: Any, where: str) -> str:
        _unique(cls, where)
        # A combination of flags that has no name of its own is known by its number.
        is_member = value.name in cls.__members__
        return f"{head}{_text(value.name if is_member else value.value, where)}]}}"

    return write


def _record_writer(cls: type) -> Writer:
    head = f'{{"!class":[{quoted(cls.__qualname__)},{{'
    hints = records.hints_of(cls)
    columns = [
        (field.name, f"{quoted(field.name)}:", widening(hints.get(field.name)))
        for field in sorted(records.fields_of(cls), key=lambda field: field.name)
        if field.compared
    ]

    def write(value: Any, where: str) -> str:
        _unique(cls, where)
        texts = []
        for name, prefix, widen in columns:
            item = getattr(value, name)
            texts.append(prefix + _text(item if widen is None else widen(item), where))
        return head + ",".join(texts) + "}]}"

    return write


def widening(hint: Any) -> Widening | None:
    """Return what makes an int a float (or complex) where the annotation says so, or None if it says no such thing."""
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    if hint is float:
        return _to_float
    if hint is complex:
        return _to_complex
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return widening(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        if int in arguments:  # then 1 and 1.0 are different on purpose
            return None
        inner = [found for found in map(widening, arguments) if found is not None]
        return inner[0] if len(inner) == 1 else None
    if origin is tuple and (len(arguments) != 2 or arguments[1] is not ...):
        return _each_of(arguments)
    if origin is None or not isinstance(origin, type) or not arguments:
        return None
    if issubclass(origin, Mapping) and len(arguments) == 2:
        return _entries(widening(arguments[0]), widening(arguments[1]))
    if issubclass(origin, Iterable):
        return _all(widening(arguments[0]))
    return None


def _to_float(value: Any) -> Any:
    if type(value) is int:
        try:
            number = float(value)
        except OverflowError:
            return value
        return number if number == value else value  # an int beyond 2**53 may not be that float
    item = getattr(value, "item", None) if type(value).__module__ == "numpy" else None
    return _to_float(item()) if item is not None and getattr(value, "shape", None) == () else value


def _to_complex(value: Any) -> Any:
    number = _to_float(value)
    return complex(number) if type(number) is float else value


def _all(inner: Widening | None) -> Widening | None:
    if inner is None:
        return None
    return lambda value: type(value)(map(inner, value)) if type(value) in (list, tuple, set, frozenset) else value


def _each_of(hints: tuple[Any, ...]) -> Widening | None:
    inner = [widening(hint) for hint in hints]
    if not any(inner):
        return None

    def widen(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(inner):
            return value
        return tuple(item if one is None else one(item) for one, item in zip(inner, value, strict=True))

    return widen


def _entries(key: Widening | None, item: Widening | None) -> Widening | None:
    if key is None and item is None:
        return None

    def widen(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {(key(k) if key else k): (item(v) if item else v) for k, v in value.items()}

    return widen
