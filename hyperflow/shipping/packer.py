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
import itertools
import pickle
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperflow.shipping import captures, diagnose, pickler
from hyperflow.shipping.arrays import MOST_BLOCKS, Attachments
from hyperflow.shipping.definition import Attachment, Definition
from hyperflow.wire import frames

LARGE_CAPTURE = 1 << 16
"""A function that captured mutable things is pickled anew for each call, and only once in a turn of the event loop if
its pickle is longer than this: a hundred evaluations with a captured 100 MB array must not cost 100 copies of it."""

KEPT_DEFINITIONS = 4096
"""Unused definitions beyond this number are forgotten everywhere: a lambda made anew for each evaluation must not
fill the memory of all nodes."""

_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, types.BuiltinFunctionType,
              enum.Enum)  # fmt: skip


class PackedCall:
    """A call, ready to be sent; `needs` are the classes and blocks that have to be there before it."""

    __slots__ = ("buffers", "function", "needs", "payload")

    def __init__(
        self,
        function: Definition,
        payload: bytes,
        buffers: Sequence[frames.Buffer] = (),
        needs: Sequence[Definition | Attachment] = (),
    ) -> None:
        self.function = function
        self.payload = payload
        self.buffers = buffers
        self.needs = needs


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
    """Makes packed calls, and keeps the account of definitions."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self.tick = 0
        """Counted up by the engine once per loop tick."""
        self.definitions: dict[int, Definition] = {}
        self.slow: set[int] = set()  # functions whose arguments plain pickle cannot do
        self._functions: dict[int, _Known] = {}
        self._classes: dict[str, Definition] = {}
        self._by_content: dict[bytes, Definition] = {}
        self._numbers = itertools.count(1)
        self.attachments = Attachments(self._number, most_blocks)
        self._beside: list[pickle.PickleBuffer] = []  # of the call that is being packed
        self._keep_beside = self._beside.append

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PackedCall:
        """Make a packed call of a call; raises SerializationError that names what cannot be sent."""
        if type(fn) is not types.FunctionType and type(fn) is not types.BuiltinFunctionType:
            fn, args, kwargs = take_apart(fn, args, kwargs)
        known = self._functions.get(id(fn))
        if known is not None and known.ref() is fn and known.holds(self.tick):
            definition = known.definition
        else:
            definition = self._define(fn)
        content: Any = [args, dict(kwargs)] if kwargs else args
        if definition.number not in self.slow:
            beside = self._beside
            try:
                data = pickle.dumps(content, 5, buffer_callback=self._keep_beside)
                if b"__main__" not in data:
                    if not beside:
                        return PackedCall(definition, data)
                    needs: list[Definition | Attachment] = []
                    return PackedCall(definition, data, self.attachments.attach(beside, needs), needs)
            except Exception:
                pass  # the slow way says more
            finally:
                if beside:
                    beside.clear()
        self.slow.add(definition.number)
        return self._pack_slowly(definition, content)

    def _pack_slowly(self, definition: Definition, content: Any) -> PackedCall:
        classes: dict[str, Any] = {}
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = pickler.by_value(content, buffers.append, classes)
            needs: list[Definition | Attachment] = [self._class(number, cls) for number, cls in classes.items()]
        except Exception as error:
            raise diagnose.explain(f"an argument of {definition.name}", content, error) from error
        return PackedCall(definition, data, self.attachments.attach(buffers, needs), needs)

    def _class(self, number: str, cls: type) -> Definition:
        known = self._classes.get(number)
        if known is None:
            known = self._classes[number] = self._add(pickler.by_value(cls), True, cls.__qualname__)
        return known

    def _define(self, fn: Callable[..., Any]) -> Definition:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        try:
            data = pickler.by_value(fn)
        except Exception as error:
            raise diagnose.explain(f"the function {name}", fn, error) from error
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

    def _number(self) -> int:
        return next(self._numbers)

    def _add(self, data: bytes, is_class: bool, name: str) -> Definition:
        definition = Definition(self._number(), data, is_class, name)
        self.definitions[definition.number] = definition
        return definition

    def hold(self, packed: PackedCall) -> None:
        """A call is to be sent."""
        packed.function.users += 1
        for need in packed.needs:
            if isinstance(need, Attachment):
                self.attachments.used(need)

    def release(self, packed: PackedCall) -> None:
        """A call has ended."""
        packed.function.users -= 1
        for need in packed.needs:
            if isinstance(need, Attachment):
                self.attachments.released(need)

    def forgettable(self) -> list[int]:
        """Strike out unused blocks, and function definitions where there are too many; return their numbers."""
        gone = self.attachments.unwanted()
        if len(self.definitions) > KEPT_DEFINITIONS:
            gone += self._surplus()
        return gone

    def _surplus(self) -> list[int]:
        unused = [d for d in self.definitions.values() if d.users == 0 and not d.is_class]
        gone = {d.number for d in unused[: len(unused) - KEPT_DEFINITIONS // 2]}
        for number in gone:
            del self.definitions[number]
            self.slow.discard(number)
        self._by_content = {k: d for k, d in self._by_content.items() if d.number not in gone}
        self._functions = {k: f for k, f in self._functions.items() if f.definition.number not in gone}
        return sorted(gone)


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
