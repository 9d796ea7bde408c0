"""What this machine grants: CPUs by affinity and control group, and what its kernel killed for lack of memory.

Standard library only: the launcher uses it before anything else is imported.
"""

from __future__ import annotations

import contextlib
import os


def affinity() -> list[int]:
    """Return the ids of the CPUs that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def cpu_quota() -> float | None:
    """Return how many CPUs' worth of time our control group may use; None for no limit."""
    path = _cgroup_file("cpu", "cpu.max", "cpu.cfs_quota_us")
    if path is None:
        return None
    try:
        words = _read(path).split()
        if len(words) == 1:  # version 1 keeps the period in a file of its own
            words += _read(path.replace("quota", "period")).split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError):  # "max" is no number: no limit
        return None
    return quota / period if quota > 0 else None


def out_of_memory_kills() -> int:
    """Return how many processes the kernel has killed in our control group (else: on this node) to get memory."""
    for path in (_cgroup_file("memory", "memory.events", "memory.oom_control"), "/proc/vmstat"):
        if path is None:
            continue
        with contextlib.suppress(OSError, ValueError):
            for line in _read(path).splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _cgroup_file(controller: str, name_v2: str, name_v1: str) -> str | None:
    """Return the path of a file of our control group, version 2 or 1."""
    try:
        lines = _read("/proc/self/cgroup").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found = f"/sys/fs/cgroup{path}/{name_v2}"
        elif controller in controllers.split(","):
            found = f"/sys/fs/cgroup/{controller}{path}/{name_v1}"
        else:
            continue
        if os.path.exists(found):
            return found
    return None


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
