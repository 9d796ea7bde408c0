"""Attachments: the large buffers of calls' arguments, each sent to a node once, however many calls have it.

Guarantees:
- A call gets the contents as they were when it was submitted: they are copied into a block then.
- An array that comes again is sent again only if it has changed. That is found by comparing all of it with the block,
  which costs a tenth of copying it; an array that is marked read-only, and owns its data, is taken at its word.
- An array that is no more leaves nothing behind; of those that are, some blocks are kept for the next call.

Rejected: to recognise an array by its identity alone, within one turn of the event loop, say. Who fills one array anew
for each call would compute with the wrong numbers, and never know. Or by a hash: as dear as comparing, and less sure.
"""

from __future__ import annotations

import pickle
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hyperflow.shipping.definition import Attachment, Definition
from hyperflow.wire import frames, shared_memory
from hyperflow.wire.shared_memory import Block

KEPT_BYTES = 1 << 29
"""Bytes of blocks that are kept although no call uses them now."""

MOST_BLOCKS = 256
"""Blocks at a time: each holds a descriptor here and on each node. Beyond, buffers travel with their calls."""


class Attachments:
    """Which buffers have become blocks."""

    def __init__(self, next_number: Callable[[], int], most_blocks: int) -> None:
        self.known: dict[int, Attachment] = {}
        self._most_blocks = most_blocks
        self._next_number = next_number
        self._by_source: dict[int, tuple[weakref.ref[Any], Attachment]] = {}  # by the id of what owns the buffer
        self._idle: dict[int, Attachment] = {}  # those that no call uses; the one used last at the end
        self._idle_bytes = 0
        self._orphans: deque[int] = deque()  # whose array is no more; filled by the garbage collector, in any thread

    def attach(
        self, buffers: Sequence[pickle.PickleBuffer], needs: list[Definition | Attachment]
    ) -> list[frames.Buffer]:
        """Return what stands for the buffers in a call, and add the blocks among them to what it needs."""
        attached: list[frames.Buffer] = []
        for buffer in buffers:
            data = buffer.raw()
            attachment = self._find(data) if data.nbytes >= shared_memory.LARGE else None
            if attachment is None:
                attached.append(memoryview(bytes(data)))  # as it is now: its owner may use it again
            else:
                needs.append(attachment)
                attached.append(attachment.number)
        return attached

    def _find(self, data: memoryview) -> Attachment | None:
        """Return the block with this content; None if there can be none."""
        source = data.obj
        known = self._by_source.get(id(source))
        if known is not None and known[0]() is source:
            block = known[1].block
            if block.size == data.nbytes and (is_constant(source) or block.equals(data)):
                return known[1]
        if len(self.known) >= self._most_blocks:
            return None
        try:
            block = Block.of(data)
        except OSError:  # too many open files, no memfd here, no memory
            return None
        attachment = Attachment(self._next_number(), block)
        self.known[attachment.number] = attachment
        try:
            ref = weakref.ref(source, self._forgetter(id(source), attachment.number))
            self._by_source[id(source)] = (ref, attachment)
        except TypeError:  # it takes no weak references, and may be no more at any time
            self._orphans.append(attachment.number)
        return attachment

    def _forgetter(self, key: int, number: int) -> Callable[[object], None]:
        def forget(ref: object) -> None:
            self._orphans.append(number)
            known = self._by_source.get(key)
            if known is not None and known[0] is ref:  # else another array has got its id
                del self._by_source[key]

        return forget

    def used(self, attachment: Attachment) -> None:
        """A call uses it (again)."""
        attachment.users += 1
        if self._idle.pop(attachment.number, None) is not None:
            self._idle_bytes -= attachment.block.size

    def released(self, attachment: Attachment) -> None:
        """A call that used it has ended."""
        attachment.users -= 1
        if attachment.users == 0:
            self._idle[attachment.number] = attachment
            self._idle_bytes += attachment.block.size

    def unwanted(self) -> list[int]:
        """Let go of blocks that no call uses: of arrays that are no more, and the oldest where there are too many."""
        gone: list[Attachment] = []
        for _ in range(len(self._orphans)):
            number = self._orphans.popleft()
            if number in self._idle:
                gone.append(self._idle.pop(number))
            elif number in self.known:
                self._orphans.append(number)
        self._idle_bytes -= sum(attachment.block.size for attachment in gone)
        while self._idle_bytes > KEPT_BYTES or len(self._idle) > MOST_BLOCKS // 2:
            oldest = self._idle.pop(next(iter(self._idle)))
            self._idle_bytes -= oldest.block.size
            gone.append(oldest)
        for attachment in gone:
            attachment.block.close()
            del self.known[attachment.number]
        if gone:
            self._by_source = {key: at for key, at in self._by_source.items() if at[1].number in self.known}
        return [attachment.number for attachment in gone]

    def close(self) -> None:
        """Let go of all blocks."""
        for attachment in self.known.values():
            attachment.block.close()


def is_constant(source: Any) -> bool:
    """Whether an array says that it does not change: it is read-only, and so is all that it is a view of."""
    while getattr(getattr(source, "flags", None), "writeable", True) is False:
        source = source.base
        if source is None:
            return True
    return type(source) is bytes
