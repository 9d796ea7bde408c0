"""Which nodes are put aside: because somebody drains them, or because evaluations failed there and not on other nodes.

Guarantees, for what is decided here; who drains a node knows why:
- The failures of a function that fails everywhere accuse no node: only one that then succeeds on another node does.
- A node on which more succeeds than accuses it stays: a function that fails now and then accuses all nodes alike.
- The last node of its size is never put aside, and one that is needed, because others were lost, comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hyperflow.scheduling.ledger import Ledger

ACCUSATIONS = 2
"""So many evaluations must have failed on a node and succeeded elsewhere. One alone may be chance."""

BY_HAND = "by hand"


class Trust:
    """The account of all nodes."""

    def __init__(self, pool: Ledger) -> None:
        self.aside: dict[str, str] = {}
        """The nodes that are put aside, and why."""
        self.drained = set[str]()
        """Those of them that somebody drains: a person, or who has to give the node back. They stay aside."""
        self.accused: Counter[str] = Counter()
        """Evaluations that failed on a node and then succeeded elsewhere."""
        self._succeeded: Counter[str] = Counter()  # on nodes that are accused, since then
        self._pool = pool

    def succeeded(self, node: str, count: int = 1) -> None:
        """So many evaluations succeeded on a node. (Nobody need tell of a node that is not accused.)"""
        if node in self.accused:
            self._succeeded[node] += count

    def recovered(self, node: str, failed_on: Iterable[str]) -> list[str]:
        """An evaluation succeeded that had failed on these nodes: return those to put aside, noted as such."""
        bad: list[str] = []
        for other in failed_on:
            if other == node or other in self.aside or other not in self._pool.nodes:
                continue
            self.accused[other] += 1
            enough = self.accused[other] >= ACCUSATIONS and self.accused[other] > self._succeeded[other]
            if enough and self._can_spare(other):
                count = self.accused[other]
                self.aside[other] = f"{count} evaluations failed there and then succeeded on other nodes"
                bad.append(other)
        return bad

    def _can_spare(self, node: str) -> bool:
        return any(other != node for other in self._in_use(len(self._pool.nodes[node].ids)))

    def _in_use(self, cpus: int) -> list[str]:
        return [name for name in self._pool.in_use(cpus) if name not in self.aside]

    def drain(self, node: str, cause: str = BY_HAND) -> list[str]:
        """A node is drained: return those that are needed instead, noted as such."""
        self.aside[node] = cause
        self.drained.add(node)
        return self._needed()

    def resumed(self, node: str) -> None:
        """A node is to be used again: forget what is against it."""
        self.aside.pop(node, None)
        self.drained.discard(node)
        del self.accused[node], self._succeeded[node]

    def lost(self, node: str) -> list[str]:
        """A node has gone from the pool: return those that are needed instead, noted as such."""
        self.resumed(node)
        return self._needed()

    def _needed(self) -> list[str]:
        """Take back nodes that nobody drains, until none of them is larger than all that are in use."""
        back: list[str] = []
        by_size = sorted(self.aside, key=lambda name: len(self._pool.nodes[name].ids), reverse=True)
        for name in by_size:
            if name not in self.drained and not self._in_use(len(self._pool.nodes[name].ids)):
                self.resumed(name)
                back.append(name)
        return back
