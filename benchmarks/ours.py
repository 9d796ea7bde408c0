"""hyperflow as a contestant: on this machine, two workers, warm."""

from collections.abc import Callable, Sequence

import hyperflow as hf
from benchmarks.harness import Figures
from benchmarks.work import WORKERS, identity


def on_two_workers(job: Callable[[], hf.Job[Figures]], preload: Sequence[str] = ()) -> Figures:
    """Run a job when both workers are up and have done something."""

    @hf.job
    async def warm() -> Figures:
        await hf.replicate_concurrently(200, hf.remote_eval(identity, 1))
        return await job()

    return hf.run_job_local(warm(), cpus=WORKERS, preload=preload)
