"""The batch scripts of a pool's allocations, and what is said of them without submitting any."""

from __future__ import annotations

from pathlib import Path

from hyperflow.errors import ConfigurationError, SlurmError
from hyperflow.pools.kinds import Kind
from hyperflow.pools.nodepool import NodePool
from hyperflow.slurm.client import SlurmClient
from hyperflow.slurm.script import batch_script
from hyperflow.transports.process import python_command

HOLDER = python_command("hyperflow.pools.holder")

NO_TOKEN = "0" * 24
"""In a script that is only to be looked at."""


def log_of(directory: Path, number: int) -> Path:
    """Return the file for what a holder prints."""
    return directory / f"allocation-{number}.log"


def script(kind: Kind, name: str, number: int, token: str, directory: Path, exclude: str = "") -> str:
    """Return the batch script of an allocation; `exclude`: nodes that are not to be used, beside those of the kind."""
    options = kind.options
    if exclude:
        names = ",".join(filter(None, [options.extra.get("exclude"), exclude]))
        options = options.changed(extra={**options.extra, "exclude": names})
    return batch_script(
        options,
        name=name,
        token=token,
        command=[*HOLDER, str(directory), str(number)],
        log_file=log_of(directory, number),
        directory=directory,
    )


def _scripts(pool: NodePool, name: str, directory: Path, exclude: str) -> list[tuple[Kind, str]]:
    kinds = [Kind.of(number, each) for number, each in enumerate(pool.sbatch)]
    return [(kind, script(kind, name, 0, NO_TOKEN, directory, exclude)) for kind in kinds]


async def check(client: SlurmClient, pool: NodePool, name: str, directory: Path, exclude: str = "") -> None:
    """Ask Slurm whether it would take each kind; raises ConfigurationError, with its words. Slurm away is no error."""
    for kind, text in _scripts(pool, name, directory, exclude):
        try:
            await client.test(text)
        except SlurmError as error:
            number = f" number {kind.number + 1}" if len(pool.sbatch) > 1 else ""
            raise ConfigurationError(
                f"NodePool(sbatch=...): Slurm would not take an allocation{number}: {error}"
            ) from None


async def rehearse(pool: NodePool, directory: Path, name: str = "pool", exclude: str = "") -> str:
    """Return what a dry run prints: the script of each kind, and what `sbatch --test-only` says to it.

    Raises:
        ConfigurationError: Slurm cannot be used here.
    """
    parts: list[str] = []
    async with SlurmClient() as client:
        if pool.sbatch:
            await client.check(patient=False)
        for _, text in _scripts(pool, name, directory, exclude):
            try:
                said = await client.test(text)
            except SlurmError as error:
                said = f"refused: {error}"
            parts.append(f"{text.rstrip()}\n\n# Slurm says: {said or 'nothing, it does not answer now'}\n")
    for host, cpus in pool.hosts:
        parts.append(f"# host {host}: {cpus or 'all'} CPUs, by ssh\n")
    return "\n".join(parts)
