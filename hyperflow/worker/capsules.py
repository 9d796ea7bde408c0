"""What a failed evaluation leaves: a capsule, from which it can be run again elsewhere (see debugging/capsule.py).

Guarantees: an evaluation that does not fail pays for a copy of its small arrays, and, after one that took a while, for
noting the random generators. The failure itself counts more than its capsule: whatever goes wrong here is a line in the
log, once.

What is kept is what travelled: the pickles of function and arguments as they came, with the definitions that they name.
So what earlier evaluations have left in this process (a cache in a module) is not in it.
"""

from __future__ import annotations

import pickle
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hyperflow.debugging import capsule, surroundings
from hyperflow.debugging.capsule import About, Bytes, Call, Pickle
from hyperflow.debugging.surroundings import Place
from hyperflow.errors import HyperflowError
from hyperflow.shipping import exceptions
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber
from hyperflow.wire.shared_memory import LARGE

Attempt: TypeAlias = tuple[TaskNumber, DefinitionNumber, Bytes, Sequence[Bytes | int]]
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


_seeded: Any = None
"""The state of numpy's generator with which this process was forked."""


def seed_next() -> None:
    """Let the process that is forked next draw other numbers than those before; Python's own are new by themselves."""
    global _seeded  # noqa: PLW0603 (a worker is forked once)
    # numpy imports its part only when it is asked for.
    if (numpy := sys.modules.get("numpy.random")) is not None:
        numpy.seed()
        _seeded = numpy.get_state(legacy=False)


def first_states() -> RandomStates:
    """Return the states of the global generators in a worker that has just been forked."""
    return random.getstate(), _seeded


def random_states() -> RandomStates:
    """Return the states of the global generators."""
    numpy: Any = sys.modules.get("numpy.random")
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


class Capsules:
    """Writes the capsules of one worker."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._last = TaskNumber(0)
        self._over = False
        self._told = False

    def wants(self, task: TaskNumber) -> bool:
        """Whether an evaluation that has failed is to leave a capsule; for many items of a chunk it leaves one."""
        return not self._over and task != self._last

    def leave(self, failure: Failure) -> str:
        """Write a capsule; return why not, the first time, or ""."""
        self._last = failure.task
        reason = self._write(failure)
        if reason and self._told:
            return ""
        self._told = bool(reason)
        return reason

    def _write(self, failure: Failure) -> str:
        log_dir = Path(self._place.log_file).parent
        try:
            capsule.room_in(log_dir)
            states = b"" if failure.states is None else pickle.dumps(failure.states)
            needed = named([failure.function, failure.arguments], failure.known)
            needs = [(one.shape, one.pickle) for one in needed]
            call = Call(needs, failure.function, failure.arguments, states, failure.stream, [])
            if call.size > capsule.LARGEST:
                return f"what was called has {call.size:,} bytes, and one has {capsule.LARGEST:,} at most"
            capsule.leave(log_dir, capsule.of(self._about(failure), call._replace(sources=surroundings.sources())))
        except (HyperflowError, OSError) as error:  # there are enough, the disk is full, the directory not private
            self._over = True
            return str(error)
        return ""

    def _about(self, failure: Failure) -> About:
        kind, text, trace = exceptions.in_words(failure.error)
        return surroundings.about(
            failure.task, failure.name, capsule.in_a_line(kind, text), trace, self._place, as_left=failure.as_left
        )


def named(pickles: Sequence[Pickle], known: Sequence[Definition]) -> list[Definition]:
    """Return the definitions that pickles name, and those that these name, in the order in which they came.

    A name in a pickle is a short text with its length before it.
    """
    found: dict[str, Definition] = {}
    waiting = [each.data for each in pickles]
    while waiting:
        data = waiting.pop()
        for one in known:
            word = one.known_as.encode()
            if one.known_as not in found and re.search(re.escape(b"\x8c" + bytes([len(word)]) + word), data):
                found[one.known_as] = one
                waiting.append(one.pickle.data)
    return [one for one in known if one.known_as in found]
