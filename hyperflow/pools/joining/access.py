"""The access file of a pool: where its head listens, and the two keys by which head and node know each other.

Who has it can run whatever it likes as the user, on the head and on each node that joins: it is as secret as a private
ssh key. So it is made with mode 0600 in a private directory of the run, read only where nobody else can read or write
it, and nothing of it is ever in an argument, a variable or a log.

It is one JSON object, because it is copied to machines that have nothing else of the run, and because `hosts` may have
to be changed there: behind a network address translation, say, the head does not know how it is called from outside.

(Rejected: a token, as Jupyter has it. It is shown to whoever answers at the port. Here neither side tells the other one
anything that is of use to a third.)
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import asyncssh
import attrs

from hyperflow import checked_files, files, private
from hyperflow.errors import ConfigurationError

NAME = "access"
FORMAT = 1

USER = "hyperflow"
"""The user's name in the login, which says nothing: there is one key, and it may do one thing."""

_ALGORITHM = "ssh-ed25519"
LARGEST = 1 << 16


@attrs.frozen(repr=False)
class Access:
    """What a node has to know to join.

    Args:
        hosts: The head's names and addresses, in the order in which to try them.
        port: Where it listens there.
        host_key: The head's public key, in OpenSSH's format.
        client_key: The private key of the nodes that join.
        file: Where this file is at the head; a node that sees it there shares the run's directory.
        log_dir: The directory of the run's logs.
    """

    hosts: tuple[str, ...]
    port: int
    host_key: str
    client_key: str
    file: str
    log_dir: str

    def __repr__(self) -> str:
        return f"Access({self.where})"

    @property
    def where(self) -> str:
        """The head's address, for people."""
        return f"{self.hosts[0]} port {self.port}"

    def text(self) -> str:
        """Return the contents of the file."""
        return json.dumps({"format": FORMAT, **attrs.asdict(self)}, indent=2) + "\n"

    def public(self) -> asyncssh.SSHKey:
        return asyncssh.import_public_key(self.host_key)

    def private(self) -> asyncssh.SSHKey:
        return asyncssh.import_private_key(self.client_key)


def new_key() -> asyncssh.SSHKey:
    """Return a private key."""
    return asyncssh.generate_private_key(_ALGORITHM)


def as_text(key: asyncssh.SSHKey) -> str:
    """Return a private key in OpenSSH's format."""
    return key.export_private_key().decode()


def public_text(key: asyncssh.SSHKey) -> str:
    """Return the public half of a key."""
    return key.export_public_key().decode().strip()


def write(access: Access) -> None:
    """Write the file to its place; its directory is made, or has to be private. Raises ConfigurationError."""
    path = Path(access.file)
    try:
        private.make_all(path.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot make {path.parent}: {error.strerror or error}") from error
    with private.Held.open(path.parent) as held:
        checked_files.write_file(held / path.name, access.text().encode())


def read(path: Path) -> Access:
    """Read an access file, which may be a copy on another machine; raises ConfigurationError."""
    try:
        # A link is followed: a secret of Kubernetes is one. What it leads to is looked at, not its name.
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: there is no such file. The head of a run makes it when its pool listens: NodePool(..., listen=0)"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    try:
        if reason := _objection(os.fstat(number)):
            raise ConfigurationError(
                f"{path} {reason}; who has it can run anything as you, here and at the head. Type: chmod 600 {path}"
            )
        with open(number, "rb", closefd=False) as file:
            data = file.read(LARGEST)
    finally:
        os.close(number)
    return parse(data, str(path))


def _objection(found: os.stat_result) -> str:
    """Say why the file does not keep its secret; "" if it does. One of root's is readable by a group, in a pod."""
    if not stat.S_ISREG(found.st_mode):
        return "is no ordinary file"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}, not to you (user {os.geteuid()})"
    open_to = found.st_mode & (0o077 if found.st_uid == os.geteuid() else 0o027)
    return f"can be read or written by others (mode {stat.S_IMODE(found.st_mode):04o})" if open_to else ""


def parse(data: bytes, name: str) -> Access:
    """Return what the file says; raises ConfigurationError, which calls it by `name`."""
    try:
        said: Any = files.from_json(data)
        if said["format"] != FORMAT:
            raise ValueError(f"its format is {said['format']!r}; this version of hyperflow reads {FORMAT}")
        access = Access(
            _hosts(said["hosts"]),
            _port(said["port"]),
            str(said["host_key"]),
            str(said["client_key"]),
            str(said["file"]),
            str(said["log_dir"]),
        )
        access.public()
        access.private()
    except (ValueError, KeyError, TypeError, asyncssh.KeyImportError) as error:
        raise ConfigurationError(
            f"{name} is no access file of a pool ({str(error)[:200]}); `hyperflow pool access RUN > FILE` writes one"
        ) from error
    return access


def _hosts(value: Any) -> tuple[str, ...]:
    """Return the names of the head, which people change."""
    hosts: list[object] = value if isinstance(value, list) else []
    named = tuple(host for host in hosts if isinstance(host, str) and host)
    if not named or len(named) < len(hosts):
        raise ValueError('"hosts" has to be a list of names or addresses, such as ["login1"]')
    return named


def _port(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 16:
        raise ValueError(f'"port" is {str(value)[:40]}')
    return value


def is_shared(access: Access) -> bool:
    """Whether this machine sees the run's directory: the very file lies there."""
    try:
        there = checked_files.read_private(Path(access.file))
    except (OSError, checked_files.Damaged):
        return False
    return there == access.text().encode() and os.access(access.log_dir, os.W_OK)
