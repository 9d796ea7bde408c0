"""Definitions: what nodes have to know before a call, each under a number: functions, classes, values of `hf.put`.

Guarantees:
- What is equal is one definition, as long as it is there.
- What a call under way needs stays.
- What only a living function, class or handle refers to stays, too, up to a limit. The rest is kept for a while up to
  a lower one, because a lambda that is made again in each step is often the same. Both limits count bytes.
- What is dropped, nodes and workers drop, too. It is sent again when it is needed again.

Why definitions have numbers: a task then names its function in four bytes, and a launcher that has a definition gives
it to a new worker without asking the head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from hyperflow.shipping.arrays import KEPT_BYTES, SharedBuffer, SharedBuffers
from hyperflow.wire import frames
from hyperflow.wire.frames import Shape
from hyperflow.wire.numbers import DefinitionNumber


class Limit:
    """How much is kept that no call needs now."""

    __slots__ = ("count", "size")

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size  # bytes, with blocks

    @property
    def half(self) -> Limit:
        return Limit(self.count // 2, self.size // 2)


KEPT = Limit(256, 1 << 22)
"""Of what nothing refers to."""

KEPT_OF_LIVING = Limit(4096, KEPT_BYTES)
"""Of what a living function, class or handle refers to."""


class Definition:
    """A pickled function, class or value, which is sent once to a node and once to a worker."""

    __slots__ = (
        "args_by_value", "data", "digest", "name", "needs", "number", "owners", "shape", "size", "users", "whole",
    )  # fmt: skip

    def __init__(
        self,
        number: DefinitionNumber,  # its name on the wire
        data: bytes,
        shape: Shape,
        name: str,  # for logs and errors
        needs: Sequence[Definition | SharedBuffer],  # what a worker has to have before it
        digest: bytes,
    ) -> None:
        self.number = number
        self.data = data
        self.shape = shape
        self.name = name
        self.needs = needs
        self.digest = digest
        self.size = len(data) + sum(need.block.size for need in needs if isinstance(need, SharedBuffer))
        """Bytes of it and its blocks."""
        self.whole: int = self.size + sum(need.whole for need in needs if isinstance(need, Definition))
        """The same, and of the definitions that it needs."""
        self.users = 0  # calls under way and definitions that need it
        self.owners = 0  # living functions, classes and handles that it is the definition of
        self.args_by_value = False  # whether arguments of its last call held something that plain pickle cannot send

    @property
    def blocks(self) -> list[DefinitionNumber]:
        """The blocks that its pickle refers to, in order."""
        return [need.number for need in self.needs if isinstance(need, SharedBuffer)]

    def holds(self, data: bytes, needs: Sequence[Definition | SharedBuffer]) -> bool:
        """Whether this is its content."""
        return self.data == data and ((not needs and not self.needs) or list(self.needs) == list(needs))

    def body(self) -> bytes:
        """Return what the wire carries."""
        return frames.definition(self.number, self.shape, self.blocks, self.data)


class Definitions:
    """All definitions, and who uses them."""

    def __init__(self, next_number: Callable[[], DefinitionNumber], buffers: SharedBuffers) -> None:
        self.known: dict[DefinitionNumber, Definition] = {}
        self._buffers = buffers
        self._next_number = next_number
        self._by_digest: dict[bytes, Definition] = {}
        # What no call needs: without owners, and with them.
        self._idle = _Idle(whole=True), _Idle(whole=False)

    def add(self, data: bytes, shape: Shape, name: str, needs: Sequence[Definition | SharedBuffer] = ()) -> Definition:
        """Return the definition with this content; it goes soon unless it is held."""
        digest = hashlib.blake2b(data, digest_size=16, key=bytes([shape]))
        for need in needs:
            digest.update(frames.NUMBER.pack(need.number))
        known = self._by_digest.get(digest.digest())
        if known is not None:
            return known
        made = Definition(self._next_number(), data, shape, name, needs, digest.digest())
        self.known[made.number] = self._by_digest[made.digest] = made
        for need in needs:
            self.hold(need)
        self._idle[False].add(made)
        return made

    def hold(self, needed: Definition | SharedBuffer) -> None:
        """Count something that needs it."""
        if isinstance(needed, SharedBuffer):
            self._buffers.hold(needed)
            return
        if needed.users == 0:
            self._idle[needed.owners > 0].remove(needed)
        needed.users += 1

    def release(self, needed: Definition | SharedBuffer) -> None:
        """Count the end of something that needed it."""
        if isinstance(needed, SharedBuffer):
            self._buffers.release(needed)
            return
        needed.users -= 1
        if needed.users == 0:
            self._idle[needed.owners > 0].add(needed)

    def own(self, definition: Definition, count: int) -> None:
        """Count a living thing that it is the definition of (1), or the end of one (-1)."""
        if definition.users == 0:
            self._idle[definition.owners > 0].remove(definition)
        definition.owners += count
        if definition.users == 0:
            self._idle[definition.owners > 0].add(definition)

    def evict(self) -> list[Definition]:
        """Drop what no call needs, beyond the limits, and return it."""
        gone: list[Definition] = []
        for idle, limit in zip(self._idle, (KEPT, KEPT_OF_LIVING), strict=True):
            if not idle.exceeds(limit):
                continue
            while idle.exceeds(limit.half):  # not for each definition beyond the limit
                definition = idle.oldest()
                idle.remove(definition)
                del self.known[definition.number], self._by_digest[definition.digest]
                for need in definition.needs:
                    self.release(need)
                gone.append(definition)
        return gone


class _Idle:
    """Definitions that no call needs now; the last was used most recently.

    `whole`: also what they need counts, because they alone may be what keeps it.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._members: dict[DefinitionNumber, Definition] = {}
        self._size = 0

    def add(self, definition: Definition) -> None:
        self._members[definition.number] = definition
        self._size += definition.whole if self._whole else definition.size

    def remove(self, definition: Definition) -> None:
        del self._members[definition.number]
        self._size -= definition.whole if self._whole else definition.size

    def oldest(self) -> Definition:
        return next(iter(self._members.values()))

    def exceeds(self, limit: Limit) -> bool:
        return self._size > limit.size or len(self._members) > limit.count
