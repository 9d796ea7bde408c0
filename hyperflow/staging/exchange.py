"""A directory takes the place of another one, in one step where the kernel can do that.

Guarantees: with RENAME_EXCHANGE there is no moment without a directory. Where the file system lacks it, the old one is
moved aside first; a kill in that moment leaves it beside, and who next makes something there moves it back.
"""

from __future__ import annotations

import ctypes
import errno
import os

from hyperflow.wire.removal import remove

OLD = ".old"
"""What the name of a directory ends with that was moved aside."""

_AT_FDCWD = -100
_EXCHANGE = 2


def replace_directory(new: str, place: str) -> None:
    """Move a directory to a place, and remove what was there. Raises OSError."""
    if not os.path.lexists(place):
        os.rename(new, place)
        return
    try:
        _exchange(new, place)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        aside = new + OLD
        os.rename(place, aside)
        try:
            os.rename(new, place)
        except OSError:
            os.rename(aside, place)
            raise
        remove(aside)
        return
    remove(new)


def _exchange(one: str, other: str) -> None:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library without it
        raise OSError(errno.ENOSYS, "no renameat2") from None
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one, None, other)
