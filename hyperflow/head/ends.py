"""When the nodes end, told to their launchers, and so to functions that ask how much time they have.

A node may have an end of its own, that of its allocation, beside the one that all nodes of the head have.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection

from hyperflow.head.allocation_end import CUT_OFF, USUAL_MARGIN, Drain
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind


class Ends:
    """The ends of all nodes of a head.

    Args:
        drained: The nodes that somebody drains.
    """

    def __init__(
        self, drain: Drain, drained: Collection[str], write: Callable[[str, list[frames.Bytes]], None]
    ) -> None:
        self._drain = drain
        self._drained = drained
        self._own: dict[
            str, tuple[float, float]
        ] = {}  # of nodes with an end of their own: when that is near, and when it is
        self._write = write
        self._clock = asyncio.get_running_loop().time

    def time_left(self) -> float:
        """Return for how many seconds evaluations can run."""
        return self._until(self._drain.cut_off)

    def is_ending(self) -> bool:
        """Tell whether that is soon over."""
        return self._drain.near <= self._clock()

    def expect(self, node: str, at: float) -> float:
        """A node ends at `at`, in seconds since 1970: return until when it can be used, on the loop's clock."""
        left = max(at - time.time(), 0.0)
        cut_off = self._clock() + max(left - CUT_OFF, 0.0)
        self._own[node] = cut_off - min(USUAL_MARGIN, left / 4), cut_off
        return cut_off

    def forget(self, node: str) -> None:
        """A node has gone."""
        self._own.pop(node, None)

    def end_of(self, node: str) -> float | None:
        """Return in how many seconds the end of a node's own is, for evaluations; None if it has none."""
        return self._until(self._own[node][1]) if node in self._own else None

    def is_ending_at(self, node: str) -> bool:
        """Tell whether functions on a node are told that they are to end soon."""
        return self.is_ending() or node in self._drained or self._near(node)[0] <= self._clock()

    def _near(self, node: str) -> tuple[float, float]:
        """Return when the end of a node is near, and when it is."""
        near, cut_off = self._own.get(node, (math.inf, math.inf))
        return min(near, self._drain.near), min(cut_off, self._drain.cut_off)

    def tell(self, *nodes: str) -> None:
        """Tell some nodes, which are up, when they end, as far as that is known."""
        for node in nodes:
            near, cut_off = map(self._until, self._near(node))
            body = frames.ENDS.pack(cut_off, 0.0 if self.is_ending_at(node) else near)
            self._write(node, [frames.frame(Kind.ENDS, body=body)])

    def tell_new(self, node: str) -> None:
        """Tell a node that has come up, if there is anything to be told."""
        if self._drain.cut_off != math.inf or node in self._own:
            self.tell(node)

    def _until(self, moment: float) -> float:
        return moment if moment == math.inf else max(moment - self._clock(), 0.0)
