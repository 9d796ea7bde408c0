"""What comes of outputs in posts, written beside their destinations; and what is looked at before it gets its name.

Guarantees: a name that leads out of an output is refused, whoever sent it. A file counts as there when its size and
digest are what the worker has said; of one that a worker has written itself, the size.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hyperflow import files
from hyperflow.staging import parts
from hyperflow.staging.content import leads_out
from hyperflow.staging.parts import Entry, Piece, in_tree

_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Arrivals:
    """The files of one command that come in posts."""

    def __init__(self) -> None:
        self._digests: dict[str, Any] = {}  # of what has come, by its place
        self._sizes: dict[str, int] = {}
        self._open: tuple[str, int] | None = None  # where the last piece went
        self._through: dict[str, str] = {}  # parts that are directories, by descriptors
        self._held = ExitStack()

    def write(self, part: str, piece: Piece, is_tree: bool) -> None:
        """Write a piece; raises OSError, or ValueError for a name or an offset that cannot be."""
        _check(piece.name, is_tree)
        place = in_tree(part, piece.name)
        if self._sizes.get(place, 0) != piece.offset:
            raise ValueError(f"a piece of {piece.name or piece.asked!r} is missing before byte {piece.offset}")
        number = self._opened(place, self._place(part, piece.name, is_tree))
        files.write_all(number, piece.content)
        self._sizes[place] = piece.offset + len(piece.content)
        self._digests.setdefault(place, hashlib.sha256()).update(piece.content)

    def _place(self, part: str, name: str, is_tree: bool) -> str:
        """Return where a file of a part is, on a way that stays; raises OSError."""
        if not is_tree:
            return in_tree(part, name)
        if part not in self._through:
            os.makedirs(part, 0o700, exist_ok=True)
            self._through[part] = self._held.enter_context(parts.held(part))
        return in_tree(self._through[part], name)

    def _opened(self, place: str, path: str) -> int:
        if self._open is not None and self._open[0] == place:
            return self._open[1]
        self._close_file()
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        new = place not in self._sizes
        self._open = place, os.open(path, _OPEN | (os.O_EXCL if new else os.O_APPEND), 0o600)
        return self._open[1]

    def complete(self, part: str, entries: list[Entry]) -> None:
        """Raise ValueError or OSError unless all of an output is there; give it its modes."""
        self._close_file()
        is_tree = any(entry.name for entry in entries) or entries[0].kind == "directory"
        for entry in entries:
            _check(entry.name, is_tree)
            place = self._place(part, entry.name, is_tree)
            if entry.kind == "directory":
                os.makedirs(place, 0o700, exist_ok=True)
            elif entry.kind == "link":
                _check_link(entry)
                if not os.path.islink(place):
                    os.symlink(entry.target, place)
            else:
                self._complete_file(place, self._digests.get(in_tree(part, entry.name)), entry)
        for entry in reversed(entries):
            if entry.kind == "directory":
                place = self._place(part, entry.name, is_tree)
                os.chmod(place, entry.mode | 0o700)
                with suppress(OSError):
                    files.sync_directory(Path(place))

    @staticmethod
    def _complete_file(place: str, digest: Any, entry: Entry) -> None:
        found = os.lstat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
            has = f"{found.st_size} bytes, and {entry.size} were sent"
            raise ValueError(f"{entry.name or entry.asked!r} has {has}; did something change it?")
        if digest is None:
            return  # a worker has written it here, and seen to it that it is on the disk
        if digest.hexdigest() != entry.digest:
            raise ValueError(f"{entry.name or entry.asked!r} is not what was sent: its digest is another one")
        number = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(number, entry.mode & 0o777 | 0o600)
            os.fsync(number)
        finally:
            os.close(number)

    def close(self) -> None:
        """Close all that is open."""
        self._close_file()
        self._through.clear()
        self._held.close()

    def _close_file(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None


def _check(name: str, is_tree: bool) -> None:
    """Raise ValueError for a name that leads out of an output."""
    if name and (not is_tree or os.path.isabs(name) or "\0" in name or ".." in name.split("/")):
        raise ValueError(f"{name!r} is no name in an output")


def _check_link(entry: Entry) -> None:
    if leads_out(entry.name, entry.target):
        raise ValueError(f"{entry.name!r} is a link out of the output, to {entry.target!r}")
