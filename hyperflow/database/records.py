"""Records: what attrs classes, dataclasses and NamedTuples have in common.

Guarantees: a record's fields in the key are those that count in its `==`. So two records that are equal have one
key, and a cache that a class keeps in a field with `eq=False` changes nothing.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import attrs


@attrs.frozen
class Field:
    """One field: the attribute, and the name of its argument in `__init__` (None if it has none)."""

    name: str
    argument: str | None


def is_named_tuple(cls: type) -> bool:
    """Tell whether a class was made by NamedTuple or namedtuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make")


def is_record(cls: object) -> bool:
    """Tell whether a class is one of the three kinds."""
    return isinstance(cls, type) and (attrs.has(cls) or dataclasses.is_dataclass(cls) or is_named_tuple(cls))


def fields_of(cls: type) -> tuple[Field, ...]:
    """Return the fields that count in `==`, in the order of definition."""
    if attrs.has(cls):
        return tuple(Field(a.name, a.alias if a.init else None) for a in attrs.fields(cls) if a.eq)
    if dataclasses.is_dataclass(cls):
        return tuple(Field(f.name, f.name if f.init else None) for f in dataclasses.fields(cls) if f.compare)
    return tuple(Field(name, name) for name in getattr(cls, "_fields", ()))


def hints_of(thing: Any, local_names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the annotations of a class or function, or none where they cannot be resolved."""
    try:
        return typing.get_type_hints(thing, localns=local_names)
    except Exception:  # noqa: BLE001 - a name that exists only for type checkers, or whatever evaluating it raises
        return {}


def names_of_caller() -> dict[str, Any]:
    """Return the local names where the function was called that calls this one: annotations may refer to them."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = frame.f_back if frame is not None else None
    return dict(frame.f_locals) if frame is not None else {}


def parts(hint: Any) -> Iterator[Any]:
    """Yield a hint and all hints inside it, through containers and the fields of records."""
    seen: list[Any] = []
    waiting = [hint]
    while waiting:
        one = waiting.pop()
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        waiting.extend(typing.get_args(one))
        if isinstance(one, typing.NewType):
            waiting.append(one.__supertype__)
        origin = typing.get_origin(one)
        for cls in (one, origin):
            if is_record(cls):
                waiting.extend(hints_of(cls).values())


def makers(hint: Any) -> dict[str, Callable[[Any], Any]]:
    """Return, by qualified name, what makes records and enums again of the data in a key."""
    found: dict[str, Callable[[Any], Any]] = {}
    for one in parts(hint):
        cls = typing.get_origin(one) or one
        if isinstance(cls, type) and issubclass(cls, enum.Enum):
            found[cls.__qualname__] = _enum_maker(cls)
        elif is_record(cls):
            found[cls.__qualname__] = _record_maker(cls)
    return found


def _enum_maker(cls: type[enum.Enum]) -> Callable[[Any], Any]:
    return lambda member: cls[member] if isinstance(member, str) else cls(member)


def _record_maker(cls: type) -> Callable[[Any], Any]:
    arguments = {field.name: field.argument for field in fields_of(cls) if field.argument is not None}
    return lambda data: cls(**{arguments[name]: value for name, value in data.items() if name in arguments})
