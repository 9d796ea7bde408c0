"""Jobs on nodes that come and go: an elastic pool of allocations and hosts, or a named pool that lends its nodes.

The Job is the same as ever, and its head runs where the program is: on a login node, a workstation, in an allocation.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from hyperflow import _job
from hyperflow._job import JobEnv
from hyperflow.config import Settings, read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.files import hold_standard_streams
from hyperflow.flow import Flow
from hyperflow.head.capacity import Supply
from hyperflow.head.engine import Engine
from hyperflow.offers import Offers
from hyperflow.pools.in_engine import InEngine
from hyperflow.pools.named import named
from hyperflow.pools.named.borrowing import borrowing
from hyperflow.pools.named.on_loan import OnLoan
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.pool import Pool
from hyperflow.program import CONTINUED, ProgramInfo
from hyperflow.records import record
from hyperflow.slurm.script import SbatchOptions

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
    """Evaluate on the nodes of a pool, which come and go: `async with open_pool_job(pool) as env: await scan()`.

    While no node is up, what is submitted waits. What fits no node of the pool is refused when it is submitted.

    Args:
        pool: A NodePool: allocations are asked for as work waits, and given back when nothing needs them. Or the name
            of a pool that `hyperflow pool start` has started.
        gpus: The ids of the GPUs of each node, as CUDA_VISIBLE_DEVICES has them; None for those that Slurm grants, or
            that are found.
        memory: How much memory evaluations may have together on each node: "8G", or bytes; None for what Slurm grants.
        resources: Tokens of the program, as {"licence": 4}: `using(resources={"licence": 1})` takes one of them.
        program: Where logs and results go; by default a new directory in `hyperflow-runs`. It has to be on a file
            system that all nodes of Slurm see. With `ProgramInfo.existing(...)`, allocations that an earlier start has
            left at Slurm are taken over.
        preload: As for open_local_job; so are `echo` and `progress`.
        echo: See above.
        progress: See above.
        settings: Fields of `hyperflow.config.Settings`, such as exclude_nodes="node7"; they override HYPERFLOW_*
            variables and the configuration file. `min_nodes` means nothing here.

    Raises:
        ConfigurationError: Slurm cannot be used here, or would take no allocation of one of the kinds; the pool of this
            run is in use by another process; or as for open_local_job.

    Leaving the scope, also by an error or when cancelled, ends all processes, and gives all allocations back. Should
    this process be killed, the allocations end by themselves after `idle_timeout` and a minute, unless
    `hyperflow resume` takes them over before.
    """
    hold_standard_streams()
    offers = Offers(None, gpus, memory, resources)
    chosen = read_settings(**settings)
    if isinstance(pool, str):
        async with _borrowing(pool, offers, program, chosen, preload=preload, echo=echo, progress=progress) as env:
            yield env
        return
    if not isinstance(cast(object, pool), NodePool):
        raise ConfigurationError(_no_pool(pool))
    place = continued() or program or ProgramInfo.new("hyperflow-runs")
    said = Supply(offers.gpus, offers.memory)
    async with (
        Pool(pool, place.log_dir.parent / "pool", place.program_id, chosen, said=said) as mine,
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
        mine.serving(InEngine(cast(Engine, env.evaluator), chosen, said)),
    ):
        cast(Engine, env.evaluator).pool = mine
        yield env


@asynccontextmanager
async def _borrowing(
    name: str, offers: Offers, program: ProgramInfo | None, settings: Settings, **shown: Any
) -> AsyncIterator[JobEnv]:
    """Evaluate on what a named pool lends; raises ConfigurationError."""
    if offers.gpus is not None or offers.memory is not None:
        raise ConfigurationError(
            "gpus= and memory= say what nodes have; a named pool knows that, and lends parts of it"
        )
    pool = await asyncio.to_thread(named.find, name)
    pool.address()  # before anything is made for a program that has no pool
    place = continued() or program or ProgramInfo.new("hyperflow-runs")
    tokens, listed = offers.resources, program is None
    async with (
        borrowing(pool, place.program_id) as lease,
        _job.open_job([], place, settings=settings, listed=listed, tokens=tokens, **shown) as env,
        lease.serving(OnLoan(cast(Engine, env.evaluator), settings)),
    ):
        yield env


def _no_pool(given: object) -> str:
    """Say what is needed in place of this."""
    if isinstance(given, SbatchOptions):
        return "SbatchOptions(...) is no pool, but what one asks of Slurm: write hyperflow.NodePool(sbatch=...)"
    return f"{given!r} is no pool: hyperflow.NodePool(...) is needed, or the name of a pool"


def continued() -> ProgramInfo | None:
    """Return the run that `hyperflow resume` has started this program for; the first to ask has it."""
    if not (variable := os.environ.pop(CONTINUED, "")):
        return None
    home = Path(variable)
    found = record.read(home / "log" / record.NAME)
    return ProgramInfo.existing(home, home.name, home / "results.sqlite" if found is None else found.database)


def run_job_pool(  # noqa: PLR0913 (those of open_pool_job, and the job)
    job: Flow[T],
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
) -> T:
    """Run a job on the nodes of a pool, and return its result; blocks.

    Takes the arguments of `open_pool_job`; raises its errors and what the job raises. Ctrl-C cancels the job, ends its
    processes, gives all allocations back and raises KeyboardInterrupt. `hyperflow resume` starts a program again that
    was killed: results that were recorded are not computed again, and its allocations are taken over.
    """
    _job.check_runnable(job, "run_job_pool", "pool")
    with _job.told():
        return _job.run_job_in(
            job,
            lambda: open_pool_job(
                pool,
                gpus=gpus,
                memory=memory,
                resources=resources,
                program=program,
                preload=preload,
                echo=echo,
                progress=progress,
                **settings,
            ),
        )
