"""What a failed evaluation leaves: a capsule, from which it can be run again elsewhere (see debugging/capsule.py).

Guarantees: an evaluation that does not fail pays for a copy of its small arrays, and, after one that took a while, for
noting the random generators. The failure itself counts more than its capsule: whatever goes wrong here is a line in the
log, once.

What is kept is what travelled: the pickles of function and arguments as they came, with the definitions that they name.
So what earlier evaluations have left in this process (a cache in a module) is not in it.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hyperflow._version import __version__
from hyperflow.debugging import capsule
from hyperflow.debugging.capsule import About, Bytes, Call, Pickle, Source
from hyperflow.errors import HyperflowError
from hyperflow.shipping import exceptions
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber
from hyperflow.wire.shared_memory import LARGE

MOST_SOURCE = 2_000_000
"""Characters of the user's files that a capsule has."""

PACKAGES = ("site-packages", "dist-packages")
"""Directories of what was installed, and not written for this program."""


Attempt: TypeAlias = tuple[TaskNumber, DefinitionNumber, memoryview, Sequence[Bytes | int]]
"""An evaluation as it came: task, function, pickled arguments, and contents of arrays among them, or their blocks."""


def kept(buffers: Sequence[Bytes | int]) -> Sequence[Bytes | int]:
    """Return the contents of arrays as a capsule is to have them: copies, unless that costs much.

    The function may write to the arrays. In blocks it writes to pages of its own.
    """
    if sum(len(each) for each in buffers if not isinstance(each, int)) > LARGE:
        return buffers
    return [each if isinstance(each, int) else bytes(each) for each in buffers]


class Definition(NamedTuple):
    """What a worker was told before the call: a class or a stored value; pickles name it as `known_as`."""

    known_as: str
    shape: int
    pickle: Pickle


RandomStates: TypeAlias = tuple[Any, Any]
"""Of `random`, and of numpy; None where that was not imported."""


def random_states() -> RandomStates:
    """Return the states of the global generators."""
    numpy = sys.modules.get("numpy.random")
    return random.getstate(), None if numpy is None else numpy.get_state(legacy=False)


def are_as_left(buffers: Sequence[Bytes | int]) -> bool:
    """Whether no copies of arrays were made."""
    return any(isinstance(each, memoryview) for each in buffers)


class Failure(NamedTuple):
    """An evaluation that has failed.

    Args:
        as_left: Whether arrays among its arguments may be as the function has left them.
        known: All classes and stored values that this worker knows.
        states: The states of the random generators when it began, if they were noted.
        stream: What its `seed_sequence()` is made of, if it has asked.
    """

    task: TaskNumber
    name: str
    function: Pickle
    arguments: Pickle
    as_left: bool
    known: Sequence[Definition]
    states: RandomStates | None
    stream: tuple[int, ...]
    error: BaseException


class Place(NamedTuple):
    """Where a worker works; see WorkerInfo."""

    service_id: str
    node: str
    cpus: tuple[int, ...]
    log_file: str
    program: str


class Capsules:
    """Writes the capsules of one worker."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._last = TaskNumber(0)
        self._over = False

    def wants(self, task: TaskNumber) -> bool:
        """Whether an evaluation that has failed is to leave a capsule; for many items of a chunk it leaves one."""
        return not self._over and task != self._last

    def leave(self, failure: Failure) -> str:
        """Write a capsule; return why not, "" if it was."""
        self._last = failure.task
        log_dir = Path(self._place.log_file).parent
        try:
            capsule.room_in(log_dir)
            states = b"" if failure.states is None else pickle.dumps(failure.states)
            needed = named([failure.function, failure.arguments], failure.known)
            needs = [(one.shape, one.pickle) for one in needed]
            call = Call(needs, failure.function, failure.arguments, states, failure.stream, [])
            if call.size > capsule.LARGEST:
                return f"what was called has {call.size:,} bytes, and one has {capsule.LARGEST:,} at most"
            capsule.leave(log_dir, capsule.of(self._about(failure), call._replace(sources=sources())))
        except (HyperflowError, OSError) as error:  # there are enough, the disk is full, the directory not private
            self._over = True
            return str(error)
        return ""

    def _about(self, failure: Failure) -> About:
        kind, text, trace = exceptions.in_words(failure.error)
        return About(
            task=failure.task,
            function=failure.name,
            error=in_a_line(kind, text),
            trace=trace,
            program=self._place.program,
            service_id=self._place.service_id,
            node=self._place.node,
            cpus=self._place.cpus,
            log_file=self._place.log_file,
            directory=_directory(),
            sys_path=tuple(map(str, sys.path)),
            made=time.time(),
            hyperflow=__version__,
            python=sys.version.split(maxsplit=1)[0],
            versions=versions(),
            arguments_as_left=failure.as_left,
        )


def in_a_line(kind: str, text: str) -> str:
    """Return what an error says, in a line; the arguments are those of `exceptions.in_words`."""
    return " ".join(f"{kind.removeprefix('builtins.')}: {text}".split())


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def named(pickles: Sequence[Pickle], known: Sequence[Definition]) -> list[Definition]:
    """Return the definitions that pickles name, and those that these name, in the order in which they came.

    A name in a pickle is a short text with its length before it.
    """
    found: dict[str, Definition] = {}
    waiting = [bytes(each.data) for each in pickles]
    while waiting:
        data = waiting.pop()
        for one in known:
            word = one.known_as.encode()
            if one.known_as not in found and b"\x8c" + bytes([len(word)]) + word in data:
                found[one.known_as] = one
                waiting.append(bytes(one.pickle.data))
    return [one for one in known if one.known_as in found]


# ---- what the user's code is -----------------------------------------------------------------------------------------


def sources() -> list[Source]:
    """Return the user's own files that are imported here, and the script's, as far as there is room."""
    found: list[Source] = []
    room = MOST_SOURCE
    for name, file, is_package in _own_modules():
        try:
            text = Path(file).read_text(encoding="utf-8") if file.endswith(".py") else ""
        except (OSError, ValueError):  # the script is on another machine, or no text
            continue
        room -= len(text)
        if room >= 0:
            found.append(Source(name, file, is_package, text))
    return found


def _own_modules() -> Iterator[tuple[str, str, bool]]:
    """Yield name, file and whether it is a package, of modules that were neither installed nor are Python's own."""
    stdlib = os.path.dirname(os.__file__)
    for name, module in list(sys.modules.items()):
        first = name.partition(".")[0]
        if first == "hyperflow" or first in sys.stdlib_module_names:
            continue
        space: Mapping[str, Any] = getattr(module, "__dict__", {})
        file, path = space.get("__file__"), space.get("__path__")
        if file is None and path is not None:  # a package without a file
            file = next((os.path.join(str(each), "") for each in path), None)
        if not isinstance(file, str) or not file.endswith((".py", os.sep)):
            continue
        inside = file.startswith(stdlib + os.sep) or any(part in PACKAGES for part in Path(file).parts)
        if not inside:
            yield name, file, path is not None


def versions() -> dict[str, str]:
    """Return the versions of the packages that are imported here, as far as they say."""
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "hyperflow" and name not in sys.stdlib_module_names:
            version = getattr(module, "__dict__", {}).get("__version__")
            if isinstance(version, str):
                found[name] = version[:100]
    return found
