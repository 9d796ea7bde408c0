"""The one directory of a cluster, and what earlier clusters have left in theirs.

Its path is short, because sockets are in it and their paths are limited to about 100 characters. Its name says which
process it belongs to (number, time of start, namespace of processes), so that a later start can tell a living
cluster from a leftover without reading anything, and there is no moment in which a new directory has no owner.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import stat
from collections.abc import Collection
from pathlib import Path

from hyperflow.wire.processes import children
from tests.helpers import block_until

PARENT = Path("/tmp")
BY_HAND = "hand"

_serial = itertools.count()
_NAME = re.compile(r"hfc-(?P<space>\d+)-(?P<pid>\d+)-(?P<started>\d+)-\d+")


def started(pid: int) -> int | None:
    """Return when a process was started, in ticks since boot; None if there is no such process, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def make() -> Path:
    """Make the directory for a cluster that belongs to this process."""
    space = os.stat("/proc/self/ns/pid").st_ino
    path = PARENT / f"hfc-{space}-{os.getpid()}-{started(os.getpid())}-{next(_serial)}"
    path.mkdir(mode=0o700)
    return path


def by_hand(name: str = BY_HAND) -> Path:
    """Return the path for a cluster that stays until it is taken down by hand."""
    if not re.fullmatch(r"[a-z0-9]{1,16}", name):
        raise ValueError(f"a cluster's name has up to 16 small letters and digits, unlike {name!r}")
    return PARENT / f"hfc-{name}"


def leftovers() -> list[Path]:
    """Find the directories of clusters whose process has ended."""
    space = os.stat("/proc/self/ns/pid").st_ino
    found: list[Path] = []
    for path in PARENT.glob("hfc-*-*-*-*"):
        match = _NAME.fullmatch(path.name)
        # Anyone may write here: only what is ours, and was made by `make()`, is to be believed.
        if match is None or not is_ours(path) or int(match["space"]) != space:
            continue
        if started(int(match["pid"])) != int(match["started"]):
            found.append(path)
    return found


def is_ours(path: Path) -> bool:
    """Whether a directory is of our making: in /tmp somebody else may have been first."""
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def record(directory: Path, host: str, pid: int) -> None:
    """Write down the process that a host hangs on."""
    (directory / f"{host}.pid").write_text(f"{pid} {started(pid)}\n")


def recorded(directory: Path) -> dict[str, int]:
    """Return the processes that were written down and still run, by host."""
    found: dict[str, int] = {}
    if not directory.exists() or not is_ours(directory):
        return found
    for path in sorted(directory.glob("*.pid")):
        pid, _, since = path.read_text().partition(" ")
        if since.strip().isdigit() and started(int(pid)) == int(since):
            found[path.stem] = int(pid)
    return found


def end(pids: Collection[int]) -> None:
    """End hosts with all that is on them, given what they hang on; return when nothing of them is left."""
    for pid in pids:
        # Its child is the host's init. It is waited for until the kernel has killed everything else on the host.
        for doomed in children(pid) or [pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(doomed, signal.SIGKILL)
    block_until(lambda: not any(map(started, pids)), 10, f"the hosts' processes {pids} end")


def remove(directory: Path) -> None:
    """End what still runs of a cluster, and remove its directory."""
    if not is_ours(directory):
        raise PermissionError(f"{directory} belongs to somebody else")
    end(recorded(directory).values())
    shutil.rmtree(directory)


def sweep() -> None:
    """Remove what clusters have left whose process was killed; others may be doing so at the same time."""
    for path in leftovers():
        with contextlib.suppress(FileNotFoundError):
            remove(path)
