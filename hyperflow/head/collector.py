"""Python's cycle collector, kept from looking at what is alive in a large run.

A full collection looks at all objects that can be in a cycle, and nothing else goes on meanwhile: with 64,000
evaluations under way that takes a second, and it comes again and again while a cluster fills. So what is there is put
aside (`gc.freeze`) each time the run has grown. When it has shrunk, all is looked at again: what was put aside in vain
is cycles that ended while the run grew.

A run that has fewer than GROWTH evaluations and workers is not touched.
"""

from __future__ import annotations

import gc

GROWTH = 20_000
"""Evaluations and workers, by which a run has grown when they are put aside: then a collection takes 0.1 s at most."""


class Collector:
    """Follows how large the run is."""

    def __init__(self) -> None:
        self._aside = 0  # how large the run was when something was last put aside

    def follow(self, size: int) -> None:
        """There are so many evaluations and workers."""
        if size > self._aside + GROWTH:
            gc.freeze()
            self._aside = size
        elif self._aside and size < self._aside // 2:
            self.close()

    def close(self) -> None:
        """Look at everything again."""
        if self._aside:
            self._aside = 0
            gc.unfreeze()
