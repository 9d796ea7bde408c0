"""Private directories: those that only this user can write to, held by descriptors. What is trusted is in them.

A path is looked up anew each time it is used. Who can write to any directory on the way can put another one in its
place after it was checked. So a directory is opened once, checked by `fstat`, and held. What is in it is opened through
the descriptor (`openat`), one name at a time, and no symbolic link is followed.

Guarantees:
- What `Held.open` returns belongs to the user, and nobody else can write to it; it stays that same directory, whatever
  happens to its name.
- On the way to it, a symbolic link is followed only if nobody else could have put it there. (Directories that others
  can write to are passed: the place of a group is one. What is put into the place of ours is found by what stands
  inside the files, see `master/rundir`.)
- Directories are made with mode 0700, whatever the umask and the defaults of the directory above say.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple, Self

from hyperflow.errors import ConfigurationError

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # with O_DIRECTORY it is mounted, if need be
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

MOST_LINKS = 40
"""Symbolic links on one way, as in Linux."""

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def objection(found: os.stat_result) -> str:
    """Say why somebody else could have written a file or directory; "" if nobody could."""
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to you (user {os.geteuid()})"
    if found.st_mode & _OTHERS:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


class Held:
    """A private directory, held until `close` or the end of a `with`; `path` is its name for people."""

    __slots__ = ("number", "path")

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number

    @classmethod
    def open(cls, path: Path) -> Held:
        """Open a directory, step by step from the root; raises ConfigurationError if it is not private."""
        path = path.absolute()
        try:
            way = _walk(path.parent, make=False)
            try:
                return cls._checked(path, way)
            finally:
                os.close(way)
        except OSError as error:
            raise _unusable(path, error) from error

    @classmethod
    def _checked(cls, path: Path, above: int) -> Held:
        number = os.open(path.name or ".", _OPEN, dir_fd=above)
        try:
            found = os.fstat(number)
            if reason := objection(found):
                raise _not_private(path, found, reason)
        except BaseException:
            os.close(number)
            raise
        return cls(path, number)

    def enter(self, name: str) -> Held:
        """Open a directory in this one; raises FileNotFoundError, and ConfigurationError if it is not private."""
        try:
            return self._checked(self.path / name, self.number)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(self.path / name, error) from error

    def make(self, name: str) -> Held:
        """Make a directory in this one, unless it is there, and open it; raises as `open` does, or OSError."""
        make_directory(name, self.number)
        return self.enter(name)

    def __truediv__(self, name: str) -> Entry:
        return Entry(self, name)

    def names(self) -> list[str]:
        return os.listdir(self.number)

    @property
    def closed(self) -> bool:
        return self.number < 0

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Entry(NamedTuple):
    """A name in a held directory. As a text it is its path, for people."""

    directory: Held
    name: str

    @property
    def through(self) -> Path:
        """A path that leads through the descriptor; it is valid in this process as long as the directory is held."""
        return Path(f"/proc/self/fd/{self.directory.number}/{self.name}")

    def open(self, flags: int) -> int:
        """Open the file that has this name, and return its descriptor; no symbolic link is followed."""
        return os.open(self.name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory.number)

    def __str__(self) -> str:
        return str(self.directory.path / self.name)


def make_all(path: Path) -> None:
    """Make a directory and what is missing above it, for the user alone; raises OSError."""
    os.close(_walk(path.absolute(), make=True))


def make_directory(name: str, above: int) -> None:
    """Make a directory for the user alone, unless it is there; raises OSError."""
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    except FileExistsError:
        return
    number = os.open(name, _STEP, dir_fd=above)
    try:
        if os.fstat(number).st_uid == os.geteuid():  # else another one has just taken the name
            os.chmod(f"/proc/self/fd/{number}", 0o700)  # the umask may have taken rights from us
    finally:
        os.close(number)


def _walk(path: Path, make: bool) -> int:
    """Go to a directory, and return a descriptor that only serves to go on from it."""
    current = os.open("/", _STEP)
    try:
        names = deque(path.parts[1:])
        links = 0
        while names:
            name = names.popleft()
            if make:
                _make_missing(name, current)
            try:
                following = os.open(name, _STEP, dir_fd=current)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                target = _target(name, current, error)
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                names.extendleft(reversed(target.parts))
                if not target.is_absolute():
                    continue
                names.popleft()
                following = os.open("/", _STEP)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


def _make_missing(name: str, above: int) -> None:
    try:
        os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        make_directory(name, above)


def _target(name: str, above: int, failure: OSError) -> Path:
    """Return where a symbolic link leads that may be followed; raises OSError."""
    link, around = os.stat(name, dir_fd=above, follow_symlinks=False), os.fstat(above)
    if not stat.S_ISLNK(link.st_mode):
        raise failure
    # As the kernel's protected_symlinks: in a directory that others can write to, a link of a stranger is a trap.
    if around.st_mode & _OTHERS and link.st_uid not in (0, os.geteuid(), around.st_uid):
        raise OSError(errno.EPERM, f"{name} on the way there is a symbolic link of user {link.st_uid}, a stranger here")
    return Path(os.readlink(name, dir_fd=above))


def _unusable(path: Path, error: OSError) -> ConfigurationError:
    try:
        link = stat.S_ISLNK(path.lstat().st_mode)
    except OSError:
        link = False
    if link:
        return ConfigurationError(f"{path} is a symbolic link, and not a directory; name the directory itself")
    if error.errno == errno.ENOTDIR:
        return ConfigurationError(f"{path} is not a directory")
    return ConfigurationError(f"cannot look at {path}: {error.strerror or error}")


def _not_private(path: Path, found: os.stat_result, reason: str) -> ConfigurationError:
    advice = "use one of your own"
    if found.st_uid == os.geteuid():
        advice = f"if you know that nobody did, type: chmod go-w {shlex.quote(str(path))}"
    return ConfigurationError(f"{path} {reason}, and holds pickles, which can do anything when they are read; {advice}")
