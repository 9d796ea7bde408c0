"""Masters for tests, with a FakeSlurm behind them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hyperflow as hf
from hyperflow import environment
from hyperflow._cluster import ClusterEnv, ClusterEvaluator
from hyperflow.master import rundir
from hyperflow.master.master import Master
from hyperflow.master.rundir import RunDirectory
from hyperflow.master.shared import Timeouts
from hyperflow.options import JobOptions, Options
from hyperflow.testing.inline import MemoryDatabase
from tests.master.fake_slurm import FakeBatch, FakeSlurm, Fate

QUICK = Timeouts(look=0.01, grace=0.05, hopeless=0.05, rows=0.01, second_thoughts=0.02)


@asynccontextmanager
async def open_fake(
    base: Path, slurm: FakeSlurm, *, fate: Fate | None = None, resume: bool = False, **options: Any
) -> AsyncIterator[ClusterEnv]:
    """Run a master with a FakeSlurm; `resume`: on the one run in the directory."""
    on_error = options.pop("on_error", "hold")
    program = rundir.find(next(base.glob("*-*")), base) if resume else hf.ProgramInfo.new(base)
    run = RunDirectory.open(program, False)
    database = MemoryDatabase()  # rows are for the tests on real processes
    try:
        async with Master(run, FakeBatch(slurm, fate), database, **{"timeouts": QUICK, **options}) as master:
            job_options = JobOptions(on_error=on_error)
            env = ClusterEnv(Options(), ClusterEvaluator(master), database, program, master, job_options=job_options)
            with environment.entered(env):
                yield env
    finally:
        run.close()
