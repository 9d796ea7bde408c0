"""The lanes of one node's workers, where head and node are one machine; see wire/lane.py."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

from hyperflow.wire import frames
from hyperflow.wire.frames import Buffer, Kind
from hyperflow.wire.lane import IN_LANE, SMALLEST, Lane
from hyperflow.wire.numbers import WorkerNumber
from hyperflow.wire.shared_memory import LARGE

WORTH = 3
"""Tasks and results of a worker with such buffers from which on it gets a lane. A fresh process has two."""

MOST = 256
"""Lanes at a time: 3 MB each, and a file descriptor until the worker has mapped it."""


class Lanes:
    """Who has one."""

    def __init__(self, write: Callable[[Sequence[frames.Bytes]], None]) -> None:
        self._lanes: dict[WorkerNumber, Lane] = {}
        self._wanted: Counter[WorkerNumber] = Counter()  # by those that have none
        self._write = write

    def filled(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Return the buffers of a task, with the places of those that are in the worker's lane now."""
        lane = self._lanes.get(worker)
        if lane is None:
            self._want(worker, buffers)
            return buffers
        if not lane.is_mapped:
            return buffers
        return [_put(lane, each) for each in buffers]

    def taken(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Return the buffers of a result, with copies of those that are in the worker's lane."""
        lane = self._lanes.get(worker)
        if lane is None:
            self._want(worker, buffers)
            return buffers
        ring, found = lane.results, list(buffers)
        for index, each in enumerate(buffers):
            if isinstance(each, int) and each >= IN_LANE:
                found[index] = ring.copy(each)
                ring.let_go(1)
        return found

    def _want(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> None:
        """Give a worker a lane when it has been worth one for some time."""
        if not any(map(fits, buffers)):
            return
        self._wanted[worker] += 1
        if self._wanted[worker] == WORTH and len(self._lanes) < MOST:
            try:
                lane = self._lanes[worker] = Lane.make()
            except OSError:  # no memory, too many open files, no memfd here
                return
            self._write([frames.frame(Kind.LANE, worker, frames.LANE.pack(os.getpid(), lane.fd))])

    def drop(self, worker: WorkerNumber) -> None:
        """A worker has ended."""
        self._wanted.pop(worker, None)
        if (lane := self._lanes.pop(worker, None)) is not None:
            lane.close()

    def close(self) -> None:
        for worker in list(self._lanes):
            self.drop(worker)


def _put(lane: Lane, buffer: Buffer) -> Buffer:
    """Return the place of a buffer, or the buffer itself if a lane is not for it or has no room."""
    if isinstance(buffer, int) or not fits(buffer):
        return buffer
    place = lane.tasks.put(buffer)
    return buffer if place is None else place


def fits(buffer: Buffer) -> bool:
    """Whether a lane is for such buffers."""
    return not isinstance(buffer, int) and SMALLEST <= len(buffer) < LARGE
