"""What a forked launcher gives up of its program, so that its workers are as those of a fresh Python.

What is given up is kept alive, and never let go of: no file of the program is flushed or closed twice, no connection
says goodbye, no `__del__` is called, no temporary directory is removed. The numbers of the program's descriptors stay
taken, by /dev/null, because an object of the program may still know them.

Modules of the user's are not in the workers, and are imported anew by what needs them: results shall not depend on
what the program has made of them until then. Those of Python, numpy and scipy stay, as the program has set them; what
programs do set (random numbers, warnings, logging, signals, locale) is set back.
"""

from __future__ import annotations

import atexit
import contextvars
import gc
import mmap
import os
import signal
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hyperflow.wire import survivors
from hyperflow.wire.shared_memory import Block

_HOME = str(Path(__file__).resolve().parents[2])

_STAY = {"hyperflow", "attr", "attrs", "uvloop", "numpy", "scipy", "_distutils_hack", "_virtualenv", "cython_runtime"}
_STAY_TOO = ("_cython_", "_cyutility", "__editable__", "_sysconfigdata")
"""How names begin that have a version in them."""

_kept: list[Any] = []
"""What belongs to the program."""


def stays(name: str, module: types.ModuleType) -> bool:
    """Whether a module may be in workers as the program has it."""
    top = name.partition(".")[0]
    if name == "__main__":
        return False
    if top in sys.stdlib_module_names or top in _STAY or top.startswith(_STAY_TOO):
        return True
    # Some compiled modules of scipy's have a second name, without scipy's before it.
    scipy = getattr(sys.modules.get("scipy"), "__file__", None)
    file = getattr(module, "__file__", None)
    return isinstance(scipy, str) and isinstance(file, str) and file.startswith(os.path.dirname(scipy) + os.sep)


def in_new_context(main: Callable[[], NoReturn]) -> NoReturn:
    """Run without the program's context variables."""
    contextvars.Context().run(main)
    raise AssertionError(main)


def give_up(stream: int, log: int, number: str) -> None:
    """Make a forked child what a launcher is when it starts: `stream` is its stdin and stdout, `log` its stderr."""
    os.setsid()  # Ctrl-C in the terminal is for the head, which ends us in order
    gc.freeze()
    gc.enable()
    gc.set_threshold(700, 10, 10)
    _signals()
    _descriptors(stream, log)
    _hooks()
    _modules()
    _logging()
    _warnings()
    os.environ[survivors.VARIABLE] = number
    _kept.append(_mark(f"{survivors.MARKS}-{number}-launcher"))


def _mark(name: str) -> memoryview:
    """Map some memory by whose name this process, and all that it forks, are known.

    The environment does not tell it: the kernel shows the one with which the program was started.
    """
    block = Block(os.memfd_create(name), mmap.PAGESIZE)
    try:
        os.ftruncate(block.fd, block.size)
        return block.view()
    finally:
        block.close()


def _signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _descriptors(stream: int, log: int) -> None:
    os.dup2(stream, 0)
    os.dup2(stream, 1)
    os.dup2(log, 2)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2 and fd != null:
            try:
                os.fstat(fd)
            except OSError:
                continue  # of the list itself
            os.dup2(null, fd, inheritable=False)
    os.close(null)
    _kept.append((sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__))
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        file = open(fd, mode, 1, closefd=False, errors="backslashreplace")  # by lines: nothing flushes it at the end
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


def _hooks() -> None:
    """Forget what the program wants to be called for."""
    atexit._clear()  # pyright: ignore[reportPrivateUsage] (what it has registered is its own)
    finalize: Any = weakref.finalize
    _kept.append(dict(finalize._registry))
    finalize._registry.clear()
    finalize._registered_with_atexit = False
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    sys.displayhook = sys.__displayhook__
    threading.excepthook = threading.__excepthook__
    sys.setrecursionlimit(1000)
    loops: Any = sys.modules.get("asyncio.events")
    if loops is not None:
        _kept.append(loops._event_loop_policy)
        loops._event_loop_policy = None
    if (tracing := sys.modules.get("tracemalloc")) is not None:
        tracing.stop()
    if (locale := sys.modules.get("_locale")) is not None:
        locale.setlocale(locale.LC_ALL, "C")
        locale.setlocale(locale.LC_CTYPE, "")


def _modules() -> None:
    _kept.append(dict(sys.modules))
    gone = [name for name, module in sys.modules.items() if not stays(name, module)]
    for name in gone:
        del sys.modules[name]
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path_importer_cache.clear()
    # What Python has set first: a file beside the script is not taken for a module of the standard library.
    pythons = [entry for entry in sys.path if entry.startswith((sys.prefix, sys.base_prefix))]
    sys.path[:] = [*pythons, *(entry for entry in sys.path[1:] if entry not in pythons), _HOME]


def _logging() -> None:
    if (logging := sys.modules.get("logging")) is None:
        return
    logging.captureWarnings(False)
    logging.disable(logging.NOTSET)
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            _kept.append(logger.handlers)
            logger.handlers, logger.filters = [], []
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


def _warnings() -> None:
    """Set back which warnings are shown; numpy's own rules stay."""
    warnings: Any = sys.modules.get("warnings")
    if warnings is None:
        return
    numpys = [rule for rule in warnings.filters if "numpy" in getattr(rule[1], "pattern", "")]
    warnings.resetwarnings()
    warnings.filters.extend(numpys)
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind, append=True)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
    if told := os.environ.get("PYTHONWARNINGS"):
        warnings._processoptions(told.split(","))
