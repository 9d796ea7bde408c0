"""Where the control socket of a run is.

    <run>/control/        for the user alone (0700)
      master.json         the master's host and process, and the path of its socket
      socket              the socket, if it can be here

Guarantees: only the user can reach the socket. What a killed master has left is replaced by the next one, which may do
so because it holds the run's lock. At the end both files are gone.

A socket's path may have no more than 107 bytes, and not every file system takes sockets. Then it is in a directory of
its own under the temporary directory. (Rejected: XDG_RUNTIME_DIR, which is removed when the user logs out, while a
master in tmux goes on.)
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.master import checked_files

LONGEST = 107
"""Bytes of a socket's path: Linux has room for 108, and the last one ends it."""

PREFIX = "hyperflow-control-"


@attrs.frozen
class Address:
    """Where a master can be spoken to.

    Args:
        host: The machine; its socket cannot be reached from another one.
        pid: The process.
        path: The socket.
    """

    host: str
    pid: int
    path: Path


def read(home: Path) -> Address | None:
    """Return the address that a run's master has left, or None; it may be that of a master that was killed."""
    try:
        data = json.loads(checked_files.read_private(home / "control" / "master.json"))
        return Address(str(data["host"]), int(data["pid"]), Path(data["path"]))
    except (OSError, ValueError, KeyError, TypeError, checked_files.Damaged):
        return None


@contextmanager
def listening(home: Path) -> Iterator[tuple[socket.socket, Address]]:
    """Have a socket for the run in this directory; nobody else may be its master meanwhile.

    Raises:
        ConfigurationError: There is no place for it.
    """
    room = home / "control"
    try:
        room.mkdir(mode=0o700, exist_ok=True)
        checked_files.check_private(room)
        room.chmod(0o700)
        _remove(room, read(home))
        made, path = _bind(room)
    except OSError as error:
        raise ConfigurationError(f"cannot make a socket in {room}: {error.strerror or error}") from error
    address = Address(socket.gethostname(), os.getpid(), path)
    try:
        with made:
            text = json.dumps({"host": address.host, "pid": address.pid, "path": str(path)})
            checked_files.write_file(room / "master.json", text.encode() + b"\n")
            yield made, address
    finally:
        _remove(room, address)


def _bind(room: Path) -> tuple[socket.socket, Path]:
    with suppress(OSError):  # a file system without sockets, or a long path
        return _bound(room / "socket")
    failure = OSError(f"its path has more than {LONGEST} bytes")
    for directory in dict.fromkeys((tempfile.gettempdir(), "/tmp")):
        private = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        try:
            return _bound(private / "socket")
        except OSError as error:
            failure = error
            private.rmdir()
    raise failure


def _bound(path: Path) -> tuple[socket.socket, Path]:
    if len(os.fsencode(path)) > LONGEST:
        raise OSError(f"its path has more than {LONGEST} bytes")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made, path


def _remove(room: Path, address: Address | None) -> None:
    (room / "socket").unlink(missing_ok=True)
    (room / "master.json").unlink(missing_ok=True)
    if address is not None and address.path.parent.name.startswith(PREFIX) and address.host == socket.gethostname():
        with suppress(OSError):
            address.path.unlink(missing_ok=True)
            address.path.parent.rmdir()
