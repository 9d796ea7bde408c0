"""The capacity of a node: what the program says it has, what the batch system grants, and what the machine shows.

Guarantees: where the three differ, what the program says counts; else the least. A GPU that the batch system grants and
that nobody can open is not handed out, and a warning says so. `nvidia-smi`, which may hang, is asked on this machine
only, for some seconds, and only where a driver is and neither the environment nor a batch system says which GPUs are
ours. (AMD's driver says all that in its table.)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from hyperflow.request import Capacity
from hyperflow.wire.findings import Findings

SMI_SECONDS = 3.0
"""How long nvidia-smi may take. It takes some tenths of a second, or one or two where no daemon keeps the driver."""

IN_WINDOWS = "/dev/dxg"
"""How Linux in Windows has GPUs: without device files of their own."""


class Supply(NamedTuple):
    """What somebody says that a node has; None where he does not."""

    gpus: tuple[str, ...] | None = None
    memory: int | None = None


NOTHING = Supply()


class Choice(NamedTuple):
    """What of a node is handed out, and for people: who says so, and what is wrong."""

    capacity: Capacity
    gpus_from: str = ""
    memory_from: str = ""
    remark: str = ""


def choose(said: Supply, granted: Supply | None, found: Findings, cpus: Sequence[int] | None) -> Choice:
    """Choose what of a node is handed out.

    Args:
        said: By the program.
        granted: By a batch system; None where there is none.
        found: By the launcher there, or on this machine.
        cpus: Those that are handed out there, if workers are pinned to them.
    """
    gpus, gpus_from, remark = _gpus(said, granted, found)
    size, memory_from = _memory(said, granted, found)
    near = [
        (frozenset(ids).intersection(cpus or ()), frozenset(near).intersection(gpus)) for ids, near in found.domains
    ]
    domains = tuple(each for each in near if each[0])
    capacity = Capacity(gpus, size, domains=domains if len(domains) > 1 else ())
    return Choice(capacity, gpus_from if gpus else "", memory_from, remark)


def _gpus(said: Supply, granted: Supply | None, found: Findings) -> tuple[tuple[str, ...], str, str]:
    if said.gpus is not None:
        return said.gpus, "the program", ""
    grant = granted.gpus if granted is not None else None
    ids, source = found.gpus, found.gpus_from
    if grant is not None and source in ("", "SLURM_JOB_GPUS"):  # the second may be inherited from another node
        ids, source = grant, "Slurm"
    elif granted is not None and not source:
        return (), "", ""  # they may be another job's
    numbers = all(each.isdecimal() for each in ids)
    if found.cards and numbers and any(int(each) >= found.cards for each in ids):
        # Those of Slurm are the node's, and a control group leaves us some, which count from 0.
        there = tuple(map(str, range(min(found.cards, len(ids)))))
        lost = len(ids) - len(there)
        return there, source, _lost(ids, source, found.cards) if lost else ""
    fewer = grant is not None and 0 < len(ids) < len(grant) and source != "Slurm"
    remark = f"Slurm grants {_count(len(grant or ()))}, but {source} there names only {','.join(ids)}" if fewer else ""
    return ids, source or "the driver's device files", remark


def _lost(ids: Sequence[str], source: str, cards: int) -> str:
    return (
        f"{source} names {_count(len(ids))} there ({','.join(ids)}), but only {cards} can be opened, and no more are "
        "used: `nvidia-smi -L` on the node shows which is lost, and the administrators can reset it"
    )


def _count(gpus: int) -> str:
    return f"{gpus} GPU{'s' * (gpus != 1)}"


def _memory(said: Supply, granted: Supply | None, found: Findings) -> tuple[int, str]:
    if said.memory is not None:
        return said.memory, "the program"
    if granted is not None and granted.memory and granted.memory < (found.total_memory or granted.memory + 1):
        return granted.memory, "Slurm"
    return found.total_memory, found.memory_from


# ---- nvidia-smi ---------------------------------------------------------------------------------------------------


def needs_smi(said: Supply, found: Findings) -> bool:
    """Whether nvidia-smi could tell more about the GPUs of this machine, where no batch system grants any."""
    return said.gpus is None and not found.gpus_from and (found.cards > 0 or os.path.exists(IN_WINDOWS))


def asked_smi(found: Findings) -> tuple[Findings, str]:
    """Ask nvidia-smi which GPUs there are; return that, and a remark. Blocks, for some seconds at most."""
    try:
        listed = gpus_listed(_output(["nvidia-smi", "-L"], SMI_SECONDS))
    except FileNotFoundError:
        return found, ""  # of AMD, or in a container
    except (OSError, subprocess.SubprocessError):
        words = f"`nvidia-smi -L` gave no answer within {SMI_SECONDS:g} s"
        return found, f"{words}: the driver may be stuck; going on with the GPUs that have a device file, {found.cards}"
    ids = tuple(gpu for parts in listed for gpu in parts)
    remark = ""
    if len(listed) < found.cards:
        remark = (
            f"nvidia-smi lists {_count(len(listed))}, but there are device files of {found.cards}: one is lost, and"
        )
        remark += " not used; `nvidia-smi -L` may say why, and the administrators can reset it"
    return found._replace(gpus=ids, gpus_from="nvidia-smi", cards=len(listed)), remark


def gpus_listed(text: str) -> list[tuple[str, ...]]:
    """Return the ids of each GPU that `nvidia-smi -L` lists: its number, or the MIG parts that it is cut into."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if (gpu := re.match(r"GPU (\d+): .*\(UUID: ", line)) is not None:
            found.append((gpu[1], []))
        elif found and (part := re.match(r"\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", line)) is not None:
            found[-1][1].append(part[1])
    return [tuple(parts) or (number,) for number, parts in found]


def _output(argv: Sequence[str], seconds: float) -> str:
    """Return what a command prints; one that cannot even be killed is left alone."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    try:
        return process.communicate(timeout=seconds)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.returncode = -signal.SIGKILL  # it hangs in the driver; nobody can wait for that
        raise
    finally:
        process.stdout.close()
