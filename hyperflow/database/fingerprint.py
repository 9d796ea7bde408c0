"""Fingerprint: a short text that tells whether a function, and what it refers to, is as it was.

Guarantees: it is the same in each process and run, whatever PYTHONHASHSEED is, and wherever the source file is.
Comments, docstrings, formatting and names of local functions do not change it.

What it covers, for a function of the user's, and for each one that it reaches, also through classes, modules, methods,
partials and decorators: instructions and constants, defaults, values in its closure, attributes of the function, and
the globals that its code names. Values: plain data, collections, enum members, arrays, what `hyperflow.put` stored, and
the attributes of objects of the user's classes. Modules that are imported inside a function: `sources`.

What it does not see: code of the standard library and of installed packages (their names count), the inside of objects
of their classes (arrays apart), attributes that are found by a computed name, attributes of a function that its own
code sets (`f.calls += 1`), files, and a collection that changes in place after the function's first call in a process.

Why instructions and not source text: a function of a notebook or a job may have no source file any more, and a new
comment would count as a change. The price: each minor version of Python has its own instructions, so fingerprints made
by different ones cannot be compared.
"""

from __future__ import annotations

import array
import enum
import functools
import hashlib
import operator
import sys
import types
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hyperflow.database import instructions, sources
from hyperflow.database.sources import is_of_user

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

DEEPEST = 50
"""Levels of data within data that count; there are objects that contain themselves, and lists of lists of ..."""

PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})

NUMBERS_AND_TEXTS = (bool, int, float, complex, str, bytes, bytearray)

COLLECTIONS = (list, tuple, deque, dict, set, frozenset)

LEAVES = frozenset({"datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo", "re"})
"""Modules whose objects are told by their repr."""

TRANSPARENT = frozenset({"attr", "attrs", "collections"})
"""Packages whose objects only hold what is the user's: Factory, Converter, validators, ChainMap, UserDict."""


class Fingerprint(NamedTuple):
    """The fingerprint of a function, and where the values that it refers to are, with what they were."""

    text: str
    captured: list[tuple[Any, str | None, Any]]
    functions: list[types.FunctionType]
    """The function, and those of the user's that it reaches."""

    @classmethod
    def of(cls, fn: Any, ignore: Sequence[str] = ()) -> Fingerprint:
        """Look at a function and at all that it refers to; takes a millisecond or more.

        The defaults of its parameters `ignore` do not count.
        """
        look = _Look((_unwrapped(fn)[-1], ignore) if ignore else (None, ()))
        look.add(fn)
        return cls(f"{PYTHON} {look.hash.hexdigest()}", look.captured, look.functions)

    def is_current(self) -> bool:
        """Whether no name that the function refers to was bound anew since; cheap."""
        for place, name, value in self.captured:
            if (_contents(place) if name is None else place.get(name)) is not value:
                return False
        return True

    def differs(self, other: str) -> bool:
        """Whether another fingerprint is one of other code; one by another Python tells nothing."""
        return other != self.text and other.partition(" ")[0] == PYTHON


def digest(value: Any) -> str:
    """Return a text that tells what a value contains, the same in each process."""
    return _digest_of(value)


def digest_of_code(fn: Any) -> str:
    """Return a text that tells the code of a function and nothing that it captured, "" if there is no code."""
    inner = _unwrapped(fn)[-1]
    return instructions.digest_of(inner.__code__) if isinstance(inner, types.FunctionType) else ""


class _Look:
    """One look at a function: writes all that it meets into a hash, each object once."""

    def __init__(self, ignored: tuple[Any, Sequence[str]] = (None, ())) -> None:
        self._ignored = ignored
        self.hash = hashlib.blake2b(digest_size=12)
        self.captured: list[tuple[Any, str | None, Any]] = []
        self.functions: list[types.FunctionType] = []
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id comes twice
        self._first = True

    def put(self, *words: object) -> None:
        self.hash.update(repr(words).encode(errors="backslashreplace"))

    def add(self, value: Any, depth: int = 0) -> None:
        """Write a value."""
        kind = type(value)
        if kind in PLAIN:
            self.put(kind.__name__, value)
        elif depth > DEEPEST:
            self.put("deeper")
        elif id(value) in self._seen:
            self.put("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._add_new(value, kind, depth + 1)

    def _add_new(self, value: Any, kind: type, depth: int) -> None:
        if kind is types.FunctionType:
            self._add_function(value, depth)
        elif isinstance(value, type):
            self._add_class(value, depth)
        elif kind is types.ModuleType:
            self.put("module", value.__name__)
        elif isinstance(value, enum.Enum):
            self.put("enum", kind.__qualname__, value.name)
            self.add(value.value, depth)
        elif (base := _base(value, NUMBERS_AND_TEXTS)) is not None:
            self.put(kind.__qualname__, base.__repr__(value))
        elif (base := _base(value, COLLECTIONS)) is not None:
            self.put(kind.__qualname__)
            self._add_collection(value, base, depth)
        elif (parts := _parts(value)) is not None:
            self.put(kind.__qualname__)
            for part in parts:
                self.add(part, depth)
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            self._add_array(value, depth)
        elif kind is memoryview:
            with suppress(ValueError):  # released
                self.put("memoryview", value.format, value.shape, _digest(value.tobytes()))
        elif kind.__name__ == "Stored" and kind.__module__ == "hyperflow.shipping.stored":
            self.put("stored", _digest_of_stored(value))
        elif _is_told_by_repr(kind):
            self.put(kind.__qualname__, repr(value))
        elif _is_looked_into(kind):
            self.put("object", kind.__qualname__)
            self.add(kind, depth)
            for name, part in sorted(_attributes(value).items()):
                self.put(name)
                self.add(part, depth)
        else:
            name = value.__name__ if isinstance(value, types.BuiltinFunctionType) else ""
            self.put("object", kind.__module__, kind.__qualname__, name)

    def _add_array(self, value: Any, depth: int) -> None:
        if value.dtype.hasobject:
            self.put("array", value.dtype.str, value.shape)
            self.add(value.tolist(), depth)
        else:
            self.put("array", value.dtype.str, value.shape, _digest(value.tobytes()))

    def _add_collection(self, value: Any, base: Any, depth: int) -> None:
        if isinstance(value, defaultdict):
            self.add(value.default_factory, depth)
        parts: list[Any] = [*base.__iter__(value)]
        self.put(base.__name__, len(parts))
        if base is dict:
            for key in parts:
                self.add(key, depth)
                self.add(dict.__getitem__(value, key), depth)
        elif base in (set, frozenset):  # in an order that does not depend on hashes
            self.put(sorted(_digest_of(part) for part in parts))
        elif PLAIN.issuperset(map(type, parts)):  # in one go, because there may be a million
            self.put(_digest(repr(parts).encode(errors="backslashreplace")))
        else:
            self._add_all(parts, depth)

    def _add_all(self, values: Iterable[Any], depth: int) -> None:
        for value in values:
            self.add(value, depth)

    def _add_function(self, fn: types.FunctionType, depth: int) -> None:
        if not self._first and not is_of_user(fn.__code__.co_filename):
            self._add_function_of_package(fn, depth)
            return
        self._first = False
        self.functions.append(fn)
        code = fn.__code__
        self.put("function", instructions.digest_of(code))
        for defaults in self._defaults_of(fn):
            self.add(defaults, depth)
        for name in instructions.globals_in(code):
            self._add_captured(fn.__globals__, name, code, depth)
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            value = _contents(cell)
            self.captured.append((cell, None, value))
            self.put("cell", name)
            self.add(value, depth)
        if vars(fn):
            self._add_attributes(fn, depth)
        self._add_imports(fn, depth)

    def _defaults_of(self, fn: types.FunctionType) -> tuple[Any, Any]:
        by_place, by_name = fn.__defaults__, fn.__kwdefaults__
        owner, ignored = self._ignored
        if fn is not owner:
            return by_place, by_name
        names = fn.__code__.co_varnames[: fn.__code__.co_argcount][-len(by_place or ()) :]
        kept = zip(names, by_place or (), strict=False)
        return (
            tuple(value for name, value in kept if name not in ignored),
            {name: value for name, value in (by_name or {}).items() if name not in ignored},
        )

    def _add_attributes(self, fn: types.FunctionType, depth: int) -> None:
        """Write a function's attributes, without those that it sets itself: they count its calls, for example."""
        codes = [one.__code__ for one in _unwrapped(fn) if isinstance(one, types.FunctionType)]
        its_own: frozenset[str] = frozenset().union(*map(instructions.attributes_set_in, codes))
        for name in sorted({*vars(fn)} - its_own):
            if not name.startswith("__"):
                self._add_captured(vars(fn), name, fn.__code__, depth)
        if "__wrapped__" in vars(fn):
            self.add(vars(fn)["__wrapped__"], depth)

    def _add_function_of_package(self, fn: types.FunctionType, depth: int) -> None:
        """Write the name, and what of the user's the function has: it may decorate, or convert with a lambda."""
        self.put("function", fn.__module__, fn.__qualname__)
        contents = [_contents(cell) for cell in fn.__closure__ or ()]
        if "__wrapped__" not in vars(fn):
            self._add_all((value for value in contents if type(value) in (types.FunctionType, tuple)), depth)
            return
        self.add(vars(fn)["__wrapped__"], depth)
        self._add_all(contents, depth)
        registry = vars(fn).get("registry")
        if isinstance(registry, types.MappingProxyType):  # functools.singledispatch
            for kind in sorted(registry, key=lambda kind: (kind.__module__, kind.__qualname__)):
                self.add(kind, depth)
                self.add(registry[kind], depth)

    def _add_imports(self, fn: types.FunctionType, depth: int) -> None:
        """Write what imports inside a function lead to."""
        for found in sources.reached(fn.__code__, fn.__globals__.get("__package__") or ""):
            if isinstance(found, types.CodeType):
                self.put("import", instructions.digest_of(found))
            else:
                self._add_captured(vars(sys.modules[found.module]), found.name, found.by, depth)

    def _add_captured(self, place: dict[str, Any], name: str, code: types.CodeType, depth: int) -> None:
        if name not in place:
            return  # a builtin, or not there yet
        value = place[name]
        self.captured.append((place, name, value))
        self.put("name", name)
        self.add(value, depth)
        if type(value) is types.ModuleType and is_of_user(getattr(value, "__file__", None) or "/"):
            for attribute in instructions.attributes_in(code):
                if attribute in vars(value) and id(vars(value)) != id(place):
                    self._add_captured(vars(value), attribute, code, depth)

    def _add_class(self, cls: type, depth: int) -> None:
        self.put("class", cls.__qualname__)
        if not _is_of_user(cls):
            self.put(cls.__module__)
            return
        if _is_of_user(type(cls)):
            self.add(type(cls), depth)
        self._add_all(cls.__bases__, depth)
        for name, member in sorted(vars(cls).items()):
            ours = name.startswith("_abc_") or (issubclass(cls, enum.Enum) and name.startswith("_"))
            if _is_code(member) or not (ours or name.startswith("__") or name in getattr(cls, "__members__", ())):
                self.put(name)
                self.add(member, depth)
        if issubclass(cls, enum.Enum):
            for name, one in cls.__members__.items():
                self.put(name)
                self.add(one.value, depth)
        for field in vars(cls).get("__attrs_attrs__", ()):
            self.put(field.name)
            self._add_all((field.default, field.converter, field.validator, field.on_setattr), depth)


def _parts(value: Any) -> list[Any] | None:
    """Return what a wrapper of functions is made of, None if the value is none."""
    match value:
        case types.MethodType():
            return [value.__func__, value.__self__]
        case staticmethod() | classmethod():
            return [value.__func__]
        case property():
            return [value.fget, value.fset, value.fdel]
        case functools.partial() | functools.partialmethod():
            return [value.func, value.args, value.keywords]
        case functools.singledispatchmethod():
            return [value.func, value.dispatcher]
        case operator.itemgetter() | operator.attrgetter() | operator.methodcaller():
            return list(value.__reduce__())
        case functools.cached_property():
            return [value.func]
        case types.MappingProxyType():
            return [dict(value)]
        case _:
            pass
    wrapped = _attributes(value).get("__wrapped__")  # @job, @memoize, functools.lru_cache, ...
    memo = _attributes(value).get("__memo__")
    return None if wrapped is None else [wrapped, getattr(memo, "map_name", None)]


def _attributes(value: Any) -> Mapping[str, Any]:
    """Return an object's attributes, without running code of its class."""
    found: dict[str, Any] = {}
    for cls in type(value).__mro__:
        names = vars(cls).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            member = vars(cls).get(name)
            if isinstance(member, types.MemberDescriptorType):
                with suppress(AttributeError):  # never set
                    found[name] = member.__get__(value)
    with suppress(AttributeError, TypeError):
        found.update(object.__getattribute__(value, "__dict__"))
    return found


def _is_told_by_repr(kind: type) -> bool:
    module = kind.__module__.partition(".")[0].lstrip("_")
    return module in LEAVES or kind in (range, slice, array.array) or (module == "numpy" and hasattr(kind, "dtype"))


def _unwrapped(fn: Any) -> list[Any]:
    """Return a function and those that it wraps."""
    found = [fn]
    while len(found) < DEEPEST and (inner := _attributes(found[-1]).get("__wrapped__")) is not None:
        found.append(inner)
    return found


def _is_looked_into(kind: type) -> bool:
    """Whether the attributes of a class's objects count."""
    package = kind.__module__.partition(".")[0]
    return _is_of_user(kind) or package in TRANSPARENT or kind.__qualname__ in ("SimpleNamespace", "Namespace")


def _base(value: Any, kinds: tuple[type, ...]) -> Any:
    return next((kind for kind in kinds if isinstance(value, kind)), None)


def _digest_of(value: Any) -> str:
    look = _Look()
    look.add(value)
    return look.hash.hexdigest()


_digests: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _digest_of_stored(stored: Any) -> str:
    """Return what a handle of `hyperflow.put` stands for. Its pickle has a token, and sets in any order."""
    found = _digests.get(stored)
    if found is None:
        value: Any = None
        with suppress(Exception):  # the user's, of a class that fails
            value = stored.value
        found = _digests[stored] = _digest_of(value)
    return found


_CODE = (
    types.FunctionType,
    staticmethod,
    classmethod,
    property,
    functools.partialmethod,
    functools.singledispatchmethod,
)


def _is_code(member: Any) -> bool:
    return type(member) in _CODE


def _is_of_user(cls: type) -> bool:
    """Whether a class is the user's; one of a script has no module on another node."""
    module = sys.modules.get(cls.__module__)
    if cls.__module__ in ("builtins", "__main__", "__mp_main__") or module is None:
        return cls.__module__ != "builtins"
    file = getattr(module, "__file__", None)
    return file is not None and is_of_user(file)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty: a name that has not been bound yet
        return None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


__all__ = ("Fingerprint",)
