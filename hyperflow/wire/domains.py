"""Domains of a machine: which CPUs, and which GPUs, are close to each other (a NUMA node, or else a socket)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

NODES, CPUS = "sys/devices/system/node", "sys/devices/system/cpu"

Domain = tuple[tuple[int, ...], tuple[str, ...]]
"""CPU ids, and ids of GPUs."""


def domains(cpus: Sequence[int], gpus: Mapping[str, int], root: str = "/") -> tuple[Domain, ...]:
    """Return the domains of these CPUs and GPUs (with their NUMA nodes); nothing where all are in one."""
    nodes = _numa_nodes(root)
    groups = list(nodes.items()) if len(nodes) > 1 else [(-1, ids) for ids in _sockets(cpus, root)]
    found: list[Domain] = []
    for number, ids in groups:
        ours = tuple(cpu for cpu in cpus if cpu in ids)
        near = tuple(gpu for gpu, node in gpus.items() if node == number >= 0)
        if ours or near:
            found.append((ours, near))
    return tuple(found) if len(found) > 1 else ()


def _numa_nodes(root: str) -> dict[int, set[int]]:
    try:
        names = os.listdir(f"{root}{NODES}")
    except OSError:
        return {}
    numbers = sorted(int(name[4:]) for name in names if name.startswith("node") and name[4:].isdecimal())
    return {number: _listed(f"{root}{NODES}/node{number}/cpulist") for number in numbers} if len(numbers) > 1 else {}


def _sockets(cpus: Sequence[int], root: str) -> list[set[int]]:
    """Return the CPUs of each socket; only one file is read for each."""
    found: list[set[int]] = []
    for cpu in cpus:
        if not any(cpu in ids for ids in found):
            ids = _listed(f"{root}{CPUS}/cpu{cpu}/topology/package_cpus_list")
            if cpu not in ids:
                return []  # nobody says
            found.append(ids)
    return found


def _listed(path: str) -> set[int]:
    """Return the numbers in a file such as "0-3,8"; none if it cannot be read."""
    ids: set[int] = set()
    try:
        with open(path) as file:
            for part in file.read().strip().split(","):
                first, _, last = part.partition("-")
                ids.update(range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        return set()
    return ids
