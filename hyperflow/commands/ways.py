"""Where an array runs: on this machine, in the allocation that it is typed in, in Slurm jobs of its own, on a pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

Place: TypeAlias = Literal["local", "allocation", "slurm", "pool", "elastic"]


@attrs.frozen
class Way:
    """Where it runs, and what is asked of Slurm there.

    Args:
        place: "allocation": all of the one that the command is typed in; "slurm": jobs of its own.
        jobs: How many Slurm jobs share the tasks.
        pool: The name of a pool that runs.
        allocations: How many an elastic pool may have.
        sbatch: What to ask of Slurm for each job or allocation, as fields of SbatchOptions.
        on_error: What to do about a Slurm job that fails, as `--on-error` has it.
        progress: Whether to show how it goes.
    """

    place: Place = "local"
    jobs: int = 1
    pool: str = ""
    allocations: int = 0
    sbatch: Mapping[str, Any] = attrs.field(factory=dict)
    on_error: str = "retry:3"
    progress: bool = True
