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
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

from hyperflow.worker import surroundings

_raw: Any = importlib.import_module("_signal")
"""The module under `signal`, which makes an enum of each number: 1 µs each time."""

count_threads = _thread._count  # pyright: ignore[reportPrivateUsage] (also threads that `threading` does not know)

_SIGNALS = [number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP)]

THREAD_GRACE = 0.1
"""Seconds for threads that are just ending."""

LAST_WORDS = 2.0
"""Seconds for what runs after the last answer of a worker that has to go."""


MOST_ADOPTED = 64
"""Threads that a worker keeps because they may belong to what it keeps; with more, it is replaced."""

RANDOM = "random generator"
"""The end of the names, in `surroundings`, of what holds random generators."""


class _State(NamedTuple):
    """The process at one moment."""

    threads: int
    modes: list[int]
    handlers: list[Any]
    blocked: set[Any]
    affinity: set[int]
    pickle: tuple[object, ...]
    trace: object
    profile: object


class Traces:
    """The process as it was before the first function."""

    def __init__(self, stream: int) -> None:
        self._stream = stream
        fcntl.fcntl(stream, fcntl.F_SETOWN, os.getpid())  # a mark: no other file has it
        self._pid = os.getpid()
        self._adopts = False
        self._adoptive = 0
        self._suspect = False  # whether a function has left something before
        self.surroundings = surroundings.of_worker()
        self._take_down()

    def _take_down(self) -> None:
        """Note how the process is now, which is how it has to be after each function."""
        now = self._now()
        self.threads = now.threads
        self._modes, self._handlers, self._blocked = now.modes, now.handlers, now.blocked
        self._affinity, self._pickle, self._trace, self._profile = now.affinity, now.pickle, now.trace, now.profile

    def _now(self) -> _State:
        return _State(
            threads=count_threads(),
            modes=[_mode(fd) for fd in range(3)],
            handlers=[_raw.getsignal(number) for number in _SIGNALS],
            blocked=_raw.pthread_sigmask(signal.SIG_BLOCK, ()),
            affinity=os.sched_getaffinity(0),
            pickle=_pickle(),
            trace=sys.gettrace(),
            profile=sys.getprofile(),
        )

    def keep(self) -> None:
        """Let stay what the function that runs has set until now."""
        self.surroundings.keep()
        self._take_down()

    @contextmanager
    def settling(self) -> Generator[None]:
        """Let stay what is set within, but for the states of random generators: other workers have the same seed."""
        before, noted = self._now(), dict(self.surroundings.before)
        self.surroundings.before.clear()  # the same dict: the quick loop looks at it
        try:
            yield
        finally:
            set_within = {name: it for name, it in self.surroundings.before.items() if name.endswith(RANDOM)}
            self.surroundings.before.clear()
            self.surroundings.before.update(set_within | noted)
            after = self._now()
            self.threads += after.threads - before.threads
            for number, (was, now) in enumerate(zip(before.handlers, after.handlers, strict=True)):
                if now != was:
                    self._handlers[number] = now
            for name in ("modes", "blocked", "affinity", "pickle", "trace", "profile"):
                if getattr(after, name) != getattr(before, name):
                    setattr(self, f"_{name}", getattr(after, name))

    def adopt(self) -> None:
        """The evaluation has used what the worker keeps: threads that are left now may be that's."""
        self._adopts = True

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
        wrong = self._remove(thoroughly)
        self._adopts = False
        return wrong

    def _remove(self, thoroughly: bool) -> str:
        if self.surroundings.before and (wrong := self.surroundings.put_back()):
            return wrong
        if (thoroughly or self._suspect) and (wrong := self._look_at_kernel()):
            return wrong
        if _pickle() != self._pickle:
            return "it has patched pickle"
        if sys.gettrace() is not self._trace or sys.getprofile() is not self._profile:
            return "it has left a trace function"
        if count_threads() > self.threads and not self._idle() and not self._adopted():
            return f"it has left threads: {', '.join(_names())}"
        return ""

    def _adopted(self) -> bool:
        """Whether the threads that are left go with what the worker keeps, as far as can be known."""
        more = count_threads() - self.threads
        if not self._adopts or self._adoptive + more > MOST_ADOPTED:
            return False
        self._adoptive += more
        self.threads += more
        return True

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
