"""The head's end of shipping: a call as bytes, and the functions and classes that nodes have to know for it.

Guarantees:
- A function is pickled once and sent to a worker once, as long as all that it captured is immutable (numbers, strings,
  other functions) and the captured names are not rebound. If it captured something mutable (a list, an array), it is
  pickled again for each call, a large one once in a turn of the event loop, and sent again only if the bytes differ.
  So no worker computes with stale data.
- Bound methods, partials and callable objects are taken apart into a function and arguments: they are sent once, too.

Why definitions have numbers: a task then names its function in four bytes, and a launcher that has a definition gives
it to a new worker without asking the head.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import pickle
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperflow.shipping import captures, diagnose, pickler
from hyperflow.shipping.arrays import MOST_BLOCKS, SharedBuffer, SharedBuffers
from hyperflow.shipping.pickler import PROTOCOL
from hyperflow.wire import frames
from hyperflow.wire.numbers import DefinitionNumber

LARGE_CAPTURE = 1 << 16
"""Bytes of a pickled function with mutable captures, beyond which it is pickled once in a turn of the event loop only:
a hundred evaluations with a captured 100 MB array must not copy it a hundred times."""

KEPT_DEFINITIONS = 4096
"""Unused definitions beyond this number are evicted everywhere: a lambda made again for each evaluation must not fill
the memory of all nodes."""


@dataclasses.dataclass(slots=True, eq=False)
class Definition:
    """A pickled function or class, which is sent once to a node and once to a worker."""

    number: DefinitionNumber  # its name on the wire
    data: bytes
    is_class: bool  # workers make classes when they arrive, functions when they are first called
    name: str  # for logs and errors
    users: int = 0  # calls under way that use it; not counted for classes, which are kept
    args_by_value: bool = False  # whether arguments of its last call held something that plain pickle cannot send


@dataclasses.dataclass(slots=True, eq=False)
class PackedCall:
    """A call, ready to be sent."""

    function: Definition
    payload: bytes  # the pickled arguments
    buffers: Sequence[frames.Buffer] = ()  # contents of arrays among them, or numbers of blocks
    needs: Sequence[Definition | SharedBuffer] = ()  # the classes and blocks that have to be there before it


@dataclasses.dataclass(slots=True, eq=False)
class _PickledFunction:
    """The definition of a function that is alive, and how to see that it is still up to date."""

    ref: weakref.ref[Any]
    definition: Definition
    captured: list[captures.Captured]  # with the values from when the function was pickled
    mutable: bool  # whether one of these values can change without being rebound
    turn: int  # the turn of the event loop in which the function was pickled

    def is_current(self, turn: int) -> bool:
        if self.mutable and (self.turn != turn or len(self.definition.data) <= LARGE_CAPTURE):
            return False
        for place, name, value in self.captured:
            if (captures.contents(place) if name is None else place.get(name)) is not value:
                return False
        return True


class Packer:
    """Packs calls, and keeps account of definitions and shared buffers."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self.turn = 0
        """The turn of the event loop; the engine counts it up."""
        self.definitions: dict[DefinitionNumber, Definition] = {}
        self._functions: dict[int, _PickledFunction] = {}  # by id
        self._classes: dict[str, Definition] = {}
        self._by_content: dict[bytes, Definition] = {}
        self._next_number = functools.partial(next, map(DefinitionNumber, itertools.count(1)))
        self.buffers = SharedBuffers(self._next_number, most_blocks)
        self._found: list[pickle.PickleBuffer] = []  # in the arguments of the call that is being packed
        self._on_buffer = self._found.append

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PackedCall:
        """Pack a call; raises SerializationError that names what cannot be sent."""
        if type(fn) is not types.FunctionType and type(fn) is not types.BuiltinFunctionType:
            fn, args, kwargs = take_apart(fn, args, kwargs)
        known = self._functions.get(id(fn))
        if known is not None and known.ref() is fn and known.is_current(self.turn):
            definition = known.definition
        else:
            definition = self._define(fn)
        content: Any = [args, dict(kwargs)] if kwargs else args
        if not definition.args_by_value:
            found = self._found
            try:
                data = pickle.dumps(content, PROTOCOL, buffer_callback=self._on_buffer)
                if b"__main__" not in data:  # else there may be a class of the script in it; the slow way will see
                    if not found:
                        return PackedCall(definition, data)
                    return PackedCall(definition, data, *self.buffers.share(found))
            except KeyboardInterrupt:
                raise
            except BaseException:  # whatever a user's __reduce__ raises; the slow way says more
                pass
            finally:
                if found:
                    found.clear()
        return self._pack_by_value(definition, content)

    def _pack_by_value(self, definition: Definition, content: Any) -> PackedCall:
        beside = pickler.Beside()
        try:
            data = pickler.by_value(content, beside)
            classes = [self._class(number, cls) for number, cls in beside.classes.items()]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise diagnose.explain(f"an argument of {definition.name}", content, error) from error
        definition.args_by_value = not beside.all_by_name
        buffers, shared = self.buffers.share(beside.buffers)
        return PackedCall(definition, data, buffers, [*classes, *shared])

    def _class(self, number: str, cls: type) -> Definition:
        known = self._classes.get(number)
        if known is None:
            known = self._classes[number] = self._add(pickler.by_value(cls), True, cls.__qualname__)
        return known

    def _define(self, fn: Callable[..., Any]) -> Definition:
        name = getattr(fn, "__qualname__", None) or repr(fn)
        try:
            data = pickler.by_value(fn)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise diagnose.explain(f"the function {name}", fn, error) from error
        digest = hashlib.blake2b(data, digest_size=16).digest()
        definition = self._by_content.get(digest)
        if definition is None:
            definition = self._by_content[digest] = self._add(data, False, name)
        key = id(fn)
        try:
            ref = weakref.ref(fn, lambda _: self._functions.pop(key, None))
        except TypeError:  # some callables written in C
            return definition
        captured, mutable = captures.snapshot(fn)
        self._functions[key] = _PickledFunction(ref, definition, captured, mutable, self.turn)
        return definition

    def _add(self, data: bytes, is_class: bool, name: str) -> Definition:
        definition = Definition(self._next_number(), data, is_class, name)
        self.definitions[definition.number] = definition
        return definition

    def hold(self, packed: PackedCall) -> None:
        """Count a call that is under way: what it needs is not evicted."""
        packed.function.users += 1
        for need in packed.needs:
            if isinstance(need, SharedBuffer):
                self.buffers.hold(need)

    def release(self, packed: PackedCall) -> None:
        """Count a call that has ended."""
        packed.function.users -= 1
        for need in packed.needs:
            if isinstance(need, SharedBuffer):
                self.buffers.release(need)

    def evict(self) -> list[DefinitionNumber]:
        """Drop unused buffers, and functions where there are too many; return their numbers."""
        gone = self.buffers.evict()
        if len(self.definitions) <= KEPT_DEFINITIONS:
            return gone
        unused = [d for d in self.definitions.values() if d.users == 0 and not d.is_class]
        functions = {d.number for d in unused[: len(unused) - KEPT_DEFINITIONS // 2]}
        for number in functions:
            del self.definitions[number]
        self._by_content = {k: d for k, d in self._by_content.items() if d.number not in functions}
        self._functions = {k: f for k, f in self._functions.items() if f.definition.number not in functions}
        return gone + sorted(functions)


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
