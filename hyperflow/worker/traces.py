"""What a function leaves behind in its worker's process, so that the next task does not find it.

Guarantees: after `Traces.remove` no timer runs, no signal is blocked, and Python's signal handlers are those from
before. What cannot be put back (a thread, descriptors that were closed or replaced, a patched pickle) is named: then
the worker has to be replaced, which takes some milliseconds.

All that is looked for after the first call of a function and after each that took a while: some 6 µs. After others only
what can end or hold up the next task at once: less than 2 µs. What Python itself sets (directory, environment, limits,
...) is noted when it is set, see `surroundings`. Not looked for are modules, caches and child processes.
"""

from __future__ import annotations

import _thread
import fcntl
import importlib
import os
import pickle
import signal
import sys
import threading
import time
from typing import Any

from hyperflow.worker import surroundings

_raw: Any = importlib.import_module("_signal")
"""The module under `signal`, which makes an enum of each number: 1 µs each time."""

count_threads = _thread._count  # pyright: ignore[reportPrivateUsage] (also threads that `threading` does not know)

_SIGNALS = [number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP)]

THREAD_GRACE = 0.1
"""Seconds for threads that are just ending."""

LAST_WORDS = 2.0
"""Seconds for what runs after the last answer of a worker that has to go."""


class Traces:
    """The process as it was before the first function."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        fcntl.fcntl(stream, fcntl.F_SETOWN, os.getpid())  # a mark: no other file has it
        self._pid = os.getpid()
        self._suspect = False  # whether a function has left something before
        self.surroundings = surroundings.of_worker()
        self._take_down()

    def _take_down(self) -> None:
        """Note how the process is now, which is how it has to be after each function."""
        self._modes = [_mode(fd) for fd in range(3)]
        self.threads = count_threads()
        self._handlers = [_raw.getsignal(number) for number in _SIGNALS]
        self._blocked = _raw.pthread_sigmask(signal.SIG_BLOCK, ())
        self._affinity = os.sched_getaffinity(0)
        self._pickle = _pickle()
        self._trace, self._profile = sys.gettrace(), sys.getprofile()

    def keep(self) -> None:
        """Let stay what the function that runs has set until now."""
        self.surroundings.keep()
        self._take_down()

    def has_stream(self) -> bool:
        """Whether the descriptor of the stream to the launcher is still that."""
        try:  # where it is not, an answer would go anywhere
            return fcntl.fcntl(self._stream, fcntl.F_GETOWN) == self._pid  # fstat takes twice as long
        except OSError:
            return False

    def has_threads(self) -> bool:
        """Whether there are more threads than before."""
        return count_threads() > self.threads

    def remove(self, thoroughly: bool = True) -> str:
        """Put back what can be put back; return what cannot, in words.

        Args:
            thoroughly: Look also for what costs some microseconds. Once something has been found, that is always done.
        """
        if self.surroundings.before and (wrong := self.surroundings.put_back()):
            return wrong
        if (thoroughly or self._suspect) and (wrong := self._look_at_kernel()):
            return wrong
        if _pickle() != self._pickle:
            return "it has patched pickle"
        if sys.gettrace() is not self._trace or sys.getprofile() is not self._profile:
            return "it has left a trace function"
        if count_threads() > self.threads and not self._idle():
            return f"it has left threads: {', '.join(_names())}"
        return ""

    def _look_at_kernel(self) -> str:
        """Look at what only the kernel knows."""
        self.surroundings.look_for_numpy()
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
            if _raw.setitimer(timer, 0)[0]:
                self._suspect = True
        if list(map(_raw.getsignal, _SIGNALS)) != self._handlers:
            self._restore_handlers()
        if _raw.pthread_sigmask(signal.SIG_BLOCK, ()) != self._blocked:
            self._suspect = True
            _raw.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        if os.sched_getaffinity(0) != self._affinity:
            os.sched_setaffinity(0, self._affinity)
        if (faulthandler := sys.modules.get("faulthandler")) is not None:
            faulthandler.cancel_dump_traceback_later()
        if [_mode(fd) for fd in range(3)] != self._modes:
            return "it has closed or replaced a descriptor from 0 to 2"
        return ""

    def _restore_handlers(self) -> None:
        self._suspect = True
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if handler is not None and _raw.getsignal(number) != handler:
                _raw.signal(number, handler)

    def _idle(self) -> bool:
        """Whether the threads that are left do nothing, or end just now."""
        deadline = time.monotonic() + THREAD_GRACE
        pause = 0.0005
        while count_threads() - self.threads > _watchers():
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause *= 2
        return True


def has_callbacks(loop: Any) -> bool:
    """Whether an event loop would go on with something when it runs again; True if it does not tell (uvloop)."""
    try:
        handles, files = [*loop._ready, *loop._scheduled], len(loop._selector.get_map())
    except (AttributeError, TypeError):
        return True
    return files > 1 or any(not handle.cancelled() for handle in handles)  # one is the loop's own


def end_soon() -> None:
    """Let the kernel end this process if it is still there in a moment, whatever it is stuck in."""
    _raw.signal(_raw.SIGALRM, _raw.SIG_DFL)  # what `signal` makes of these, the module below does not take
    _raw.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    _raw.setitimer(signal.ITIMER_REAL, LAST_WORDS)


def _mode(fd: int) -> int:
    """Return how a descriptor was opened: another file mostly is in another way. (fstat takes four times as long.)"""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:
        return -1


def _pickle() -> tuple[object, ...]:
    return sys.modules.get("pickle"), pickle.dumps, pickle.loads, pickle.Pickler, pickle.Unpickler


def _watchers() -> int:
    """How many threads there are that tqdm starts with its first bar, and never ends: all that they do is to redraw."""
    return sum(type(thread).__module__ == "tqdm._monitor" for thread in threading.enumerate())


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()][:5]
