"""When this node ends, as far as the head knows, and when a worker has to have answered: told to the workers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from hyperflow.launcher.child import WorkerProcess
from hyperflow.wire import frames
from hyperflow.wire.deadlines import NODE


class Ends:
    """The end of this node."""

    def __init__(self) -> None:
        self._end = self._near = math.inf

    def hear(self, body: memoryview, workers: Iterable[WorkerProcess]) -> None:
        """The head has said when it is."""
        now = time.monotonic()
        left, until_near = frames.ENDS.unpack(body)
        self._end, self._near = now + left, now + until_near
        for process in workers:
            self.tell(process)

    def tell(self, process: WorkerProcess) -> None:
        """Let a worker know."""
        process.deadlines.put(NODE, self._end, self._near)
