"""Deadlines: memory in which a launcher tells a worker when things end: its node, and the evaluation that it is in.

Users ask in loops how much time is left. So the answer costs neither a system call nor a message, and threads and
children of the function find it, too: the memory is shared with them.

Moments are those of `time.monotonic`, which all processes of a machine share. 0 stands for never.
"""

from __future__ import annotations

import math
import mmap
import time

NODE, LIMIT = 24, 26
"""Words of the page that a worker shares with its launcher (see answer_ring.py): of each end when it comes, and from
when on it is near."""

NEAR = 60.0
"""Seconds before the end of a time limit from which on it is near; a tenth of the limit if that is less."""


class Deadlines:
    """One end of it."""

    def __init__(self, page: mmap.mmap) -> None:
        self.moments = memoryview(page).cast("d")

    def put(self, which: int, end: float, near: float) -> None:
        """For the launcher: tell when something ends, and from when on that is near."""
        self.moments[which] = 0.0 if end == math.inf else end
        self.moments[which + 1] = 0.0 if near == math.inf else near

    def limit(self, seconds: float, now: float) -> None:
        """For the launcher: the worker's evaluation has so much time."""
        self.put(LIMIT, now + seconds, now + seconds - min(NEAR, seconds / 10))

    def time_left(self) -> float:
        """Return the seconds until the first of the ends."""
        first = min(self.moments[NODE] or math.inf, self.moments[LIMIT] or math.inf)
        return first if first == math.inf else max(first - time.monotonic(), 0.0)

    def is_ending(self) -> bool:
        """Tell whether one of the ends is near."""
        first = min(self.moments[NODE + 1] or math.inf, self.moments[LIMIT + 1] or math.inf)
        return first <= time.monotonic()
