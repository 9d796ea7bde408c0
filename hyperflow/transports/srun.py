"""The srun transport: a launcher in a job step. Slurm's limits hold there, and no ssh is needed.

`--overlap` lets a step share the job's CPUs with the user's own steps; on some sites and versions these still wait for
it. A node by itself has a step of its own, whose stdin and stdout are the stream. Many nodes share one (steps.py).

The step is one of the job that we are in, or of another one of the user's (`--jobid`). Then what our own job has set
(SLURM_*, SBATCH_*, PMI_*) is kept from it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs

from hyperflow.transports.process import Connection, Receiver, Spawned, with_prologue
from hyperflow.transports.steps import NotThisWay, Steps, environment_of, srun_of

logger = logging.getLogger("hyperflow")


@attrs.frozen
class Srun:
    """A launcher in a job step; with `steps`, in one that it shares with others that are started now.

    `alone`: if that cannot be, it gets a step of its own. `job`: the Slurm job that has the node; None for our own.
    """

    node: str
    prologue: str = ""
    steps: Steps | None = None
    alone: bool = True
    job: int | None = None
    host: str = ""
    """As Slurm calls it, where that is not `node`."""

    @property
    def within_job(self) -> bool:
        """Whether it names a job, in which the launcher then is."""
        return self.job is not None

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        if self.steps is not None:
            try:
                return await self.steps.start(self.node, with_prologue(command, self.prologue), receiver, log_file)
            except NotThisWay as reason:
                if not self.alone:
                    raise
                logger.info("%s gets a step of its own: %s", self.node, reason)
        where = ["--nodes=1", "--ntasks=1", f"--nodelist={self.host or self.node}", "--kill-on-bad-exit=1"]
        line = [*srun_of(self.job), *where, *with_prologue(command, self.prologue)]
        with Spawned(line, log_file, environment_of(self.job)) as process:
            return await process.connect(receiver, remote=True)
