"""The dry run: the program runs up to its first jobs, and their batch scripts are shown in place of being submitted.

The program's own code up to there does run. Its jobs never return, so later jobs are not seen. Nothing is left behind:
the run directory in the scripts is not made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hyperflow import environment
from hyperflow._cluster import ClusterEnv, ClusterEvaluator
from hyperflow.config import read_settings
from hyperflow.database.store import copy_database, open_database
from hyperflow.environment import ResultsDatabase
from hyperflow.flow import Flow
from hyperflow.master import calls
from hyperflow.master.batch import LocalBatch, Order, script_text
from hyperflow.master.master import Master
from hyperflow.master.rundir import JobDirectory, RunDirectory
from hyperflow.options import JobOptions, Options
from hyperflow.program import ProgramInfo
from hyperflow.slurm.script import SbatchOptions

QUIET = 0.5
"""After so many seconds without another job, the jobs so far are taken to be the first ones."""

ID = "YYYYMMDD-HHMMSS-000000"
"""Stands for the run's id, which does not exist yet."""


class Rehearsing(Master):
    """A master that records what it would submit."""

    def __init__(self, run: RunDirectory, database: ResultsDatabase, defaults: SbatchOptions, base_dir: Path) -> None:
        super().__init__(run, LocalBatch(), database, defaults=defaults)
        self.scripts: list[str] = []
        self.asked = asyncio.Event()
        self._home = base_dir.absolute() / ID

    async def call(
        self,
        job: Flow[Any],
        sent: Flow[Any],
        options: SbatchOptions | None,
        on_error: object,
        within: Sequence[str] = (),
    ) -> Any:
        """Record a job, and never return."""
        del on_error, within  # nothing fails or waits here
        calls.pack_job(sent)  # what cannot be pickled is an error here, too
        directory = JobDirectory(self._home / "jobs" / str(len(self.scripts) + 1))
        name = calls.function_name(calls.identity(job))
        order = Order(directory, ID, 1, f"{ID}-{directory.number}-1", name, options or self.defaults)
        self.scripts.append(script_text(order, read_settings().exclude_nodes))
        self.asked.set()
        await asyncio.Event().wait()


async def rehearse(flow: Flow[Any], base_dir: Path, sbatch: SbatchOptions, earlier: str | None) -> list[str]:
    """Return the batch scripts of the first jobs that a program asks for, when it starts from an earlier database.

    Raises what the program raises before its first job.
    """
    async with _stage(base_dir, sbatch, earlier) as master:
        work = flow.start()
        try:
            await _first_calls(master, work)
            if work.done():
                work.result()
            return master.scripts
        finally:
            work.cancel()
            await asyncio.wait([work])


async def _first_calls(master: Rehearsing, work: asyncio.Future[Any]) -> None:
    limit = None  # no limit before the first job
    while not work.done():
        master.asked.clear()
        news = asyncio.create_task(master.asked.wait())
        await asyncio.wait([work, news], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not news.done():
            news.cancel()
            return
        limit = QUIET


@asynccontextmanager
async def _stage(base_dir: Path, sbatch: SbatchOptions, earlier: str | None) -> AsyncIterator[Rehearsing]:
    program = ProgramInfo.temporary_one()
    async with AsyncExitStack() as stack:
        stack.callback(program.remove)
        if earlier is not None:
            copy_database(Path(earlier), Path(program.database))
        run = RunDirectory.open(program, local=True)
        stack.callback(run.close)
        database = await stack.enter_async_context(open_database(program.database, program.program_id))
        master = Rehearsing(run, database, sbatch, base_dir)
        evaluator = ClusterEvaluator(master, sbatch)
        env = ClusterEnv(Options(), evaluator, database, program, master, job_options=JobOptions(sbatch))
        stack.enter_context(environment.entered(env))
        yield master
