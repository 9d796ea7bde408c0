"""The head's end of shipping: a call as bytes, and the functions and classes that nodes have to know for it.

Guarantees:
- A call is evaluated with what its function refers to, and with its arguments, as they are when it is submitted.
- A function is pickled once, and sent to a worker once, as long as nothing that it refers to is bound anew (`watch`).
  If it captured something that can change otherwise (a list, an array, an object), it is pickled again for each call,
  and sent again only if the bytes differ. Large arrays among that are compared with what was sent, as arguments are.
- Classes of the script travel once, too, and again when they have changed.
- Bound methods, partials and callable objects are taken apart into a function and arguments: they are sent once, too.

Calls have an epoch: the count of changes of classes until then. A worker has one class under a number. So before it
gets a call of another epoch, an older one that came back included, its definitions are given to it again.
"""

from __future__ import annotations

import functools
import itertools
import pickle
import struct
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hyperflow.shipping import pickler, plain_arrays
from hyperflow.shipping.arrays import MOST_BLOCKS, SharedBuffer, SharedBuffers
from hyperflow.shipping.definitions import Definition, Definitions
from hyperflow.shipping.importable import plain_is_enough
from hyperflow.shipping.pickler import PROTOCOL, Beside
from hyperflow.shipping.plain_arrays import reducers
from hyperflow.shipping.stored import Stored
from hyperflow.shipping.watch import Watch
from hyperflow.wire import frames
from hyperflow.wire.frames import Shape
from hyperflow.wire.numbers import DefinitionNumber
from hyperflow.wire.shared_memory import LARGE

K = TypeVar("K")

MUCH_PICKLED = 100_000_000
"""Bytes that are pickled for the captures of one function before it is said that `put` spares them."""

LONGEST_NAME = 200
"""Characters of a function's name that logs and errors get."""

_IS_NAME = b"\x93\x94."
"""The end of a pickle that only names something: STACK_GLOBAL, MEMOIZE, STOP."""


class PackedCall:
    """A call, ready to be sent."""

    __slots__ = ("buffers", "epoch", "function", "needs", "payload")

    def __init__(
        self,
        function: Definition,
        payload: bytes,  # the pickled arguments
        buffers: Sequence[frames.Buffer],  # contents of arrays among them, or numbers of blocks
        needs: Sequence[Definition | SharedBuffer],  # classes, values and blocks that have to be there before it
        epoch: int,
    ) -> None:
        self.function = function
        self.payload = payload
        self.buffers = buffers
        self.needs = needs
        self.epoch = epoch


class _Defined:
    """The definition of something that is alive, and how to see that it is still up to date."""

    __slots__ = ("changing", "definition", "in_vain", "ref", "watch")

    def __init__(
        self, ref: weakref.ref[Any], definition: Definition, watch: Watch, changing: bool, in_vain: int
    ) -> None:
        self.ref = ref
        self.definition = definition
        self.watch = watch
        self.changing = changing  # whether only pickling it again shows a change
        self.in_vain = in_vain  # bytes that were pickled again, and were the same

    def is_current(self) -> bool:
        return not self.changing and self.watch.unchanged()


class Packer:
    """Packs calls, and keeps account of definitions and shared buffers."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self.next_number = next_number = functools.partial(next, map(DefinitionNumber, itertools.count(1)))
        self.buffers = SharedBuffers(next_number, most_blocks)
        self.definitions = Definitions(next_number, self.buffers)
        self.epoch = 0
        """How many times a class that workers know has changed."""
        self._functions: dict[int, _Defined] = {}  # by id
        self._classes: dict[str, _Defined] = {}  # by the number that the pickler gave them
        self._checking: set[str] = set()  # classes that are being looked at now: they may refer to each other
        self._stored: dict[str, _Defined] = {}  # by token
        # What has been deleted; the garbage collector adds to it, in any thread.
        self._dead: deque[tuple[dict[Any, _Defined], Any, weakref.ref[Any]]] = deque()
        self._found: list[pickle.PickleBuffer] = []  # in the arguments of the call that is being packed
        self._on_buffer = self._found.append

    def pack(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> PackedCall:
        """Pack a call; raises SerializationError that names what cannot be sent."""
        if type(fn) is not types.FunctionType and type(fn) is not types.BuiltinFunctionType:
            fn, args, kwargs = take_apart(fn, args, kwargs)
        known = self._functions.get(id(fn))
        if known is not None and known.ref() is fn and known.is_current():
            definition = known.definition
        else:
            definition = self._define(fn)
        content: Any = [args, dict(kwargs)] if kwargs else args
        if not definition.args_by_value:
            found = self._found
            try:
                if args and (type(args[0]) in reducers or type(args[-1]) in reducers):
                    data = plain_arrays.dumps(content, self._on_buffer)
                else:
                    data = pickle.dumps(content, PROTOCOL, buffer_callback=self._on_buffer)
                if plain_is_enough(data):  # else there may be a class of the script in it; the slow way will see
                    if not found:
                        return PackedCall(definition, data, (), (), self.epoch)
                    plain_arrays.learn()
                    return PackedCall(definition, data, *self.buffers.share(found), self.epoch)
            except KeyboardInterrupt:
                raise
            except BaseException:  # whatever a user's __reduce__ raises; the slow way says more
                pass
            finally:
                if found:
                    found.clear()
        return self._pack_by_value(definition, content)

    def plain(self, fn: Callable[..., Any]) -> tuple[Definition, Callable[[], bool]] | None:
        """Return a function's definition, and what tells whether it holds; None if calls of it may need more."""
        known = self._functions.get(id(fn))
        if known is None or known.ref() is not fn or known.changing or known.definition.args_by_value:
            return None
        return known.definition, known.watch.unchanged

    def _pack_by_value(self, definition: Definition, content: Any) -> PackedCall:
        beside = Beside()
        try:
            data = pickler.by_value(content, beside)
            needs = self._needs(beside)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            from hyperflow.shipping import diagnose  # noqa: PLC0415 (only errors need it)

            raise diagnose.explain(f"an argument of {definition.name}", content, error) from error
        definition.args_by_value = not beside.all_by_name
        buffers, shared = self.buffers.share(beside.buffers)
        return PackedCall(definition, data, buffers, [*needs, *shared], self.epoch)

    def _needs(self, beside: Beside) -> list[Definition | SharedBuffer]:
        """Return the definitions of what a pickle refers to."""
        classes = [self._class(number, cls) for number, cls in beside.classes.items()]
        return [*classes, *map(self._value, beside.stored.values())]

    def _define(self, fn: Callable[..., Any]) -> Definition:
        """Return the definition of a function as it is now."""
        name = (getattr(fn, "__qualname__", None) or repr(fn))[:LONGEST_NAME]
        known = self._functions.get(id(fn))
        if known is not None and known.ref() is not fn:
            known = None  # another function that had this address
        try:
            watch = known.watch if known is not None and known.changing else Watch(fn)
            data, needs = self._pickled(fn)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            from hyperflow.shipping import diagnose  # noqa: PLC0415 (only errors need it)

            raise diagnose.explain(f"the function {name}", fn, error) from error
        if known is not None and known.changing and known.definition.holds(data, needs):
            self._advise(known)
            return known.definition
        changing = watch.mutable and not data.endswith(_IS_NAME)
        shape = Shape.CHANGING_FUNCTION if changing else Shape.FUNCTION
        definition = self.definitions.add(data, shape, name, needs)
        self._note(self._functions, id(fn), fn, definition, watch, changing)
        return definition

    def _pickled(self, thing: Any, *, classes_apart: bool = True) -> tuple[bytes, list[Definition | SharedBuffer]]:
        """Pickle the content of a definition; return it, and what it needs, its blocks in their order."""
        beside = Beside(LARGE, classes_apart)
        data = pickler.by_value(thing, beside)
        found = [self.buffers.find(buffer.raw()) for buffer in beside.buffers]
        blocks = [block for block in found if block is not None]
        if len(blocks) < len(found):  # no memory for them, or too many
            beside, blocks = Beside(sys.maxsize, classes_apart), []
            data = pickler.by_value(thing, beside)
        if classes_apart:
            return data, [*self._needs(beside), *blocks]
        for number, cls in beside.classes.items():
            if number not in self._checking:
                self._class(number, cls)  # they are in this pickle, too, and their changes have to be noticed
        return data, [*map(self._value, beside.stored.values()), *blocks]

    def _class(self, number: str, cls: type) -> Definition:
        """Return the definition of a class as it is now."""
        known = self._classes.get(number)
        if known is not None and known.is_current():
            return known.definition
        outermost = not self._checking
        self._checking.add(number)
        try:
            watch = Watch(cls)
            data, needs = self._pickled(cls, classes_apart=False)
        finally:
            if outermost:
                self._checking.clear()
        definition = self.definitions.add(data, Shape.CLASS, cls.__qualname__, needs)
        if known is not None and known.definition is not definition:
            self.epoch += 1
        self._note(self._classes, number, cls, definition, watch, watch.mutable)
        return definition

    def _value(self, stored: Stored) -> Definition:
        """Return the definition of a stored value."""
        known = self._stored.get(stored.token)
        if known is not None:
            return known.definition
        data = stored.data
        blocks = [self.buffers.adopt(block) for block in stored.blocks]
        if None in blocks:
            data, blocks = pickler.by_value((stored.token, stored.value), Beside(sys.maxsize)), []
        classes = [self._class(number, cls) for number, cls in stored.classes.items()]
        needs: list[Definition | SharedBuffer] = [*classes, *(block for block in blocks if block is not None)]
        definition = self.definitions.add(data, Shape.VALUE, repr(stored), needs)
        self._note(self._stored, stored.token, stored, definition, Watch(None), changing=False)
        return definition

    def _note(
        self, table: dict[Any, _Defined], key: Any, thing: Any, definition: Definition, watch: Watch, changing: bool
    ) -> None:
        """Note the definition of something, which holds it for as long as the thing is alive."""
        known = table.get(key)
        if known is None or known.ref() is not thing:
            try:
                ref = weakref.ref(thing, lambda ref: self._dead.append((table, key, ref)))
            except TypeError:  # some callables written in C
                return
        else:
            ref = known.ref
        self.definitions.own(definition, 1)
        if known is not None:
            self._disown(known)
        table[key] = _Defined(ref, definition, watch, changing, 0 if known is None else known.in_vain)

    def _advise(self, known: _Defined) -> None:
        """Say, once, that a function's captures are pickled again and again."""
        before = known.in_vain
        known.in_vain += len(known.definition.data)
        if before < MUCH_PICKLED <= known.in_vain:
            warnings.warn(
                f"{known.definition.name} captures {len(known.definition.data) / 1e6:.1f} MB that are pickled for each "
                "call, to see whether they have changed. If they do not change, store them once: "
                "data = hyperflow.put(data)",
                RuntimeWarning,
                stacklevel=2,
            )

    def hold(self, packed: PackedCall) -> None:
        """Count a call that is under way: what it needs is not evicted."""
        function = packed.function
        if function.users:
            function.users += 1
        else:
            self.definitions.hold(function)
        for need in packed.needs:
            self.definitions.hold(need)

    def release(self, packed: PackedCall) -> None:
        """Count a call that has ended."""
        function = packed.function
        if function.users > 1:
            function.users -= 1
        else:
            self.definitions.release(function)
        for need in packed.needs:
            self.definitions.release(need)

    def evict(self) -> list[DefinitionNumber]:
        """Drop what is not needed any more; return the numbers."""
        while self._dead:
            table, key, ref = self._dead.popleft()
            entry = table.get(key)
            if entry is not None and entry.ref is ref:  # else something new has got its address
                del table[key]
                self._disown(entry)
        dropped = self.definitions.evict()
        if any(definition.owners for definition in dropped):
            self._drop_evicted(self._functions)
            self._drop_evicted(self._classes)
            self._drop_evicted(self._stored)
        return [*(definition.number for definition in dropped), *self.buffers.evict()]

    def _drop_evicted(self, table: dict[K, _Defined]) -> None:
        for key in [key for key, entry in table.items() if not self._is_known(entry)]:
            del table[key]

    def _is_known(self, entry: _Defined) -> bool:
        return entry.definition.number in self.definitions.known

    def _disown(self, entry: _Defined) -> None:
        if self._is_known(entry):
            self.definitions.own(entry.definition, -1)


class Kept:
    """A call that may be evaluated again from its packed arguments; see `environment.Kept`."""

    def __init__(self, packer: Packer, packed: PackedCall, evaluate: Callable[..., Any]) -> None:
        self.packer = packer
        self.packed = packed
        self.evaluate = evaluate
        """What submits a packed call."""
        self.users = 1
        packer.hold(packed)

    @property
    def size(self) -> int:
        return len(self.packed.payload) + sum(len(it) for it in self.packed.buffers if not isinstance(it, int))

    def submit(
        self, fn: Callable[..., Any], numbers: tuple[int, int], shown: Any, options: Any, stream: tuple[int, ...]
    ) -> Any:
        of_fn, packed = self.packer.pack(fn, (), {}), self.packed
        payload = packed.payload[:-1] + _AND_NUMBERS.pack(b"\x85J", numbers[0], b"J", numbers[1], b"\x87.")
        again = PackedCall(of_fn.function, payload, packed.buffers, packed.needs, packed.epoch)
        return self.evaluate(*shown, options, stream, again)

    def drop(self) -> None:
        self.users -= 1
        if not self.users:
            self.packer.release(self.packed)


_AND_NUMBERS = struct.Struct("<2sisi2s")
"""What takes the place of the STOP of a pickle x to make it ((x,), a, b): TUPLE1, BININT a, BININT b, TUPLE3, STOP."""


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
