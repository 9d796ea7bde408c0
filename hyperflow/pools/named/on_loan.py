"""Nodes on loan from a named pool, in the engine of one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyperflow.config import Settings
from hyperflow.head.allocation_end import End, Notice
from hyperflow.head.capacity import Supply
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.pools.in_engine import transports
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Want


class OnLoan:
    """What `borrowing` uses nodes with: the engine of a program."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def add(self, node: PoolNode, cpus: Sequence[int], gpus: Sequence[str]) -> str:
        """Start a launcher on a node of which these CPUs and GPUs are lent; return what the engine calls it."""
        plan = NodePlan(
            transports(node, self._settings),
            node.cpus,
            granted=node.slurm_job is not None,
            said=Supply(tuple(gpus)),
            grant=node.supply,
            slurm_job=node.slurm_job,
            share=tuple(cpus),
        )
        return await self._engine.add_node(plan, node.ends)

    def lend(self, node: str, cpus: Sequence[int], gpus: Sequence[str]) -> None:
        self._engine.lend(node, cpus, gpus)

    def reclaim(self, node: str, count: int) -> None:
        self._engine.reclaim(node, count)

    def drain(self, node: str, cause: str) -> None:
        self._engine.drain_node(node, cause)

    async def release(self, node: str, cause: str) -> None:
        await self._engine.release_node(node, cause)

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self._engine.may_come(kinds)

    def stop(self, why: str, seconds: float) -> None:
        """Start nothing more; what runs may go on for so long."""
        self._engine.drain.begin(End(None, 0.0), Notice(why, seconds))

    def demand(self) -> Sequence[Want]:
        return self._engine.demand()

    def idle_cpus(self, node: str) -> int:
        self._engine.scheduler.settle()
        account = self._engine.scheduler.pool.nodes.get(node)
        return 0 if account is None else len(account.free)

    def watch(
        self, on_returned: Callable[[str, Sequence[int], Sequence[str]], object], on_gone: Callable[[str, str], object]
    ) -> None:
        """Tell what has been given back: CPUs and GPUs of a node; and which node is lost, and why."""

        def returned(node: str, cpus: tuple[int, ...], gpus: tuple[str, ...], memory: int) -> None:
            del memory  # which goes with CPUs
            on_returned(node, cpus, gpus)

        self._engine.on_returned = returned
        self._engine.on_node_gone = on_gone
