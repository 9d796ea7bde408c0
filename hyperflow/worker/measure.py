"""What evaluations use that take a while, with the programs that they run: CPU time, memory, bytes read and written.

What is measured is what this process and its ended children have used since the last measurement. So short evaluations
since then count in; together they are short, too. Measuring takes some 25 µs, so it is done after 10 ms only.

Bytes are those of system calls, also where a file is in the kernel's memory: what the evaluation has asked for.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress

from hyperflow.wire.numbers import DefinitionNumber

WORTH = 0.01
"""Seconds that an evaluation has to take to be measured."""

PAUSE = 5.0
"""Seconds between messages of what short evaluations have used; a worker that has nothing to do sends none."""

NO_FUNCTION = DefinitionNumber(0)

_RESET_PEAK = b"5"
"""Written to clear_refs, this sets the peak of the resident memory to what it is now (man proc_pid_clear_refs)."""


class Measure:
    """Looks at this process now and then.

    Args:
        seen: Gives the most bytes that the launcher has seen of this worker since the last time, with its children, if
            it looks.
    """

    def __init__(self, seen: Callable[[], int] = lambda: 0) -> None:
        self._seen = seen
        self._cpu, self._most = _times()
        self._io = _transferred()

    def since_last(self) -> tuple[float, int, int, int]:
        """Return what was used since the last call: seconds of CPU time, the most bytes of memory, read, written."""
        cpu, most = _times()
        read, written = _transferred()
        took = max(cpu - self._cpu, 0.0)
        had, wrote = max(read - self._io[0], 0), max(written - self._io[1], 0)
        # Of children that have ended, only the largest of all times is known.
        memory = max(_peak(), self._seen(), most if most > self._most else 0)
        self._cpu, self._most, self._io = cpu, most, (read, written)
        with suppress(OSError):
            number = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(number, _RESET_PEAK)
            finally:
                os.close(number)
        return took, memory, had, wrote


class Sums:
    """The CPU time of short evaluations, by function: looked at when the function changes, not for each of them.

    What their worker does around them (unpickling, answering) counts as theirs.
    """

    def __init__(self) -> None:
        self.function = NO_FUNCTION
        """Whose evaluations run."""
        self._since = time.process_time()
        self._sums: dict[tuple[DefinitionNumber, str, str], float] = {}
        self._told = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether to tell."""
        return time.monotonic() >= self._told + PAUSE

    def turn_to(self, function: DefinitionNumber, name: str, of: str) -> None:
        """Evaluations of another function come now; the name that those before were given, and their function's own."""
        now = time.process_time()
        if self.function:
            key = self.function, name, of
            self._sums[key] = self._sums.get(key, 0.0) + now - self._since
        self.function, self._since = function, now

    def skip(self) -> None:
        """What was used since then has been measured."""
        self._since = time.process_time()

    def take(self) -> tuple[list[DefinitionNumber | str | float], ...]:
        """Return what is to be told, and forget it."""
        self._told = time.monotonic()
        sums, self._sums = self._sums, {}
        return tuple([*key, round(cpu, 6)] for key, cpu in sums.items())


def _times() -> tuple[float, int]:
    """Return seconds of CPU time, and the most bytes that an ended child had."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return cpu, children.ru_maxrss * 1024


def _transferred() -> tuple[int, int]:
    """Return the bytes read and written until now, ended children included; 0 where that cannot be read."""
    try:
        with open("/proc/self/io", "rb", buffering=0) as file:
            words = file.read(200).split()
        return int(words[1]), int(words[3])
    except (OSError, ValueError, IndexError):
        return 0, 0


def _peak() -> int:
    with suppress(OSError, ValueError, IndexError), open("/proc/self/status", "rb") as file:
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
