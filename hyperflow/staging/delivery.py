"""On the worker: outputs on their way home, beside their destination where that is seen, else in posts.

Guarantees: what is said to be brought is on the disk there (fsync), or was read by the head in pieces. Each file has
the digest of what was read here, which is the file that was found: not one that was put in its place, nor one that is
still written to. A destination's full disk is an error that says so.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from hyperflow import files
from hyperflow.errors import OutputFailed
from hyperflow.staging import content, keeping
from hyperflow.staging.cache import node_cache
from hyperflow.staging.full_disk import FULL, no_room
from hyperflow.staging.made import Found
from hyperflow.staging.naming import Wanted
from hyperflow.staging.parts import (
    PIECE,
    RECEIVER,
    Begun,
    Entry,
    Kept,
    Manifest,
    Piece,
    Ticket,
    held,
    in_tree,
    is_there,
    part_of,
)
from hyperflow.worker.worker import post, worker_info

_NOT_FROM_HERE = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What it says where this node sees a directory, but may not write there."""

_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Delivery:
    """Brings the outputs of one try of a command."""

    def __init__(self, ticket: Ticket, argv: Sequence[str]) -> None:
        self._ticket = ticket
        self._argv = list(argv)
        self._entries: list[Entry] = []
        self._kept: list[Kept] = []
        self.run = os.urandom(6).hex()
        post(RECEIVER, Begun(ticket.token, self.run))

    def bring(self, wanted: Wanted, found: Iterable[Found]) -> None:
        """Bring an output; raises OutputFailed where there is no room for it."""
        marker = self._ticket.markers[wanted.asked]
        try:
            with self._opened(marker, wanted) as part:
                self._entries += (self._brought(part, wanted, one) for one in found)
        except OSError as error:
            raise self._told(wanted, marker, error) from error

    def _brought(self, part: str | None, wanted: Wanted, one: Found) -> Entry:
        entry = _entry(wanted.asked, one)
        if one.kind == "file":
            size, digest = self._posted(entry, one) if part is None else _written(in_tree(part, one.name), one)
            return entry._replace(size=size, digest=digest)
        if part is not None and one.kind == "link":
            os.symlink(one.target, in_tree(part, one.name))
        elif part is not None and one.name:
            os.mkdir(in_tree(part, one.name), 0o700)
        return entry

    def keep(self, wanted: Wanted, found: Iterable[Found]) -> None:
        """An output stays in this node's cache."""
        for one in found:
            digest, state = content.digest_file(one.path)
            there = node_cache().put(Path(one.path), digest)
            self._kept.append(Kept(one.name or wanted.asked, keeping.keep(there, digest, state.size)))

    def end(self, failed: bool) -> str:
        """Say that all is there; return the name of this try."""
        again = worker_info().attempt > 1
        post(RECEIVER, Manifest(self._ticket.token, self.run, failed, again, tuple(self._entries), tuple(self._kept)))
        return self.run

    @contextmanager
    def _opened(self, marker: str, wanted: Wanted) -> Iterator[str | None]:
        """Make the part beside a marker; yield where to write it, or None where that is not seen, or not writable."""
        if not is_there(marker, self._ticket.proof):
            yield None
            return
        part = part_of(marker, self.run)
        try:
            opened = _new_file(part) if wanted.kind == "file" else _new_directory(part)
        except OSError as error:
            if error.errno not in _NOT_FROM_HERE:
                raise
            yield None
            return
        with opened as through:
            if not is_there(marker, self._ticket.proof):  # nobody waits, and nobody else would remove the part
                with suppress(OSError):
                    os.unlink(part) if wanted.kind == "file" else os.rmdir(part)
                raise FileNotFoundError(errno.ENOENT, "the head has ended this command", marker)
            yield through

    def _posted(self, entry: Entry, one: Found) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        for piece in pieces_of(one.path):
            digest.update(piece)
            post(RECEIVER, Piece(self._ticket.token, self.run, entry.asked, entry.name, size, piece))
            size += len(piece)
        return size, digest.hexdigest()

    def _told(self, wanted: Wanted, marker: str, error: OSError) -> OutputFailed:
        place = os.path.dirname(marker)
        if error.errno in FULL:
            return OutputFailed(self._argv, wanted.asked, no_room(place))
        return OutputFailed(self._argv, wanted.asked, f"it cannot be brought to {place}: {error}", worker_info().node)


def _entry(asked: str, one: Found) -> Entry:
    always = {"file": 0o600, "directory": 0o700, "link": 0o777}[one.kind]
    return Entry(asked, one.name, one.kind, mode=one.mode | always, target=one.target)


def _new_directory(part: str) -> AbstractContextManager[str]:
    os.mkdir(part, 0o700)
    return held(part)


def _new_file(part: str) -> AbstractContextManager[str]:
    return _closing(os.open(part, _OPEN | os.O_EXCL, 0o600))


@contextmanager
def _closing(number: int) -> Iterator[str]:
    try:
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)


def _written(place: str, one: Found) -> tuple[int, str]:
    """Copy a file; return its size and digest."""
    digest, size = hashlib.sha256(), 0
    if one.name and "/" in one.name and not os.path.isdir(above := os.path.dirname(place)):
        os.makedirs(above, 0o700, exist_ok=True)
    number = os.open(place, _OPEN if one.name else os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        for piece in pieces_of(one.path):
            digest.update(piece)
            size += len(piece)
            files.write_all(number, piece)
        os.fchmod(number, one.mode | 0o600)
        os.fsync(number)
    finally:
        os.close(number)
    return size, digest.hexdigest()


def pieces_of(path: str) -> Iterator[bytes]:
    """Yield what is in a file; one piece at least. Raises OSError for what is not the file of that path, or grows.

    A process that the command has left could have put a link in its place, or in that of a directory above it, since it
    was found: so what counts is where the open file is.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or os.readlink(f"/proc/self/fd/{number}") != path:
            raise OSError(errno.ESTALE, "it was replaced after the command had ended; does it leave a process?", path)
        left = found.st_size
        yield (piece := file.read(min(PIECE, left)))
        while piece and (left := left - len(piece)):
            yield (piece := file.read(min(PIECE, left)))
        if left or os.fstat(number).st_size != found.st_size:
            raise OSError(errno.ESTALE, "it was changed after the command had ended; does it leave a process?", path)
