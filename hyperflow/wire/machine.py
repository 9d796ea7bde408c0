"""What this machine grants, by affinity and control group: CPUs, memory; and what its kernel killed for lack of it."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What numerical libraries ask for their number of threads, each its own."""


def boot_id() -> str:
    """Return what is another text after each start of this machine, and on each other one; "" where nobody says."""
    try:
        return _read("/proc/sys/kernel/random/boot_id").strip()
    except OSError:
        return ""


_SLURM_JOB = re.compile(
    r"^\d+:[^:]*:/(?:.*/)?(?:slurm[^/]*|uid_\d+|[^/]*slurmstepd\.scope)/job_(\d+)(?:/|$)", re.MULTILINE
)


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


def slurm_job(cgroups: str = "/proc/self/cgroup") -> int:
    """Return the Slurm job in whose control group we are, version 2 or 1; 0 for none.

    Its limits hold for us then, and its end is ours. (Variables would not do: ssh may pass them on.)
    """
    with contextlib.suppress(OSError):
        if (found := _SLURM_JOB.search(_read(cgroups))) is not None:
            return int(found[1])
    return 0


class Memory(NamedTuple):
    """An amount of memory, in bytes; 0 for what is not known."""

    size: int = 0
    source: str = ""  # for people: who grants just so much


def memory(environ: Mapping[str, str]) -> Memory:
    """Return how much memory is ours: the least of what Slurm grants, the control group allows and the machine has."""
    known = [Memory(_slurm_memory(environ), "Slurm"), Memory(_memory_limit(), "control group"), _all_memory()]
    return min((each for each in known if each.size > 0), default=Memory())


def _all_memory() -> Memory:
    with contextlib.suppress(OSError, ValueError):
        return Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "machine")
    return Memory()


def _slurm_memory(environ: Mapping[str, str]) -> int:
    """Return what Slurm's variables say about this node; 0 for all of it, or for nothing."""
    with contextlib.suppress(KeyError, ValueError):
        if "SLURM_MEM_PER_NODE" in environ:
            return int(environ["SLURM_MEM_PER_NODE"]) << 20
        return int(environ["SLURM_MEM_PER_CPU"]) * int(environ["SLURM_CPUS_ON_NODE"]) << 20
    return 0


def _memory_limit() -> int:
    """Return the least limit of our control group and those that it is in; 0 for none."""
    try:
        lines = [line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines()]
    except OSError:
        return 0
    limits: list[int] = []
    for _, controllers, path in lines:
        if not controllers:
            mount, name = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
                limits.append(int(_read("/".join([mount, *parts[:depth], name]))))
    return min(limits, default=0)


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


class CpuChoice(NamedTuple):
    """The CPUs to hand out on a node."""

    ids: Sequence[int]  # mere numbers where nothing is pinned
    pinned: bool
    remark: str = ""  # why nothing is pinned, if that is worth a warning


def choose_cpus(wanted: int | None, affinity: Sequence[int], quota: float | None, granted: bool = False) -> CpuChoice:
    """Choose the CPU ids to hand out on a node.

    Nothing is pinned if the affinity mask shows fewer ids than are wanted: evaluations share them. Nor is it if a batch
    system granted fewer than the mask shows: the first ids may be another job's.
    """
    if wanted is None:
        usable = len(affinity) if quota is None else min(len(affinity), max(1, math.ceil(quota)))
        return CpuChoice(affinity[:usable], True)
    if wanted > len(affinity):
        seen = f"only {len(affinity)} there (ids {list(affinity)})"
        remark = f"{wanted} CPUs were asked for, but a process may use {seen}, which evaluations share"
        return CpuChoice(range(wanted), False, remark)
    if granted and wanted < len(affinity):
        return CpuChoice(range(wanted), False)
    return CpuChoice(affinity[:wanted], True)


class MemoryKills:
    """Tells whether a killed worker was killed for lack of memory.

    The kernel counts such kills and does not say which process it killed: a worker, or a program that one started. So
    a kill explains the next worker that dies by SIGKILL within RECENT seconds, and is forgotten after that.
    """

    RECENT = 5.0
    PAUSE = 0.5  # seconds between looks while there is something else to do

    def __init__(self) -> None:
        self._seen = out_of_memory_kills()
        self._recent: list[float] = []
        self._next_look = 0.0

    def look(self, now: float) -> float:
        """Look at the kernel's count, unless the last look was less than PAUSE ago; return when to look, then."""
        if now < self._next_look:
            return self._next_look
        self._next_look = now + self.PAUSE
        self._count(now)
        return math.inf

    def took_one(self, now: float) -> bool:
        """Whether a recent kill explains a worker's death. Each kill explains one."""
        self._count(now)
        if self._recent:
            self._recent.pop()
            return True
        return False

    def _count(self, now: float) -> None:
        kills = out_of_memory_kills()
        self._recent = [then for then in self._recent if now - then < self.RECENT] + [now] * (kills - self._seen)
        self._seen = kills


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
