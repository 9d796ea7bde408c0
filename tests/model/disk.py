"""A disk that forgets: a loss of power leaves of a directory what was brought to the disk before (fsync).

The code under test works on a real directory, with the real functions of `os`; here is noted which of its changes a
loss of power would leave. A file is safe when it was synced, a name when its directory was. Changes of a directory that
were not synced may have reached the disk, in their order, up to any of them. The process may be killed before each
change: then nothing is lost that it has done, and nothing more is done.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The process was killed here."""


class File:
    """A file; `safe` is what of it is on the disk."""

    def __init__(self, safe: bytes = b"") -> None:
        self.safe = safe


class Directory:
    """A directory: the names in it, those of them that are on the disk, and what has changed since."""

    def __init__(self) -> None:
        self.names: dict[str, File | Directory] = {}
        self.safe: dict[str, File | Directory] = {}
        self.since: list[tuple[str, File | Directory | None]] = []

    def change(self, name: str, node: File | Directory | None) -> None:
        """Give or take a name."""
        if node is None:
            self.names.pop(name, None)
        else:
            self.names[name] = node
        self.since.append((name, node))

    def sync(self) -> None:
        self.safe = dict(self.names)
        self.since.clear()


class Disk:
    """What is below a directory, from now on. Of several, the one that was attached last is used."""

    current: Disk | None = None

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.dead = False
        self.steps: list[str] = []
        self.kill_after: int | None = None
        """How many more steps the process lives."""
        self.elsewhere = False
        """Whether another machine is at work: it is not killed, and what it writes is safe."""
        self.top = self._read(self.root)

    def _read(self, path: str) -> Directory:
        made = Directory()
        for entry in os.scandir(path):
            node = self._read(entry.path) if entry.is_dir() else File(Path(entry.path).read_bytes())
            made.names[entry.name] = node
        made.sync()
        return made

    @contextlib.contextmanager
    def by_another_machine(self) -> Iterator[None]:
        self.elsewhere = True
        try:
            yield
        finally:
            self.elsewhere = False

    def step(self, what: str) -> None:
        """Something is about to happen that others can see; or the process is killed before."""
        if self.elsewhere:
            return
        if self.dead:
            raise Killed
        if self.kill_after is not None:
            if self.kill_after == 0:
                self.dead = True
                raise Killed
            self.kill_after -= 1
        self.steps.append(what)

    # ---- where things are ---------------------------------------------------------------------------------------

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[Directory, str] | None:
        """Return the directory of a path and the name in it; None if it is not below the root."""
        text = os.fspath(path)
        if text.startswith("/proc/self/fd/"):
            number, _, rest = text.removeprefix("/proc/self/fd/").partition("/")
            text = os.path.join(os.readlink(f"/proc/self/fd/{number}"), rest)
        elif not text.startswith("/") and dir_fd is not None:
            text = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), text)
        if not text.startswith(self.root + "/"):
            return None
        *way, name = text[len(self.root) + 1 :].split("/")
        at = self.top
        for one in way:
            found = at.names.get(one)
            if not isinstance(found, Directory):
                return None
            at = found
        return at, name

    def node(self, path: Any) -> File | Directory | None:
        if os.fspath(path) == self.root:
            return self.top
        found = self.place(path)
        return found[0].names.get(found[1]) if found is not None else None

    def safe(self, *way: str) -> bytes | None:
        """Return what a file would say after a loss of power, if nothing more than what was synced is on the disk."""
        at: File | Directory | None = self.top
        for name in way:
            at = at.safe.get(name) if isinstance(at, Directory) else None
        return at.safe if isinstance(at, File) else None

    def changed(self, path: Any, node: File | Directory | None, dir_fd: int | None = None) -> None:
        found = self.place(path, dir_fd)
        if found is not None:
            found[0].change(found[1], node)
            if self.elsewhere:
                found[0].sync()

    # ---- the end of a process, or of the machine ----------------------------------------------------------------

    def lose_power(self, kept: int) -> None:
        """Leave what is on the disk, and of each directory's later changes the first `kept`."""
        before, Disk.current = Disk.current, None
        shutil.rmtree(self.root)
        os.mkdir(self.root, 0o700)
        self._write(self.top, self.root, kept)
        self.top = self._read(self.root)
        Disk.current = before

    def _write(self, directory: Directory, path: str, kept: int) -> None:
        names = dict(directory.safe)
        for name, node in directory.since[:kept]:
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node
        for name, node in names.items():
            at = os.path.join(path, name)
            if isinstance(node, File):
                number = os.open(at, os.O_WRONLY | os.O_CREAT, 0o600)
                os.write(number, node.safe)
                os.close(number)
            else:
                os.mkdir(at, 0o700)
                self._write(node, at, kept)


_REAL = {name: getattr(os, name) for name in ("open", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync")}


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Let the functions of `os` that change directories tell the current disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", _open)
        patch.setattr(os, "fsync", _fsync)
        patch.setattr(os, "mkdir", _mkdir)
        for name in ("replace", "rename", "link"):
            patch.setattr(os, name, _naming(_REAL[name], moves=name != "link"))
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, _removing(_REAL[name]))
        yield


def _told(path: Any, dir_fd: int | None = None) -> Disk | None:
    disk = Disk.current
    return disk if disk is not None and disk.place(path, dir_fd) is not None else None


def _open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
    disk = _told(path, dir_fd) if flags & os.O_CREAT else None
    if disk is not None:
        disk.step(f"make {path}")
    number = _REAL["open"](path, flags, mode, dir_fd=dir_fd)
    found = disk.place(path, dir_fd) if disk is not None else None
    if disk is not None and found is not None and found[1] not in found[0].names:
        disk.changed(path, File(), dir_fd)
    return number


def _naming(function: Callable[..., Any], moves: bool) -> Callable[..., Any]:
    def change(old: Any, new: Any, **options: Any) -> Any:
        disk = _told(new)
        if disk is None:
            return function(old, new, **options)
        disk.step(f"name {new}")
        node = disk.node(old)
        result = function(old, new, **options)
        if disk.elsewhere and isinstance(node, File):
            node.safe = Path(new).read_bytes()
        disk.changed(new, node)
        if moves:
            disk.changed(old, None)
        return result

    return change


def _removing(function: Callable[..., Any]) -> Callable[..., Any]:
    def change(path: Any, *, dir_fd: int | None = None) -> Any:
        disk = _told(path, dir_fd)
        if disk is None:
            return function(path, dir_fd=dir_fd)
        if disk.dead and not disk.elsewhere:
            return None  # it is what a `finally` does, for which a killed process has no time
        disk.step(f"remove {path}")
        result = function(path, dir_fd=dir_fd)
        disk.changed(path, None, dir_fd)
        return result

    return change


def _mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
    disk = _told(path, dir_fd)
    if disk is None:
        return _REAL["mkdir"](path, mode, dir_fd=dir_fd)
    disk.step(f"make {path}")
    result = _REAL["mkdir"](path, mode, dir_fd=dir_fd)
    disk.changed(path, Directory(), dir_fd)
    return result


def _fsync(number: int) -> None:
    """Note what is safe now. (Nothing is brought to a real disk: that would only take time.)"""
    disk = Disk.current
    node = disk.node(os.readlink(f"/proc/self/fd/{number}")) if disk is not None else None
    if disk is None or node is None:
        return
    disk.step("sync")
    if isinstance(node, File):
        node.safe = Path(f"/proc/self/fd/{number}").read_bytes()
    else:
        node.sync()
