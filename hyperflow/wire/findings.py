"""What a process finds out about its machine: GPUs, memory, and which CPUs and GPUs are close to each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from hyperflow.wire import domains, gpus, machine


class Findings(NamedTuple):
    """What a process finds out about its machine, beside the CPUs, without starting anything."""

    gpus: tuple[str, ...] = ()  # ids of those that it may use
    gpus_from: str = ""  # who says so, for people; "" where only the device files do, or nobody
    cards: int = 0  # how many GPUs it may open; 0 where no driver says
    total_memory: int = 0  # bytes; 0 if nobody knows
    memory_from: str = ""
    domains: tuple[domains.Domain, ...] = ()
    slurm_job: int = 0  # in whose control group it is; 0 for none


def look(environ: Mapping[str, str] | None = None) -> Findings:
    """Find out what this machine offers to a process with this environment, by default ours."""
    environ = os.environ if environ is None else environ
    there = gpus.cards()
    said = gpus.in_environment(environ, gpus.is_amd())
    ids = tuple(map(str, range(len(there)))) if said is None else said.ids
    near = {gpu: card.numa for gpu in ids if (card := gpus.card_of(gpu, there)) is not None}
    memory = machine.memory(environ)
    return Findings(
        ids,
        said.source if said is not None else "",
        len(there),
        memory.size,
        memory.source,
        domains.domains(machine.affinity(), near),
        machine.slurm_job(),
    )
