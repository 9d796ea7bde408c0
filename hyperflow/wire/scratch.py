"""The scratch directory of a launcher on its node: who makes it, who cleans it, how a stale one is known.

    <scratch>/hyperflow-<uid>/<run>-<node>-<pid>/
      alive            locked (flock) while the launcher or a worker of it lives; says on which host
      files/           contents of files, by digest: staging/cache.py
      worker-<number>/ what evaluations of that worker have there; it goes with the worker
      trash/           what is to be removed when there is time

Guarantees: only the user can enter it, and nobody else can put another directory in its place: in a place that others
can write to, and that is not sticky, there is none. Where somebody else has made hyperflow-<uid>, it has another name,
hyperflow-<uid>-<anything>. After the run nothing is left of it, hyperflow-<uid> included, whatever died:
the launcher removes it at its end, else the keeper, its parent, does, else the watcher (survivors.py); what is left
where all three were killed at once, or the node was reset, is removed by the user's next launcher on that node. That
one knows a stale directory by its lock: the kernel releases it with the last process that has it.

A large tree does not hold up the launcher: it renames it, and the keeper removes it bit by bit. A launcher that cannot
have such a directory goes on without, and notes why: evaluations without files do not need it.

Rejected: threads or children of the launcher that remove (threads and fork do not mix; a child is one more process to
be watched, with copies of all descriptors); pids in place of the lock (they are used again, and mean nothing in another
namespace).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hyperflow.wire.removal import GONE, remove, removing

place: Path | None = None
"""The directory of this launcher, in it and in all workers that it forks; None where there is none."""

why_not = "this process is no worker, and no launcher"
"""Why there is none, for people."""

cache_limit: int = 0
"""Bytes that the files there may have together."""

worker: int | None = None
"""The number of this worker, in it."""

cwd = ""
"""The program's directory, as its head has said; "" where this is no launcher or worker."""

ALIVE, FILES, TRASH = "alive", "files", "trash"

_NEW = ".new-"
"""How the name of a directory begins that is not locked yet."""

YOUNG = 60.0
"""Seconds for which a directory without lock counts as one that is being made."""

SLICE = 0.02
"""Seconds that the keeper removes at a time."""

_PAGE = 4096

_page: mmap.mmap | None = None
"""Where the launcher writes the directory for the keeper, which was forked before it was made."""

_lock = -1
_own_tmpdir = os.environ.get("TMPDIR", "")
"""This node's, as the launcher found it: it takes on the head's variables later."""


# ---- making ----------------------------------------------------------------------------------------------------------


def share() -> None:
    """Before the launcher is forked off: let both know which directory it is going to make."""
    global _own_tmpdir, _page, place, worker  # noqa: PLW0603 (a launcher and its keeper have one)
    _page = mmap.mmap(-1, _PAGE)
    _own_tmpdir, place, worker = os.environ.get("TMPDIR", ""), None, None  # it may have been forked off a worker


def shared() -> Path | None:
    """Return the directory that the launcher has made, in its keeper."""
    text = b"" if _page is None else _page[:].rstrip(b"\0")
    return Path(os.fsdecode(text)) if text else None


def make(base: str, run: str, node: str, cache: int) -> None:
    """Make the directory of this launcher, and remove stale ones, or note why that cannot be.

    Args:
        base: Where; variables in it are those of this node. "" for $TMPDIR here, or /tmp.
        run: Part of its name, as `node`.
        node: See above.
        cache: Bytes that files there may have together; 0 for half of what is free now.
    """
    global _lock, cache_limit, place, why_not  # noqa: PLW0603 (a launcher has one)
    try:
        made, _lock = _make_in(_base(base), _fit(f"{run}-{node}-{os.getpid()}"))
    except OSError as error:
        where = base or _own_tmpdir or "/tmp"
        why_not = f"there can be no scratch directory in {where}: {error.strerror or error}"
        return
    if _page is not None:
        told = os.fsencode(made)
        _page[: len(told)] = told
    place, why_not = made, ""
    cache_limit = cache or free() // 2
    for home in _homes_in(made.parent.parent):
        for stale in stale_in(home):
            with suppress(OSError):  # somebody else was quicker
                os.rename(stale, made / TRASH / stale.name)


def free() -> int:
    """Return how many bytes are free there."""
    if place is None:
        return 0
    with suppress(OSError):
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize
    return 0


def homes(base: str = "") -> Iterator[Path]:
    """Yield where directories of this user's launchers may be on this machine."""
    for one in dict.fromkeys((base and os.path.expandvars(base), _own_tmpdir, "/tmp")):
        if one and os.path.isabs(one):
            yield from _homes_in(Path(one))


def _homes_in(base: Path) -> Iterator[Path]:
    """Yield what the user has there: the usual one first."""
    usual = f"hyperflow-{os.geteuid()}"
    yield base / usual
    with suppress(OSError), os.scandir(base) as entries:
        yield from sorted(base / entry.name for entry in entries if entry.name.startswith(f"{usual}-"))


def _base(base: str) -> Path:
    """Return the directory for those of all users; raises OSError."""
    if base:
        chosen = os.path.expandvars(base)
        if not os.path.isabs(chosen):
            raise OSError(errno.EINVAL, "an absolute path is needed")
        return _safe(chosen)
    with suppress(OSError):  # srun hands on the TMPDIR of another node, which may mean nothing here
        if os.path.isabs(_own_tmpdir) and os.access(_own_tmpdir, os.W_OK | os.X_OK):
            return _safe(_own_tmpdir)
    return _safe("/tmp")


def _safe(chosen: str) -> Path:
    """Return a directory without links on the way; raises OSError if others could replace what is made in it."""
    place = Path(os.path.realpath(chosen))
    for directory in (*reversed(place.parents), place):
        mode = os.stat(directory).st_mode
        if not mode & (stat.S_IXGRP | stat.S_IXOTH):
            break  # nobody else comes that far
        if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
            import shlex  # noqa: PLC0415 (only errors need it)

            raise PermissionError(
                errno.EPERM,
                f"others can write to {directory}, and could put a directory of theirs in the place of yours; "
                f"what keeps them from it: chmod +t {shlex.quote(str(directory))}",
            )
    return place


def make_apart(base: str = "") -> tuple[Path, int]:
    """Make a directory for a process that has no launcher, and return it with its lock.

    It is stale when all copies of the lock are closed. Raises OSError.
    """
    return _make_in(_base(base), f"job-{os.getpid()}")


def _make_in(base: Path, name: str) -> tuple[Path, int]:
    """Make a locked directory of this name, or one that begins so; raises OSError."""
    *tried, last = (*_homes_in(base), base / f"hyperflow-{os.geteuid()}-{os.urandom(4).hex()}")
    for home in tried:
        try:
            return _make_below(home, name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTDIR, errno.ELOOP):
                raise
    return _make_below(last, name)


def _make_below(home: Path, name: str) -> tuple[Path, int]:
    for attempt in range(100):
        with suppress(FileExistsError):
            os.mkdir(home, 0o700)
            os.chmod(home, 0o700)  # the umask may have taken rights from us
        try:
            above = _open_private(home)
        except FileNotFoundError:
            continue  # another launcher has just removed it
        try:
            draft = f"{_NEW}{os.urandom(8).hex()}"
            final = name if not attempt else f"{name}-{os.urandom(4).hex()}"
            if len(os.fsencode(home / final)) + 100 > _PAGE:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            os.mkdir(draft, 0o700, dir_fd=above)
            lock = -1
            try:
                os.chmod(draft, 0o700, dir_fd=above)
                lock = os.open(
                    f"{draft}/{ALIVE}", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=above
                )
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(lock, socket.gethostname().encode())
                os.mkdir(f"{draft}/{FILES}", 0o700, dir_fd=above)
                os.mkdir(f"{draft}/{TRASH}", 0o700, dir_fd=above)
                os.rename(draft, final, src_dir_fd=above, dst_dir_fd=above)
            except OSError as error:
                if lock >= 0:
                    os.close(lock)
                remove(home / draft)
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT) and attempt < 99:
                    continue  # of that pid in another namespace; or it was taken for a stale one
                raise
        finally:
            os.close(above)
        return home / final, lock
    raise OSError(errno.EAGAIN, f"{home} is removed again and again")


def _open_private(home: Path) -> int:
    number = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(number)
    if found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return number
    os.close(number)
    whose = f"belongs to user {found.st_uid}" if found.st_uid != os.geteuid() else "can be written by others"
    raise PermissionError(errno.EPERM, f"{home} {whose}")


def _fit(name: str) -> str:
    """Return a name with nothing in it that has a meaning in paths."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name).lstrip(".")[:200]


def directory_of(number: int) -> Path | None:
    """Return where the evaluations of a worker have what is theirs; who needs it makes it."""
    return None if place is None else place / f"worker-{number}"


# ---- removing --------------------------------------------------------------------------------------------------------


def discard(number: int) -> bool:
    """In the launcher: a worker has gone, so its directory is to go; tell whether there was one."""
    if place is None:
        return False
    try:
        os.rename(place / f"worker-{number}", place / TRASH / f"worker-{number}")
    except OSError:
        return False
    return True


class Sweeper:
    """Removes, in the keeper, what is in the trash: a little at a time."""

    def __init__(self) -> None:
        self._at_work: Iterator[None] | None = None
        self._stuck = set[str]()

    def step(self) -> bool:
        """Remove for a moment; tell whether there is more."""
        until = time.monotonic() + SLICE
        while time.monotonic() < until:
            if self._at_work is None:
                self._at_work = self._next()
            if self._at_work is None:
                return False
            self._at_work = self._at_work if next(self._at_work, False) is None else None
        return True

    def _next(self) -> Iterator[None] | None:
        if (made := shared()) is None:
            return None
        with suppress(OSError):
            for name in os.listdir(made / TRASH):
                if name not in self._stuck:
                    self._stuck.add(name)  # it is tried once; the rest goes at the end
                    return removing(made / TRASH / name)
        return None


def remove_own() -> None:
    """In the launcher or its keeper, when all else has ended: remove the directory of the launcher."""
    if (made := place or shared()) is not None:
        remove_whole(made)


def remove_whole(made: Path) -> None:
    """Remove the directory of a launcher, and what is above it if that was the last one."""
    gone = made.with_name(f"{GONE}{made.name}"[:255])
    with suppress(OSError):
        os.rename(made, gone)
    remove(gone)
    remove(made)
    with suppress(OSError):
        os.rmdir(made.parent)


# ---- what others have left ------------------------------------------------------------------------------------------


def stale_in(home: Path) -> Iterator[Path]:
    """Yield directories in one of `homes` whose launchers and workers have all gone."""
    try:
        above = _open_private(home)
    except OSError:
        return
    try:
        for name in sorted(os.listdir(above)):
            with suppress(OSError):
                if _is_stale(name, above):
                    yield home / name
    finally:
        os.close(above)


def _is_stale(name: str, above: int) -> bool:
    found = os.stat(name, dir_fd=above, follow_symlinks=False)
    is_young = time.time() - found.st_mtime < YOUNG
    try:
        lock = os.open(f"{name}/{ALIVE}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except FileNotFoundError:
        # One that is being made; or the rest of one whose removal was cut short: to help with that does no harm.
        return not is_young or name.startswith(GONE)
    try:
        if os.read(lock, 1000).decode(errors="replace") != socket.gethostname():
            return False  # of another host that uses this directory, too: its lock may not be seen here
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return not (name.startswith(_NEW) and is_young)
