"""The nodes of a pool in the engine of one program."""

from __future__ import annotations

from collections.abc import Sequence

from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.head.link import Link
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Want
from hyperflow.transports.process import Transport


def transports(node: PoolNode, settings: Settings) -> tuple[Transport, ...]:
    """Return how a node of a pool is reached: the ways, in the order in which they are tried.

    A node of an allocation is reached by a step; by ssh only where that does not work, and if the launcher then finds
    itself within that job (NodePlan.slurm_job), so that Slurm's limits hold and it ends with its holder.
    """
    if node.transport is not None:
        return (node.transport,)
    ways: tuple[Transport, ...] = ()
    if node.slurm_job is not None and settings.transport != "ssh":
        from hyperflow.transports.srun import Srun  # noqa: PLC0415 (hosts need none)

        ways = (Srun(node.name, settings.prologue, job=node.slurm_job, host=node.host),)
    if node.slurm_job is None or settings.transport != "srun":
        from hyperflow.transports.ssh import Ssh  # noqa: PLC0415 (asyncssh costs 0.1 s)

        ways = (*ways, Ssh(node.host or node.name, settings))
    return ways


class InEngine:
    """A NodeUser: the engine of a program evaluates on what it is given."""

    def __init__(self, engine: Engine, settings: Settings, said: Supply = NOTHING) -> None:
        """Make it; `said`: what the program says that each node has."""
        self._engine = engine
        self._settings = settings
        self._said = said
        # By our names; the engine may have others. A node of ours may have gone, and its name there be that of another.
        self._links: dict[str, Link] = {}

    async def use(self, node: PoolNode) -> None:
        granted = node.slurm_job is not None
        plan = NodePlan(
            transports(node, self._settings),
            node.cpus,
            granted=granted,
            said=self._said if granted or self._said != NOTHING else node.supply,
            grant=node.supply if granted else NOTHING,
            slurm_job=node.slurm_job,
            once=not granted and node.transport is None,
            shared=node.transport is not None,  # several may have joined from one machine, each with some of its CPUs
            logs=node.logs,
        )
        self._links.pop(node.name, None)
        name = await self._engine.add_node(plan, node.ends)
        link = self._engine.fleet.links.get(name)
        if link is None:
            raise LauncherError(f"{name} was lost as soon as it was there")
        self._links[node.name] = link

    def drain(self, node: str, cause: str) -> None:
        if self.is_up(node):
            self._engine.drain_node(self._name(node), cause)

    async def release(self, node: str, cause: str) -> None:
        if self.is_up(node):
            await self._engine.release_node(self._name(node), cause)

    async def gone(self, node: str) -> str:
        return await self._engine.fleet.gone(self._name(node)) if self.is_up(node) else "it is not in use"

    def is_busy(self, node: str) -> bool:
        return self.is_up(node) and self._engine.is_busy(self._name(node))

    def is_up(self, node: str) -> bool:
        link = self._links.get(node)
        return link is not None and self._engine.fleet.links.get(link.node) is link

    def takes_work(self, node: str) -> bool:
        return self.is_up(node) and self._name(node) not in self._engine.aside.trust.aside

    def forgive(self, node: str) -> None:
        self._engine.forgive(self._name(node))

    def found(self, node: str) -> NodeKind | None:
        account = self._engine.scheduler.pool.nodes.get(self._name(node))
        return None if account is None else NodeKind(node, len(account.ids), account.capacity)

    def demand(self) -> Sequence[Want]:
        return self._engine.demand()

    def free_cpus(self) -> int:
        return self._engine.free_cpus()

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self._engine.may_come(kinds)

    def _name(self, node: str) -> str:
        link = self._links.get(node)
        return node if link is None else link.node
