"""Jobs on nodes that come and go: an elastic pool of allocations and hosts, or a named pool that lends its nodes.

The Job is the same as ever, and its head runs where the program is: on a login node, a workstation, in an allocation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hyperflow import _job
from hyperflow._job import JobEnv
from hyperflow.config import Settings, read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.files import hold_standard_streams
from hyperflow.flow import Flow
from hyperflow.offers import Offers
from hyperflow.pools.nodepool import NodePool
from hyperflow.program import ProgramInfo

if TYPE_CHECKING:
    from hyperflow.head.engine import Engine
    from hyperflow.pools.users import PoolNode
    from hyperflow.request import NodeKind, Want

T = TypeVar("T")


class _InEngine:
    """The engine of this program uses the nodes."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def use(self, node: PoolNode) -> None:
        from hyperflow.head.fleet import NodePlan  # noqa: PLC0415 (costs time that other programs need not spend)
        from hyperflow.transports.ssh import Ssh  # noqa: PLC0415 (see above)

        plan = NodePlan(Ssh(node.name, self._settings), node.cpus, once=True)
        await self._engine.add_node(plan, node.ends)

    def drain(self, node: str, cause: str) -> None:
        self._engine.drain_node(node, cause)

    async def release(self, node: str, cause: str) -> None:
        await self._engine.release_node(node, cause)

    async def gone(self, node: str) -> str:
        return await self._engine.fleet.gone(node)

    def is_busy(self, node: str) -> bool:
        return self._engine.is_busy(node)

    def demand(self) -> Sequence[Want]:
        return self._engine.demand()

    def free_cpus(self) -> int:
        return self._engine.scheduler.pool.cpus_free

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self._engine.may_come(kinds)


@asynccontextmanager
async def open_pool_job(
    pool: NodePool | str,
    *,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    **settings: Any,
) -> AsyncIterator[JobEnv]:
    """Evaluate on the nodes of a pool, which come and go: `async with open_pool_job(pool) as env: await scan()`."""
    from hyperflow.pools.hosts import Hosts  # noqa: PLC0415 (see above)
    from hyperflow.pools.steered import HostsOnly  # noqa: PLC0415 (see above)

    if isinstance(pool, str):
        raise ConfigurationError(f"there is no pool with the name {pool!r}")
    hold_standard_streams()
    offers = Offers(None, gpus, memory, resources)
    chosen = read_settings(**settings)
    place = program or ProgramInfo.new("hyperflow-runs")
    async with _job.open_job(
        [],
        place,
        settings=chosen,
        preload=preload,
        listed=program is None,
        echo=echo,
        progress=progress,
        tokens=offers.resources,
    ) as env:
        engine = cast("Engine", env.evaluator)
        user = _InEngine(engine, chosen)
        hosts = Hosts(pool.hosts, user, lambda: user.may_come(hosts.kinds()))
        user.may_come(hosts.kinds())
        engine.pool = HostsOnly(hosts)
        async with hosts:
            yield env


def run_job_pool(
    job: Flow[T],
    pool: NodePool | str,
    **options: Any,
) -> T:
    """Run a job on the nodes of a pool, and return its result; blocks."""
    _job.check_runnable(job, "run_job_pool")
    with _job.told():
        return _job.run_job_in(job, lambda: open_pool_job(pool, **options))
