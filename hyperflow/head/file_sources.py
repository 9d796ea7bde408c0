"""Where the content of a file comes from that is sent to nodes: a file that the head sees, or one on another node.

Guarantees: the event loop never waits for a file system. Each look is made in a thread of its own, which may hang in a
dead NFS for ever without holding up anything else, the end of the program included; after PATIENCE the file counts as
unreadable. A file that is not what it was said to be, or does not stay that while it is read, is refused with both
states.

Rejected: to map the file. Reading what somebody has cut off meanwhile would kill the head. Rejected: asyncio's pool of
threads, which some dead mounts would fill, and for whose end the program waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from hyperflow.errors import HyperflowError
from hyperflow.saying import as_written

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds for one look at a file system, or for a piece from another node."""

SMALL = 1 << 17
"""Bytes up to which a file travels in the answer itself. Measured: with 60 kB it takes 40% less CPU time of all who
take part than a way of its own does, with 250 kB as much."""

HASHED = 1 << 20
"""Bytes that are read at a time to compute a digest."""


class Unreadable(HyperflowError):
    """A file cannot be had here; the number of an error, and why."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number = number
        self.why = why


class Source(Protocol):
    """Gives the content of a file."""

    async def read(self, offset: int, count: int) -> bytes:
        """Return so many bytes; raises Unreadable if they cannot be had."""
        ...

    async def check(self) -> None:
        """Raise Unreadable if what was read may be something else than what was there at first."""
        ...

    def close(self) -> None: ...


class Opened:
    """A file that this machine sees, open."""

    def __init__(self, path: str, fd: int, found: os.stat_result) -> None:
        self.path = path
        self.fd = fd
        self.data: bytes | None = None
        """All of it, if it is small."""
        self._found = found
        self._readers = 0
        self._closed = False
        self._lock = threading.Lock()

    async def read(self, offset: int, count: int) -> bytes:
        data = await self._aside(lambda: os.pread(self.fd, count, offset))
        if len(data) < count:
            raise Unreadable(errno.ESTALE, f"{self.path} ends after {offset + len(data)} bytes now; {self._was}")
        return data

    async def check(self) -> None:
        now = await self._aside(lambda: os.fstat(self.fd))
        if _state(now) != _state(self._found):
            raise Unreadable(errno.ESTALE, f"{self.path} has changed while it was read: {_told(now)}; {self._was}")

    async def digest(self) -> str:
        """Read all of it."""
        return await self._aside(self._digest, patience=float("inf"))

    def _digest(self) -> str:
        digest, at = hashlib.sha256(), 0
        while data := os.pread(self.fd, HASHED, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest()

    @property
    def place(self) -> tuple[int, int]:
        """Our process and the descriptor."""
        return os.getpid(), self.fd

    @property
    def _was(self) -> str:
        return f"when it was opened: {_told(self._found)}"

    async def _aside(self, look: Callable[[], T], patience: float = PATIENCE) -> T:
        with self._lock:
            self._readers += 1

        def looked() -> T:
            try:
                return look()
            finally:
                self._leave()

        return await in_thread(looked, self.path, patience)

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            self._close_if_last()

    def close(self) -> None:
        """Let go of it, once nobody reads it: a thread that still does would read another file by that number."""
        with self._lock:
            self._closed = True
            self._close_if_last()

    def _close_if_last(self) -> None:
        if self._closed and not self._readers and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


async def opened(path: str, size: int, digest: str) -> Opened:
    """Open a file that is to have this size, and this digest; raises Unreadable."""
    return await in_thread(lambda: _open(path, size, digest), path, PATIENCE)


def _open(path: str, size: int, digest: str) -> Opened:
    # Should it be something else by now: do not wait for a pipe's writer, nor take a terminal.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(errno.ESTALE, f"{path} is no file any more; it had {as_written(size)}")
        if found.st_size != size:
            raise Unreadable(errno.ESTALE, f"{path} has changed: {_told(found)}; it had {size} bytes")
        source = Opened(path, fd, found)
        if size <= SMALL:
            data = os.pread(fd, size + 1, 0)
            _compare(path, found, hashlib.sha256(data).hexdigest(), digest)
            source.data = data
    except BaseException:
        os.close(fd)
        raise
    if source.data is not None:
        source.close()
    return source


async def compared(source: Opened, digest: str) -> None:
    """Raise Unreadable if a file does not have this digest."""
    _compare(source.path, os.fstat(source.fd), await source.digest(), digest)


def _compare(path: str, found: os.stat_result, now: str, digest: str) -> None:
    if now != digest:
        raise Unreadable(
            errno.ESTALE,
            f"{path} has changed: {_told(found)}, and its SHA-256 is {now}; it was {digest} when the "
            "program first used it",
        )


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _told(found: os.stat_result) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.st_mtime))
    return f"it has {found.st_size} bytes, of {when}"


async def in_thread(look: Callable[[], T], path: str, patience: float) -> T:
    """Do something with a file in a thread of its own; raises Unreadable if that fails or takes too long."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            if isinstance(result, Opened):
                result.close()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = look()
        except BaseException as error:  # noqa: BLE001 (it is raised where somebody waits for it)
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="hyperflow-file", daemon=True).start()
    try:
        async with asyncio.timeout(None if patience == float("inf") else patience):
            return await future
    except TimeoutError:
        raise Unreadable(errno.ETIMEDOUT, f"{path}: its file system has not answered for {patience:.0f} s") from None
    except OSError as error:
        raise Unreadable(error.errno or errno.EIO, f"{path}: {error.strerror or error}") from None
