"""The launcher's end of the stream to the head: frames in, frames out, never blocking.

Guarantees: what `send` gets goes out in that order, as soon as the stream takes it. Until then it is kept. What may
wait goes with what comes next, or when its moment has come: one write costs some ten answers, here and in the head.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import selectors
import time
from collections import deque

from hyperflow.wire import frames
from hyperflow.wire.numbers import WorkerNumber

JOINED = 1 << 16
"""Parts with fewer bytes in all are copied into one: a write of many parts costs more than the copy."""

ENOUGH = 1 << 14
"""Bytes that are worth a write, however long they may wait."""


class HeadStream:
    """Two file descriptors, and what waits to be written."""

    def __init__(self, in_fd: int, out_fd: int, selector: selectors.BaseSelector) -> None:
        self.last_sent = time.monotonic()
        self.silence = 0.0
        """Seconds in which we listened and nothing came."""
        self._in_fd = in_fd
        self._out_fd = out_fd
        self._selector = selector
        self._reader = frames.Reader()
        self._out: deque[memoryview] = deque()
        self._kept = 0  # bytes that came since the last write
        self.due = math.inf
        """When to write what waits."""
        self._writing = False
        self._muted = False
        for fd in (in_fd, out_fd):
            os.set_blocking(fd, False)

    @property
    def has_more(self) -> bool:
        """Whether anything waits to be written."""
        return bool(self._out)

    @property
    def is_writing(self) -> bool:
        """Whether the stream took less than there was."""
        return self._writing

    def read(self) -> list[tuple[int, WorkerNumber, memoryview]] | None:
        """Return the frames that have come: (kind, worker, body); None at the end of the stream."""
        try:
            data = os.read(self._in_fd, frames.CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.silence = 0.0
        return self._reader.feed(data)

    def send(self, *parts: frames.Bytes, by: float = 0.0) -> None:
        """Keep these parts for `flush`, which is to come by that moment."""
        if not self._muted:
            size = sum(map(len, parts))
            if len(parts) > 2 and size < JOINED:
                parts = (b"".join(parts),)
            self._out.extend(memoryview(part) for part in parts if len(part))
            self._kept += size
            self.expect(by if self._kept < ENOUGH else 0.0)

    def expect(self, by: float) -> None:
        """Something is to be written by that moment."""
        self.due = min(self.due, by)

    def flush(self) -> None:
        """Write what the stream takes. The selector reports when it takes more."""
        self.due, self._kept = math.inf, 0
        try:
            while self._out:
                sent = os.writev(self._out_fd, list(itertools.islice(self._out, 64)))
                self.last_sent = time.monotonic()
                while sent:
                    first = self._out[0]
                    if sent < len(first):
                        self._out[0] = first[sent:]
                        break
                    sent -= len(first)
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more; the end of the other direction closes us
            self._out.clear()
        if bool(self._out) != self._writing:
            self._writing = bool(self._out)
            if self._writing:
                self._selector.register(self._out_fd, selectors.EVENT_WRITE, lambda: None)
            else:
                self._selector.unregister(self._out_fd)

    def flush_all(self) -> None:
        """Write the rest, and wait until the stream has taken it."""
        with contextlib.suppress(OSError):
            os.set_blocking(self._out_fd, True)
            self.flush()

    def mute(self) -> None:
        """Read and send nothing more; what waits already is still written."""
        self._muted = True
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._in_fd)

    def close(self) -> None:
        """In a forked worker: let go of both descriptors."""
        for fd in {self._in_fd, self._out_fd}:
            os.close(fd)
