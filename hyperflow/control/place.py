"""Binds the control socket of a run, and finds it.

    <run>/control/        for the user alone (0700)
      master.json         the master's host and process, and the path of its socket
      socket              the socket, if it can be here

Guarantees: only the user can reach the socket. The directory is opened once, checked and held, and all in it is made
through its descriptor: who can write above it can give its name to another one (see `private`). The next process that
serves the run replaces what a killed one has left; it may do so because it holds the run's lock, or is the newest start
of its job. At the end both files are removed.

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
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from hyperflow import checked_files, files
from hyperflow.errors import ConfigurationError
from hyperflow.private import Held, make_all

LONGEST = 107
"""Bytes of a socket's path: Linux has room for 108, with a zero at the end."""

PREFIX = "hyperflow-control-"


class Address(NamedTuple):
    """Where a run's control socket is: the process that serves it, on the only host that reaches it, and its path."""

    host: str
    pid: int
    path: Path


def read(home: Path) -> Address | None:
    """Return the address in a run's directory, or None; the process there may have been killed."""
    try:
        with Held.open(home / "control") as room:
            return _read(room)
    except ConfigurationError:
        return None


def _read(room: Held) -> Address | None:
    try:
        data = files.from_json(checked_files.read_private(room / "master.json"))
        return Address(str(data["host"]), int(data["pid"]), Path(data["path"]))
    except (OSError, ValueError, KeyError, TypeError, checked_files.Damaged):
        return None


def peer(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket, as of when that end began to listen, or connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


@contextmanager
def listening(home: Path, *, only_there: bool = False) -> Iterator[tuple[socket.socket, Address]]:
    """Bind the run's control socket within a scope. The caller holds the run's lock.

    With `only_there` it is in the run's directory or nowhere.

    Raises:
        ConfigurationError: It cannot be made.
    """
    with ExitStack() as stack:
        try:
            make_all(home / "control")
            room = stack.enter_context(Held.open(home / "control"))
            os.chmod(f"/proc/self/fd/{room.number}", 0o700)
            _remove(room, _read(room))
            made, path = _bound(room) if only_there else _bind(room)
        except OSError as error:
            raise ConfigurationError(f"cannot make a socket in {home}/control: {error.strerror or error}") from error
        address = Address(socket.gethostname(), os.getpid(), path)
        try:
            with made:
                _write(room, address)
                yield made, address
        finally:
            if _read(room) in (None, address):  # else the next start of a job, on another node, has taken the place
                _remove(room, address)


def _write(room: Held, address: Address) -> None:
    text = json.dumps(address._asdict(), default=str)
    try:  # not brought to the disk: after a crash of the machine nobody listens there
        files.write_whole((room / "master.json").through, text.encode() + b"\n", durable=False)
    except OSError as error:
        raise ConfigurationError(f"cannot write {room.path}/master.json: {error.strerror or error}") from error


def _bind(room: Held) -> tuple[socket.socket, Path]:
    if len(os.fsencode(room.path / "socket")) <= LONGEST:  # else who wants to connect could not name it
        with suppress(OSError):  # a file system without sockets
            return _bound(room)
    failure = OSError("there is no temporary directory")
    import tempfile  # noqa: PLC0415 (for places that are too long for a socket)

    for directory in (tempfile.gettempdir(), "/tmp"):
        private = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        try:
            with Held.open(private) as held:
                return _bound(held)
        except (OSError, ConfigurationError) as error:
            failure = OSError(str(error))
            private.rmdir()
    raise failure


@contextmanager
def shortened(path: Path) -> Iterator[str]:
    """Return a path of the socket that is short enough to connect to, within a scope."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _bound(room: Held) -> tuple[socket.socket, Path]:
    made, entry = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), room / "socket"
    try:
        made.bind(str(entry.through))
        entry.through.chmod(0o600)
    except BaseException:
        made.close()
        raise
    return made, room.path / entry.name


def _remove(room: Held, address: Address | None) -> None:
    for name in ("socket", "master.json"):
        with suppress(OSError):  # a disk that has become read-only: who ends the run wants to know its result
            (room / name).through.unlink(missing_ok=True)
    if address is not None and address.path.parent.name.startswith(PREFIX) and address.host == socket.gethostname():
        with suppress(OSError):
            address.path.unlink(missing_ok=True)
            address.path.parent.rmdir()
