"""A launcher that is forked from the program, in place of a Python that starts anew and imports all again.

So workers have what the program has imported of Python, numpy, scipy and ours. What else could differ from a launcher
of its own is either taken from the child (inheritance.py), or known not to be there (`may_fork`); where it may be
there, the launcher is started as anywhere else. Programs decide nothing here, and a result does not depend on it.

Only the thread that forks is there in the child, and a lock that another thread holds stays locked in it for ever. So
there may be no other one. Libraries that know this (OpenBLAS, by pthread_atfork) end their threads before a fork and
start them anew when they are needed: so threads are counted right after the fork, when those have ended. The child
waits for what was counted, and ends if there was another thread.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NoReturn

from hyperflow.transports import inheritance
from hyperflow.transports.process import Started
from hyperflow.wire import blas

MOST_MEMORY = 256 << 20
"""Bytes of memory of a program, above which a fork, and that of each worker, costs more than it saves."""

MOST_FDS = 200
"""Open descriptors of a program: each one takes the number of one in the launcher and its workers."""

_HARMLESS = {"-u", "-B", "-P", "-I", "-q"}
"""Options of Python's that make no difference to a worker."""

_RAN = {"hyperflow.shipping.pickler", "hyperflow.worker.worker", "multiprocessing.process"}
"""Modules that are there when something has run in this process that leaves traces in it."""

_FINDERS = ("_frozen_importlib", "_distutils_hack", "_virtualenv", "__editable__")
"""How the names of those modules begin that look for modules in a fresh Python, too."""

_STDLIB = str(Path(os.__file__).parent)
_GO = b"."


def may_fork() -> bool:
    """Whether a launcher that is forked now is as good as one of its own; its threads are looked at later."""
    return (
        sys.platform == "linux"
        and threading.current_thread() is threading.main_thread()
        and threading.active_count() == 1
        and sys.gettrace() is None
        and sys.getprofile() is None
        and not hasattr(sys, "ps1")
        and not _RAN & sys.modules.keys()
        and _started_plainly()
        and _finds_plainly()
        and all(map(_survives, list(sys.modules), list(sys.modules.values())))
        and not blas.others()
        and len(os.listdir("/proc/self/fd")) <= MOST_FDS
        and _resident() <= MOST_MEMORY
    )


def _started_plainly() -> bool:
    """Whether Python was started without options that its children would not have."""
    for word in sys.orig_argv[1:]:
        if word in ("-c", "-m") or not word.startswith("-"):
            return True
        if word not in _HARMLESS:
            return False
    return False  # by a program of its own that embeds Python, or for a person who types


def _finds_plainly() -> bool:
    """Whether modules are found as a fresh Python finds them."""
    kinds = [finder if isinstance(finder, type) else type(finder) for finder in sys.meta_path]
    return len(sys.path_hooks) == 2 and all(kind.__module__.startswith(_FINDERS) for kind in kinds)


def _survives(name: str, module: types.ModuleType) -> bool:
    """Whether a module may be in a forked child, or can be imported there anew: compiled ones cannot."""
    file = getattr(module, "__file__", None)
    if name.partition(".")[0] in sys.stdlib_module_names and isinstance(file, str):
        return file.startswith(_STDLIB)  # else it is the user's, in the place of Python's own
    return inheritance.stays(name, module) or not (isinstance(file, str) and file.endswith(tuple(EXTENSION_SUFFIXES)))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Child:
    """A forked child, with what `Started` needs of a subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        return self._wait(0)

    def _wait(self, how: int) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, how)
            except ChildProcessError:  # somebody else has reaped it
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def fork(module: str, log_file: Path) -> Started | None:
    """Fork a child that runs the `main` of a module, with a stream to us as its stdin and stdout.

    None if there was another thread, or there is no memory, for example; then nothing has happened.
    """
    number = os.urandom(16).hex()
    ours, theirs = socket.socketpair()
    with theirs, log_file.open("ab") as log:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with blas.one_thread(), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which we count ourselves
                pid = os.fork()
                if pid == 0:
                    _become(module, theirs.fileno(), log.fileno(), number, lambda: _settle(mask))
                alone = len(os.listdir("/proc/self/task")) == 1
        except OSError:
            ours.close()
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    child = _Child(pid)
    if not alone:
        ours.close()  # before it had the word to go on
        child.wait()
        return None
    ours.send(_GO)
    return Started(ours, child, number)


def _settle(mask: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(module: str, stream: int, log: int, number: str, settle: Callable[[], None]) -> NoReturn:
    """In the child: never come back to the program."""
    code = 70
    try:
        if os.read(stream, 1) == _GO:
            inheritance.give_up(stream, log, number)
            settle()
            inheritance.in_new_context(importlib.import_module(module).main)
    except BaseException:  # noqa: BLE001 (it is printed, and the process ends in any case)
        traceback.print_exc()
    finally:
        os._exit(code)
