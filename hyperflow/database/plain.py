"""Values to and from JSON, with tags for what JSON cannot say; keys and values of the database share this format.

Guarantees: what `to_json` takes, `from_json` gives back with the same type and value. It refuses everything else, and
approximates nothing. The text is ASCII.

A tag is an object with one name that starts with `!`: `{"!bytes": "aGk="}`, `{"!tuple": [1, 2]}`,
`{"!class": ["Point", {"x": 1.5}]}`. A user's dict that looks like a tag, or has a key that is not a str, becomes
`{"!dict": [[key, value], ...]}`, so the two are never confused.

Why not pickle: a database outlives Python versions, is read by other programs, and may come from a colleague.
Reading it executes nothing: a class name is only looked up among the classes that the caller brought along.

Types are looked up by name, not by import, so that users without numpy or decimal do not load them.
"""

from __future__ import annotations

import base64
import importlib
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs

from hyperflow.errors import MisuseError, SerializationError

T = TypeVar("T")

LONG_INT = 10_000
"""Bits from which an int is written in hexadecimal: Python refuses to turn longer ones into decimal digits."""

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def dumps(data: Any) -> str:
    """Return JSON data as text."""
    # The encoder is made anew for each text, which costs more than all else about a number.
    if type(data) is float and math.isfinite(data):
        return repr(data)
    return _encode(data)


@attrs.frozen
class Leaf:
    """How one type is written: `encode` gives something simpler, `decode` makes the value of it again."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    name: str = ""  # set for registered types, which share one tag


def _base64(data: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


def _made_by(module: str, name: str, method: str = "") -> Callable[[Any], Any]:
    """Return a decoder that imports its type only when it is used."""

    def decode(payload: Any) -> Any:
        made = getattr(importlib.import_module(module), name)
        return getattr(made, method)(payload) if method else made(payload)

    return decode


def _array_out(array: Any) -> list[Any]:
    if array.dtype.hasobject:
        raise SerializationError("a numpy array with dtype=object cannot be stored; convert it to a plain dtype")
    if array.dtype.names is not None:
        raise SerializationError("a structured numpy array cannot be stored; store its fields one by one")
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return [little.dtype.str, list(array.shape), _base64(little.tobytes())]


def _array_in(payload: Any) -> Any:
    import numpy  # noqa: PLC0415 - only for users of numpy

    dtype, shape, data = payload
    return numpy.frombuffer(bytearray(base64.b64decode(data)), dtype=numpy.dtype(dtype)).reshape(shape)


def _scalar_in(payload: Any) -> Any:
    return _array_in(payload)[()]


_LEAVES: dict[str, Leaf] = {
    "builtins.bytes": Leaf("!bytes", _base64, base64.b64decode),
    "builtins.bytearray": Leaf("!bytearray", _base64, lambda text: bytearray(base64.b64decode(text))),
    "builtins.complex": Leaf(
        "!complex", lambda z: [repr(z.real), repr(z.imag)], lambda pair: complex(float(pair[0]), float(pair[1]))
    ),
    "fractions.Fraction": Leaf(
        "!fraction",
        lambda x: [x.numerator, x.denominator],
        lambda pair: importlib.import_module("fractions").Fraction(*pair),
    ),
    "decimal.Decimal": Leaf("!decimal", str, _made_by("decimal", "Decimal")),
    "datetime.datetime": Leaf("!datetime", lambda t: t.isoformat(), _made_by("datetime", "datetime", "fromisoformat")),
    "datetime.date": Leaf("!date", lambda t: t.isoformat(), _made_by("datetime", "date", "fromisoformat")),
    "datetime.time": Leaf("!time", lambda t: t.isoformat(), _made_by("datetime", "time", "fromisoformat")),
    "datetime.timedelta": Leaf(
        "!timedelta",
        lambda d: [d.days, d.seconds, d.microseconds],
        lambda parts: importlib.import_module("datetime").timedelta(*parts),
    ),
    "uuid.UUID": Leaf("!uuid", str, _made_by("uuid", "UUID")),
    "numpy.ndarray": Leaf("!ndarray", _array_out, _array_in),
    "numpy.generic": Leaf("!numpy", _array_out, _scalar_in),
}
_PATH = Leaf("!path", str, _made_by("pathlib", "Path"))
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath")
_BY_TAG = {leaf.tag: leaf for leaf in (*_LEAVES.values(), _PATH)}

_leaf_of: dict[type, Leaf | None] = {}
_registered: dict[str, Leaf] = {}
_registered_types: dict[type, Leaf] = {}


def register(cls: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T], *, name: str | None = None) -> None:
    """Teach the database a type, for keys and for values.

    Args:
        cls: The type; its subclasses are not included.
        encode: Makes of a value something simpler that says all that matters of it: numbers, str, lists, dicts.
        decode: Makes the value of that again. For a type that is only in keys, `lookup_all` calls it.
        name: Stands for the type in the database; the class's qualified name if not given.

    Raises:
        MisuseError: The name stands for another type already.
    """
    name = name or cls.__qualname__
    for other, leaf in _registered_types.items():
        if leaf.name == name and (other.__qualname__, other.__module__) != (cls.__qualname__, cls.__module__):
            raise MisuseError(
                f"register({cls.__qualname__}): {other.__module__}.{other.__qualname__} has the name {name!r} already; "
                f"write register({cls.__qualname__}, ..., name='another name')"
            )
    leaf = Leaf("!type", encode, decode, name)
    _registered[name] = leaf
    _registered_types[cls] = leaf
    _leaf_of.clear()
    for forget in _when_registered:
        forget()


_when_registered: list[Callable[[], None]] = []
"""Caches elsewhere that depend on what is registered."""


def when_registered(forget: Callable[[], None]) -> None:
    """Call `forget` whenever a type was registered."""
    _when_registered.append(forget)


def recipe(cls: type) -> str:
    """Return what a user can write to teach the database a type."""
    name = cls.__name__
    return (
        f"teach it with hyperflow.database.register({name}, encode=lambda value: ..., "
        f"decode=lambda data: {name}(...)), "
        "or make it an attrs class or a dataclass"
    )


def leaf_for(cls: type) -> Leaf | None:
    """Return how values of exactly this type are written, or None if it is not one of the types with a tag."""
    try:
        return _leaf_of[cls]
    except KeyError:
        pass
    leaf = _registered_types.get(cls)
    if leaf is None:
        module = cls.__module__
        if module.startswith("pathlib") and cls.__name__ in _PATHS:
            leaf = _PATH
        elif module == "numpy" and any(base.__name__ == "generic" for base in cls.__mro__):
            leaf = _LEAVES["numpy.generic"]
        else:
            leaf = _LEAVES.get(f"{module}.{cls.__qualname__}")
    _leaf_of[cls] = leaf
    return leaf


Writers = Mapping[type, Callable[[Any, Any], Any]]
"""Make JSON data of the values of a class; the second argument is this mapping itself."""

Makers = Mapping[str, Callable[[Any], Any]]
"""Make the instances of a class again, by the name in its tag."""

NONE: Mapping[Any, Any] = {}


def float_to_json(value: float, _: Writers = NONE) -> Any:
    """Return a float as JSON; what is not finite gets a tag."""
    return value if math.isfinite(value) else {"!float": repr(value)}


def int_to_json(value: int, _: Writers = NONE) -> Any:
    """Return an int as JSON, of any size."""
    return value if value.bit_length() < LONG_INT else {"!int": hex(value)}


def is_text(value: str) -> bool:
    """Tell whether a str is proper Unicode. Lone surrogates are not: JSON would read two of them as one letter."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def str_to_json(value: str, _: Writers = NONE) -> Any:
    """Return a str as JSON; what is not proper Unicode gets a tag."""
    return value if is_text(value) else {"!str": _base64(value.encode("utf-8", "surrogatepass"))}


def is_plain_name(key: object) -> bool:
    """Tell whether a dict's key can be an object's name in JSON as it is."""
    return type(key) is str and not key.startswith("!") and is_text(key)


def dict_to_json(value: Mapping[Any, Any], writers: Writers) -> Any:
    """Return a dict as JSON: as an object if its keys are plain names, else as pairs."""
    if all(map(is_plain_name, value)):
        return {name: to_json(item, writers) for name, item in value.items()}
    return {"!dict": [[to_json(key, writers), to_json(item, writers)] for key, item in value.items()]}


def _list_to_json(value: Any, writers: Writers) -> Any:
    return [to_json(item, writers) for item in value]


def _tagged_list(tag: str) -> Callable[[Any, Any], Any]:
    return lambda value, writers: {tag: _list_to_json(value, writers)}


_COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "!tuple": tuple,
    "!set": set,
    "!frozenset": frozenset,
    "!deque": deque,
}

_OUT: dict[type, Callable[[Any, Writers], Any]] = {
    type(None): lambda value, _: value,
    bool: lambda value, _: value,
    int: int_to_json,
    float: float_to_json,
    str: str_to_json,
    list: _list_to_json,
    dict: dict_to_json,
    tuple: _tagged_list("!tuple"),
    set: _tagged_list("!set"),
    frozenset: _tagged_list("!frozenset"),
    deque: _tagged_list("!deque"),
}


def to_json(value: Any, writers: Writers = NONE) -> Any:
    """Return a value as data that `json` can write.

    Raises:
        SerializationError: It has a type that is neither known here nor among the writers.
    """
    cls = type(value)
    out = _OUT.get(cls)
    if out is not None:
        return out(value, writers)
    leaf = leaf_for(cls)
    if leaf is not None:
        payload = to_json(leaf.encode(value), writers)
        return {leaf.tag: [leaf.name, payload] if leaf.name else payload}
    if cls in writers:
        return writers[cls](value, writers)
    raise SerializationError(
        f"a {cls.__qualname__} cannot be stored without being told its type: give the map's types, as in "
        f"KeyValMap('name', value={cls.__name__}), or annotate the function: -> hyperflow.Job[{cls.__name__}]; "
        f"if the type is unknown even then, {recipe(cls)}"
    )


def from_json(data: Any, makers: Makers = NONE) -> Any:
    """Return the value that JSON data stands for.

    Args:
        data: What `json.loads` gave.
        makers: Make the classes and enums that may occur, by the name in their tag.
    """
    if type(data) is list:
        return [item if type(item) in _SAME else from_json(item, makers) for item in data]
    if type(data) is not dict:
        return data
    if len(data) == 1:
        ((tag, payload),) = data.items()
        if tag.startswith("!"):
            return _untagged(tag, payload, makers)
    return {name: item if type(item) in _SAME else from_json(item, makers) for name, item in data.items()}


_SAME = frozenset((int, float, str, bool, type(None)))
"""What JSON data stands for itself."""


def _untagged(tag: str, payload: Any, makers: Makers) -> Any:
    if tag in ("!class", "!enum"):
        name, data = payload
        if name not in makers:
            raise SerializationError(
                f"a {name} cannot be made again without the class: name it, as in KeyValMap(..., key={name}) or "
                f"KeyValMap(..., value={name})"
            )
        return makers[name](from_json(data, makers))
    if tag in _COLLECTIONS:
        return _COLLECTIONS[tag]([from_json(item, makers) for item in payload])
    if tag == "!dict":
        return {from_json(key, makers): from_json(item, makers) for key, item in payload}
    if tag == "!float":
        return float(payload)
    if tag == "!int":
        return int(payload, 16)
    if tag == "!str":
        return base64.b64decode(payload).decode("utf-8", "surrogatepass")
    if tag == "!type":
        name, data = payload
        if name not in _registered:
            raise SerializationError(f"the type {name} is not known here; call hyperflow.database.register first")
        return _registered[name].decode(from_json(data, makers))
    if tag in _BY_TAG:
        return _BY_TAG[tag].decode(payload)
    raise SerializationError(f"{tag} is not a tag of this version of hyperflow")
