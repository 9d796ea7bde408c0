"""Where outputs are to come: what may be there already, and what is refused before anything runs."""

from __future__ import annotations

import errno
import os
import stat

from hyperflow.errors import ConfigurationError
from hyperflow.staging.full_disk import FULL, no_room
from hyperflow.staging.naming import Wanted

_CAUSES = {
    errno.ENOTDIR: "part of its path is a file",
    errno.EEXIST: "part of its path is a file",
    errno.EROFS: "the file system is read-only here",
}


def check(wanted: Wanted) -> None:
    """Raise ConfigurationError if something else is in the way of an output."""
    place = wanted.place
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return
    said = f"output {wanted.asked!r}"
    if wanted.kind == "file":
        if stat.S_ISDIR(mode):
            raise ConfigurationError(
                f"{said}: {place} is a directory. If the command makes a directory, write "
                f"Output({wanted.asked + '/'!r}), which takes its place; else give the file another name"
            )
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise ConfigurationError(f"{said}: {place} is no file, and cannot be replaced by one")
    elif not stat.S_ISDIR(mode) and not (wanted.kind == "files" and os.path.isdir(place)):
        raise ConfigurationError(f"{said}: {place} is there, and is no directory")
    elif wanted.kind == "directory" and (why := _precious(place)):
        raise ConfigurationError(
            f"{said} would take the place of {place} as a whole, and {why}; name a directory of its own"
        )


def _precious(place: str) -> str:
    """Say why a directory is not to be replaced; "" if it may be."""
    if os.path.ismount(place):
        return "that is a mounted file system"
    real = os.path.realpath(place)
    for why, path in (
        ("the program runs in it", os.getcwd()),
        ("your home directory is in it", os.path.expanduser("~")),
    ):
        if os.path.commonpath((real, os.path.realpath(path))) == real:
            return why
    return ""


def unwritable(wanted: Wanted, directory: str, error: OSError) -> ConfigurationError:
    """Return the error for a directory in which an output cannot be made."""
    if error.errno in FULL:
        return ConfigurationError(f"output {wanted.asked!r}: {no_room(directory)}")
    why = _CAUSES.get(error.errno or 0) or error.strerror or str(error)
    return ConfigurationError(
        f"output {wanted.asked!r} cannot be written in {directory}: {why}. Nothing has run; make the directory, or "
        "name another place"
    )
