"""The CPU time and memory of evaluations that take a while, with the programs that they run.

What is measured is what this process and its ended children have used since the last measurement. So short evaluations
since then count in; together they are short, too. Measuring takes some 15 µs, so it is done after 10 ms only.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress

WORTH = 0.01
"""Seconds that an evaluation has to take to be measured."""

_RESET_PEAK = b"5"
"""Written to clear_refs, this sets the peak of the resident memory to what it is now (man proc_pid_clear_refs)."""


class Measure:
    """Looks at this process now and then."""

    def __init__(self) -> None:
        self._cpu = _cpu()

    def since_last(self) -> tuple[float, int]:
        """Return seconds of CPU time since the last call, and the most bytes of resident memory since then."""
        cpu = _cpu()
        took, self._cpu = cpu - self._cpu, cpu
        memory = _peak()
        with suppress(OSError):
            number = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(number, _RESET_PEAK)
            finally:
                os.close(number)
        return max(took, 0.0), memory


def _cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak() -> int:
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
