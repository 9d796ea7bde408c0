"""Binds the control socket of a run, and finds it.

    <run>/control/        for the user alone (0700)
      master.json         the master's host and process, and the path of its socket
      socket              the socket, if it can be here

Guarantees: only the user can reach the socket. The next process that serves the run replaces what a killed one has
left; it may do so because it holds the run's lock, or is the newest start of its job. At the end both files are
removed.

The head of a job has such a place in the job's own directory: <run>/jobs/3/control, or that of its program. Its socket
is always there, because nobody comes after a head that was killed and removes what it left elsewhere. A path that is
too long is then shortened through a descriptor of its directory.

A socket's path has at most 107 bytes, and some file systems take no sockets. Then the socket is in a private directory
under the temporary directory. (Rejected: XDG_RUNTIME_DIR, which is removed when the user logs out, while a program in
tmux goes on.)
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

from hyperflow import checked_files, files
from hyperflow.errors import ConfigurationError

LONGEST = 107
"""Bytes of a socket's path: Linux has room for 108, with a zero at the end."""

PREFIX = "hyperflow-control-"


@attrs.frozen
class Address:
    """Where a run's control socket is: the process that serves it, on the only host that reaches it, and its path."""

    host: str
    pid: int
    path: Path


def read(home: Path) -> Address | None:
    """Return the address in a run's directory, or None; the process there may have been killed."""
    try:
        data = files.from_json(checked_files.read_private(home / "control" / "master.json"))
        return Address(str(data["host"]), int(data["pid"]), Path(data["path"]))
    except (OSError, ValueError, KeyError, TypeError, checked_files.Damaged):
        return None


@contextmanager
def listening(home: Path, *, only_there: bool = False) -> Iterator[tuple[socket.socket, Address]]:
    """Bind the run's control socket within a scope. The caller holds the run's lock.

    With `only_there` it is in the run's directory or nowhere.

    Raises:
        ConfigurationError: It cannot be made.
    """
    room = home / "control"
    try:
        room.mkdir(mode=0o700, exist_ok=True)
        checked_files.check_private(room)
        room.chmod(0o700)
        _remove(room, read(home))
        made, path = _bound(room / "socket", only_there) if only_there else _bind(room)
    except OSError as error:
        raise ConfigurationError(f"cannot make a socket in {room}: {error.strerror or error}") from error
    address = Address(socket.gethostname(), os.getpid(), path)
    try:
        with made:
            text = json.dumps(attrs.asdict(address), default=str)
            checked_files.write_file(room / "master.json", text.encode() + b"\n")
            yield made, address
    finally:
        if read(home) in (None, address):  # else the next start of a job, on another node, has taken the place
            _remove(room, address)


def _bind(room: Path) -> tuple[socket.socket, Path]:
    with suppress(OSError):  # a file system without sockets, or a long path
        return _bound(room / "socket")
    failure = OSError("there is no temporary directory")
    for directory in (tempfile.gettempdir(), "/tmp"):
        private = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        try:
            return _bound(private / "socket")
        except OSError as error:
            failure = error
            private.rmdir()
    raise failure


@contextmanager
def shortened(path: Path) -> Iterator[str]:
    """Return a path of the socket that is short enough to bind or connect to, within a scope."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _bound(path: Path, shorten: bool = False) -> tuple[socket.socket, Path]:
    if len(os.fsencode(path)) > LONGEST and not shorten:
        raise OSError(f"its path has more than {LONGEST} bytes")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with shortened(path) as short:
            made.bind(short)
        path.chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made, path


def _remove(room: Path, address: Address | None) -> None:
    for name in ("socket", "master.json"):
        with suppress(OSError):  # a disk that has become read-only: who ends the run wants to know its result
            (room / name).unlink(missing_ok=True)
    if address is not None and address.path.parent.name.startswith(PREFIX) and address.host == socket.gethostname():
        with suppress(OSError):
            address.path.unlink(missing_ok=True)
            address.path.parent.rmdir()
