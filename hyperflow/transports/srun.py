"""The srun transport: a launcher in a job step. Slurm's limits hold there, and no ssh is needed.

`--overlap` lets a step share the job's CPUs with the user's own steps; on some sites and versions these still wait for
it. A node by itself has a step of its own, whose stdin and stdout are the stream. Many nodes share one (steps.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs

from hyperflow.transports.process import Connection, Receiver, Spawned, with_prologue
from hyperflow.transports.steps import OPTIONS, NotThisWay, Steps

logger = logging.getLogger("hyperflow")


@attrs.frozen
class Srun:
    """A launcher in a job step; with `steps`, in one that it shares with others that are started now.

    `alone`: if that cannot be, it gets a step of its own. `job`: in that allocation, of which this process is no part;
    `host`: the node's name at Slurm, where the node has another one here.
    """

    node: str
    prologue: str = ""
    steps: Steps | None = None
    alone: bool = True
    job: int | None = None
    host: str = ""

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        if self.steps is not None:
            try:
                return await self.steps.start(self.node, with_prologue(command, self.prologue), receiver, log_file)
            except NotThisWay as reason:
                if not self.alone:
                    raise
                logger.info("%s gets a step of its own: %s", self.node, reason)
        where = ["--nodes=1", "--ntasks=1", f"--nodelist={self.host or self.node}", "--kill-on-bad-exit=1"]
        if self.job is not None:
            where.append(f"--jobid={self.job}")
        line = ["srun", *OPTIONS, *where, *with_prologue(command, self.prologue)]
        with Spawned(line, log_file) as process:
            return await process.connect(receiver, remote=True)
