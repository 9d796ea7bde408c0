"""Records: what attrs classes, dataclasses and NamedTuples have in common, and which classes a type hint names.

Guarantees: a record's fields in a key are those that count in its `==`. So records that are equal have one key, and a
cache that a class keeps in a field with `eq=False` changes nothing.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs


class Field(NamedTuple):
    """One field: the attribute, and the name of its argument in `__init__` (None if it has none)."""

    name: str
    argument: str | None
    compared: bool = True
    """Whether it counts in `==`."""
    hint: Any = Any


def is_record(cls: object) -> bool:
    """Tell whether a class is one of the three kinds."""
    if not isinstance(cls, type):
        return False
    is_named_tuple = issubclass(cls, tuple) and hasattr(cls, "_fields") and hasattr(cls, "_make")
    return is_named_tuple or attrs.has(cls) or dataclasses.is_dataclass(cls)


def fields_of(hint: Any) -> tuple[Field, ...]:
    """Return the fields of a record in the order of definition; `Box[int]` has fields of other types than `Box`."""
    cls = typing.get_origin(hint) or hint
    hints = hints_of(cls)
    variables = _variables(hint)

    def field(name: str, argument: str | None, compared: bool, written: Any) -> Field:
        # An annotation that cannot be resolved stays the text that it is, so that it is refused and not ignored.
        return Field(name, argument, compared, _substituted(hints.get(name, written), variables))

    if attrs.has(cls):
        return tuple(
            field(a.name, a.alias if a.init else None, bool(a.eq), Any if a.type is None else a.type)
            for a in attrs.fields(cls)
        )
    if dataclasses.is_dataclass(cls):
        return tuple(field(f.name, f.name if f.init else None, f.compare, f.type) for f in dataclasses.fields(cls))
    written = getattr(cls, "__annotations__", {})
    return tuple(field(name, name, True, written.get(name, Any)) for name in cls._fields)


def items_of(hint: Any) -> dict[str, Any]:
    """Return the hints of a TypedDict's items."""
    variables = _variables(hint)
    return {name: _substituted(one, variables) for name, one in hints_of(typing.get_origin(hint) or hint).items()}


def _variables(hint: Any) -> dict[Any, Any]:
    """Return what stands for the type variables of a generic class: `Box[int]` says that T is int."""
    found: dict[Any, Any] = {}
    waiting = [hint]
    while waiting:
        one = waiting.pop()
        cls = typing.get_origin(one) or one
        given = [_substituted(argument, found) for argument in typing.get_args(one)]
        found.update(zip(getattr(cls, "__parameters__", ()), given, strict=False))
        waiting.extend(getattr(cls, "__orig_bases__", ()))
    return found


def _substituted(hint: Any, variables: dict[Any, Any]) -> Any:
    if isinstance(hint, typing.TypeVar):
        return variables.get(hint, hint)
    inside = getattr(hint, "__parameters__", ())
    if not inside or not variables or typing.get_origin(hint) is None:
        return hint
    return hint[tuple(variables.get(one, one) for one in inside)]


def bare(hint: Any) -> Any:
    """Return a hint without what says nothing of its values: NewType, Annotated, Final, an alias's name."""
    while True:
        origin = typing.get_origin(hint)
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif origin in (typing.Annotated, typing.Final, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif type(hint).__name__ == "TypeAliasType":  # `type Name = ...` of Python 3.12
            hint = hint.__value__
        elif type(origin).__name__ == "TypeAliasType":  # with arguments, as numpy's NDArray[float] is there
            hint = origin.__value__[typing.get_args(hint)]
        else:
            return hint


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
        one = bare(waiting.pop())
        if any(one is other or (type(one) is type(other) and one == other) for other in seen):
            continue
        seen.append(one)
        yield one
        waiting.extend(typing.get_args(one))
        cls = typing.get_origin(one) or one
        if is_record(cls):
            waiting.extend(field.hint for field in fields_of(one))
        elif typing.is_typeddict(cls):
            waiting.extend(items_of(one).values())


def classes_in(hint: Any) -> dict[type, str]:
    """Return the records and enums in a hint, each with its name in the database.

    That is the qualified name. Two classes of one name in one hint get the name of their module, too.
    """
    found = dict.fromkeys(cls for one in parts(hint) if isinstance(cls := typing.get_origin(one) or one, type))
    known = [cls for cls in found if is_record(cls) or issubclass(cls, enum.Enum)]
    count = collections.Counter(cls.__qualname__ for cls in known)
    return {
        cls: cls.__qualname__ if count[cls.__qualname__] == 1 else f"{cls.__module__}.{cls.__qualname__}"
        for cls in known
    }


def modules_in(hint: Any) -> dict[str, str]:
    """Return, by name in the database, the modules of the records and enums in a hint."""
    return {name: cls.__module__ for cls, name in classes_in(hint).items()}


def makers(
    hint: Any, conform_to: Callable[[Any], Callable[[Any], Any]] = lambda hint: lambda value: value
) -> dict[str, Callable[[Any], Any]]:
    """Return, by name, what makes the records and enums in a hint again of the data in the database.

    `conform_to` gives for a field's hint what checks a value that is read for it.
    """
    names = classes_in(hint)
    made = {cls: _enum_maker(cls) if issubclass(cls, enum.Enum) else _record_maker(cls, conform_to) for cls in names}
    by_own_name = {cls.__qualname__: maker for cls, maker in made.items()}
    return {**by_own_name, **{name: made[cls] for cls, name in names.items()}}


def _enum_maker(cls: Any) -> Callable[[Any], Any]:
    return lambda member: cls[member] if isinstance(member, str) else cls(member)


def _record_maker(cls: type, conform_to: Callable[[Any], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    arguments = {
        field.name: (field.argument, conform_to(field.hint)) for field in fields_of(cls) if field.argument is not None
    }

    def make(data: dict[str, Any]) -> Any:
        given = {}
        for name, value in data.items():
            if name in arguments:  # a field that the class has lost since is ignored
                argument, conform = arguments[name]
                given[argument] = conform(value)
        return cls(**given)

    return make
