"""What surrounds a function in its worker's process and can be set for good: put back after the function.

That is: working directory, umask, environment, resource limits, priority, locale, the default time limit of sockets,
filters of warnings, timers, the global random generators (`random`, `numpy.random`), Python's recursion limit and
whether its garbage collector is on.

The functions of Python that set these are replaced, in a worker, by ones that first note what was there. So an
evaluation that sets nothing costs nothing, and what one has set is put back exactly.

What a module sets while it is imported stays, because the module stays, too; so does what an initializer of an
executor sets (`keep`). Not seen is what C code sets, and what is set through a name that a preloaded module had taken
before (`from os import chdir`).

Rejected: to compare all of it after each evaluation. It takes 4 µs, and does not tell what a module has set on purpose.
"""

from __future__ import annotations

import functools
import gc
import locale
import os
import random
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_IMPORT = "<frozen importlib._bootstrap>"
"""The file name of that part of Python which runs a module."""


class _Thing(NamedTuple):
    """Something that can be set, and functions that read and write it: those of Python, as they were."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


_Find = Callable[..., _Thing | None]
"""Returns what a call with these arguments sets."""


class Surroundings:
    """What has been set since the last `put_back`, and what was there before."""

    def __init__(self) -> None:
        self.before: dict[str, tuple[_Thing, Any]] = {}
        """What is to be put back."""
        self._knows_numpy = False
        self.sleeps = False
        """Whether nothing is noted yet: what a worker is given before its first function is to stay."""

    def watch(self) -> None:
        """Replace the functions that set something; once, in a process that is a worker and nothing else."""
        for modules, names, find in _SETTERS:
            for name in names:
                self._replace([sys.modules[each] for each in modules], name, find)
        self.look_for_numpy(seed=False)  # it has just been seeded

    def look_for_numpy(self, seed: bool = True) -> None:
        """Watch numpy's global generator, too, once it is there."""
        if self._knows_numpy or "numpy.random" not in sys.modules:
            return
        numpy: Any = sys.modules["numpy.random"]
        if seed:
            numpy.seed()  # what imported it may have set it before we could see that
        for name in ("seed", "set_state"):
            self._replace([numpy], name, _always("numpy's random generator", numpy.get_state, numpy.set_state))
        self._knows_numpy = True

    def put_back(self) -> str:
        """Put back what was set; return what cannot be, in words."""
        if not self.before:
            return ""
        try:
            for thing, value in tuple(self.before.values()):
                try:
                    thing.write(value)
                except Exception as error:  # a right, or a directory, that is gone
                    return f"it has changed its {thing.name}, which cannot be put back: {error}"
        finally:
            self.before.clear()  # the same dict: the quick loop looks at it
        return ""

    def at_end(self, name: str, do: Callable[[], object]) -> None:
        """Do something when the evaluation that runs has been answered; once for each name."""
        self.before.setdefault(name, (_Thing(name, lambda: None, lambda _: do()), None))

    def keep(self) -> None:
        """Let stay what has been set until now."""
        self.before.clear()
        self.look_for_numpy(seed=False)

    def _replace(self, modules: Sequence[Any], name: str, find: _Find) -> None:
        original = getattr(modules[0], name)

        @functools.wraps(original)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self._note(find, args, kwargs)
            return original(*args, **kwargs)

        noting.__module__, noting.__qualname__ = modules[0].__name__, name  # by which it is pickled
        for module in modules:
            setattr(module, name, noting)

    def _note(self, find: _Find, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if self.sleeps:
            return
        try:
            thing = find(*args, **kwargs)
        except Exception:  # a call that makes no sense; the function itself will say so
            return
        if thing is None or thing.name in self.before or _importing():
            return
        try:
            self.before[thing.name] = thing, thing.read()
        except OSError:  # a directory that is gone
            self.before[thing.name] = thing, None


_ready: Surroundings | None = None


def make_ready() -> None:
    """In a launcher: watch already, as each worker that it forks is to do."""
    global _ready  # noqa: PLW0603 (the functions of Python are replaced once in a process)
    if _ready is None:
        _ready = Surroundings()
        _ready.watch()
        _ready.sleeps = True
    _ready.keep()


def of_worker() -> Surroundings:
    """Return what watches in this worker."""
    if _ready is None:
        make_ready()
    assert _ready is not None
    _ready.sleeps = False
    return _ready


def _importing() -> bool:
    """Whether what has called us is a module that is being imported."""
    frame: Any = sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_filename != _IMPORT:
        frame = frame.f_back
    return frame is not None


def _always(name: str, read: Callable[[], Any], write: Callable[[Any], object]) -> _Find:
    thing = _Thing(name, read, write)
    return lambda *_, **__: thing


def _read_umask(umask: Callable[[int], int] = os.umask) -> int:
    mask = umask(0o077)
    umask(mask)
    return mask


def _variable(name: str | bytes, *_: object) -> _Thing:
    key = os.fsencode(name)

    def write(value: bytes | None) -> None:
        os.environb[key] = value or b""
        if value is None:
            del os.environb[key]
        if key == b"TZ":
            time.tzset()

    return _Thing(f"environment variable {os.fsdecode(key)}", lambda: os.environb.get(key), write)


def _limit(which: int, *_: object, set_limit: Callable[[int, Any], None] = resource.setrlimit) -> _Thing:
    return _Thing(f"resource limit {which}", lambda: resource.getrlimit(which), lambda value: set_limit(which, value))


def _limit_of(pid: int, which: int, *_: object) -> _Thing | None:
    return _limit(which) if pid in (0, os.getpid()) else None


def _priority(set_priority: Callable[[int, int, int], None] = os.setpriority) -> _Thing:
    own = os.PRIO_PROCESS, 0
    return _Thing("priority", lambda: os.getpriority(*own), lambda value: set_priority(*own, value))


def _priority_of(which: int, who: int, *_: object) -> _Thing | None:
    return _PRIORITY if which == os.PRIO_PROCESS and who in (0, os.getpid()) else None


def _timer(which: int, *_: object, set_timer: Callable[..., object] = signal.setitimer) -> _Thing:
    return _Thing(f"timer {which}", lambda: 0, lambda seconds: set_timer(which, seconds))


def _put_filters(value: list[Any]) -> None:
    if warnings.filters != value:
        warnings.filters[:] = value  # type: ignore[index]
        with warnings.catch_warnings():  # its end tells the module that they have changed
            pass


_PRIORITY = _priority()
_SWITCH = {True: gc.enable, False: gc.disable}

_SETTERS: Sequence[tuple[Sequence[str], Sequence[str], _Find]] = [
    (["posix", "os"], ["chdir", "fchdir"], _always("working directory", os.getcwd, os.chdir)),
    (["posix", "os"], ["umask"], _always("umask", _read_umask, os.umask)),
    (["posix", "os"], ["putenv", "unsetenv"], _variable),  # which os.environ calls
    (["posix", "os"], ["nice"], lambda *_: _PRIORITY),
    (["posix", "os"], ["setpriority"], _priority_of),
    (["resource"], ["setrlimit"], _limit),
    (["resource"], ["prlimit"], _limit_of),
    (["locale"], ["setlocale"], _always("locale", *[functools.partial(locale.setlocale, locale.LC_ALL)] * 2)),
    (["_socket", "socket"], ["setdefaulttimeout"],
     _always("default time limit of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout)),
    (["warnings"], ["filterwarnings", "simplefilter", "resetwarnings"],
     _always("filters of warnings", lambda: warnings.filters[:], _put_filters)),
    (["random"], ["seed", "setstate"], _always("random generator", random.getstate, random.setstate)),
    (["sys"], ["setrecursionlimit"], _always("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)),
    (["signal"], ["alarm"], lambda *_: _timer(signal.ITIMER_REAL)),
    (["signal"], ["setitimer"], _timer),
    (["gc"], ["enable", "disable"], _always("garbage collector", gc.isenabled, lambda on: _SWITCH[on]())),
]  # fmt: skip
"""Modules, their functions that set something, and what."""
