"""Accounts that grow and shrink: a program has some CPUs of a node, may get more, and may be asked for some of them.

Guarantees:
- What is asked back is never given out again. What is free of it goes at once, the rest as evaluations end; no
  evaluation is ended for it but speculative ones, which give way to whoever wants what they have.
- Until enough has come back, the node is put aside: nothing starts there, and what was only queued there is taken back.
  So it ends as soon as it can, and nobody has to choose which evaluation may start beside what is owed.
- Memory moves in proportion to CPUs. Idle workers that are pinned to what leaves are told to end.
- A node of which nothing is left stays, gives nothing out, and may get something again.

Thin: a GPU can be asked back while nobody has any of it; one that somebody has stays, and may be asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from hyperflow.scheduling.crew import Crew
from hyperflow.scheduling.ledger import Ledger, Left
from hyperflow.scheduling.placement import PARTS
from hyperflow.scheduling.speculation import Guesses
from hyperflow.scheduling.state import Worker

OWES = "it owes CPUs to its pool"
"""Why a node is aside."""


class Returned(NamedTuple):
    """What has left an account."""

    node: str
    cpus: tuple[int, ...]
    gpus: tuple[str, ...]
    memory: int


def _nobody(returned: Returned) -> None:
    """Do nothing."""


class Lending:
    """What is asked back of the nodes."""

    def __init__(self, pool: Ledger, guesses: Guesses, crew: Crew) -> None:
        self.owed: dict[str, int] = {}
        """How many CPUs of a node are still to come back."""
        self.on_returned: Callable[[Returned], object] = _nobody
        """Gets what has left. It must not call back at once."""
        self._pool = pool
        self._guesses = guesses
        self._crew = crew

    def lend(self, name: str, cpus: Collection[int], gpus: Collection[str], memory: int) -> None:
        """A node gets this, too."""
        self._pool.grow(name, cpus, gpus, memory)

    def ask_back(self, name: str, count: int, gpus: Collection[str] = ()) -> bool:
        """So many CPUs of a node are to leave, or all; return whether it has to wait for some, and is put aside."""
        node = self._pool.nodes[name]
        owed = min(self.owed.get(name, 0) + count, len(node.ids))
        free = Left(node, lent=True).gpus
        self._take(name, owed, [gpu for gpu in gpus if free.get(gpu) == PARTS])
        if name in self.owed:
            self._pool.put_aside(name, OWES)
        return name in self.owed

    def collect(self) -> list[Worker]:
        """Take what has become free of what is owed; return speculative workers that have to end for the rest."""
        ends: list[Worker] = []
        for name, owed in list(self.owed.items()):
            self._take(name, owed)
            if name not in self.owed:
                self._pool.take_back(name, OWES)
            elif self._pool.nodes[name].lent:
                ends += self._guesses.make_room(name, self.owed[name])
        return ends

    def forget(self, name: str) -> None:
        """A node has gone."""
        self.owed.pop(name, None)

    def _take(self, name: str, owed: int, gpus: Collection[str] = ()) -> None:
        """Take what is free of so many CPUs, and these GPUs; note what is left to be taken."""
        node = self._pool.nodes[name]
        count = min(owed, max(Left(node, lent=True).room, 0), len(node.free - node.lent_ids))
        self.owed.pop(name, None)
        if owed > count:
            self.owed[name] = owed - count
        if not count and not gpus:
            return
        cpus = sorted(node.free - node.lent_ids)[len(node.free - node.lent_ids) - count :]
        memory = self._pool.shrink(name, cpus, gpus)
        self._crew.retire_pinned(name, cpus, gpus)
        self.on_returned(Returned(name, tuple(cpus), tuple(gpus), memory))
