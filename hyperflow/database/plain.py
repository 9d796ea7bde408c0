"""Values to and from JSON text, with tags for what JSON cannot say; keys and values of the database share this format.

Guarantees: what a `Writer` takes, `from_json` gives back with the same type and value. It refuses everything else, and
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
import math
import pkgutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from json.encoder import encode_basestring_ascii as quoted
from operator import methodcaller
from typing import Any, NamedTuple, TypeVar

from hyperflow.errors import MisuseError, SerializationError

T = TypeVar("T")

LONG_INT = 10_000
"""Bits from which an int is written in hexadecimal: Python refuses to turn longer ones into decimal digits."""


class Leaf(NamedTuple):
    """How one type is written: `encode` gives something simpler, `decode` makes the value of it again."""

    tag: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    name: str = ""  # set for registered types, which share one tag
    key: Callable[[Any], Any] | None = None  # what counts of it in keys, if that is not all that `encode` says


def _base64(data: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


_named = cache(pkgutil.resolve_name)


def _made_by(name: str) -> Callable[[Any], Any]:
    """Return a decoder that imports its type only when a value of it is read."""
    return lambda payload: _named(name)(*payload) if type(payload) is list else _named(name)(payload)


_isoformat = methodcaller("isoformat")


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


_LEAVES: dict[str, Leaf] = {
    "builtins.bytes": Leaf("!bytes", _base64, base64.b64decode),
    "builtins.bytearray": Leaf("!bytearray", _base64, lambda text: bytearray(base64.b64decode(text))),
    "builtins.complex": Leaf(
        "!complex", lambda z: [repr(z.real), repr(z.imag)], lambda pair: complex(float(pair[0]), float(pair[1]))
    ),
    "fractions.Fraction": Leaf("!fraction", lambda x: [x.numerator, x.denominator], _made_by("fractions:Fraction")),
    "decimal.Decimal": Leaf("!decimal", str, _made_by("decimal:Decimal")),
    "datetime.datetime": Leaf("!datetime", _isoformat, _made_by("datetime:datetime.fromisoformat")),
    "datetime.date": Leaf("!date", _isoformat, _made_by("datetime:date.fromisoformat")),
    "datetime.time": Leaf("!time", _isoformat, _made_by("datetime:time.fromisoformat")),
    "datetime.timedelta": Leaf(
        "!timedelta", lambda d: [d.days, d.seconds, d.microseconds], _made_by("datetime:timedelta")
    ),
    "uuid.UUID": Leaf("!uuid", str, _made_by("uuid:UUID")),
    "numpy.ndarray": Leaf("!ndarray", _array_out, _array_in),
    "hyperflow.staging.file.File": Leaf(
        "!file",
        methodcaller("to_value"),
        _made_by("hyperflow.staging.file:File.from_value"),
        key=methodcaller("to_key"),
    ),
}
_NUMPY_NUMBER = Leaf("!numpy", _array_out, lambda payload: _array_in(payload)[()])
_PATH = Leaf("!path", str, _made_by("pathlib:Path"))
_PATHS = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath", "Path", "PurePath")

_registered: dict[type, Leaf] = {}
_registered_names: dict[str, Leaf] = {}

when_registered: list[Callable[[], None]] = []
"""Called whenever a type was registered: they forget what depends on the types that are."""


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
    for other, leaf in _registered.items():
        if leaf.name == name and (other.__qualname__, other.__module__) != (cls.__qualname__, cls.__module__):
            raise MisuseError(
                f"register({cls.__qualname__}): {other.__module__}.{other.__qualname__} has the name {name!r} already; "
                f"write register({cls.__qualname__}, ..., name='another name')"
            )
    _registered[cls] = _registered_names[name] = Leaf("!type", encode, decode, name)
    for forget in when_registered:
        forget()


def recipe(cls: type) -> str:
    """Return what a user can write to teach the database a type."""
    name = cls.__name__
    return (
        f"teach it with hyperflow.database.register({name}, encode=lambda value: ..., "
        f"decode=lambda data: {name}(...)), "
        "or make it an attrs class or a dataclass"
    )


@cache
def leaf_for(cls: type) -> Leaf | None:
    """Return how values of exactly this type are written, or None if it is not one of the types with a tag."""
    if cls in _registered:
        return _registered[cls]
    module = cls.__module__
    if module.startswith("pathlib") and cls.__name__ in _PATHS:
        return _PATH
    if module == "numpy" and any(base.__name__ == "generic" for base in cls.__mro__):
        return _NUMPY_NUMBER
    return _LEAVES.get(f"{module}.{cls.__qualname__}")


when_registered.append(leaf_for.cache_clear)


def python_number(value: Any) -> Any:
    """Return a numpy number as the Python number of the same value, anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def as_float(value: Any) -> Any:
    """Return an int as the float of the same value, if there is one (beyond 2**53 maybe not); else the value."""
    number = python_number(value)
    try:
        return float(number) if type(number) is int and float(number) == number else number
    except OverflowError:
        return number


def is_text(value: str) -> bool:
    """Tell whether a str is proper Unicode. Lone surrogates are not: JSON would read two of them as one letter."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain_name(key: object) -> bool:
    return type(key) is str and not key.startswith("!") and is_text(key)


def _int(value: int) -> str:
    return repr(value) if value.bit_length() < LONG_INT else f'{{"!int":"{hex(value)}"}}'


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'{{"!float":"{value!r}"}}'


def _str(value: str) -> str:
    return quoted(value) if is_text(value) else f'{{"!str":"{_base64(value.encode("utf-8", "surrogatepass"))}"}}'


Write = Callable[[Any], str]
"""Returns the text of a value of one class."""


class Writer(dict[type, Write]):
    """Writes values as JSON text: has, for each class that was met so far, what writes its values.

    Args:
        of_class: Gives how the values of a class are written that is none of JSON's and has no tag of its own.
            Raises SerializationError if they cannot be.
        canonical: Equal values get equal texts: a dict's names are sorted, and a numpy number is the Python number of
            the same value (parameters often come from linspace or arange).
    """

    def __init__(self, of_class: Callable[[Writer, type], Write], canonical: bool = False) -> None:
        super().__init__(
            {
                type(None): lambda value: "null",
                bool: lambda value: "true" if value else "false",
                int: _int,
                float: _float,
                str: _str,
                list: lambda value: f"[{self._items(value)}]",
                tuple: self.tagged_list("!tuple"),
                dict: self.mapping,
                set: self._set("!set"),
                frozenset: self._set("!frozenset"),
            }
        )
        self._of_class = of_class
        self._canonical = canonical

    def __missing__(self, cls: type) -> Write:
        write = self[cls] = self._write_for(cls)
        return write

    def text(self, value: Any) -> str:
        """Return the text of a value; raises SerializationError if a part of it cannot be written."""
        return self[type(value)](value)

    def mapping(self, value: Mapping[Any, Any]) -> str:
        """Write a dict: as an object if its keys are plain names, else as pairs."""
        text = self.text
        if all(map(_is_plain_name, value)):
            names = sorted(value) if self._canonical else value
            return "{" + ",".join([f"{quoted(name)}:{text(value[name])}" for name in names]) + "}"
        pairs = [f"[{text(key)},{text(item)}]" for key, item in value.items()]
        return '{"!dict":[' + ",".join(sorted(pairs) if self._canonical else pairs) + "]}"

    def tagged_list(self, tag: str) -> Write:
        """Return how a collection is written as a list with this tag."""
        return lambda value: f'{{"{tag}":[{self._items(value)}]}}'

    def enum(self, cls: Any, name: str) -> Write:
        """Return how the members of an enum are written that has this name in the database."""
        head = f'{{"!enum":[{quoted(name)},'

        def write(member: Any) -> str:
            # By name, because a value may be anything. A combination of flags may have no name of its own.
            return f"{head}{self.text(member.name if member.name in cls.__members__ else member.value)}]}}"

        return write

    def record(self, name: str, fields: Iterable[tuple[str, Callable[[Any], Any] | None]]) -> Write:
        """Return how a record is written: its name in the database, its fields, and what converts each of them."""
        head = f'{{"!class":[{quoted(name)},{{'
        columns = [(field, f"{quoted(field)}:", convert) for field, convert in fields]

        def write(value: Any) -> str:
            texts = []
            for field, prefix, convert in columns:
                item = getattr(value, field)
                texts.append(prefix + self.text(item if convert is None else convert(item)))
            return head + ",".join(texts) + "}]}"

        return write

    def _items(self, values: Iterable[Any]) -> str:
        return ",".join([self[type(value)](value) for value in values])

    def _set(self, tag: str) -> Write:
        return lambda value: f'{{"{tag}":[{",".join(sorted(map(self.text, value)))}]}}'

    def _write_for(self, cls: type) -> Write:
        leaf = leaf_for(cls)
        if leaf is None:
            return self._of_class(self, cls)
        head, tail = f'{{"{leaf.tag}":', "}"
        if leaf.name:
            head, tail = f"{head}[{quoted(leaf.name)},", "]}"

        encode = leaf.key if self._canonical and leaf.key is not None else leaf.encode

        def write(value: Any) -> str:
            return f"{head}{self.text(encode(value))}{tail}"

        def number(value: Any) -> str:
            simple = python_number(value)
            return write(value) if type(simple) is type(value) else self.text(simple)

        return number if self._canonical and leaf is _NUMPY_NUMBER else write


Makers = Mapping[str, Callable[[Any], Any]]
"""Make the instances of a class again, by the name in its tag. Of a type that is not registered here: `!type name`."""

_DECODERS: dict[str, Callable[[Any], Any]] = {
    "!float": float,
    "!int": lambda text: int(text, 16),
    "!str": lambda text: base64.b64decode(text).decode("utf-8", "surrogatepass"),
    **{leaf.tag: leaf.decode for leaf in (*_LEAVES.values(), _NUMPY_NUMBER, _PATH)},
}

COLLECTIONS: dict[str, Callable[[Any], Any]] = {"!tuple": tuple, "!set": set, "!frozenset": frozenset, "!deque": deque}

SAME = frozenset((int, float, str, bool, type(None)))
"""What stands for itself in JSON, but for numbers and texts that need a tag; and cannot be changed."""


def from_json(data: Any, makers: Makers) -> Any:
    """Return the value that JSON data stands for; the makers are those of the classes and enums that may occur."""
    if type(data) is list:
        return [item if type(item) in SAME else from_json(item, makers) for item in data]
    if type(data) is not dict:
        return data
    if len(data) == 1:
        ((tag, payload),) = data.items()
        if tag.startswith("!"):
            return _untagged(tag, payload, makers)
    return {name: item if type(item) in SAME else from_json(item, makers) for name, item in data.items()}


def _untagged(tag: str, payload: Any, makers: Makers) -> Any:
    if tag in ("!class", "!enum"):
        name, data = payload
        if name not in makers:
            raise SerializationError(
                f"a {name} cannot be made again without the class: name it, as in KeyValMap(..., key={name}) or "
                f"KeyValMap(..., value={name})"
            )
        return makers[name](from_json(data, makers))
    if tag in COLLECTIONS:
        return COLLECTIONS[tag](from_json(payload, makers))
    if tag == "!dict":
        return {from_json(key, makers): from_json(item, makers) for key, item in payload}
    if tag == "!type":
        name, data = payload
        if name not in _registered_names:
            if (unknown := f"!type {name}") in makers:
                return makers[unknown](from_json(data, makers))
            raise SerializationError(f"the type {name} is not known here; call hyperflow.database.register first")
        return _registered_names[name].decode(from_json(data, makers))
    if tag in _DECODERS:
        return _DECODERS[tag](payload)
    raise SerializationError(f"{tag} is not a tag of this version of hyperflow")
