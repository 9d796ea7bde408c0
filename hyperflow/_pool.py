"""Jobs on nodes that come and go: an elastic pool of allocations and hosts, or a named pool that lends its nodes.

The Job is the same as ever, and its head runs where the program is: on a login node, a workstation, in an allocation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from hyperflow import _job
from hyperflow._job import JobEnv
from hyperflow.config import read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.files import hold_standard_streams
from hyperflow.flow import Flow
from hyperflow.head.engine import Engine
from hyperflow.offers import Offers
from hyperflow.pools.in_engine import InEngine
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.pool import Pool
from hyperflow.program import ProgramInfo

T = TypeVar("T")


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
    hold_standard_streams()
    offers = Offers(None, gpus, memory, resources)
    chosen = read_settings(**settings)
    place = program or ProgramInfo.new("hyperflow-runs")
    if isinstance(pool, str):
        raise ConfigurationError(f"there is no pool named {pool!r}")
    async with (
        Pool(pool, place.log_dir.parent / "pool", place.program_id, chosen) as held,
        _job.open_job(
            [],
            place,
            settings=chosen,
            preload=preload,
            listed=program is None,
            echo=echo,
            progress=progress,
            tokens=offers.resources,
        ) as env,
        held.serving(InEngine(cast(Engine, env.evaluator), chosen)),
    ):
        cast(Engine, env.evaluator).pool = held
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
