"""What people see of a pool of hosts only, and steer of it."""

from __future__ import annotations

from typing import Any

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.pools.hosts import Hosts

NO_ALLOCATIONS = "this pool has hosts only, and asks Slurm for nothing (NodePool(sbatch=...) would)"


@attrs.frozen
class HostsOnly:
    """A pool without allocations."""

    hosts: Hosts

    def info(self) -> dict[str, Any]:
        """Return what people see of it."""
        return {
            "state": "running",
            "why": NO_ALLOCATIONS,
            "limits": {},
            "wanted": 0,
            "reason": "",
            "allocations": [],
            "hosts": self.hosts.table(),
        }

    def set(self, **changes: Any) -> None:
        """There is nothing to change."""
        raise ConfigurationError(f"{next(iter(changes), 'nothing')} cannot be changed: {NO_ALLOCATIONS}")

    def pause(self) -> None:
        """There is nothing to pause."""
        raise ConfigurationError(NO_ALLOCATIONS)

    def resume(self, **_: Any) -> None:
        """There is nothing to go on with."""
        raise ConfigurationError(NO_ALLOCATIONS)

    def asked(self) -> int:
        """Return how many hosts are being started."""
        return self.hosts.starting

    def keep_away(self, node: str) -> None:
        """Do not use a host again by itself."""
        if node in self.hosts:
            self.hosts.give_back(node)

    def take_back(self, node: str) -> bool:
        """Try a host now."""
        return self.hosts.take_back(node)
