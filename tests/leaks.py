"""What this process holds that could be left behind: processes, threads, file descriptors, temporary files."""

import contextlib
import gc
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

# Set for the whole run and inherited: finds also the processes whose parent has died, which no longer descend from us.
MARK = "HYPERFLOW_TEST_RUN"

# What outlives a test on purpose: the hosts of a cluster. What descends from these processes is ours only by the mark.
SPARED: set[int] = set()

PROBE = re.compile("[a-z0-9_]{8}")
"""By such a file Python finds out where it may write; a process that is killed just then leaves it behind."""

Held: TypeAlias = Mapping[Hashable, str]
"""What is held: an identity that is never used twice, and the words for it."""


class Process(NamedTuple):
    """A process: its number may be used again, but not with the same start."""

    pid: int
    started: bytes


def held() -> Held:
    """Look at everything held now."""
    return {**processes(), **in_this_process()}


def in_this_process() -> Held:
    """Look at everything held now but processes, which are much more work to find."""
    return {**dict(_threads()), **dict(_descriptors()), **dict(_files())}


def leaked(before: Held, grace: float, look: Callable[[], Held]) -> Held:
    """Return what *look* finds in addition to *before*. Things that are just ending have *grace* seconds for it."""
    deadline = time.monotonic() + grace
    while new := {key: words for key, words in look().items() if key not in before}:
        if time.monotonic() > deadline:
            break
        gc.collect()  # what only a reference cycle keeps is not a leak
        time.sleep(0.02)
    return new


def kill(things: Held) -> None:
    """Kill the processes among the things, so that they do not disturb the tests that follow."""
    killed = {key for key in things if isinstance(key, Process)}
    if killed:
        for key in killed & processes().keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(key.pid, signal.SIGKILL)


def processes() -> Held:
    """Find the living processes that come from this one, by descent or by the mark in their environment."""
    parents: dict[int, int] = {}
    started: dict[int, bytes] = {}
    ours = {os.getpid()}
    mark = f"\0{MARK}={os.environ[MARK]}\0".encode() if MARK in os.environ else None
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            # man proc_pid_stat: after the name, the third to the last of the fields
            state, parent, *rest = _read(pid, "stat").rpartition(b")")[2].split()
            if state in (b"Z", b"X"):
                continue
            parents[pid], started[pid] = int(parent), rest[17]
            if mark and mark in b"\0" + _read(pid, "environ"):
                ours.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended, or is not ours to read
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours - SPARED:
        ours |= more
    found = (ours - {os.getpid()}) & started.keys()
    return {Process(pid, started[pid]): f"process {pid} (parent {parents[pid]}): {_command(pid)}" for pid in found}


def _read(pid: int, name: str) -> bytes:
    # Not by pathlib: tests look at hundreds of processes before and after, which would be a third of their work.
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.read()


def _command(pid: int) -> str:
    try:
        return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return "(it has just ended)"


def _threads() -> Iterator[tuple[Hashable, str]]:
    for thread in threading.enumerate():
        yield ("thread", thread), f"thread {thread.name!r}"


def _descriptors() -> Iterator[tuple[Hashable, str]]:
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that listed the directory
        yield ("descriptor", number, target), f"file descriptor {number}: {target}"


def _files() -> Iterator[tuple[Hashable, str]]:
    for path in Path(tempfile.gettempdir()).iterdir():
        if PROBE.fullmatch(path.name):
            continue
        yield ("file", path), f"temporary {'directory' if path.is_dir() else 'file'} {path}"
