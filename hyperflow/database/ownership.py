"""Ownership: one process at a time may write to a results database.

A lock file beside the database (`results.sqlite.lock`) names its owner: host, process and program. It is complete or
not there (see `hyperflow.files`).

Guarantees:
- The second process gets an error that names the owner.
- A lock whose owner has ended (same machine, and the process is gone or the machine was restarted) is replaced. Of any
  number of processes that try at once, one succeeds.
- A lock of another machine is never replaced: nobody here can tell whether its owner lives. The error says what to type
  if the user knows that it does not.
- A forked child never releases the lock of its parent.

Why not flock or SQLite's own locks alone: on parallel file systems they are often local to each node, or missing, and
two nodes that write at once destroy the database. flock has one use here: processes *of the same machine* that find an
abandoned lock replace it one after the other.

Rejected: a lease that is renewed. A machine that sleeps, or a file system that stalls, would lose its database to
another machine while it still writes; SQLite has no fencing token that would stop it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.files import from_json, put_new, read_text, write_whole

logger = logging.getLogger("hyperflow")

ATTEMPTS = 100
"""How often to try again when the lock changes hands in between; each time another process has got it."""


def _read(path: str) -> str:
    return read_text(Path(path)).strip()


def _pid_namespace() -> str:
    """Return the namespace of the process ids here; containers of one machine have different ones."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks, or "" if there is none (or just its zombie)."""
    return started_in(_read(f"/proc/{pid}/stat"))


def started_in(stat: str) -> str:
    """Return when a process was started, of what is in its /proc/PID/stat."""
    after_name = stat.rpartition(")")[2].split()
    if len(after_name) < 20 or after_name[0] in ("Z", "X"):
        return ""
    return after_name[19]


@attrs.frozen
class Owner:
    """The holder of a lock, as written in the lock file."""

    host: str
    pid: int
    machine: str
    boot_id: str
    pid_namespace: str
    started: str
    program: str
    since: str
    token: str

    @classmethod
    def this_process(cls, program: str) -> Owner:
        """Return what to write for this process."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=_read("/etc/machine-id"),
            boot_id=_read("/proc/sys/kernel/random/boot_id"),
            pid_namespace=_pid_namespace(),
            started=started(os.getpid()),
            program=program,
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            token=os.urandom(8).hex(),
        )

    @classmethod
    def from_text(cls, text: str) -> Owner | None:
        """Return the owner that a lock file names, or None if the text is not of this module's making."""
        try:
            data: dict[str, Any] = from_json(text)
            return cls(**{field.name: field.type(data[field.name]) for field in attrs.fields(attrs.resolve_types(cls))})
        except (ValueError, KeyError, TypeError):
            return None

    def is_near(self) -> bool:
        """Tell whether this owner's process would be visible here."""
        return self._is_of_this_machine() and self.pid_namespace == _pid_namespace()

    def is_gone(self) -> bool:
        """Tell whether this owner has certainly ended: False if nobody can know that here."""
        if not self._is_of_this_machine():
            return False
        if self.boot_id != _read("/proc/sys/kernel/random/boot_id"):
            return True
        return self.is_near() and started(self.pid) != self.started

    def _is_of_this_machine(self) -> bool:
        # Host names alone are not unique: containers of many machines may have the same.
        return (self.host, self.machine) == (socket.gethostname(), _read("/etc/machine-id"))

    def __str__(self) -> str:
        return f"program {self.program} (process {self.pid} on {self.host}, since {self.since})"


class Ownership(NamedTuple):
    """The right to write to a database, held by this process until `release`."""

    lock: Path
    owner: Owner

    @classmethod
    def acquire(cls, database: Path, program: str) -> Ownership:
        """Take the lock of a database.

        Raises:
            DatabaseError: Another process has it (or this one, by another open); the message names it.
            ConfigurationError: The lock file cannot be made.
        """
        lock = database.with_name(database.name + ".lock")
        owner = Owner.this_process(program)
        text = json.dumps(attrs.asdict(owner)).encode()
        try:
            for _ in range(ATTEMPTS):
                with suppress(FileExistsError):
                    put_new(lock, text)
                    return cls(lock, owner)
                if _replace(lock, text, database):
                    return cls(lock, owner)
        except OSError as error:
            raise ConfigurationError(f"cannot make the lock file {lock}: {error.strerror or error}") from error
        raise DatabaseError(f"the lock file {lock} changes hands all the time; are many programs opening {database}?")

    def release(self) -> None:
        """Give the lock back; does nothing in a forked child, or when the lock is no longer this one."""
        if os.getpid() != self.owner.pid:
            return
        found = Owner.from_text(_read(str(self.lock)))
        if found is not None and found.token == self.owner.token:
            try:
                self.lock.unlink(missing_ok=True)
            except OSError as error:  # what the program was about counts more
                text = f"cannot remove the lock file {self.lock}: {error.strerror or error}"
                logger.warning("%s; the next program here replaces it when this process has ended", text)


def _replace(lock: Path, text: bytes, database: Path) -> bool:
    """Replace a lock whose owner has gone; return False if it has changed in between; refuse when it is held."""
    try:
        file = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        owner = Owner.from_text(_head(file))
        if owner is None or not owner.is_gone():
            if owner is not None and not _is_still(file, lock):
                return False
            raise _refusal(owner, lock, database)
        # From here on only one process at a time: the others wait, and then find another file at this name.
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without flock
            raise DatabaseError(
                f"{database} was left locked by {owner}, which has ended; to go on, type: {_removal(lock)}"
            ) from None
        if not _is_still(file, lock):
            return False
        write_whole(lock, text)  # in one step, so there is no moment without a lock
        return True
    finally:
        os.close(file)


def _head(file: int) -> str:
    """Return what an open lock says; "" if it is a pipe or a directory."""
    try:
        return os.pread(file, 65536, 0).decode(errors="replace")
    except OSError:
        return ""


def _is_still(file: int, lock: Path) -> bool:
    """Tell whether the open file is what the name stands for now."""
    try:
        return os.path.samestat(os.fstat(file), lock.lstat())
    except FileNotFoundError:
        return False


def _removal(lock: Path) -> str:
    return f"rm {shlex.quote(str(lock))}"


def _refusal(owner: Owner | None, lock: Path, database: Path) -> DatabaseError:
    if owner is None:
        return DatabaseError(
            f"{database} is locked, but {lock} does not say by whom; if no program uses the database, "
            f"type: {_removal(lock)}"
        )
    advice = "wait until it ends, or use another database"
    if owner.pid == os.getpid() and owner.host == socket.gethostname():
        advice = "which is this process itself: open a database once, and share it"
    elif not owner.is_near():
        advice = f"{advice}. Only if you know that it has ended: {_removal(lock)}"
    return DatabaseError(f"{database} is in use by {owner}; {advice}")
