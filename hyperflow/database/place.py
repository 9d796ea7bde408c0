"""Places: may a results database be kept here, and how?

Guarantees: nothing is written to a file, or beside it, before these checks. They refuse what is not an ordinary file of
this user's own that only this user can write; what is not a database of hyperflow; and a database of a newer version.
All of these stay as they were, byte for byte.

A file system whose type is not known to be local counts as remote, which is slower, never wrong.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from pathlib import Path

from hyperflow.errors import ConfigurationError, DatabaseError

APPLICATION_ID = 0x68796670  # "hyfp"

LAYOUT_VERSION = 3
"""The version of a file's tables. (Entries have a version of their own, `entries.SCHEMA_VERSION`.)"""

LOCAL_FILE_SYSTEMS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs", "overlay")
)

_MAGIC = b"SQLite format 3\0"


def resolved(path: Path) -> Path:
    """Return the one name of a database, whatever links lead to it; its lock file is named after it."""
    return Path(os.path.realpath(path))


def check(path: Path) -> bool:
    """Check that a database can be kept at a path, and tell whether there is one already.

    Raises:
        ConfigurationError: The place cannot be used: no such directory, no permission, others could write to it.
        DatabaseError: What is there is no database of hyperflow, or one of a newer version.
    """
    parent = path.parent
    refused = f"cannot keep a results database at {path}: "
    if not parent.is_dir():
        raise ConfigurationError(f"{refused}there is no directory {parent}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"{refused}the directory {parent} cannot be written, and SQLite needs to make files beside the database"
        )
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot look at {path}: {error.strerror}") from error
    check_file(path, status)
    return check_header(path)


def check_file(path: Path, status: os.stat_result) -> None:
    """Refuse what is no ordinary file of this user's own, that only this user can write."""
    if stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"{path} is a directory; a results database is a file, such as {path}/results.sqlite")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{path} is not an ordinary file, so it cannot be a results database")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{path} belongs to user {status.st_uid}, not to you (user {os.geteuid()}); to go on from its results, "
            f"copy it: ProgramInfo.new(base_dir, start_from={str(path)!r})"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(
            f"{path} can be written by others (mode {stat.S_IMODE(status.st_mode):04o}), so its results cannot be "
            f"trusted; if they can, type: chmod go-w {shlex.quote(str(path))}"
        )
    if status.st_nlink > 1:
        raise ConfigurationError(
            f"{path} has {status.st_nlink} names (hard links), which SQLite cannot keep apart; use a copy"
        )
    if not status.st_mode & stat.S_IWUSR or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigurationError(f"{path} is read-only; to go on from its results, use start_from={str(path)!r}")


def check_header(path: Path) -> bool:
    """Read a file's first bytes as SQLite would; tell whether there is a database (False: the file is empty)."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        return False
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise DatabaseError(
            f"{path} is not a results database, or its beginning is damaged; it was left as it is. "
            f"If it was one, type: {repair_command(path)}"
        )
    check_version(path, int.from_bytes(head[68:72], "big"), int.from_bytes(head[60:64], "big"))
    return True


def is_ours(path: Path) -> bool:
    """Tell whether a file's first bytes are those of a results database, of whatever version."""
    with path.open("rb") as file:
        head = file.read(100)
    return head.startswith(_MAGIC) and int.from_bytes(head[68:72], "big") == APPLICATION_ID


def repair_command(path: Path) -> str:
    """Return what to type for a file that is damaged."""
    return f"hyperflow repair {shlex.quote(str(path))}"


def check_version(path: Path, application_id: int, version: int) -> None:
    """Refuse a database of another program, or of a newer version of this one."""
    if application_id != APPLICATION_ID:
        raise DatabaseError(f"{path} is an SQLite database, but not one of hyperflow's; it was left as it is")
    if version > LAYOUT_VERSION:
        raise DatabaseError(
            f"{path} was written by a newer version of hyperflow (its layout is version {version}, this one knows "
            f"{LAYOUT_VERSION}); it was left as it is. Upgrade hyperflow to use it"
        )


def is_local(path: Path, mountinfo: str | None = None) -> bool:
    """Tell whether a path is on a file system of this machine alone, where WAL's shared memory works."""
    return file_system_type(path, mountinfo) in LOCAL_FILE_SYSTEMS


def file_system_type(path: Path, mountinfo: str | None = None) -> str:
    """Return the type of the file system that holds a path, or "" where that cannot be found out."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return ""
    # Python's statvfs does not show the type.
    place = os.path.realpath(path)
    best, kind = "", ""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two at one point, the later one covers the earlier
            best, kind = point, after.split(" ")[0]
    return kind
