"""Hints: does a value conform to a type hint?

Guarantees: a value of another type than the hint says is refused, not converted, with two exceptions that lose
nothing: an int where a float is annotated, and a numpy number where the Python number of its kind is. A hint whose
values have no place in the database is refused before there is a value, so that no work is lost.

`conform_to(hint)` gives one function for writing and for reading: what was read from the database, from another version
or by a person's hand, is trusted no more than what a program wants to store.

Rejected: cattrs, which did this before. Its own rules turn 2.5 into 2 and a dict's keys into strings, so nearly all of
them had to be replaced.
"""

from __future__ import annotations

import collections
import collections.abc
import enum
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, TypeVar

from hyperflow.database import plain, records
from hyperflow.errors import SerializationError
from hyperflow.saying import short_repr

Conform = Callable[[Any], Any]
"""Returns the value as the hint says; raises SerializationError for a value of another type."""


def show(hint: Any) -> str:
    """Return a type as the user would write it."""
    if hint is Any:
        return "plain data"
    is_class = isinstance(hint, type) and not typing.get_args(hint)
    return hint.__qualname__ if is_class else str(hint).replace("typing.", "")


def wrong(value: Any, hint: Any) -> SerializationError:
    """Return the error for a value of another type than annotated."""
    return SerializationError(
        f"{short_repr(value, 60)} is a {type(value).__qualname__} where the annotation says {show(hint)}"
    )


def unknown(hint: Any) -> SerializationError:
    """Return the error for a type that has no place in the database."""
    way_out = f": {plain.recipe(hint)}" if isinstance(hint, type) else ""
    return SerializationError(f"values of type {show(hint)} cannot be stored{way_out}")


T = TypeVar("T")


def per_hint(make: Callable[[Any], T]) -> Callable[[Any], T]:
    """Remember what a function returns for each hint, until a type is registered."""
    remembered = cache(make)
    plain.when_registered.append(remembered.cache_clear)

    @wraps(make)
    def for_hint(hint: Any) -> T:
        try:
            return remembered(hint)
        except TypeError:  # a hint that cannot be hashed, such as Annotated[int, []]
            return make(hint)

    return for_hint


_under_way: list[Any] = []


@per_hint
def conform_to(hint: Any) -> Conform:
    """Return what checks a value against a hint; `Any` stands for plain data.

    Raises:
        SerializationError: Values of the type, or of one inside it, could not be made again.
    """
    if hint in _under_way:  # a TypedDict or an alias that contains itself
        return lambda value: conform_to(hint)(value)  # noqa: PLW0108 - it is there only later
    _under_way.append(hint)
    try:
        return _made(records.bare(hint))
    finally:
        _under_way.remove(hint)


def _made(hint: Any) -> Conform:
    cls: Any = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return lambda value: value
    if cls is typing.Union or cls is types.UnionType:
        return _union(hint, arguments)
    if cls is typing.Literal:
        return _literal(hint, arguments)
    if hint is None or cls is type(None):
        return _exactly(type(None), None)
    if not isinstance(cls, type):
        raise unknown(hint)
    if cls in _SCALARS:
        return _SCALARS[cls]
    return _of_class(hint, cls, arguments)


def _of_class(hint: Any, cls: Any, arguments: tuple[Any, ...]) -> Conform:
    leaf = plain.leaf_for(cls)
    if leaf is not None:
        return _leaf(hint, leaf)
    if issubclass(cls, enum.Enum):
        return _exactly(cls, hint)
    if records.is_record(cls):
        return _generic_record(hint, cls, arguments) if arguments else _exactly(cls, hint)
    if typing.is_typeddict(cls):
        return _typed_dict(hint, cls)
    if cls is tuple:
        return _tuple(hint, arguments)
    if cls in COLLECTIONS:
        return _collection(hint, cls, arguments)
    if issubclass(cls, Mapping):
        return _mapping(hint, cls, arguments)
    raise unknown(hint)


def _scalar(cls: type, convert: Callable[[Any], Any]) -> Conform:
    def conform(value: Any) -> Any:
        if type(value) is cls:
            return value
        converted = convert(value)
        if type(converted) is not cls:
            raise wrong(value, cls)
        return converted

    return conform


_SCALARS: dict[Any, Conform] = {
    bool: _scalar(bool, plain.python_number),
    int: _scalar(int, plain.python_number),
    float: _scalar(float, plain.as_float),  # as in Python's own typing, an int is a float
    str: _scalar(str, plain.python_number),
}


def _exactly(cls: type, hint: Any) -> Conform:
    def conform(value: Any) -> Any:
        if type(value) is not cls:  # an instance of a subclass would lose its own fields
            raise wrong(value, hint)
        return value

    return conform


def _leaf(hint: Any, leaf: plain.Leaf) -> Conform:
    def conform(value: Any) -> Any:
        found: type = type(value)
        if plain.leaf_for(found) is not leaf:
            raise wrong(value, hint)
        return value

    return conform


# The fields of a record conform where they are written and made (see `values`), except for what is generic.


def _generic_record(hint: Any, cls: type, arguments: tuple[Any, ...]) -> Conform:
    exactly = _exactly(cls, hint)
    for argument in arguments:
        conform_to(argument)

    def conform(value: Any) -> Any:
        exactly(value)
        fields = [field for field in records.fields_of(hint) if field.argument is not None]
        old = [getattr(value, field.name) for field in fields]
        new = [conform_to(field.hint)(item) for field, item in zip(fields, old, strict=True)]
        if all(one is other for one, other in zip(old, new, strict=True)):
            return value
        return cls(**{str(field.argument): item for field, item in zip(fields, new, strict=True)})

    return conform


def _typed_dict(hint: Any, cls: Any) -> Conform:
    items = {name: conform_to(one) for name, one in records.items_of(hint).items()}

    def conform(value: Any) -> Any:
        if not isinstance(value, dict):
            raise wrong(value, hint)
        missing = cls.__required_keys__ - value.keys()
        if missing:
            raise SerializationError(f"{short_repr(value, 60)} has no {min(missing)!r}, which {show(hint)} needs")
        return {name: items[name](item) if name in items else item for name, item in value.items()}

    return conform


# Choices.


def _literal(hint: Any, known: tuple[Any, ...]) -> Conform:
    exact = [(type(value), value) for value in known]
    if not all(cls in (*_SCALARS, type(None)) for cls, _ in exact):
        raise unknown(hint)

    def conform(value: Any) -> Any:
        if (type(value), value) not in exact:
            raise wrong(value, hint)
        return value

    return conform


def _union(hint: Any, members: tuple[Any, ...]) -> Conform:
    optional = type(None) in members
    named = [records.bare(member) for member in members if member is not type(None)]
    choices = [(typing.get_origin(member) or member, conform_to(member)) for member in named]
    classes = [cls for cls, _ in choices]

    def conform(value: Any) -> Any:
        if value is None and optional:
            return None
        one = value if type(value) in classes else plain.python_number(value)
        # Of `float | int`, 1 is the int, whatever the order.
        fitting = [inner for cls, inner in choices if cls is type(one)] or [inner for _, inner in choices]
        if len(fitting) == 1:
            return fitting[0](one)
        for inner in fitting:
            try:
                return inner(one)
            except SerializationError:
                continue
        raise wrong(value, hint)

    return conform


# Containers. A str is a sequence, too, and would come back as a list of letters.

COLLECTIONS: dict[Any, Callable[[Any], Any]] = {
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
"""What makes a value of a hint, of items whose own class the database does not know."""

_KEPT = (list, tuple, set, frozenset, collections.deque)


def _collection(hint: Any, cls: Any, arguments: tuple[Any, ...]) -> Conform:
    inner = conform_to(arguments[0]) if arguments else None

    def conform(value: Any) -> Any:
        if not isinstance(value, cls) or isinstance(value, (str, bytes, bytearray)):
            raise wrong(value, hint)
        make = type(value) if type(value) in _KEPT else COLLECTIONS[cls]
        return make(value if inner is None else [inner(item) for item in value])

    return conform


def _tuple(hint: Any, arguments: tuple[Any, ...]) -> Conform:
    if hint in (tuple, typing.Tuple):  # noqa: UP006
        arguments = (Any, ...)
    every = conform_to(arguments[0]) if arguments[1:] == (...,) else None
    each = [] if every else [conform_to(argument) for argument in arguments]

    def conform(value: Any) -> Any:
        if type(value) is not tuple or (every is None and len(value) != len(each)):
            raise wrong(value, hint)
        if every is not None:
            return tuple([every(item) for item in value])
        return tuple([inner(item) for inner, item in zip(each, value, strict=True)])

    return conform


_ABSTRACT_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def _mapping(hint: Any, cls: Any, arguments: tuple[Any, ...]) -> Conform:
    if cls is collections.Counter:
        arguments = (*arguments, int)[-2:]
    key, item = (conform_to(one) for one in (arguments if len(arguments) == 2 else (Any, Any)))
    make = dict if cls in _ABSTRACT_DICTS else cls
    if cls is collections.defaultdict:
        made_of = (typing.get_origin(arguments[1]) or arguments[1]) if len(arguments) == 2 else None
        factory = made_of if isinstance(made_of, type) else None
        make = lambda pairs: collections.defaultdict(factory, pairs)  # noqa: E731 - as the other two

    def conform(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(value, hint)
        return make({key(name): item(one) for name, one in value.items()})

    return conform
