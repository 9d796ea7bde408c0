"""Processes of this machine: who descends from whom, and how all of them are ended."""

from __future__ import annotations

import functools
import math
import os
import signal
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

CLOCKS_DIFFER = 0.2
"""Seconds by which the kernel's count of CPU time for the limit is ahead of what it reports."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Let the kernel send us a signal when the *thread* that forked us ends (so it must be a main thread)."""
    _prctl(_PR_SET_PDEATHSIG, int(signum))


def adopt_orphans() -> None:
    """Become a subreaper: the parent of descendants whose own parent ends, so that no daemon escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    _libc().prctl(option, value, 0, 0, 0)


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes  # noqa: PLC0415 (heads do without it)

    return ctypes.CDLL(None, use_errno=True)


def children(pid: int) -> list[int]:
    """Return the direct children of a single-threaded process."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{pid}"):
            return []
        return [child for child, parent in _parents().items() if parent == pid]  # a kernel without that file


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
    return parents


def descendants(pid: int) -> list[int]:
    """Return all processes below one, itself not included."""
    below: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        below.setdefault(parent, []).append(child)
    found: list[int] = []
    pending = [pid]
    while pending:
        new = below.get(pending.pop(), [])
        found += new
        pending += new
    return found


def session(pid: int) -> int:
    """Return the session of a process, 0 if it has gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def carries(pid: int, tag: str) -> bool:
    """Whether a process was started with this text in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return tag.encode() in file.read().split(b"\0")
    except OSError:
        return False


def maps(pid: int, name: str) -> bool:
    """Whether a process maps a file in memory (memfd) of this name."""
    try:
        with open(f"/proc/{pid}/maps") as file:
            return any(line.endswith(f"/memfd:{name} (deleted)\n") for line in file)
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether a process has not ended. A zombie has: it only waits for its parent to look."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def carriers(tag: str) -> list[int]:
    """Return all processes that were started with this text in their environment, as far as we may look."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and carries(int(name), tag)]


def kill_all(pids: Iterable[int], signum: int = signal.SIGKILL) -> None:
    """Send a signal to processes, of which some may have gone."""
    for pid in pids:
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):
            continue


def reap() -> list[tuple[int, int, object]]:
    """Collect all children that have ended: (pid, exit code or minus signal, resource usage).

    One that the kernel killed at its limit of CPU time has SIGXCPU: at the hard limit, or where it is the soft one,
    too, that is done by SIGKILL, which says nothing.
    """
    ended: list[tuple[int, int, object]] = []
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if found is None:
            return ended
        killed = found.si_code == os.CLD_KILLED and found.si_status == signal.SIGKILL
        limit = _cpu_limit(found.si_pid) if killed else math.inf
        pid, status, usage = os.wait4(found.si_pid, 0)
        code = os.waitstatus_to_exitcode(status)
        ended.append((pid, -signal.SIGXCPU if usage.ru_utime + usage.ru_stime > limit - CLOCKS_DIFFER else code, usage))


def _cpu_limit(pid: int) -> float:
    """Return the seconds of CPU time at which the kernel kills a process; it may have ended, but not be reaped yet."""
    import resource  # noqa: PLC0415 (for a process that was killed)

    try:
        _, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
    except (OSError, ValueError):
        return math.inf
    return math.inf if hard == resource.RLIM_INFINITY else hard


def wakeup() -> tuple[socket.socket, socket.socket]:
    """Let each signal that has a handler write its number to the second of two sockets, to be read from the first."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    signal.set_wakeup_fd(ends[1].fileno(), warn_on_full_buffer=False)
    return ends


def children_are_left() -> bool:
    """Whether this process has children, whatever they do."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_descendants(seconds: float = 5.0) -> None:
    """Kill all processes below this one, and what they leave to us, until none is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reap()
        if not children_are_left():
            return  # as for a subreaper, to whom what is below them would have come
        left = descendants(os.getpid())
        if not left:
            return
        kill_all(left)
        time.sleep(0.005)
