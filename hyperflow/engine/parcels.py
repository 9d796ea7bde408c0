"""The head's end of shipping: which functions and classes the nodes have to know, and a call as bytes.

Guarantees:
- A function is pickled once and sent to a worker once. If what it captured cannot be changed unnoticed (numbers,
  strings, other functions), it is recognised by identity; rebinding a captured name is noticed. If it captured
  something mutable (a list, an array), it is pickled anew for each call, so that a worker does not compute with stale
  data; a large one once in a turn of the event loop. It is sent again only if the bytes differ.
- Bound methods, partials and callable objects are taken apart into a function and arguments, so that they profit too.

Why definitions have numbers: a task then names its function in four bytes, and a launcher that has seen a definition
passes it on to a new worker without asking the head.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import pickle
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from hyperflow.engine import captures, closure, culprit

LARGE_CAPTURE = 1 << 16
"""A function that captured mutable things is pickled anew for each call, and only once in a turn of the event loop if
its pickle is longer than this: a hundred evaluations with a captured 100 MB array must not cost 100 copies of it."""

KEPT_DEFINITIONS = 4096
"""Unused definitions beyond this number are forgotten everywhere: a lambda made anew for each evaluation must not
fill the memory of all nodes."""

_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType,
              enum.Enum)  # fmt: skip


class Definition:
    """A pickled function or class.

    Attributes:
        number: Its name on the wire.
        data: The pickle.
        is_class: Classes are made as soon as they arrive, functions when they are first called.
        needs: Classes that have to be there before it.
        users: Tasks under way that use it.
        name: For logs.
    """

    __slots__ = ("data", "is_class", "name", "number", "users")

    def __init__(self, number: int, data: bytes, is_class: bool, name: str) -> None:
        self.number = number
        self.data = data
        self.is_class = is_class
        self.users = 0
        self.name = name


class Parcel:
    """A call, ready to be sent."""

    __slots__ = ("buffers", "classes", "function", "payload")

    def __init__(
        self, function: Definition, payload: bytes, buffers: list[memoryview], classes: tuple[Definition, ...]
    ) -> None:
        self.function = function
        self.payload = payload
        self.buffers = buffers
        self.classes = classes


class _Known:
    """A function that was pickled, and what has to be still so for the pickle to hold."""

    __slots__ = ("captured", "definition", "ref", "tick", "volatile")

    def __init__(
        self, ref: weakref.ref[Any], definition: Definition, captured: list[tuple[Any, Any, Any]], volatile: bool
    ) -> None:
        self.ref = ref
        self.definition = definition
        self.captured = captured
        self.volatile = volatile
        self.tick = -1

    def holds(self, tick: int) -> bool:
        """Whether the pickle is still what the function is."""
        if self.volatile and (self.tick != tick or len(self.definition.data) <= LARGE_CAPTURE):
            return False
        for place, name, value in self.captured:
            if name is None:
                if captures.contents(place) is not value:
                    return False
            elif place.get(name) is not value:
                return False
        return True


class Packer:
    """Makes parcels, and keeps the account of definitions."""

    def __init__(self) -> None:
        self.tick = 0
        """Counted up by the engine once per loop tick."""
        self.definitions: dict[int, Definition] = {}
        self.slow: set[int] = set()  # functions whose arguments plain pickle cannot do
        self._functions: dict[int, _Known] = {}
        self._classes: dict[str, Definition] = {}
        self._by_content: dict[bytes, Definition] = {}
        self._next = 1

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parcel:
        """Make a parcel of a call; raises SerializationError that names what cannot be sent."""
        if type(fn) is not types.FunctionType and type(fn) is not types.BuiltinFunctionType:
            fn, args, kwargs = take_apart(fn, args, kwargs)
        known = self._functions.get(id(fn))
        if known is not None and known.ref() is fn and known.holds(self.tick):
            definition = known.definition
        else:
            definition = self._define(fn)
        content: Any = [args, dict(kwargs)] if kwargs else args
        buffers: list[memoryview] = []
        if definition.number not in self.slow:
            try:
                data = pickle.dumps(content, 5, buffer_callback=lambda b: buffers.append(_copied(b)))
                if b"__main__" not in data:
                    return Parcel(definition, data, buffers, ())
            except Exception:
                pass  # the slow way says more
        self.slow.add(definition.number)
        return self._pack_slowly(definition, content)

    def _pack_slowly(self, definition: Definition, content: Any) -> Parcel:
        needs: dict[str, Any] = {}
        buffers: list[memoryview] = []
        try:
            data = closure.by_value(content, lambda b: buffers.append(_copied(b)), needs)
            classes = tuple(self._class(number, cls) for number, cls in needs.items())
        except Exception as error:
            raise culprit.explain(f"an argument of {definition.name}", content, error) from error
        return Parcel(definition, data, buffers, classes)

    def _class(self, number: str, cls: type) -> Definition:
        known = self._classes.get(number)
        if known is None:
            known = self._classes[number] = self._add(closure.by_value(cls), True, cls.__qualname__)
        return known

    def _define(self, fn: Callable[..., Any]) -> Definition:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        try:
            data = closure.by_value(fn)
        except Exception as error:
            raise culprit.explain(f"the function {name}", fn, error) from error
        digest = hashlib.blake2b(data, digest_size=16).digest()
        definition = self._by_content.get(digest)
        if definition is None:
            definition = self._by_content[digest] = self._add(data, False, name)
        captured: list[tuple[Any, Any, Any]] = []
        volatile = not _snapshot(fn, captured, set())
        key = id(fn)
        try:
            ref = weakref.ref(fn, lambda _: self._functions.pop(key, None))
        except TypeError:  # some callables written in C
            return definition
        known = self._functions[key] = _Known(ref, definition, captured, volatile)
        known.tick = self.tick
        return definition

    def _add(self, data: bytes, is_class: bool, name: str) -> Definition:
        definition = Definition(self._next, data, is_class, name)
        self._next += 1
        self.definitions[definition.number] = definition
        return definition

    def forgettable(self) -> list[int]:
        """Strike out unused function definitions where there are too many; return their numbers."""
        if len(self.definitions) <= KEPT_DEFINITIONS:
            return []
        unused = [d for d in self.definitions.values() if d.users == 0 and not d.is_class]
        gone = {d.number for d in unused[: len(unused) - KEPT_DEFINITIONS // 2]}
        for number in gone:
            del self.definitions[number]
            self.slow.discard(number)
        self._by_content = {k: d for k, d in self._by_content.items() if d.number not in gone}
        self._functions = {k: f for k, f in self._functions.items() if f.definition.number not in gone}
        return sorted(gone)


def _copied(buffer: pickle.PickleBuffer) -> memoryview:
    """Return an array's bytes as they are now: the call may wait long, and its caller may use the array again."""
    return memoryview(bytes(buffer.raw()))


def take_apart(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]:
    """Return the plain function that a callable stands for, with the arguments that it brings along."""
    while True:
        if isinstance(fn, functools.partial):
            args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
        elif isinstance(fn, types.MethodType):
            args, fn = (fn.__self__, *args), fn.__func__
        elif not isinstance(fn, type) and type(type(fn).__dict__.get("__call__")) is types.FunctionType:
            args, fn = (fn, *args), type(fn).__dict__["__call__"]
        else:
            return fn, args, kwargs


def _snapshot(fn: Any, captured: list[tuple[Any, Any, Any]], seen: set[int]) -> bool:
    """Note all that fn captured, through other functions too; False if any of it can change unnoticed."""
    if id(fn) in seen or type(fn) is not types.FunctionType:
        return True
    seen.add(id(fn))
    if captures.found_by_name(fn, fn.__module__, fn.__qualname__):
        return True
    values: list[Any] = list(fn.__defaults__ or ()) + list((fn.__kwdefaults__ or {}).values())
    for name, value in captures.referenced_globals(fn).items():
        captured.append((fn.__globals__, name, value))
        values.append(value)
    for cell in fn.__closure__ or ():
        value = captures.contents(cell)
        captured.append((cell, None, value))
        values.append(value)
    return all(_is_stable(value, captured, seen) for value in values)


def _is_stable(value: Any, captured: list[tuple[Any, Any, Any]], seen: set[int]) -> bool:
    if type(value) is types.FunctionType:
        return _snapshot(value, captured, seen)
    if isinstance(value, (tuple, frozenset)):
        return all(_is_stable(part, captured, seen) for part in value)
    return isinstance(value, _IMMUTABLE)
