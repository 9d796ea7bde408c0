"""Origins: how a recorded value came about: how long it took, where, and which recorded values went into it.

Guarantees: an origin is a member of an entry's metadata (see `entries`), so it is under the entry's checksum, and
travels with it. Its size is bounded. Entries of older versions have none.

A computation knows of what is evaluated and read by the flows that it awaits, at any depth, until it reaches another
computation whose result is recorded: that has an origin of its own.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Self

import attrs

from hyperflow.database.entries import members

if TYPE_CHECKING:
    from hyperflow.environment import ResultsDatabase

MOST_PARENTS = 100
"""So many recorded values are told apart that went into one; more are counted, by map."""

MOST_NODES = 20

TEXTS = ', "texts": '
"""Is in what has texts."""

_as_json = json.JSONEncoder().encode


class Parent(NamedTuple):
    """A recorded value that was read: its map, and a digest of its key."""

    map_name: str
    key: str


def key_digest(key: str) -> str:
    """Return what stands for a key, which may be long."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def of_seconds(seconds: float) -> str:
    """Return the origin of a result to which nothing was evaluated, and nothing read."""
    return f'{{"seconds": {seconds:.3g}}}'


class Making:
    """A computation whose result will be recorded, while it goes on."""

    __slots__ = (
        *("_count", "_cpu_seconds", "_highest", "_lowest", "_more", "_nodes", "_parents", "_place", "_then", "began"),
    )

    _place: tuple[ResultsDatabase, str, str]  # these two are there only where somebody needs them
    _then: list[Callable[[], object]]

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._count = self._lowest = self._highest = 0
        self._cpu_seconds = 0.0
        self._nodes: dict[str, None] = {}
        self._parents: dict[tuple[str, str], None] = {}
        self._more: Counter[str] | None = None

    def evaluated(self, number: int, node: str, cpus: int, seconds: float) -> None:
        """Note an evaluation that was part of it; 0 is the number of one that has none."""
        self._lowest = min(self._lowest, number) if self._count else number
        self._highest = max(self._highest, number)
        self._count += 1
        self._cpu_seconds += cpus * seconds
        if len(self._nodes) < MOST_NODES:
            self._nodes[node] = None

    def read(self, map_name: str, key: str) -> None:
        """Note a recorded value that it has read."""
        parents = self._parents
        if len(parents) < MOST_PARENTS:
            parents[map_name, key] = None
        elif (map_name, key) not in parents:
            if self._more is None:
                self._more = Counter()
            self._more[map_name] += 1

    @property
    def of(self) -> tuple[ResultsDatabase, str, str] | None:
        """The database where the result will be recorded, the map and the key; None where that is not known."""
        return getattr(self, "_place", None)

    def is_of(self, database: ResultsDatabase, map_name: str, key: str) -> None:
        """Note where the result will be recorded."""
        self._place = database, map_name, key

    def on_recorded(self, then: Callable[[], object]) -> None:
        """Have something done when it is recorded."""
        self._then = [*getattr(self, "_then", ()), then]

    def recorded(self) -> None:
        """It is recorded."""
        for each in getattr(self, "_then", ()):
            each()

    def text(self, texts: dict[str, str] | None = None) -> str:
        """Return the origin of its result as a JSON object; `texts` are what its functions say."""
        # Put together by hand: each recorded result pays for it.
        told = f'{{"seconds": {time.perf_counter() - self.began:.3g}'
        if self._count:
            told += f', "evaluations": [{self._count}, {self._lowest}, {self._highest}]'
            told += f', "cpu_seconds": {self._cpu_seconds:.3g}, "nodes": [{", ".join(map(_as_json, self._nodes))}]'
        if self._parents:
            parents = (f'[{_as_json(map_name)}, "{key_digest(key)}"]' for map_name, key in self._parents)
            told += f', "parents": [{", ".join(parents)}]'
        if self._more is not None:
            told += f', "more": {_as_json(self._more)}'
        if texts:
            told += f"{TEXTS}{_as_json(texts)}"
        return told + "}"


@attrs.frozen
class Origin:
    """How a recorded value came about.

    Args:
        program: The run that recorded it.
        time: When, in seconds since 1970.
        seconds: How long the computation took, from its call to its result; None in what an older version recorded, and
            of what was not computed but inserted.
        evaluations: How many evaluations were part of it; those of the values in `parents` are not.
        numbers: The lowest and the highest number of them, as logs have them.
        cpu_seconds: Their seconds, times their CPUs.
        nodes: Where they were; the first 20.
        parents: The recorded values that went into it, each as its map and a digest of its key; the first 100.
        more: How many times more recorded values were read, by map.
        code: The fingerprint of the function.
        texts: What the functions and values said that the fingerprint covers, by name. Only the first result that a
            process records has them.
    """

    program: str
    time: float
    seconds: float | None = None
    evaluations: int = 0
    numbers: tuple[int, int] = (0, 0)
    cpu_seconds: float = 0.0
    nodes: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    more: dict[str, int] = attrs.field(factory=dict[str, int])
    code: str = ""
    texts: dict[str, str] = attrs.field(factory=dict[str, str])

    @classmethod
    def of(cls, program: str, when: float, metadata: str) -> Self:
        """Read an entry's metadata; what is missing in it, or is not what it should be, is left out."""
        about = members(metadata)
        found, code = about.get("origin"), about.get("code")
        bare = cls(program, when, code=code if isinstance(code, str) else "")
        if not isinstance(found, dict):
            return bare
        try:
            count, lowest, highest = found.get("evaluations", (0, 0, 0))
            return attrs.evolve(
                bare,
                seconds=float(found["seconds"]),
                evaluations=int(count),
                numbers=(int(lowest), int(highest)),
                cpu_seconds=float(found.get("cpu_seconds", 0.0)),
                nodes=tuple(map(str, found.get("nodes", ()))),
                parents=tuple(Parent(str(name), str(key)) for name, key in found.get("parents", ())),
                more={str(name): int(times) for name, times in dict(found.get("more", {})).items()},
                texts={str(name): str(text) for name, text in dict(found.get("texts", {})).items()},
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return bare
