"""When the nodes end, told to their launchers, and so to functions that ask how much time they have."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping

from hyperflow.head.allocation_end import Drain
from hyperflow.scheduling.trust import BY_HAND
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind


class Ends:
    """The ends of all nodes of a head.

    Args:
        aside: Why nothing is started on a node, by its name.
    """

    def __init__(
        self, drain: Drain, aside: Mapping[str, str], write: Callable[[str, list[frames.Bytes]], None]
    ) -> None:
        self._drain = drain
        self._aside = aside
        self._write = write
        self._clock = asyncio.get_running_loop().time

    def time_left(self) -> float:
        """Return for how many seconds evaluations can run."""
        return self._until(self._drain.cut_off)

    def is_ending(self) -> bool:
        """Tell whether that is soon over."""
        return self._drain.near <= self._clock()

    def is_ending_at(self, node: str) -> bool:
        """Tell whether functions on a node are told that they are to end soon."""
        return self.is_ending() or self._aside.get(node) == BY_HAND

    def tell(self, *nodes: str) -> None:
        """Tell some nodes, which are up, when they end, as far as that is known."""
        left, until_near = self.time_left(), self._until(self._drain.near)
        for node in nodes:
            body = frames.ENDS.pack(left, 0.0 if self.is_ending_at(node) else until_near)
            self._write(node, [frames.frame(Kind.ENDS, body=body)])

    def tell_new(self, node: str) -> None:
        """Tell a node that has come up, if there is anything to be told."""
        if self._drain.cut_off != math.inf:
            self.tell(node)

    def _until(self, moment: float) -> float:
        return moment if moment == math.inf else max(moment - self._clock(), 0.0)
