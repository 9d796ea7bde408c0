"""The zygote: what a launcher makes of its own process, so that workers forked from it find all that they need.

Guarantees: no thread is started here, because a forked child would inherit its locks without it. Variables that a
prologue has set on this node win over the head's. A file of the user's is not taken for a module of ours. Our modules
are imported while the head has nothing to say, one at a time, or else when the first worker is wanted.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from hyperflow.wire import gpus, machine
from hyperflow.wire.messages import Setup, SysPath

SHARED = (
    "worker.worker",
    "files",
    "command",
    "concurrent",
    "database.keyvalmap",
    "database.memo",
    "_job",
    "locks",
    "remote",
)
"""Modules of ours that workers need, and that functions and modules of the user's refer to."""

BEFORE_PROLOGUE = "HYPERFLOW_BEFORE_PROLOGUE"
"""The variable that holds what `env` said before the prologue; see `transports.process.with_prologue`."""


class Zygote:
    """This process, as workers will find it."""

    def __init__(self) -> None:
        self._own_path = sys.path[:]
        self._missing = list(reversed(SHARED))
        self.is_warm = False
        """Whether all that workers need has been imported."""
        self.remark = ""
        """What people should know of the modules that the program names."""

    def prepare(self, setup: Setup) -> str:
        """Take on the head's paths and environment, and import what the program names; return what went wrong."""
        take_environment(setup.environment)
        with contextlib.suppress(OSError):
            os.chdir(setup.cwd)
        sys.path[:] = self._path_like(setup.sys_path)
        sys.argv[:] = setup.argv
        # A numerical library starts its threads when it is imported; with these variables it starts none.
        user_set = {name: os.environ[name] for name in machine.THREAD_VARIABLES if name in os.environ}
        os.environ.update(dict.fromkeys(machine.THREAD_VARIABLES, "1"))
        ours = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there are no workers yet, and an import may never end
        for module in setup.preload:
            try:
                importlib.import_module(module)
            except BaseException:  # noqa: BLE001 (whatever a module does when it is imported, the head hears of it)
                return f"cannot import {module!r}:\n{traceback.format_exc()}"
        signal.signal(signal.SIGTERM, ours)
        for name in machine.THREAD_VARIABLES:
            os.environ.pop(name)
        os.environ.update(user_set)
        if setup.preload:
            _keep_from_collector()
            if gpus.are_in_use():
                self.remark = (
                    f"one of the modules in preload={list(setup.preload)} uses a GPU as soon as it is imported; CUDA "
                    "and HIP fail in a process that is forked after that, so functions that use a GPU will fail: "
                    "import it in the function"
                )
        return ""

    def follow(self, path: SysPath) -> None:
        """Look for modules where the program now does; workers that are forked later inherit it."""
        sys.path[:] = self._path_like(path.entries)

    def _path_like(self, theirs: Sequence[str]) -> list[str]:
        """Return the head's path; behind our own where Python is elsewhere on this node, as in another container."""
        own = [] if os.path.dirname(os.__file__) in theirs else self._own_path
        return [*own, *(entry for entry in theirs if entry not in own)]

    def warm_up(self) -> None:
        """Import what workers need, so that each finds it there."""
        while not self.is_warm:
            self.warm_up_a_little()

    def warm_up_a_little(self) -> None:
        """Import one more of the modules that workers need: for a launcher that has nothing else to do yet."""
        theirs, sys.path[:] = sys.path[:], self._own_path
        gc.disable()  # what is imported stays
        importlib.import_module(f"hyperflow.{self._missing.pop()}")
        gc.enable()
        sys.path[:] = theirs
        if not self._missing:
            _keep_from_collector()
            self.is_warm = True


def _keep_from_collector() -> None:
    """Keep the garbage collector of a worker from copying all pages of what was imported here.

    What is garbage by now stays with it. To collect that first takes as long as some of the imports.
    """
    gc.freeze()


def take_environment(theirs: dict[str, str]) -> None:
    """Take on the head's variables, except what the prologue has set here."""
    before = os.environ.pop(BEFORE_PROLOGUE, None)
    for name, value in theirs.items():
        here = os.environ.get(name)
        was = f"\n{name}=" if here is None else f"\n{name}={here}\n"
        if before is None or (was in f"\n{before}\n") == (here is not None):
            os.environ[name] = value
