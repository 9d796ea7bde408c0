"""Runs a failed evaluation again, from its capsule, in this process; where it fails, pdb opens.

Guarantees:
- It is told what is about to run, and what differs from where it failed, before anything of it is unpickled.
- The function finds what it found on its worker: its arguments as they were, the user's own modules as they were, the
  states of the random generators, worker_info() and seed_sequence(). Nobody else holds locks.

A process that has run one is of no use for anything else: its `__main__` is the script's, as on a worker. Modules come
from the capsule first: what ran is what is looked at, also where the file here is another one, or is missing.
"""

from __future__ import annotations

import asyncio
import bdb
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import math
import os
import pdb
import pickle
import random
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import attrs

from hyperflow import environment, failures, locks
from hyperflow.chunks import Chunk, evaluate_part
from hyperflow.debugging import capsule
from hyperflow.debugging.capsule import About, Call, Capsule, Pickle, Source
from hyperflow.debugging.surroundings import versions
from hyperflow.errors import ConfigurationError, HyperflowError, MisuseError
from hyperflow.saying import in_words, printable
from hyperflow.shipping import exceptions, pickler, rebuild
from hyperflow.wire.frames import Shape
from hyperflow.worker import worker

WENT_THROUGH, FAILED = 0, 1
"""Exit codes."""

LONGEST = 1000
"""Characters that are shown of a text that is not a traceback."""


class Nobody:
    """Locks where nobody else is."""

    async def take(self, keys: Collection[str]) -> int:
        del keys
        return 0

    def take_blocking(self, keys: Collection[str]) -> int:
        del keys
        return 0

    def release(self, number: int) -> None:
        del number


class Finder(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Imports modules from a capsule."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = {source.module: source for source in sources if source.module != "__main__"}

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname not in self._sources:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self._sources[fullname].is_package)

    def get_filename(self, fullname: str) -> str:
        return self._sources[fullname].file

    def is_package(self, fullname: str) -> bool:
        return self._sources[fullname].is_package

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname].text


def run(found: Capsule, *, step: bool = False) -> int:
    """Run it again here; return an exit code. With `step`, pdb opens at its first line, and not where it fails.

    Raises:
        HyperflowError: It cannot run here: it is of another version, is damaged, needs what is not here.
    """
    about = found.about
    _tell(f"evaluation {about.task} of {about.function}, which failed on {about.service_id} ({about.node})")
    _tell(f"with {about.error}", LONGEST)
    if reason := capsule.misfit(about):
        raise ConfigurationError(f"it cannot run here: {reason}")
    call = found.call()
    for line in _differences(about, call):
        _tell(line, LONGEST)
    _go_there(about)
    fn, args, kwargs = _load(about, call)
    _settle(about, call)
    if step and inspect.iscoroutinefunction(fn):
        _tell("--step is for plain functions; here pdb opens where it fails")
        step = False
    try:
        value = _called(fn, args, kwargs, step)
    except bdb.BdbQuit:
        return FAILED
    except BaseException as error:  # noqa: BLE001 (whatever it raises is looked at)
        return _look(about, error)
    _tell(f"it went through this time, and returned a {type(value).__name__}; what it depends on is not in its call")
    return WENT_THROUGH


def _tell(text: str, longest: int | None = None) -> None:
    shown = printable(text)
    if longest is not None and len(shown) > longest:
        shown = shown[: longest - 1] + "…"
    print(f"hyperflow: {shown}", file=sys.stderr, flush=True)


def _differences(about: About, call: Call) -> list[str]:
    """Say what is not here as it was there."""
    found: list[str] = []
    if not call.random:
        found.append("the states of the global random generators were not noted before it began")
    if about.arguments_as_left:
        found.append("large arrays among its arguments are as it left them; it may have written to them")
    return found


def _go_there(about: About) -> None:
    """Look for files and modules where it did."""
    if Path(about.directory).is_dir():
        with contextlib.suppress(OSError):
            os.chdir(about.directory)
            _tell(f"its directory is {about.directory}")
    else:
        _tell(f"its directory, {about.directory}, is not here: relative paths begin at {Path.cwd()}")
    sys.path += [entry for entry in about.sys_path if entry not in sys.path and Path(entry).exists()]


def _load(about: About, call: Call) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """Unpickle function and arguments; raises HyperflowError, which says what is not here."""
    sys.meta_path.insert(0, Finder(call.sources))
    for source in call.sources:
        lines = source.text.splitlines(keepends=True)
        linecache.cache[source.file] = len(source.text), None, lines, source.file
    arrivals = rebuild.receive()
    try:
        for number, (shape, pickled) in enumerate(call.needs, 2):
            if shape == Shape.CLASS:
                with arrivals.arriving(number, is_class=True):
                    rebuild.define_class(pickled.data, _writable(pickled))
            else:
                rebuild.keep(pickler.loads(pickled.data, buffers=pickled.buffers))
        with arrivals.arriving(1, is_class=False):
            fn = pickler.loads(call.function.data, buffers=_writable(call.function))
        loaded: Any = pickler.loads(call.arguments.data, buffers=_writable(call.arguments))
    except BaseException as error:
        text = f"it cannot be unpickled here: {in_words(error)}"
        if isinstance(error, ImportError):
            text += "; install what it needs, or put it on PYTHONPATH"
        if other := _other_versions(about):
            text += f" ({other})"
        raise HyperflowError(text) from error
    if other := _other_versions(about):
        _tell(other, LONGEST)
    args, kwargs = (loaded[0], loaded[1]) if type(loaded) is list else (loaded, {})
    return fn, _raising(fn, args), kwargs


def _writable(pickled: Pickle) -> list[memoryview]:
    return [memoryview(bytearray(each)) for each in pickled.buffers]


def _raising(fn: Callable[..., Any], args: Sequence[Any]) -> Sequence[Any]:
    """Return the arguments of a call; a chunk of remote_map is to raise what an item raises, and not to return it."""
    if fn is evaluate_part:
        (packed,), *numbers = args
        return (_raising(Chunk.__call__, packed),), *numbers
    return [attrs.evolve(one, returns=False) if isinstance(one, Chunk) else one for one in args]


def _other_versions(about: About) -> str:
    """Say which packages are here in another version."""
    here = versions()
    other = [
        f"{name} was {version} there, and is {here[name]} here"
        for name, version in about.versions.items()
        if name in here and here[name] != version
    ]
    return "; ".join(other)


def _settle(about: About, call: Call) -> None:
    """Let the function find what it found on its worker."""
    worker.stand_in(worker.WorkerInfo(about.service_id, about.node, about.cpus, False, about.log_file, about.program))
    locks.inline_locks.set(Nobody())
    environment.inline_evaluation.set(_Alone(call))
    if not call.random:
        return
    try:
        own, numpys = pickle.loads(call.random)
        random.setstate(own)
        if numpys is not None:
            import numpy.random  # noqa: PLC0415 (only where it was imported there, too)

            numpy.random.set_state(numpys)
    except Exception as error:  # noqa: BLE001 (numpy of another version, or none)
        _tell(f"the random generators cannot be set as they were: {in_words(error)}", LONGEST)


class _Alone:
    """What it could ask its worker for."""

    def __init__(self, call: Call) -> None:
        self._stream = call.stream
        self._directory: Path | None = None

    def draws(self) -> tuple[int, ...]:
        if not self._stream:
            raise MisuseError("seed_sequence(): it had not asked for random numbers when it failed; nobody knows them")
        return self._stream

    def time_left(self) -> float:
        return math.inf

    def is_ending(self) -> bool:
        return False

    def checkpoint_dir(self) -> Path:
        """An empty one: what it had saved may be changed by who looks at it only in a copy."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="hyperflow-checkpoint-"))
            _tell(f"checkpoint_dir() is {self._directory}, which is empty: what it had saved is not used here")
        return self._directory


def _called(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], step: bool) -> Any:
    """Call it, and return its value."""
    value = pdb.Pdb().runcall(fn, *args, **kwargs) if step else fn(*args, **kwargs)
    return asyncio.run(value) if isinstance(value, types.CoroutineType) else value


def _look(about: About, error: BaseException) -> int:
    """Show where it has failed again, and open pdb there."""
    trace = error.__traceback__
    BaseException.with_traceback(error, trace.tb_next if trace is not None else None)  # without our own frame
    failures.shorten(error)
    for line in "".join(traceback.format_exception(error)).splitlines():
        print(printable(line), file=sys.stderr)
    now = capsule.in_a_line(*exceptions.in_words(error)[:2])
    if now[: capsule.LONGEST] == about.error:
        _tell("it has failed with the same error; pdb is where it was raised (q leaves)")
    else:
        _tell("it has failed with another error than there; pdb is where it was raised (q leaves)")
    sys.stderr.flush()
    pdb.post_mortem(error.__traceback__ or trace)
    return FAILED


# ---- a saved file that Python runs -----------------------------------------------------------------------------------


def main(file: str) -> int:
    """Run the saved capsule that this process was started with; return an exit code."""
    words = sys.argv[1:]
    if [word for word in words if word != "--step"]:
        print(f"usage: python {printable(Path(file).name)} [--step]", file=sys.stderr)
        return FAILED
    try:
        found = capsule.saved(Path(file))
        about = found.about
        made = time.strftime("%Y-%m-%d", time.localtime(about.made))
        _tell(f"{file} is a program: it holds code of run {about.program}, {made}, which runs with all your rights")
        if sys.stdin.isatty() and input("Do you know whom it comes from? Type yes to run it: ").strip() != "yes":
            return FAILED
        return run(found, step=bool(words))
    except (HyperflowError, OSError, ValueError, OverflowError, EOFError, KeyboardInterrupt) as error:
        _tell(in_words(error) if not isinstance(error, HyperflowError) else str(error))
        return FAILED
