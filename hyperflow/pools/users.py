"""Who uses the nodes of a pool: the engine of one program, or the manager of a named pool, which lends them to several.

A pool brings nodes and takes them away; whoever uses them says what work waits. Neither knows more of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs

from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.request import NodeKind, Want
from hyperflow.transports.process import Transport


@attrs.frozen
class PoolNode:
    """A node that a pool has.

    Args:
        name: Unique among those that are in use: two allocations may have CPUs of one machine.
        cpus: Those that were granted, or that the user says; None for all that a process may use there.
        slurm_job: The Slurm job that holds it; None for a host.
        supply: What else was granted there.
        ends: When the allocation ends, in seconds since 1970; None where there is no limit, or nobody knows.
        host: How it is reached, where that is not its name.
        transport: How it is reached, where it has come by itself; None for srun or ssh.
        logs: The directory there for the logs of its workers, where it does not share the run's; else "".
    """

    name: str
    cpus: int | None = None
    slurm_job: int | None = None
    supply: Supply = NOTHING
    ends: float | None = None
    host: str = ""
    transport: Transport | None = None
    logs: str = ""

    @property
    def key(self) -> str:
        """What a manager and programs call it: the same after the manager was killed, and no other allocation's.

        (The name is not: which of two allocations on a machine is "node1" is found out anew by the next manager.)
        """
        return self.name if self.slurm_job is None else f"{self.host or self.name}#{self.slurm_job}"


class NodeUser(Protocol):
    """Uses nodes."""

    async def use(self, node: PoolNode, /) -> None:
        """Use a node, once it can be reached; raises LauncherError, with the reason, if it cannot be."""

    def drain(self, node: str, cause: str, /) -> None:
        """Start nothing more there; what runs goes on."""

    async def release(self, node: str, cause: str, /) -> None:
        """End what runs there, which goes back uncharged, and return when nothing of ours is left there."""

    async def gone(self, node: str, /) -> str:
        """Wait until a node that is in use is not in use any more; return why."""
        ...

    def is_busy(self, node: str, /) -> bool:
        """Whether anything runs there, or is on its way there."""
        ...

    def is_up(self, node: str, /) -> bool:
        """Whether it is in use: taken in, and neither lost nor released since."""
        ...

    def takes_work(self, node: str, /) -> bool:
        """Whether anything may be started there: it is up, and nobody has put it aside."""
        ...

    def forgive(self, node: str, /) -> None:
        """A node was lost because its allocation was ended by somebody: that is no charge against what ran there."""

    def found(self, node: str, /) -> NodeKind | None:
        """What a node that is in use has been found to have; None where no more is known than was said."""

    def demand(self) -> Sequence[Want]:
        """Return what waits for CPUs, the most urgent first."""
        ...

    def free_cpus(self) -> int:
        """Return how many CPUs of nodes in use have nothing to do."""
        ...

    def may_come(self, kinds: Sequence[NodeKind], /) -> None:
        """These nodes may come: what only they can serve waits; what not even they can is refused."""
