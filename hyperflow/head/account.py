"""The CPU time of a run: what it holds, and what its evaluations have had of it."""

from __future__ import annotations

import time


class Account:
    """Counts seconds of CPUs."""

    def __init__(self) -> None:
        self.used = 0.0
        """Of evaluations that have ended."""
        self.most_cpus = self.most_nodes = 0
        self._held = 0.0
        self._cpus = 0
        self._since = time.monotonic()

    def holds(self, cpus: int, nodes: int) -> None:
        """From now on there are so many CPUs, on so many nodes."""
        self._held, self._since = self.held, time.monotonic()
        self._cpus = cpus
        self.most_cpus, self.most_nodes = max(self.most_cpus, cpus), max(self.most_nodes, nodes)

    @property
    def held(self) -> float:
        """Seconds of CPUs until now."""
        return self._held + self._cpus * (time.monotonic() - self._since)
