"""A stream of the launcher's own, in place of stdin and stdout, which it may share with others.

Under ssh, what a login shell's start-up files have put into the background holds the same descriptors, and may print
between two bytes of ours. So a launcher that is told to (OFFER in its environment) listens on a Unix socket, says where
on stdout, and the head opens a channel to that socket through the same ssh connection. No port is opened; the
directory is private, and only a process of the same user is accepted. Where sshd forwards no sockets, the head writes
STAY, and the stream is stdin and stdout after all. Where one srun starts many launchers, each opens a connection to the
head (call_back.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time

from hyperflow.launcher import call_back
from hyperflow.wire.frames import OFFERED, STAY

OFFER = "HYPERFLOW_OFFER_SOCKET"
"""The environment variable that asks for it."""

PATIENCE = 60.0
"""Seconds until the head must have taken one of the two ways."""


def streams() -> tuple[int, int]:
    """Return descriptors of the stream to the head, to read from and to write to."""
    in_fd, out_fd = os.dup(0), os.dup(1)
    if os.environ.pop(call_back.ASKED, None) is not None:
        called = call_back.stream(in_fd)
        os.close(in_fd)
        os.close(out_fd)
        return called, os.dup(called)
    if os.environ.pop(OFFER, None) is None:
        return in_fd, out_fd
    directory = ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            directory = _private_directory()
            listener.bind(f"{directory}/socket")
            listener.listen(1)
            os.write(out_fd, OFFERED + f"{directory}/socket\n".encode())
            ours = _accepted(listener, in_fd)
    except OSError:  # no place for a socket
        return in_fd, out_fd
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{directory}/socket")
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    if ours is None:
        return in_fd, out_fd
    os.close(in_fd)
    os.close(out_fd)
    return ours, os.dup(ours)


def _private_directory() -> str:
    for place in (os.environ.get("TMPDIR", ""), "/tmp"):
        directory = f"{place}/hyperflow-{os.getpid()}-{os.urandom(6).hex()}"
        if place.startswith("/") and len(directory) < 90:
            with contextlib.suppress(OSError):
                os.mkdir(directory, 0o700)
                return directory
    raise OSError("no place for a socket")


def _accepted(listener: socket.socket, in_fd: int) -> int | None:
    """Return the connection's descriptor; None if the head writes, or ends, its other stream."""
    until = time.monotonic() + PATIENCE
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([listener.fileno(), in_fd], [], [], left)
        if listener.fileno() in ready:
            connection, _ = listener.accept()
            with connection:
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                if struct.unpack("3i", peer)[1] in (0, os.geteuid()):  # sshd may still be root
                    return os.dup(connection.fileno())
        elif in_fd in ready:
            os.read(in_fd, len(STAY))
            return None
    return None
