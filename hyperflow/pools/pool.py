"""A pool of nodes: its allocations, its hosts, and what people see and change of it.

Guarantees: the end of the scope gives all back, also after an error or a cancel. An error of one part is told, and the
others go on.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hyperflow.config import Settings
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.users import NodeUser
from hyperflow.slurm.client import PollIntervals


class Pool:
    """Brings nodes to a user of nodes, and takes them away: `async with Pool(...) as pool`.

    Entering the scope raises ConfigurationError where Slurm cannot be used, takes no allocation of a kind, or where
    another process has the directory.
    """

    def __init__(
        self,
        options: NodePool,
        user: NodeUser,
        directory: Path,
        name: str,
        settings: Settings,
        *,
        pace: PollIntervals | None = None,
    ) -> None:
        """Make it.

        Args:
            options: What it may have.
            user: Who uses its nodes.
            directory: Its own, private, on a file system that all nodes share. What an earlier process has left there
                is taken over.
            name: In the names of its Slurm jobs.
            settings: How nodes are reached.
            pace: How often Slurm is asked.
        """
        self.options = options
        self._user = user
        self._directory = directory
        self._name = name
        self._settings = settings
        self._pace = pace

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def info(self) -> dict[str, Any]:
        """Return what people see of it: {"state": "running|paused|held", "why", "limits", "wanted", "reason",
        "allocations": [{"number", "kind", "state", "slurm_job", "reason", "nodes", "cpus", "since", "ends", "cause"}],
        "hosts": [...], "calls": {...}}; times in seconds since 1970.
        """
        return {}

    def set(self, **changes: Any) -> None:
        """Change options of the NodePool, such as max_allocations=5; raises ConfigurationError."""

    def pause(self) -> None:
        """Ask for no more allocations. What is queued stays there, and what is up goes on."""

    def resume(self, **changes: Any) -> None:
        """Go on after `pause`, or after allocations were held; with changes of the SbatchOptions of all kinds that are
        held (of all kinds, if none is), such as partition="other"; raises ConfigurationError.
        """

    def wake(self) -> None:
        """Look at once at what waits."""
