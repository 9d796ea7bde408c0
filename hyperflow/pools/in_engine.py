"""The nodes of a pool in the engine of one program."""

from __future__ import annotations

from collections.abc import Sequence

from hyperflow.config import Settings
from hyperflow.head.capacity import NOTHING
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.pools.users import PoolNode
from hyperflow.request import PLAIN, NodeKind, Want
from hyperflow.transports.process import Transport


class InEngine:
    """A NodeUser: the engine of a program evaluates on what it is given."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def use(self, node: PoolNode) -> None:
        granted = node.slurm_job is not None
        plan = NodePlan(
            self._transport(node),
            node.cpus,
            granted=granted,
            said=NOTHING if granted else node.supply,
            grant=node.supply if granted else NOTHING,
            once=not granted,
        )
        await self._engine.add_node(plan, node.ends)

    def _transport(self, node: PoolNode) -> Transport:
        if node.slurm_job is not None:
            from hyperflow.transports.srun import Srun  # noqa: PLC0415 (hosts need none)

            return Srun(node.name, self._settings.prologue, job=node.slurm_job, host=node.host)
        from hyperflow.transports.ssh import Ssh  # noqa: PLC0415 (asyncssh costs 0.1 s)

        return Ssh(node.name, self._settings)

    def drain(self, node: str, cause: str) -> None:
        self._engine.drain_node(node, cause)

    async def release(self, node: str, cause: str) -> None:
        await self._engine.release_node(node, cause)

    async def gone(self, node: str) -> str:
        return await self._engine.fleet.gone(node)

    def is_busy(self, node: str) -> bool:
        return self._engine.is_busy(node)

    def is_up(self, node: str) -> bool:
        return node in self._engine.fleet.links

    def demand(self) -> Sequence[Want]:
        wants = self._engine.demand()
        waiting = self._engine.scheduler.waiting
        return wants or ([Want(PLAIN, waiting, 1.0)] if waiting else [])

    def free_cpus(self) -> int:
        return self._engine.free_cpus()

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self._engine.may_come(kinds)
