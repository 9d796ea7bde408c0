"""Files on their way to this node: each is a file without a name in the scratch directory, and not memory.

    head > launcher    FILE_COMES: content NUMBER is a file, and this worker waits for it; then CONTENT, or FETCH
    launcher > worker  FILE_HERE: where it is, or why it cannot be had; the worker links it to where it wants it

What arrives is passed on to other nodes meanwhile (peers.py). A file that was kept on this node is held open while
others want it (FILE_HOLD), and read in pieces by a head that has to pass it on itself (FILE_PULL).

Guarantees: nothing half written can be taken for a file, and nothing is left when all processes are killed: what comes
has no name. A full disk costs this node the file, and nobody anything else: the workers that wait are told, the head
stops sending, children get another parent. A file for which no worker waits any more does not go on coming.

Rejected: memory (memfd), as for blocks: a file may be larger than that. Rejected: to let the worker read the stream
itself: it would come once for each worker.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from hyperflow.launcher.peers import Counted, Peers
from hyperflow.wire import frames, messages, scratch
from hyperflow.wire.frames import FileHere, Kind
from hyperflow.wire.messages import Fetched, FileHeld, FileHold, FileOrder, FileReleased
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber

MOST_PULLED = 1 << 22
"""Bytes of a file that the head gets at a time, at most."""

Waiting = tuple[WorkerNumber, int, str]
"""A worker, the number of its request, and what it is told with the file."""

NOBODY_WAITS = "nobody waits for it there any more"


class NodeFile(Counted):
    """A file that comes, as far as it is here; or one that is held for others."""

    __slots__ = ("_hash", "failure", "waiting", "whole")

    def __init__(self, fd: int, here: int, whole: int) -> None:
        super().__init__(fd, here)
        self.whole = whole
        """Bytes that it will have."""
        self.failure: OSError | None = None
        """Why it cannot be kept here."""
        self.waiting: list[Waiting] = []
        """Who is told when it is here."""
        self._hash: Any = None  # of what has come, if all of it has

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self.size >= self.whole

    def append(self, data: memoryview) -> None:
        """Add to it; raises OSError if it does not fit, and remembers that."""
        if self._hash is None and not self.size:
            import hashlib  # noqa: PLC0415 (a launcher to which no files come does not pay for it)

            self._hash = hashlib.sha256()
        try:
            super().append(data)
        except OSError as error:
            self.failure = error
            raise
        if self._hash is not None:
            self._hash.update(data)

    def restart(self) -> None:
        """Begin it again."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.size = 0
        self._hash = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of it, if that was computed while it came."""
        return b"" if self._hash is None else bytes(self._hash.digest())


class NodeFiles:
    """All files that come or are held."""

    def __init__(
        self, peers: Peers, tell_head: Callable[[bytes], object], tell: Callable[[WorkerNumber, bytes], object]
    ) -> None:
        self._peers = peers
        self._tell_head = tell_head
        self._tell = tell
        self._files: dict[DefinitionNumber, NodeFile] = {}

    def __contains__(self, number: DefinitionNumber) -> bool:
        return number in self._files

    def handle(self, kind: int, worker: WorkerNumber, body: memoryview) -> None:
        """Carry out an order of the head's."""
        if kind == Kind.FILE_COMES:
            self._come(worker, messages.read(FileOrder, body))
        elif kind == Kind.FILE_HOLD:
            self._hold(messages.read(FileHold, body))
        elif kind == Kind.FILE_PULL:
            self._pull(*frames.FILE_PULL.unpack(body))
        elif kind == Kind.FILE_RELEASED:
            _release(messages.read(FileReleased, body).path)

    # ---- from the head, or from another node ------------------------------------------------------------------------

    def _come(self, worker: WorkerNumber, order: FileOrder) -> None:
        """A worker waits for a file; without a worker: the head sends it from its beginning."""
        number = DefinitionNumber(order.number)
        file = self._files.get(number)
        if not worker:
            if file is not None:
                self._peers.stop(frames.NUMBER.pack(number))
                file.restart()
            return
        if file is None and order.known:  # it has failed meanwhile
            self._tell(worker, FileHere(order.serial, error=errno.EAGAIN).framed(worker))
            return
        if file is None:
            try:
                file = NodeFile(_unnamed(order.size), 0, order.size)
            except OSError as error:
                self._say_failed(number, error, [(worker, order.serial, "")])
                return
            self._files[number] = file
            self._peers.hold(frames.NUMBER.pack(number), file, order.size)
        file.waiting.append((worker, order.serial, order.before))
        if file.is_whole:
            self._arrived(number, file)

    def fill(self, number: DefinitionNumber, data: memoryview) -> None:
        """The head has sent a piece."""
        file = self._files[number]
        try:
            file.append(data)
        except OSError as error:
            self._fail(number, error)
            return
        self._peers.grown(frames.NUMBER.pack(number))
        if file.is_whole:
            self._arrived(number, file)

    def fetched(self, number: DefinitionNumber, cause: str) -> bool:
        """One is here from another node, or could not be had there; return whether it is a file."""
        file = self._files.get(number)
        if file is None:
            return False
        if file.failure is not None:
            self._fail(number, file.failure)
        elif cause:
            self._tell_head(messages.framed(Fetched(number, cause)))
        else:
            self._arrived(number, file)
        return True

    def _arrived(self, number: DefinitionNumber, file: NodeFile) -> None:
        waiting, file.waiting = file.waiting, []
        for worker, serial, before in waiting:
            found = FileHere(serial, os.getpid(), file.fd, digest=file.digest, text=before)
            self._tell(worker, found.framed(worker))
        self._tell_head(messages.framed(Fetched(number, "")))

    def _fail(self, number: DefinitionNumber, error: OSError) -> None:
        """One cannot be kept here."""
        self._say_failed(number, error, self._files[number].waiting)
        self._close(number)

    def _say_failed(self, number: DefinitionNumber, error: OSError, waiting: list[Waiting]) -> None:
        cause = f"{error.strerror or error}"
        for worker, serial, _ in waiting:
            self._tell(worker, FileHere(serial, error=error.errno or errno.EIO, text=cause).framed(worker))
        self._tell_head(messages.framed(Fetched(number, cause, own=True)))

    # ---- those that were kept here ----------------------------------------------------------------------------------

    def _hold(self, order: FileHold) -> None:
        number = DefinitionNumber(order.number)
        try:
            # What somebody has put in its place could be a pipe, at which `open` waits.
            fd = os.open(order.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != order.size:
                os.close(fd)
                raise OSError(errno.ESTALE, f"it has {found.st_size} bytes there, and had {order.size}")
        except OSError as error:
            cause = f"{order.path}: {error.strerror}"
            self._tell_head(messages.framed(FileHeld(number, 0, -1, cause)))
            return
        file = self._files[number] = NodeFile(fd, order.size, order.size)
        self._peers.hold(frames.NUMBER.pack(number), file, order.size)
        self._tell_head(messages.framed(FileHeld(number, os.getpid(), fd, "")))

    def _pull(self, number: DefinitionNumber, offset: int, count: int) -> None:
        data = b""
        if number in self._files:
            with contextlib.suppress(OSError):  # the head sees that nothing has come
                data = os.pread(self._files[number].fd, min(count, MOST_PULLED), offset)
        self._tell_head(frames.frame(Kind.FILE_PIECE, body=frames.FILE_PIECE.pack(number, offset) + data))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def worker_gone(self, worker: WorkerNumber) -> None:
        """A worker waits for nothing any more."""
        for number, file in list(self._files.items()):
            if any(each[0] == worker for each in file.waiting):
                file.waiting = [each for each in file.waiting if each[0] != worker]
                if not file.waiting:
                    self._fail(number, OSError(errno.ECANCELED, NOBODY_WAITS))

    def forget(self, number: DefinitionNumber) -> bool:
        """Let go of one; return whether it was a file."""
        if number not in self._files:
            return False
        self._close(number)
        return True

    def _close(self, number: DefinitionNumber) -> None:
        self._peers.end(frames.NUMBER.pack(number))
        self._files.pop(number).close()

    def close(self) -> None:
        """In a forked worker: let go of the descriptors."""
        for file in self._files.values():
            file.close()


def _release(path: str) -> None:
    """Let the cache remove a file that was kept, when it needs room (staging/shelf.py puts this there)."""
    with contextlib.suppress(OSError):  # it has gone already
        os.unlink(f"{path}.kept")


def _unnamed(size: int) -> int:
    """Open a file without a name in the scratch directory; raises OSError if there is no room for so many bytes."""
    if scratch.place is None:
        raise OSError(errno.ENODEV, scratch.why_not)
    place = str(scratch.place)
    room = os.statvfs(place)
    if room.f_bavail * room.f_frsize < size:
        raise OSError(
            errno.ENOSPC, f"{size} bytes do not fit into {place}, where {room.f_bavail * room.f_frsize} are free"
        )
    try:
        return os.open(place, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    path = os.path.join(place, f".coming-{os.getpid()}-{os.urandom(8).hex()}")  # a file system without such files
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    return fd
