"""Definitions, and who has them: functions, classes and large buffers of arguments, each sent to a node once.

The packer makes them and counts who uses them; a launcher keeps what it was sent, and passes it on to its workers by
number. Here is the account of which node and which worker has what. So a task names its function in four bytes, and
all that it needs goes before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperflow.head.link import Link
from hyperflow.scheduling.state import Worker
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber


class Definitions:
    """Which node and which worker has which definition.

    Args:
        packer: Makes them.
        links: The nodes, by name.
    """

    def __init__(self, packer: Packer, links: Mapping[str, Link]) -> None:
        self.workers: dict[WorkerNumber, set[DefinitionNumber]] = {}
        """What each worker has."""
        self._nodes: dict[str, set[DefinitionNumber]] = {}
        self._packer = packer
        self._links = links

    def give(self, worker: Worker, number: DefinitionNumber, parts: list[frames.Bytes]) -> None:
        """Add to the parts of a write what gives a worker a definition that it does not have."""
        here = self._nodes.setdefault(worker.node, set())
        if number not in here:
            here.add(number)
            buffer = self._packer.buffers.known.get(number)
            if buffer is not None:
                self._links[worker.node].write_block(number, buffer.block)
            else:
                definition = self._packer.definitions[number]
                body = frames.DEFINITION.pack(number, definition.is_class) + definition.data
                parts.append(frames.frame(Kind.DEFINE, body=body))
        self.workers[worker.number].add(number)
        parts.append(frames.frame(Kind.GIVE, worker.number, frames.NUMBER.pack(number)))

    def forget(self) -> list[DefinitionNumber]:
        """Forget everywhere what is not used any more; return the numbers."""
        gone = self._packer.evict()
        if gone:
            body = b"".join(map(frames.NUMBER.pack, gone))
            for link in self._links.values():
                link.write([frames.frame(Kind.FORGET, body=body)])
            for known in (*self._nodes.values(), *self.workers.values()):
                known.difference_update(gone)
        return gone

    def lose_node(self, node: str) -> None:
        """A node has gone, with its workers."""
        self._nodes.pop(node, None)
