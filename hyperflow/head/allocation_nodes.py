"""The nodes of an allocation that may shrink while the job runs (`scontrol update JobId=7 NumNodes=2`).

Slurm tells the job nothing of that, and a launcher that ssh started goes on: on a node that may be somebody else's by
then. So Slurm is asked now and then. An answer without any node of ours is no reason to stop: nothing is concluded from
what makes no sense.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from hyperflow.errors import SlurmError
from hyperflow.slurm import nodelist, queue
from hyperflow.slurm.commands import Commands, SlurmAway

PAUSE = 20.0
"""Seconds between two questions; more where Slurm takes long to answer."""

PATIENCE = 60.0
"""Seconds to wait for an answer."""


@asynccontextmanager
async def watched(job_id: int, keep: Callable[[Collection[str]], object]) -> AsyncIterator[None]:
    """Watch within a scope."""
    watching = asyncio.create_task(watch(job_id, keep), name="nodes of the allocation")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def watch(
    job_id: int, keep: Callable[[Collection[str]], object], environ: Mapping[str, str] | None = None
) -> None:
    """Call `keep` with the nodes that the job has, again and again, until this is cancelled."""
    commands = Commands(environ)
    while True:
        await asyncio.sleep(max(PAUSE, 10 * commands.took))
        try:
            answer = await commands.run("scontrol", "show", "job", str(job_id), "-o", timeout=PATIENCE)
        except SlurmAway:
            continue
        except SlurmError:  # there is no scontrol on this node
            return
        state = queue.read_record(answer.output, job_id)
        try:
            names = nodelist.expand(state.nodes) if state is not None and state.kind == "running" else ()
        except SlurmError:
            continue
        if names:
            keep(names)
