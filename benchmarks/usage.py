"""What this process and all below it have used. It repeats within some percent where the time of day does not."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperflow.wire import processes

TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu() -> float:
    """Return the CPU seconds of this process and all that it has started, those that have ended included."""
    return sum(map(_cpu, (os.getpid(), *processes.descendants(os.getpid()))))


def _cpu(pid: int) -> float:
    """Return those of a process and of its children that have ended and were waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # it ended meanwhile: then it is among its parent's
    return sum(map(int, fields[11:15])) / TICKS


def peak_mb() -> float:
    """Return the megabytes that this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576


def resident_mb() -> float:
    """Return the megabytes that this process has resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's cycle collector from running meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
