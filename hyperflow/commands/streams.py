"""What a command writes, while it runs: two pipes, emptied by the worker that waits for the command.

Guarantees: what was written comes unchanged and in order, in pieces of at most PIECE bytes. The first MOST_OUTPUT bytes
of each stream are kept, the rest is counted. A command that writes more than its reader takes has to wait: nothing of
it fills a disk, or the memory of the node.

A pipe belongs to one command: what that leaves behind cannot write into the output of the next one, and is not waited
for. This side keeps the ends for writing open, too: so a pipe has no end, and the end of the command is the only one.

Rejected: unnamed files. In memory, a command that writes 10 GB takes them of its node between two looks; on a disk it
fills that; `> /dev/stderr` in a script cuts off what is in it; and a process that a command has left in the background
goes on writing into the file of the next.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Callable

from hyperflow.commands.records import MOST_OUTPUT, PIECE, Stream

Post = Callable[[Stream, int, bytes], None]
"""Takes a stream, the place in it, and what stands there."""

_COUNT = struct.Struct("i")


class Output:
    """One stream of a command."""

    __slots__ = ("_post", "held", "place", "read_fd", "stream", "write_fd")

    def __init__(self, stream: Stream, post: Post) -> None:
        self.stream: Stream = stream
        self._post = post
        self.held = b""
        """What was read and not posted; less than a piece."""
        self.place = 0
        """Bytes before it: posted, or dropped."""
        self.read_fd, self.write_fd = os.pipe()

    def take(self) -> int:
        """Read what is there, and post what makes a piece; return how many bytes came."""
        came = 0
        while count := _COUNT.unpack(fcntl.ioctl(self.read_fd, termios.FIONREAD, b"\0\0\0\0"))[0]:
            data = os.read(self.read_fd, min(count, PIECE))
            came += len(data)
            self._keep(data)
            if came >= 4 * PIECE:  # the other stream has a right to be looked at, too
                break
        return came

    def _keep(self, data: bytes) -> None:
        room = MOST_OUTPUT - self.place - len(self.held)
        held = self.held + data[:room] if room > 0 else self.held
        while len(held) >= PIECE:
            self._send(held[:PIECE])
            held = held[PIECE:]
        self.held = held
        if len(data) > room:
            self.post()
            self.place += len(data) - max(room, 0)

    def post(self) -> None:
        """Post what is held."""
        if self.held:
            data, self.held = self.held, b""
            self._send(data)

    def _send(self, data: bytes) -> None:
        place, self.place = self.place, self.place + len(data)
        self._post(self.stream, place, data)

    def close(self) -> None:
        """Close the pipe; who still has its other end can write no more."""
        os.close(self.read_fd)
        os.close(self.write_fd)
