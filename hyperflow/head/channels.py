"""The channels of one node's workers, where head and node are one machine; see wire/channel.py."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence

from hyperflow.wire import frames
from hyperflow.wire.channel import IN_CHANNEL, SMALLEST, Channel
from hyperflow.wire.frames import Buffer, Kind
from hyperflow.wire.numbers import WorkerNumber
from hyperflow.wire.shared_memory import LARGE

WORTH = 3
"""Tasks and results of a worker with such buffers from which on it gets a channel. A fresh process has two."""

MOST = 256
"""Channels at a time: 3 MB each, and a file descriptor until the worker has mapped it."""


class Channels:
    """Who has one."""

    def __init__(self, write: Callable[[Sequence[frames.Bytes]], None]) -> None:
        self._channels: dict[WorkerNumber, Channel] = {}
        self._wanted: Counter[WorkerNumber] = Counter()  # by those that have none
        self._write = write
        self._closed = False

    def filled(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Return the buffers of a task, with the places of those that are in the worker's channel now."""
        channel = self._channels.get(worker)
        if channel is None:
            self._want(worker, buffers)
            return buffers
        if not channel.is_mapped:
            return buffers
        offer = channel.tasks.offer
        return [each if isinstance(each, int) else offer(each) for each in buffers]

    def taken(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Return the buffers of a result, with copies of those that are in the worker's channel."""
        channel = self._channels.get(worker)
        if channel is None:
            self._want(worker, buffers)
            return buffers
        ring, found = channel.results, list(buffers)
        for index, each in enumerate(buffers):
            if isinstance(each, int) and each >= IN_CHANNEL:
                found[index] = ring.copy(each)
                ring.let_go(1)
        return found

    def _want(self, worker: WorkerNumber, buffers: Sequence[Buffer]) -> None:
        """Give a worker a channel when it has been worth one for some time."""
        if not any(SMALLEST <= len(each) < LARGE for each in buffers if not isinstance(each, int)):
            return
        self._wanted[worker] += 1
        if self._wanted[worker] == WORTH and len(self._channels) < MOST and not self._closed:
            try:
                channel = self._channels[worker] = Channel.make()
            except OSError:  # no memory, too many open files, no memfd here
                return
            self._write([frames.frame(Kind.CHANNEL, worker, frames.CHANNEL.pack(os.getpid(), channel.fd))])

    def drop(self, worker: WorkerNumber) -> None:
        """A worker has ended."""
        self._wanted.pop(worker, None)
        if (channel := self._channels.pop(worker, None)) is not None:
            channel.close()

    def close(self) -> None:
        """Their node has gone: nobody will map them. Results that have come can still be taken."""
        self._closed = True
        for channel in self._channels.values():
            channel.close()
