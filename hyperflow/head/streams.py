"""Streams: which random numbers an evaluation draws, by the program's seed and by the call.

Guarantees: the stream of an evaluation depends on the seed, the function's name, the arguments, and on how many equal
calls the program had submitted before, and on nothing else: not on nodes, workers, timing or retries. So two equal
calls have different streams. In a Slurm job of a Cluster it also depends on which call of a job that is.

Calls are counted for those functions only that ask. When a function asks first, its calls under way are counted in the
order in which they were submitted; what has ended before did not ask, so its equals do not, either. So an evaluation
that never asks costs nothing.

Rejected: to count evaluations. Which one is the seventh depends on timing, as soon as flows run side by side.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from hyperflow.shipping.packer import take_apart

Words: TypeAlias = tuple[int, ...]
"""What a SeedSequence is made of."""

CalledWith: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
"""A function and its arguments, kept until the evaluation has ended, for this and for its errors."""


class Submitted(Protocol):
    """An evaluation: what is called, the seed, and its stream, which is not there before it was counted."""

    call: CalledWith | None
    stream: Words

    @property
    def seed(self) -> int: ...


class Streams:
    """The streams of one environment; `scope` tells its Slurm job from others."""

    def __init__(self, scope: str = "") -> None:
        self.asking: set[str] = set()
        """The names of functions that have asked so far."""
        self._scope = scope
        self._equal: Counter[int] = Counter()

    def asks(self, fn: Any) -> bool:
        """Whether a function has asked so far."""
        return bool(self.asking) and _name(take_apart(fn, (), {})[0]) in self.asking

    def submitted(self, evaluation: Submitted) -> None:
        """Count a call, if its function asks; called for each one while `asking` is not empty."""
        if evaluation.call is None or getattr(evaluation, "stream", None):
            return
        fn, args, kwargs = take_apart(*evaluation.call)
        name = _name(fn)
        if name in self.asking:
            from hyperflow.database import fingerprint  # noqa: PLC0415 (most functions draw no numbers)

            code = fingerprint.digest_of_code(fn) if name.endswith("<lambda>") else ""  # one lambda has the name of all
            text = f"{name}\0{code}\0{fingerprint.digest([args, dict(kwargs)])}"
            evaluation.stream = self._words(evaluation.seed, text)

    def wanted(self, evaluation: Submitted, under_way: Iterable[Submitted]) -> Words:
        """Return an evaluation's stream; `under_way` are all evaluations, in the order of their submission."""
        if evaluation.call is not None and not getattr(evaluation, "stream", None):
            self.asking.add(_name(take_apart(*evaluation.call)[0]))
            for each in under_way:
                self.submitted(each)
        return evaluation.stream

    def next_of_job(self, seed: int) -> Words:
        """Return the next stream of the job itself."""
        return self._words(seed, "job")

    def of_map(self, fn: Any, seed: int) -> Words:
        """Return what the streams of the items of a remote_map are made of, each with its place."""
        return self._words(seed, f"map\0{_name(take_apart(fn, (), {})[0])}")

    def _words(self, seed: int, call: str) -> Words:
        text = f"{self._scope}\0{call}".encode(errors="backslashreplace")
        which = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        self._equal[which] += 1
        return (seed, which, self._equal[which])


def _name(fn: Any) -> str:
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)
