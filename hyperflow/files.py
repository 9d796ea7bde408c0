"""Files that are whole or not there, the tail of a file, standard streams. Standard library only; all of it blocks.

Guarantees of the writers:
- Nobody ever sees half a file under its name, not even after a crash: a draft beside it is written first, and then gets
  the name in one step. A process that is killed leaves at most a draft: a hidden file whose name ends in random digits.
- The file is for the user alone (mode 0600), and no symbolic link is followed.
- With `durable`, which is the default, contents and name are on the disk when the function returns.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file, in the place of an older one if there is one. Raises OSError; the older one is untouched then."""
    _write(path, data, os.replace, durable)


def put_new(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file, unless there is one of that name. Of several who try at the same time, one succeeds.

    Raises:
        FileExistsError: There is one; it is untouched.
        OSError: It cannot be written.
    """
    _write(path, data, link_new, durable)


def link_new(draft: Path, path: Path) -> None:
    """Give a complete file a second name, unless that exists; raises FileExistsError then. The draft stays.

    Where the file system has no links, the file is created exclusively and copied. That is as safe against two who try
    at the same time; but a reader may see it half written, and so may everybody after a crash.
    """
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        # NFS may have linked, lost the answer, and found the link when it asked again.
        if not _same(draft, path):
            raise
    except OSError:
        _copy_new(draft, path)


def _same(draft: Path, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(draft.lstat(), path.lstat())
    return False


def _copy_new(draft: Path, path: Path) -> None:
    number = os.open(path, _NEW, 0o600)
    try:
        with os.fdopen(number, "wb") as file, draft.open("rb") as source:
            import shutil  # noqa: PLC0415 (its import takes longer than all others here)

            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(number)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(path: Path, data: bytes, give_name: Callable[[Path, Path], None], durable: bool) -> None:
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    number = os.open(draft, _NEW, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(number)
        give_name(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_all(number: int, data: bytes) -> None:
    """Write all of this to a descriptor: the kernel may take less at a time. Raises OSError."""
    left = memoryview(data)
    while left:
        left = left[os.write(number, left) :]


def read_text(path: Path) -> str:
    """Return what a file says, "" if it cannot be read. Bytes that are no UTF-8 are replaced."""
    try:
        with opened(path) as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open an ordinary file to read it; raises OSError for anything else: the end of a pipe may never come."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "no ordinary file", os.fspath(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def from_json(text: str | bytes) -> Any:
    """Return what a text of JSON says; raises ValueError for everything else, what is nested too deeply included.

    NaN and infinities are no JSON, although Python's own reader takes them.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is larger than any float")
    return number


def tail(path: str | os.PathLike[str], *, lines: int = 15, size: int = 8192, start: int = 0) -> str:
    """Return the last lines of a file, from its last `size` bytes and not from before `start`; "" if it is unreadable.

    Bytes that are no UTF-8 are replaced. The first line may be cut. A huge file costs no more than a small one.
    """
    try:
        with opened(path) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - size, start))
            text = file.read(size).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def make_temporary(prefix: str) -> Path:
    """Make a directory that only the user can enter, where `tempfile.mkdtemp` would make it."""
    if "tempfile" not in sys.modules:  # a program may have told it another place; and its import takes 5 ms
        for place in (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):
            if place and os.path.isabs(place):
                with suppress(OSError):
                    os.mkdir(made := f"{place}/{prefix}{os.urandom(3).hex()}", 0o700)
                    return Path(made)
    import tempfile  # noqa: PLC0415 (see above)

    return Path(tempfile.mkdtemp(prefix=prefix))


def remove_tree(home: Path) -> None:
    """Remove a directory of ours with all that is in it, as far as that can be done."""
    for place, directories, names in os.walk(home, topdown=False):  # it does not follow links
        links = [name for name in directories if os.path.islink(os.path.join(place, name))]
        for name in (*names, *links):
            with suppress(OSError):
                os.unlink(os.path.join(place, name))
        for name in set(directories) - set(links):
            with suppress(OSError):
                os.rmdir(os.path.join(place, name))
    with suppress(OSError):
        home.rmdir()


def hold_standard_streams() -> None:
    """Open /dev/null in the place of descriptors 0 to 2 that are closed, as they are under some daemons and crons.

    The next file or socket would get such a number, and then whatever prints would write into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if opened == fd:
                os.set_inheritable(fd, True)
            else:  # another thread was quicker
                os.close(opened)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = ("stdin", "stdout", "stderr").index(name)
            setattr(sys, name, open(fd, mode, closefd=False, errors="backslashreplace"))


def limit_met(error: BaseException) -> str:
    """Say which limit of this process has caused an error, or one behind it, and what to type; "" for none."""
    link: BaseException | None = error
    for _ in range(100):
        if link is None:
            break
        if told := _limit_met_by(link):
            return told
        link = link.__context__
    return ""


def _limit_met_by(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        import resource  # noqa: PLC0415 (only errors ask)

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process may have {most} files and pipes open at a time (ulimit -n); type: ulimit -n 4096"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "no more threads and processes may be started here: the limit of the user (ulimit -u) or of the control "
            "group (pids.max) is reached; end other programs, or have it raised"
        )
    return ""


def size_limit() -> int | None:
    """Return how many bytes a file may have at most here (`ulimit -f`); None for no limit."""
    import resource  # noqa: PLC0415 (only errors ask)

    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft
