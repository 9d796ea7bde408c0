"""The watcher: ends what is left on a node when keeper, launcher and workers were all killed at once.

Each of the two subreapers (launcher/keeper.py) finds what the other one leaves. Killed together, they leave programs
that nobody looks for. So a third process waits at the end of a pipe that only those two hold. It takes no part in
anything else: it is no child of theirs, in a session of its own, and without their environment and command line, so
that who kills "all of hyperflow on this node" does not mean it, too.

It knows a process of the run by the launcher's number: in its environment, or, where it has only forked, in the name of
the mark that it maps. A daemon with an environment of its own is not found; a control group of Slurm's holds that.
(Rejected: PR_SET_PDEATHSIG for all that workers start. The children of those do not inherit it, and it follows the
thread that has started a program, so the end of a thread would end its programs.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from hyperflow.wire import scratch

VARIABLE = "HYPERFLOW_LAUNCHER"
"""Holds the number of a launcher, in the environment of all that it starts."""

MARKS = "hyperflow-worker"
"""How the names of the marks of workers begin (launcher/child.py); the launcher's number and the worker's follow."""

SECONDS = 10.0
"""How long to look for what is left: something may be starting more."""

JOB = "SLURM_JOB_ID"
_DISMISSED = b"."
_KEPT = ("PATH", "LD_LIBRARY_PATH")  # without the latter some Pythons do not start

_HOME = str(Path(__file__).resolve().parents[2])
_CODE = f"import sys; sys.path.append({_HOME!r}); from {__name__} import main; main()"


def number() -> str:
    """Return the number of this launcher, and put it into the environment if it is not there."""
    return os.environ.setdefault(VARIABLE, os.urandom(16).hex())


def watch() -> int:
    """Start a watcher for this process and those that it forks; return the descriptor to be held by them.

    Must be called before `adopt_orphans`, or the watcher would be a child of ours.
    """
    launcher = number()  # for all that this process forks, too: nobody has given it one where it was started by ssh
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            if os.fork() == 0:
                _become_watcher(reading, launcher)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(reading)
    return writing


def _become_watcher(reading: int, launcher: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(reading, 0)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir("/")  # no directory is kept from being unmounted
    about = ["cleans up after", str(os.getpid()), launcher]
    variables = {name: os.environ[name] for name in _KEPT if name in os.environ}
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", _CODE, *about], variables)


def tell(descriptor: int) -> None:
    """Tell the watcher in which Slurm job this is, which by ssh the head says, and what the scratch directory is."""
    directory = b"" if scratch.place is None else os.fsencode(scratch.place)
    with contextlib.suppress(OSError):
        os.write(descriptor, os.environ.get(JOB, "").encode() + b"\n" + directory + b"\n")


def dismiss(descriptor: int) -> None:
    """Tell the watcher that nothing is left."""
    with contextlib.suppress(OSError):
        os.write(descriptor, _DISMISSED)


def left(launcher: str, job: str) -> Iterator[int]:
    """Yield the living processes of a launcher, as far as we may look. What runs in another Slurm job is not ours."""
    tag, mark = f"{VARIABLE}={launcher}".encode(), f"/memfd:{MARKS}-{launcher}-".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                place = Path("/proc") / name
                variables = (place / "environ").read_bytes().split(b"\0")
                if any(each.startswith(f"{JOB}=".encode()) and each != f"{JOB}={job}".encode() for each in variables):
                    continue
                if tag not in variables and mark not in (place / "maps").read_bytes():
                    continue
                if (place / "stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X"):
                    yield int(name)


def main() -> None:
    """Wait for the end of the pipe; unless somebody has said that all is in order, kill all that is left."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the end of the pipe ends us
    told = b""
    while data := os.read(0, 5000):
        told += data
    if told.endswith(_DISMISSED):  # keeper and launcher both say it
        return
    job, _, rest = told.partition(b"\n")
    directory = rest.rpartition(b"\n")[0]
    deadline = time.monotonic() + SECONDS
    while (pids := list(left(sys.argv[-1], job.decode().strip()))) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if directory:
        scratch.remove_whole(Path(os.fsdecode(directory)))
