"""A bound on how often something is done: so often a second, and more at the beginning."""

from __future__ import annotations

import time


class Rate:
    """Allows `often` times a second; what was not used adds up to `most`."""

    def __init__(self, often: float, most: float) -> None:
        self._often = often
        self._most = self._left = most
        self._since = time.monotonic()

    def allows(self) -> bool:
        """Whether it may be done now; if so, it counts as done."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._since) * self._often, self._most)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
