"""What runs the jobs of a program: Slurm, or this machine. The master treats both in the same way."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import attrs

from hyperflow import checked_files
from hyperflow.master.rundir import JobDirectory
from hyperflow.slurm.client import SlurmClient, Watch
from hyperflow.slurm.script import SbatchOptions, batch_script

_HOME = str(Path(__file__).resolve().parents[2])

RUNNER = (
    sys.executable,
    "-P",
    "-c",
    f"import sys; sys.path.append({_HOME!r}); from hyperflow.master.runner import main; main()",
)
"""The command that runs a job; `transports.process.LAUNCHER` tells why it has this form."""


@attrs.frozen
class Order:
    """One submission of a job.

    Args:
        directory: The job's.
        attempt: Which submission this is.
        token: Its idempotency key, by which it is found.
        name: What lists of jobs show.
        options: What to ask for.
    """

    directory: JobDirectory
    attempt: int
    token: str
    name: str
    options: SbatchOptions

    @property
    def command(self) -> Sequence[str]:
        return [*RUNNER, str(self.directory.path), str(self.attempt)]

    @property
    def cpus(self) -> int:
        """How many CPUs it asks for."""
        return self.options.nodes * self.options.ntasks_per_node * (self.options.cpus_per_task or 1)


class Batch(Protocol):
    """Runs jobs."""

    @property
    def local(self) -> bool:
        """Whether jobs end with the master."""

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each command of Slurm was run."""

    async def submit_order(self, order: Order) -> int:
        """Submit, and return the id; raises SlurmError if it was refused."""

    async def find(self, tokens: Collection[str], /) -> Mapping[str, list[int]]:
        """Return what was submitted under each token, the oldest first."""

    def watch(self, batch_id: int, /) -> Watch: ...

    async def cancel(self, batch_ids: Collection[int], /) -> None:
        """End jobs, or take them from the queue."""


class SlurmBatch(SlurmClient):
    """Slurm, through the one client that a master has."""

    local = False

    async def submit_order(self, order: Order) -> int:
        """Write the script, submit it, and return the id."""
        write_script(order)
        return await self.submit(order.directory.script, order.token)


def script_text(order: Order) -> str:
    """Return an order's batch script."""
    log_file, directory = order.directory.output, order.directory.path
    return batch_script(
        order.options, name=order.name, token=order.token, command=order.command, log_file=log_file, directory=directory
    )


def write_script(order: Order) -> None:
    """Write an order's batch script into its directory, where it is kept beside the logs."""
    checked_files.write_file(order.directory.script, script_text(order).encode())
