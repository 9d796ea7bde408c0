"""Watches: whether what a function or class refers to is as it was when it was pickled.

A watch looks at all that travels with a function: its code, defaults, attributes, captured variables and globals, other
functions of the script among them, and the attributes of the script's classes and their bases.

Guarantees:
- What can be bound anew is compared by identity each time. So nothing is stale, and nothing is pickled in vain.
- What can change without being bound anew (a list, an array, an object) makes the watch `mutable`: only pickling it
  again tells whether it has changed.
- A watch keeps nothing alive but numbers, strings and modules. A function that refers to itself, or a class that is
  made anew in each step, would otherwise stay for ever.

What it does not see, and what `remote_eval` tells its users: what an importable module holds, because that travels by
name; annotations and docstrings; the inside of an object of C whose pickle does not show it.

Rejected: to keep what was captured, and to compare with that. It makes a cycle through the watch, which no collector
can see. Rejected: to pickle each time. It takes 16 microseconds for a small function, and 300 for a dataclass.
"""

from __future__ import annotations

import abc
import enum
import functools
import sys
import types
import typing
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from hyperflow.shipping import captures, importable
from hyperflow.shipping.captures import found_by_name

_ATOMS = frozenset(
    {int, float, complex, str, bytes, bool, type(None), type(...), type(NotImplemented), range, types.ModuleType}
)
"""Types whose values cannot change. Not their subclasses: those may have attributes."""

_FORMS = (typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple, typing.NewType)
"""What annotations are made with. It does not change."""

_C_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType,
                  types.MethodDescriptorType, types.ClassMethodDescriptorType)  # fmt: skip

_MADE_BY_TOOLS = frozenset({
    "__annotations__", "__doc__", "__orig_bases__", "__parameters__", "__slots__", "__match_args__", "__signature__",
    "__dict__", "__weakref__", "_abc_impl", "__static_attributes__", "__annotations_cache__",
    "__dataclass_fields__", "__dataclass_params__", "__attrs_attrs__", "__attrs_props__", "__attrs_own_setattr__",
    "__attrs_base_of_slotted__", "_field_defaults", "_fields",
    "_member_names_", "_member_map_", "_value2member_map_", "_member_type_", "_unhashable_values_", "_hashable_values_",
    "_unhashable_values_map_", "_new_member_", "__objclass__", "_sort_order_",
})  # fmt: skip
"""Attributes that Python, dataclasses, attrs and enum write once, when they make the class."""

_FIELDS = ("__attrs_attrs__", "__dataclass_fields__", "_field_defaults")
"""Attributes of classes in which attrs, dataclasses and NamedTuple keep what the user has said of each field."""

_TOOLS = ("attr._make", "attr.setters", "dataclasses", "collections")
"""Modules that write methods into classes. What such a method refers to is theirs, or stands in the fields, too."""

_NOT_OF_FIELD = ("__weakref__", "type", "_field_type", "inherited", "metadata")
_HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a type that Python code made
_MISSING = object()
_CACHED = type(functools.lru_cache(int))
_PARTS = {
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",),
}
"""What the descriptors of a class hold. It is looked at, not they: they would keep the class alive."""

WRAPPERS = set[type]()
"""Types of objects that are as the function in their `__wrapped__` is, which is looked at."""

_Kept = Any
"""What tells later whether a name still has its value: the value, a weak reference to it, or `_Parts`."""


class _Parts(NamedTuple):
    kind: type
    parts: tuple[_Kept, ...]


_TUPLE_GETTER = type(vars(_Parts)["kind"])
"""What gives a field of a named tuple."""


class _FunctionSeen(NamedTuple):
    ref: weakref.ref[types.FunctionType]
    code: types.CodeType
    names: dict[str, Any] | None  # the globals; None if it refers to none
    globals: tuple[tuple[str, _Kept], ...]
    cells: tuple[_Kept, ...]
    defaults: tuple[_Kept, ...]
    keywords: tuple[tuple[str, _Kept], ...]
    attributes: tuple[tuple[str, _Kept], ...]


class _NamespaceSeen(NamedTuple):
    ref: weakref.ref[Any]
    bases: tuple[_Kept, ...]
    size: int
    attributes: tuple[tuple[str, _Kept], ...]


class _MemberSeen(NamedTuple):
    ref: weakref.ref[Any]  # of the enum: a member that is a number, too, cannot be referred to
    name: str
    size: int
    attributes: tuple[tuple[str, _Kept], ...]


class Watch:
    """Watches a function, a class, or another callable."""

    __slots__ = ("_by_name", "_functions", "_members", "_namespaces", "_seen", "_token", "mutable")

    def __init__(self, thing: Any) -> None:
        self.mutable = False
        """Whether something that travels with it can change unseen."""
        self._functions: list[_FunctionSeen] = []
        self._namespaces: list[_NamespaceSeen] = []  # of classes, and of functions under a cache
        self._members: list[_MemberSeen] = []
        self._token: object = None  # changes when an abstract class gets a virtual subclass
        self._by_name = importable.version  # what travels by name is not looked at
        self._seen: set[int] = set()
        self._keep(thing)
        del self._seen

    def unchanged(self) -> bool:
        """Whether nothing has been bound anew. Costs some 0.1 microseconds for each name."""
        for ref, code, names, referenced, cells, defaults, keywords, attributes in self._functions:
            fn = ref()
            if fn is None or fn.__code__ is not code or (names is not None and not _same_items(names, referenced)):
                return False
            if cells and not _same(_contents(fn), cells):
                return False
            if (fn.__defaults__ is not None or defaults) and not _same(fn.__defaults__ or (), defaults):
                return False
            if (fn.__kwdefaults__ is not None or keywords) and not _same_namespace(fn.__kwdefaults__ or {}, keywords):
                return False
            if (fn.__dict__ or attributes) and not _same_namespace(fn.__dict__, attributes):
                return False
        for owner_ref, bases, size, inside in self._namespaces:
            owner = owner_ref()
            if owner is None:
                return False
            space = owner.__dict__
            if len(space) != size or not _same_items(space, inside) or (bases and not _same(_bases(owner), bases)):
                return False
        for cls_ref, name, size, inside in self._members:
            member = getattr(cls_ref(), "_member_map_", {}).get(name)
            if member is None or len(vars(member)) != size or not _same_items(vars(member), inside):
                return False
        if self._by_name != importable.version:
            return False
        return self._token is None or self._token == abc.get_cache_token()

    def _keep(self, value: Any) -> _Kept:
        """Look into a value, and return what to keep of it."""
        kind = type(value)
        if kind in _ATOMS or value is _MISSING:
            return value
        if kind is types.FunctionType:
            self._function(value)
            return weakref.ref(value)
        if isinstance(value, type):
            self._class(value)
            return weakref.ref(value)
        if kind in _PARTS:
            return _Parts(kind, tuple(map(self._keep, _parts(value))))
        if kind in WRAPPERS:
            if not found_by_name(value, value.__module__, value.__qualname__):
                self._keep(value.__wrapped__)
            return weakref.ref(value)
        if kind is _CACHED:
            self._cached(value)
            return weakref.ref(value)
        if kind in _FORMS:
            return weakref.ref(value)
        if _is_constant(value):
            return value
        if (module := kind.__module__).startswith(("attr.", "attrs.")) or module == "dataclasses":
            self._field(value)
            return _weak(value)
        self.mutable = True
        return None

    def _field(self, field: Any) -> None:
        """Look at what attrs or dataclasses know of a field: defaults, factories, converters, validators."""
        if id(field) in self._seen:
            return
        self._seen.add(id(field))
        names = [name for kind in type(field).__mro__ for name in getattr(kind, "__slots__", ())]
        for value in (*vars(field).values(),) if hasattr(field, "__dict__") else ():
            self._keep(value)
        for name in names:
            if name not in _NOT_OF_FIELD and hasattr(field, name):
                self._keep(getattr(field, name))

    def _function(self, fn: types.FunctionType) -> None:
        if id(fn) in self._seen or found_by_name(fn, fn.__module__, fn.__qualname__):
            return
        self._seen.add(id(fn))
        if _is_generated(fn.__code__):
            referenced: dict[str, Any] = {}
            contents: tuple[Any, ...] = ()
        else:
            referenced, contents = captures.referenced_globals(fn, missing=_MISSING), _contents(fn)
            self.mutable = self.mutable or captures.rebinds_cells(fn.__code__)
        if referenced and not _of_module(fn.__globals__):
            self.mutable = True  # a namespace that may hold the function, and nothing else holds: it must not be kept
            return
        if captures.local_modules(fn, [*referenced.values(), *contents]):
            self.mutable = True  # what it reaches in them travels, too
        self._functions.append(
            _FunctionSeen(
                weakref.ref(fn),
                fn.__code__,
                fn.__globals__ if referenced else None,
                self._keep_items(referenced),
                tuple(map(self._keep, contents)),
                tuple(map(self._keep, fn.__defaults__ or ())),
                self._keep_items(fn.__kwdefaults__ or {}),
                self._keep_items(fn.__dict__),
            )
        )

    def _class(self, cls: type) -> None:
        if id(cls) in self._seen or found_by_name(cls, cls.__module__, cls.__qualname__):
            return
        self._seen.add(id(cls))
        attributes = {
            name: value
            for name, value in cls.__dict__.items()
            if name not in _MADE_BY_TOOLS and not isinstance(value, _C_DESCRIPTORS) and type(value) is not _TUPLE_GETTER
        }
        for name in _FIELDS:
            fields = cls.__dict__.get(name, ())
            for field in fields.values() if isinstance(fields, Mapping) else fields:
                self._keep(field)
        if "_abc_impl" in cls.__dict__:
            self._token = abc.get_cache_token()
        if isinstance(cls, enum.EnumMeta):
            members: dict[str, Any] = dict(cls.__members__)
            for name, member in members.items():
                space = vars(member)
                kept = self._keep_items({name: it for name, it in space.items() if name not in _MADE_BY_TOOLS})
                self._members.append(_MemberSeen(weakref.ref(cls), name, len(space), kept))
                attributes.pop(name, None)
        bases = tuple(map(self._keep, _bases(cls)))
        self._namespaces.append(
            _NamespaceSeen(weakref.ref(cls), bases, len(cls.__dict__), self._keep_items(attributes))
        )

    def _cached(self, fn: Any) -> None:
        if id(fn) not in self._seen and not found_by_name(fn, fn.__module__, fn.__qualname__):
            self._seen.add(id(fn))
            self._namespace(fn)

    def _namespace(self, owner: Any) -> None:
        """Look at the attributes of an object."""
        attributes = {name: value for name, value in vars(owner).items() if name not in _MADE_BY_TOOLS}
        self._namespaces.append(_NamespaceSeen(weakref.ref(owner), (), len(vars(owner)), self._keep_items(attributes)))

    def _keep_items(self, values: Mapping[str, Any]) -> tuple[tuple[str, _Kept], ...]:
        return tuple((name, self._keep(value)) for name, value in values.items())


@captures.once_for_code
def _is_generated(code: types.CodeType) -> bool:
    """Whether a library that makes classes has written this function."""
    if code.co_filename.startswith("<attrs generated") or code.co_qualname.startswith("__create_fn__."):
        return True
    if code.co_filename == "<string>":  # NamedTuple's
        return "_tuple_new" in code.co_names
    return any(code.co_filename == getattr(sys.modules.get(name), "__file__", None) for name in _TOOLS)


def _weak(value: Any) -> Any:
    try:
        return weakref.ref(value)
    except TypeError:  # it has slots
        return value


def _of_module(names: dict[str, Any]) -> bool:
    """Whether a namespace is that of a module, which lives as long as the program."""
    return getattr(sys.modules.get(names.get("__name__", "")), "__dict__", None) is names


def _contents(fn: types.FunctionType) -> tuple[Any, ...]:
    return tuple(captures.contents(cell, empty=_MISSING) for cell in fn.__closure__ or ())


def _bases(cls: Any) -> tuple[type, ...]:
    return (type(cls), *cls.__bases__) if isinstance(cls, type) else ()


def _parts(descriptor: Any) -> tuple[Any, ...]:
    return tuple(getattr(descriptor, name) for name in _PARTS[type(descriptor)])


def _is_constant(value: Any) -> bool:
    """Whether a value can neither change nor keep something large alive."""
    kind = type(value)
    if kind in _ATOMS or isinstance(value, _C_DESCRIPTORS):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(_is_constant, value))
    if kind is types.BuiltinFunctionType:
        owner = value.__self__  # a module, None, a type; or an object, of a list's `append`, for example
        return (
            owner is None
            or type(owner) is types.ModuleType
            or (isinstance(owner, type) and not owner.__flags__ & _HEAP)
        )
    if isinstance(value, enum.Enum):
        return found_by_name(kind, kind.__module__, kind.__qualname__)
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic) and not isinstance(value, numpy.void)


def _same(values: tuple[Any, ...], kept: tuple[_Kept, ...]) -> bool:
    return len(values) == len(kept) and all(map(_is, values, kept))


def _same_namespace(values: Mapping[str, Any], kept: tuple[tuple[str, _Kept], ...]) -> bool:
    return len(values) == len(kept) and _same_items(values, kept)


def _same_items(values: Mapping[str, Any], kept: tuple[tuple[str, _Kept], ...]) -> bool:
    get, reference = values.get, weakref.ref
    for name, was in kept:
        value = get(name, _MISSING)
        if value is not was and (type(was) is not reference or was() is not value) and not _is(value, was):
            return False
    return True


def _is(value: Any, kept: _Kept) -> bool:
    """Whether a value is the one of which `kept` was kept."""
    if value is kept:
        return True
    if type(kept) is weakref.ref:
        return kept() is value
    return type(kept) is _Parts and type(value) is kept.kind and _same(_parts(value), kept.parts)
