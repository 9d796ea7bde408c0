"""Asking for a file that this node does not see: from the head, or from another node, whichever the head decides.

Guarantees: what is returned has the digest that was asked for. Wrong bytes, from whichever node they came, are told to
the head, which sends the file once more itself; if that is wrong, too, the error names both. A worker waits for as long
as its file takes to come, and not for one that cannot come.

Nothing is copied if the launcher has put the file where `into` is: a file without a name there gets that name. What has
a name already is copied, so that nobody has two names for one content, and changes both.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from hyperflow.errors import FileLost, FileUnavailable, HyperflowError, MisuseError, ScratchFull
from hyperflow.wire.frames import FileHere
from hyperflow.worker import worker

PIECE = 1 << 20
"""Bytes that are read at a time."""

TRIES = 10
"""Requests for one file, where the node has let go of it between the answer and our look at it."""


def fetch(digest: str, size: int, source: str, into: Path) -> Path:
    """Get a file that this node does not see; return where it is.

    A plain call, also in an async evaluation: it blocks until the file is here. One worker of a node should ask at a
    time for one content: each that asks gets a copy.

    Args:
        digest: SHA-256 of its content.
        size: Bytes.
        source: Where the head finds it.
        into: The path that it is to have, of which nothing is there yet; or a directory, in which it gets a name that
            is new. It can be written to, and has no name elsewhere.

    Raises:
        FileUnavailable: The head cannot read it, it has changed, or what came is wrong at the second try, too.
        FileLost: It was kept on a node that has gone.
        ScratchFull: It does not fit into the scratch directory of this node.
        MisuseError: Called elsewhere than in an evaluation, or in a thread or process that one has started.
    """
    client = worker.lock_client()
    if client is None:
        raise MisuseError("a file is asked for by functions on workers: await hyperflow.remote_eval(my_function)")
    path = into / f".fetched-{os.getpid()}-{os.urandom(4).hex()}" if into.is_dir() else into
    wrong = ""
    for _ in range(TRIES):
        body = client.file(digest, size, source, wrong)
        here = FileHere.of(body)
        if here.error == errno.EAGAIN:
            continue
        if here.error:
            raise _refusal(here.error, here.text, source, path)
        try:
            found = _take(here, path)
        except OSError as error:
            _remove(path)
            if error.errno == errno.ENOSPC:
                raise _refusal(errno.ENOSPC, str(error), source, path) from None
            if error.errno in (errno.ENOENT, errno.EACCES, errno.ESRCH) and here.pid:
                continue  # who held it has let go of it
            raise FileUnavailable(f"{source} cannot be kept on {worker.worker_info().node}: {error}") from None
        except BaseException:  # the evaluation is ended
            _remove(path)
            raise
        if found == digest:
            return path
        _remove(path)
        if wrong:
            raise FileUnavailable(
                f"{source} has come to {worker.worker_info().node} with wrong bytes twice, from {here.text} and from "
                f"the head: SHA-256 {wrong} and {found}, not {digest}. Memory or network of one of them is damaged"
            )
        wrong = found
    raise FileUnavailable(f"{source} was held nowhere for long enough to be copied to {worker.worker_info().node}")


def _refusal(number: int, text: str, source: str, path: Path) -> HyperflowError:
    node = worker.worker_info().node
    if number == errno.ENOSPC:
        room = os.statvfs(path.parent)
        return ScratchFull(node, str(path.parent), f"{source} does not fit: {text}", room.f_bavail * room.f_frsize)
    if number == errno.EREMOTEIO:
        holder, _, why = text.partition("\n")
        return FileLost(source, holder, why)
    return FileUnavailable(f"{source} cannot be had on {node}: {text}")


def _take(here: FileHere, path: Path) -> str:
    """Let a file have this name; return its digest."""
    if not here.pid:
        with path.open("xb") as file:
            file.write(here.content)
        return hashlib.sha256(here.content).hexdigest()
    held = f"/proc/{here.pid}/fd/{here.fd}"
    # Should it be something else by now: neither wait for a pipe's writer nor take a terminal.
    source = os.open(held, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if os.fstat(source).st_nlink == 0 and _linked(source, path):
            return here.digest.hex() or _copied(source, None)
        with path.open("xb") as file:
            return _copied(source, file.fileno())
    finally:
        os.close(source)


def _linked(source: int, path: Path) -> bool:
    """Name a file that has no name; return whether that can be."""
    with contextlib.suppress(OSError):  # another file system, or it had a name once
        here = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            # With a directory, Python follows the link in /proc to the file, and else does not.
            os.link(f"/proc/self/fd/{source}", path.name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=True)
        finally:
            os.close(here)
        return True
    return False


def _copied(source: int, target: int | None) -> str:
    """Read a file, copy it if there is a target, and return its digest."""
    digest, at = hashlib.sha256(), 0
    while data := os.pread(source, PIECE, at):
        digest.update(data)
        at += len(data)
        while target is not None and data:
            data = data[os.write(target, data) :]
    return digest.hexdigest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
