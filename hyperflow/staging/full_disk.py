"""A disk that is full: how the kernel says so, how much is free, what to tell people."""

from __future__ import annotations

import errno
import os

from hyperflow.saying import as_written

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the kernel says where something does not fit."""


def free_at(place: str | os.PathLike[str]) -> int:
    """Return how many bytes the user may still write in a directory; -1 where nobody knows."""
    try:
        found = os.statvfs(place)
    except OSError:
        return -1
    return found.f_bavail * found.f_frsize


def no_room(place: str) -> str:
    """Say that a directory at home has no room, and what to do."""
    room = as_written(max(free_at(place), 0))
    return (
        f"there is no room for it in {place} ({room} are free). What was there before is untouched; free space, raise "
        'the quota, name another place: Output("/large/..."), or leave it on its node: Output(..., keep="node")'
    )
