"""What a pickle is rebuilt from: functions, cells and classes are made empty, and filled afterwards.

A pickle names these functions, and they run where it arrives. Because an object is there before it is filled, what is
in it may refer to it.

Guarantees: a class that travels by value has a number, and a process makes it once for that number. In the process
where it comes from, the number stands for the original. So an instance that comes back is an instance of the very
class that it went out as.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import marshal
import os
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

from hyperflow.errors import SerializationError

_origin = os.urandom(6).hex()
_numbers = itertools.count()
_id_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_by_id: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def _forget_origin_after_fork() -> None:
    # A class of this worker must not get the number of a class of its launcher or of another worker.
    global _origin  # noqa: PLW0603 (that is what has to change)
    _origin = os.urandom(6).hex()


os.register_at_fork(after_in_child=_forget_origin_after_fork)


ENUM_INNER_OF_MEMBER = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})
"""Attributes of an enum's member that Python gives it."""


class Instead:
    """Pickles as a call, whose result is there after unpickling."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._call = fn, args

    def __reduce__(self) -> Any:
        return self._call


def track(thing: Any) -> str:
    """Return the number of a class or type variable; give it one if it has none."""
    number = _id_of.get(thing)
    if number is None:
        number = _id_of[thing] = f"{_origin}:{next(_numbers)}"
        _by_id[number] = thing
    return number


def is_ours(number: str) -> bool:
    """Whether this process gave out the number."""
    return number.startswith(_origin + ":")


def known(number: str) -> Any:
    """Return the class that went out under this number."""
    return _by_id[number]


_values: dict[str, Any] = {}


def keep(pair: tuple[str, Any]) -> str:
    """Keep a stored value under its token, and return that."""
    token, value = pair
    _values[token] = value
    return token


def drop(token: str) -> None:
    """Let go of a stored value."""
    _values.pop(token, None)


def stored(token: str) -> Any:
    """Return the value that is stored under this token."""
    return _values[token]


# What pickles call: `make_` makes a thing empty, `fill_` gives it its contents.


def make_namespace(name: str) -> dict[str, Any]:
    """Make the globals that the functions of one module in one pickle share."""
    return {"__name__": name, "__builtins__": __builtins__}


def make_function(code: bytes, namespace: dict[str, Any], cells: tuple[types.CellType, ...]) -> Any:
    """Make a function that has its code, and nothing else yet."""
    return types.FunctionType(marshal.loads(code), namespace, closure=cells or None)


def fill_function(fn: Any, state: tuple[dict[str, Any], dict[str, Any], list[str]]) -> None:
    """Give a function what it refers to."""
    attributes, referenced, submodules = state
    for name in submodules:
        importlib.import_module(name)
    fn.__globals__.update(referenced)
    own = attributes.pop("__dict__")
    for name, value in attributes.items():
        setattr(fn, name, value)
    fn.__dict__.update(own)


def make_cell() -> types.CellType:
    """Make an empty closure cell."""
    return types.CellType()


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    """Fill a closure cell."""
    cell.cell_contents = state[0]


def once(number: str, make: Callable[[], Any]) -> Any:
    """Return what the number stands for; the first time, make it."""
    found = _by_id.get(number)
    if found is None:
        found = make()
        _id_of[found] = number
        _by_id[number] = found
    return found


def make_class(number: str, metaclass: Any, name: str, bases: tuple[Any, ...], head: dict[str, Any]) -> Any:
    """Make a class without its contents, once for its number."""
    return once(number, lambda: types.new_class(name, bases, {"metaclass": metaclass}, lambda body: body.update(head)))


def make_enum(number: str, name: str, bases: tuple[Any, ...], members: dict[str, Any], head: dict[str, Any]) -> Any:
    """Make an enum with its members, once for its number."""

    def make() -> Any:
        metaclass: Any = type(bases[-1])
        body = metaclass.__prepare__(name, bases)
        for key, value in {**head, **members}.items():
            body[key] = value
        return metaclass.__new__(metaclass, name, bases, body)

    return once(number, make)


_filled: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()
"""Which classes are filled, with which attributes."""


def define_class(data: bytes | memoryview, buffers: list[memoryview]) -> Any:
    """On a worker: make the class that a definition holds, or fill the one that is there with what it has become."""
    global _refill  # noqa: PLW0603 (pickle passes nothing on to `fill_class`)
    _refill = True
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _refill = False


_refill = False


def fill_class(cls: Any, state: tuple[dict[str, Any], list[Any], dict[str, dict[str, Any]]]) -> None:
    """Give a class its contents: once, unless a definition says what they are now."""
    if (cls in _filled and not _refill) or is_ours(_id_of[cls]):
        return  # made by an earlier pickle, or our own that came home
    attributes, registered, members = state
    for name in _filled.get(cls, frozenset()) - attributes.keys():
        with contextlib.suppress(AttributeError):
            delattr(cls, name)
    _filled[cls] = frozenset(attributes)
    for name, value in attributes.items():
        setattr(cls, name, value)
    for subclass in registered:
        cls.register(subclass)
    for name, own in members.items():
        inside = vars(cls[name])
        for old in inside.keys() - own.keys() - ENUM_INNER_OF_MEMBER:
            del inside[old]
        inside.update(own)


def make_lru_cache(parameters: dict[str, Any], fn: Any) -> Any:
    """Make a function cached again; its cache starts empty."""
    return functools.lru_cache(**parameters)(fn)


def fetch(*path: str) -> Any:
    """Find something by its module and the names below."""
    found: Any = importlib.import_module(path[0])
    for part in path[1:]:
        found = getattr(found, part)
    return found


def load_dill(version: str, reason: str, data: bytes) -> Any:
    """Load what dill pickled; dill of another version may read it wrongly."""
    try:
        import dill  # noqa: PLC0415 (costs 40 ms, and few programs need it)

        here = dill.__version__
    except ImportError:
        here = "missing"
    if here != version:
        raise SerializationError(
            f"it could be pickled by dill only ({reason}), and dill is {version} where it was pickled and {here} where "
            f"it is read: type `pip install dill=={version}` there, or pass what it is made of in its place"
        )
    return pickle.loads(data)
