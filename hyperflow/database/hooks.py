"""Hooks: how cattrs is told to write annotated types.

cattrs does the classes. Its own rules for numbers, enums, unions, dicts and containers are replaced, because they
would turn 2.5 into 2 and a dict's keys into strings, drop the third item where two are annotated, and guess at a
union's member from the names of its fields.

Importing this module imports cattrs; only `codec_for` does so, when a type first needs it.
"""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import pathlib
import types
import typing
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import attrs
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn

from hyperflow.database import plain, records
from hyperflow.database.scalars import (
    SCALARS,
    In,
    Out,
    float_out,
    none_in,
    none_out,
    plain_in,
    python_number,
    show,
    wrong,
)
from hyperflow.errors import SerializationError


@lru_cache(maxsize=1)
def converter() -> Converter:
    """Return the converter that knows all rules of this module."""
    made = Converter(
        detailed_validation=False, unstructure_fallback_factory=_refuse, structure_fallback_factory=_refuse
    )
    for applies, out_factory, in_factory in _RULES:
        made.register_unstructure_hook_factory(applies, _with_hint_and_converter(out_factory, made))
        made.register_structure_hook_factory(applies, _with_hint_and_converter(in_factory, made))
    for cls, (out, into) in SCALARS.items():
        made.register_unstructure_hook(cls, _exactly_out(out))
        made.register_structure_hook(cls, _exactly_in(cls, into))
    for leaf in (bytes, pathlib.Path):  # cattrs has hooks of its own for these, which take any class
        made.register_unstructure_hook(leaf, _leaf_out(leaf, made))
        made.register_structure_hook(leaf, _leaf_in(leaf, made))
    return made


plain.when_registered(converter.cache_clear)


def _with_hint_and_converter(factory: Callable[[Any, Converter], Any], made: Converter) -> Callable[[Any], Any]:
    return lambda hint: factory(hint, made)


def _exactly_in(cls: type, into: In) -> In:
    """Keep a class that is also an int, float or str away from their hooks, which cattrs would give it to."""

    def read(data: Any, hint: Any) -> Any:
        if hint is cls:
            return into(data, hint)
        for applies, _, in_factory in _RULES:
            if applies(hint):
                return in_factory(hint, converter())(data, hint)
        raise unknown(hint)

    return read


def _exactly_out(out: Out) -> Out:
    """The same for writing, where only enums (IntEnum, StrEnum) are more than a number or text of another class."""
    return lambda value: _enum_out(type(value), converter())(value) if isinstance(value, enum.Enum) else out(value)


def _out_hook(hint: Any, made: Converter) -> Out:
    try:
        return made.get_unstructure_hook(hint)
    except RecursionError:  # cattrs' sign that the hook for this class is being made just now
        return lambda value: made.get_unstructure_hook(hint)(value)  # noqa: PLW0108 - it is there only later


def _in_hook(hint: Any, made: Converter) -> In:
    try:
        return made.get_structure_hook(hint)
    except RecursionError:
        return lambda data, _: made.get_structure_hook(hint)(data, hint)


def unknown(hint: Any) -> SerializationError:
    """Return the error for a type that no rule knows."""
    way_out = f": {plain.recipe(hint)}" if isinstance(hint, type) else ""
    return SerializationError(f"values of type {show(hint)} cannot be stored{way_out}")


def _refuse(hint: Any) -> typing.NoReturn:
    raise unknown(hint)


# Enums, by name: a member's value may be anything.


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum)


def _enum_out(hint: Any, _: Converter) -> Out:
    def out(value: Any) -> Any:
        if type(value) is not hint:
            raise wrong(value, show(hint))
        return value.name if value.name in hint.__members__ else value.value

    return out


def _enum_in(hint: Any, _: Converter) -> In:
    return lambda data, _: hint[data] if isinstance(data, str) else hint(data)


# Types with a tag, among them numpy's and the registered ones.


def _leaf_class(hint: Any) -> Any:
    cls = typing.get_origin(hint) or hint
    return cls if isinstance(cls, type) else None


def _is_leaf(hint: Any) -> bool:
    cls = _leaf_class(hint)
    return cls is not None and plain.leaf_for(cls) is not None


def _leaf_out(hint: Any, _: Converter) -> Out:
    leaf = plain.leaf_for(_leaf_class(hint))

    def out(value: Any) -> Any:
        if plain.leaf_for(type(value)) is not leaf:
            raise wrong(value, show(hint))
        return plain.leaf_to_json(value, type(value))

    return out


def _leaf_in(hint: Any, _: Converter) -> In:
    cls = _leaf_class(hint)

    def into(data: Any, _: Any) -> Any:
        value = plain.from_json(data)
        if plain.leaf_for(type(value)) is not plain.leaf_for(cls):
            raise wrong(value, show(hint))
        return value

    return into


# Records: cattrs makes the code, but must not be given an instance of a subclass.


def _is_attrs_or_dataclass(hint: Any) -> bool:
    cls = typing.get_origin(hint) or hint
    return records.is_record(cls) and not records.is_named_tuple(cls)


def _resolve(cls: Any) -> None:
    """Replace annotations in quotes by what they stand for, also those inside others, which cattrs leaves alone."""
    hints = records.hints_of(cls)
    if attrs.has(cls):
        if hints:
            attrs.resolve_types(cls)
        return
    for field in dataclasses.fields(cls):
        field.type = hints.get(field.name, field.type)


def _record_out(hint: Any, converter: Converter) -> Out:
    cls = typing.get_origin(hint) or hint
    _resolve(cls)
    made = make_dict_unstructure_fn(hint, converter)

    def out(value: Any) -> Any:
        if type(value) is not cls:
            raise wrong(value, show(hint))
        return made(value)

    return out


def _record_in(hint: Any, converter: Converter) -> In:
    _resolve(typing.get_origin(hint) or hint)
    return typing.cast("In", make_dict_structure_fn(hint, converter))


# Dicts, as pairs: JSON's names are strings.


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _types_of_mapping(hint: Any) -> tuple[Any, Any]:
    arguments = typing.get_args(hint)
    return arguments if len(arguments) == 2 else (Any, Any)


def _mapping_out(hint: Any, converter: Converter) -> Out:
    key, item = (_out_hook(one, converter) for one in _types_of_mapping(hint))

    def out(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(value, show(hint))
        if all(map(plain.is_plain_name, value)):
            return {name: item(one) for name, one in value.items()}
        return {"!dict": [[key(name), item(one)] for name, one in value.items()]}

    return out


def _mapping_in(hint: Any, converter: Converter) -> In:
    key_type, item_type = _types_of_mapping(hint)
    key, item = _in_hook(key_type, converter), _in_hook(item_type, converter)

    def into(data: Any, _: Any) -> Any:
        pairs = data["!dict"] if len(data) == 1 and "!dict" in data else data.items()
        return {key(name, key_type): item(one, item_type) for name, one in pairs}

    return into


# Unions: the member is written beside the value, except where the JSON shows it.


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _members(hint: Any) -> list[Any]:
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    origins = [typing.get_origin(member) or member for member in members]
    if len(set(map(show, origins))) != len(origins):
        raise SerializationError(f"the members of {show(hint)} cannot be told apart: two have the same class")
    return members


def _accepts(member: Any, value: Any) -> bool:
    if typing.get_origin(member) is typing.Literal:
        return value in typing.get_args(member)
    cls = _leaf_class(member)
    if cls is None or type(value) is cls:
        return True
    leaf = plain.leaf_for(cls)
    return leaf is not None and plain.leaf_for(type(value)) is leaf


def _union_out(hint: Any, converter: Converter) -> Out:
    optional = type(None) in typing.get_args(hint)
    members = _members(hint)
    choices = [(member, show(member), _out_hook(member, converter)) for member in members]
    scalar = all(member in SCALARS for member in members)

    def out(value: Any) -> Any:
        if value is None and optional:
            return None
        if len(choices) == 1:
            return choices[0][2](value)
        if scalar:
            value = python_number(value)
        for member, name, inner in choices:
            if _accepts(member, value):
                return inner(value) if scalar else {"!as": [name, inner(value)]}
        if scalar and float in members and type(value) is int:
            return float_out(value)
        for member, name, inner in choices:  # an abstract class, such as Sequence
            if isinstance(value, _leaf_class(member) or ()):
                return {"!as": [name, inner(value)]}
        raise wrong(value, show(hint))

    return out


def _union_in(hint: Any, converter: Converter) -> In:
    members = _members(hint)
    choices = {show(member): (member, _in_hook(member, converter)) for member in members}

    def into(data: Any, _: Any) -> Any:
        if data is None:
            return None
        if len(members) == 1:
            member, inner = choices[show(members[0])]
            return inner(data, member)
        if isinstance(data, dict) and "!as" in data:
            name, data = data["!as"]
            member, inner = choices[name]
            return inner(data, member)
        value = plain.from_json(data)
        if type(value) not in members:
            raise wrong(value, show(hint))
        return value

    return into


# Sequences and sets: a str is one, too, and would come back as a list of letters.


def _is_collection(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and origin in _COLLECTIONS


_COLLECTIONS: dict[Any, Callable[[Any], Any]] = {
    list: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    set: set,
    collections.abc.Set: frozenset,
    collections.abc.MutableSet: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
}


def _collection_out(hint: Any, converter: Converter) -> Out:
    origin = typing.get_origin(hint) or hint
    (element,) = typing.get_args(hint) or (Any,)
    inner = _out_hook(element, converter)

    def out(value: Any) -> Any:
        if not isinstance(value, origin) or isinstance(value, (str, bytes, bytearray)):
            raise wrong(value, show(hint))
        return [inner(item) for item in value]

    return out


def _collection_in(hint: Any, converter: Converter) -> In:
    make = _COLLECTIONS[typing.get_origin(hint) or hint]
    (element,) = typing.get_args(hint) or (Any,)
    inner = _in_hook(element, converter)
    return lambda data, _: make([inner(item, element) for item in data])


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Literal


def _literal_out(hint: Any, _: Converter) -> Out:
    known = [(type(value), value) for value in typing.get_args(hint)]
    if not all(cls in (*SCALARS, type(None)) for cls, _ in known):
        raise unknown(hint)

    def out(value: Any) -> Any:
        if (type(value), value) not in known:
            raise wrong(value, show(hint))
        return value

    return out


def _literal_in(hint: Any, converter: Converter) -> In:
    check = _literal_out(hint, converter)
    return lambda data, _: check(data)


def _is_tuple(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) is tuple


def _tuple_hooks(
    hint: Any, get: Callable[[Any, Converter], Any], made: Converter
) -> tuple[tuple[Any, ...], list[Any] | None]:
    arguments = typing.get_args(hint) or (Any, ...)
    if len(arguments) == 2 and arguments[1] is ...:
        return arguments[:1], None
    return arguments, [get(argument, made) for argument in arguments]


def _tuple_out(hint: Any, converter: Converter) -> Out:
    arguments, hooks = _tuple_hooks(hint, _out_hook, converter)
    every = _out_hook(arguments[0], converter) if arguments else none_out

    def out(value: Any) -> Any:
        if type(value) is not tuple or (hooks is not None and len(value) != len(hooks)):
            raise wrong(value, show(hint))
        if hooks is None:
            return [every(item) for item in value]
        return [hook(item) for hook, item in zip(hooks, value, strict=True)]

    return out


def _tuple_in(hint: Any, converter: Converter) -> In:
    arguments, hooks = _tuple_hooks(hint, _in_hook, converter)
    every = _in_hook(arguments[0], converter) if arguments else none_in

    def into(data: Any, _: Any) -> Any:
        if hooks is None:
            return tuple([every(item, arguments[0]) for item in data])
        return tuple([hook(item, argument) for hook, item, argument in zip(hooks, data, arguments, strict=True)])

    return into


_RULES: tuple[tuple[Callable[[Any], bool], Callable[[Any, Converter], Out], Callable[[Any, Converter], In]], ...] = (
    (lambda hint: hint is Any or hint is object, lambda hint, _: plain.to_json, lambda hint, _: plain_in),
    (lambda hint: hint is type(None), lambda hint, _: none_out, lambda hint, _: none_in),
    (_is_literal, _literal_out, _literal_in),
    (_is_union, _union_out, _union_in),
    (_is_mapping, _mapping_out, _mapping_in),
    (_is_collection, _collection_out, _collection_in),
    (_is_tuple, _tuple_out, _tuple_in),
    (_is_attrs_or_dataclass, _record_out, _record_in),
    (_is_enum, _enum_out, _enum_in),
    (_is_leaf, _leaf_out, _leaf_in),
)
"""Type, its writer and its reader; cattrs asks the last one first."""
