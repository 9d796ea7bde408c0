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
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from hyperflow.database import plain, records
from hyperflow.errors import SerializationError

Widening = Callable[[Any], Any]

_modules_of_classes: dict[tuple[str, str], str] = {}


def encode(value: Any, where: str = "") -> str:
    """Return the canonical text of a value of the types that `memoize` lists.

    `where` is the map; two classes of one name in it are refused. Raises SerializationError for a part of another type,
    and shows how to register that.
    """
    try:
        return writer(where)[type(value)](value)
    except RecursionError:
        raise SerializationError("it contains itself, or is nested too deeply to be a key") from None


def decode(text: str, makers: plain.Makers | None = None) -> Any:
    """Return the value of a key, given what makes its classes (`records.makers` of the key's type)."""
    return plain.from_json(json.loads(text), makers or {}) if '"!' in text else json.loads(text)


@lru_cache(1000)
def writer(where: str) -> plain.Writer:
    """Return what writes the keys of a map; see `encode`."""
    return plain.Writer(partial(_write_for, where), canonical=True)


plain.when_registered.append(writer.cache_clear)


def _write_for(where: str, writer: plain.Writer, cls: type) -> plain.Write:
    if cls in (collections.OrderedDict, collections.defaultdict, collections.Counter):
        return writer.mapping
    if issubclass(cls, enum.Enum):
        _check_name(cls, where)
        return writer.enum(cls, cls.__qualname__)
    if records.is_record(cls):
        _check_name(cls, where)
        hints = records.hints_of(cls)
        names = sorted(field.name for field in records.fields_of(cls) if field.compared)
        return writer.record(cls.__qualname__, [(name, widening(hints.get(name))) for name in names])
    raise SerializationError(f"a {cls.__qualname__} cannot be part of a key; {plain.recipe(cls)}")


def _check_name(cls: type, where: str) -> None:
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


def widening(hint: Any) -> Widening | None:
    """Return a converter from int to float (or complex), or None if the annotation needs none."""
    if isinstance(hint, typing.NewType):
        return widening(hint.__supertype__)
    if hint is float:
        return plain.as_float
    if hint is complex:
        return _as_complex
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    inner = [widening(argument) for argument in arguments]
    if origin is typing.Annotated:
        return inner[0]
    if origin is typing.Union or origin is types.UnionType:
        found = [one for one in inner if one is not None]
        return found[0] if len(found) == 1 and int not in arguments else None  # in `int | float`, 1 is not 1.0
    if not any(inner) or not isinstance(origin, type):
        return None
    if origin is tuple and arguments[1:] != (...,):
        return _each_of(inner)
    if issubclass(origin, Mapping) and len(inner) == 2:
        return _entries(*inner)
    return _all(inner[0]) if issubclass(origin, Iterable) else None


def _as_complex(value: Any) -> Any:
    number = plain.as_float(value)
    return complex(number) if type(number) is float else value


def _widened(widen: Widening | None, value: Any) -> Any:
    return value if widen is None else widen(value)


def _all(inner: Widening | None) -> Widening | None:
    if inner is None:
        return None
    return lambda value: type(value)(map(inner, value)) if type(value) in (list, tuple, set, frozenset) else value


def _each_of(inner: list[Widening | None]) -> Widening:
    def widen(value: Any) -> Any:
        if type(value) is not tuple or len(value) != len(inner):
            return value
        return tuple(map(_widened, inner, value))

    return widen


def _entries(key: Widening | None, item: Widening | None) -> Widening:
    def widen(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {_widened(key, name): _widened(item, one) for name, one in value.items()}

    return widen
