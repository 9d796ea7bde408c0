"""Directories with all that is in them are removed, whatever programs have done to them, and may do meanwhile.

Guarantees: nothing outside of the directory is touched. Each directory is opened by its name in the one above it, and
what is in it is removed through the descriptor: who puts a symbolic link in its place meanwhile gains nothing, in a
place of a group either. Nothing on another file system is removed, such as what a program has mounted. Missing rights
are taken. It is all one how deep directories are. What cannot be removed stays.

Rejected: `shutil.rmtree`. It stops where a directory may not be read, and has a descriptor open for each level.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GONE = ".gone-"
"""How the name of a directory begins that is being removed."""

_STEPS = 64
"""Names that are removed between two looks at the clock."""

_TRIES = 3
"""How often a directory is looked through: some file systems skip names while others are removed."""

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def remove(top: str | os.PathLike[str]) -> None:
    """Remove a file, or a directory with all that is in it, as far as that can be done."""
    for _ in removing(Path(top)):
        pass


def removing(top: Path) -> Iterator[None]:
    """Do that bit by bit."""
    with suppress(OSError):
        above = os.open(top.parent, _PLACE)
        try:
            if _is_directory(top.name, above):
                with suppress(OSError):
                    yield from _Tree(top.name, above).emptying()
                os.rmdir(top.name, dir_fd=above)
            else:
                os.unlink(top.name, dir_fd=above)
        finally:
            os.close(above)


class _Tree:
    """A directory that is removed. Those in it are moved to its top first."""

    def __init__(self, name: str, above: int) -> None:
        self._top = _entered(name, above)
        self._device = os.fstat(self._top).st_dev
        self._mark = f"{GONE}{os.urandom(8).hex()}"
        self._moved = 0
        self._waiting: list[str] = []

    def emptying(self) -> Iterator[None]:
        try:
            tried = set[str]()
            for _ in range(_TRIES):
                yield from self._emptying(self._top, is_top=True)
                self._waiting = [name for name in self._waiting if name not in tried]
                if not self._waiting:
                    return
                while self._waiting:
                    tried.add(name := self._waiting.pop())
                    yield from self._removing(name)
        finally:
            os.close(self._top)

    def _removing(self, name: str) -> Iterator[None]:
        """Remove a directory that is at the top."""
        with suppress(OSError):
            number = _entered(name, self._top)
            try:
                for _ in range(_TRIES):
                    if os.fstat(number).st_dev != self._device:
                        return
                    yield from self._emptying(number, is_top=False)
                    with suppress(OSError):
                        os.rmdir(name, dir_fd=self._top)
                        return
            finally:
                os.close(number)

    def _emptying(self, number: int, is_top: bool) -> Iterator[None]:
        """Unlink what is in a directory, and note which directories there are at the top now."""
        below: list[str] = []
        with suppress(OSError), os.scandir(number) as entries:
            for count, entry in enumerate(entries, 1):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=number)
                if not count % _STEPS:
                    yield
        if is_top:
            self._waiting += below
            return
        for name in below:
            self._moved += 1
            to = f"{self._mark}-{self._moved}"
            with suppress(OSError):
                _move(name, number, to, self._top)
                self._waiting.append(to)


def _is_directory(name: str, above: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)


def _entered(name: str, above: int) -> int:
    """Open a directory, with all rights on it; raises OSError."""
    place = os.open(name, _PLACE | os.O_NOFOLLOW, dir_fd=above)
    try:
        with suppress(OSError):
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def _move(name: str, above: int, to: str, top: int) -> None:
    """Give a directory another place; raises OSError."""
    try:
        os.rename(name, to, src_dir_fd=above, dst_dir_fd=top)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        os.close(_entered(name, above))  # else its own entry for what is above it cannot be changed
        os.rename(name, to, src_dir_fd=above, dst_dir_fd=top)
