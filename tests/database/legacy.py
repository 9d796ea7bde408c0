"""A database in the format of schema version 1, and what is in it.

`legacy.sql` is its dump. It was made by the last commit that wrote this format, and is never made anew:

    mkdir old && git archive 68eee19 | tar -x -C old
    PYTHONPATH=$PWD/old python tests/database/legacy.py > tests/database/legacy.sql
"""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import attrs
import numpy

import hyperflow as hf

T = TypeVar("T")
Metres = NewType("Metres", float)
Pair = NewType("Pair", tuple[int, int])
Pair.__module__ = "tests.database.legacy"  # the old format has it in the name; this file was run as a script then
MOMENT = datetime.datetime(2020, 1, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


class Color(enum.Enum):
    """Values that JSON cannot say."""

    RED = (1, 2)
    GREEN = object()


class Level(enum.IntEnum):
    """An enum that is an int, too."""

    LOW = 1


class Flags(enum.Flag):
    """Flags, whose combinations have no name."""

    A = 1
    B = 2


@attrs.frozen
class Point:
    """A record with defaults, a private field, and one that does not count in a key."""

    x: float
    ys: tuple[int, ...] = ()
    _z: int = 3
    note: str = attrs.field(default="", eq=False)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A record that contains itself."""

    value: Point
    children: list["Tree"] = dataclasses.field(default_factory=list)
    parent: Optional["Tree"] = None
    either: "Point | Tree | None" = None
    paths: dict[str, Path] = dataclasses.field(default_factory=dict)


class Named(NamedTuple):
    """A tuple with names."""

    a: int
    b: Color


@attrs.frozen
class Box(Generic[T]):
    """A generic record."""

    content: T


class Options(TypedDict, total=False):
    """A dict with known names."""

    a: int
    b: tuple[Path, ...]


Odd = TypedDict("Odd", {"!x": int, "!class": tuple[str, int]}, total=False)


@attrs.frozen
class Untyped:
    """A record that says nothing of its field."""

    field = attrs.field()


class Taught:
    """A registered class."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taught) and other.number == self.number

    def __hash__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"Taught({self.number})"


hf.database.register(Taught, lambda value: [value.number], lambda data: Taught(data[0]), name="tests.legacy.Taught")

VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(7**99)),
    (int, 7**9999),
    (float, -0.0),
    (float, float("inf")),
    (str, "ä\ud800\x00"),
    (bytes, b"\xff\x00"),
    (bytearray, bytearray(b"\xff")),
    (complex, complex(float("inf"), -0.0)),
    (Metres, 1.5),
    (fractions.Fraction, fractions.Fraction(-1, 3)),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (datetime.datetime, MOMENT),
    (datetime.date, MOMENT.date()),
    (datetime.time, MOMENT.time()),
    (datetime.timedelta, datetime.timedelta(-1, 2, 3)),
    (uuid.UUID, uuid.UUID(int=5)),
    (Path, Path("/x y")),
    (numpy.ndarray, numpy.arange(6.0).reshape(2, 3)),
    (numpy.ndarray, numpy.array(["a", "bcd"])),
    (numpy.float32, numpy.float32(0.1)),
    (Taught, Taught(3)),
    (list[Taught], [Taught(3)]),
    (Color, Color.GREEN),
    (Level, Level.LOW),
    (Flags, Flags.A),
    (Flags, Flags.A | Flags.B),
    (Point, Point(1.5, (1, 2), 4, "seen")),
    (Tree, Tree(Point(1.0), [Tree(Point(2.0))], Tree(Point(3.0)), Point(1.0), {"!p": Path("x")})),
    (Tree, Tree(Point(1.0), either=Tree(Point(2.0)))),
    (Named, Named(1, Color.RED)),
    (Box[int], Box(3)),
    (Box[tuple[Point, ...]], Box((Point(1.0),))),
    (Options, {"a": 1, "b": (Path("/x"),)}),
    (Untyped, Untyped([1, {"a": None}])),
    (list[Point], [Point(1.0)]),
    (Sequence[int], [1]),
    (tuple[int, str], (1, "a")),
    (tuple[Point, ...], (Point(1.0),)),
    (tuple[()], ()),
    (tuple, (1, "a")),
    (tuple[tuple[int, int], set[int]], ((1, 2), {3})),
    (set[tuple[int, int]], {(1, 2)}),
    (frozenset[str], frozenset("ab")),
    (collections.deque[int], collections.deque([1])),
    (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
    (collections.Counter[str], collections.Counter("aab")),
    (dict[str, Point], {"a": Point(1.0), "!b": Point(2.0)}),
    (dict[int, float], {1: 2.0}),
    (dict[tuple[int, int], Point], {(1, 2): Point(1.0)}),
    (dict[Color, tuple[int, int]], {Color.RED: (1, 2)}),
    (Mapping[str, tuple[int, ...]], {"a": (1,)}),
    (Point | Tree, Tree(Point(1.0))),
    (Point | None, None),
    (Point | None, Point(1.0)),
    (int | float | str | None, 1),
    (int | float, 1.0),
    (float | str, float("-inf")),
    (int | list[tuple[int, int]], [(1, 2)]),
    (tuple[int, int] | list[int], (1, 2)),
    (str | Color, "RED"),
    (str | Color, Color.RED),
    (float | numpy.ndarray, numpy.arange(2)),
    (Literal["a", 1] | None, 1),
    (Any, {"a": [1, None, 2.5, b"x"], 1: {2, 3}, "!bytes": {"!x": 1}}),
    (Any, [fractions.Fraction(1, 3), {"b": MOMENT}]),
    (list, [1, "a", {"c": 2 + 1j}]),
    (dict, {"a": {1: 2}}),
    (dict[str, Any], {"a": [1, [2]]}),
    (Pair | str, Pair((1, 2))),
    (dict[str, Pair | Point], {"a": Pair((1, 2))}),
    (Odd, {"!x": 1}),
    (Odd, {"!x": 1, "!class": ("a", 2)}),
    (Odd | None, {"!x": 1}),
]
"""Types and values; each is in a map of its own, under the key "k"."""

KEYS: list[Any] = [
    *(None, True, 1, 1.0, -0.0, float("inf"), 7**9999, 2 + 1j, "ä\ud800", b"x", Path("/x"), (1, (2.0,)), [1, 2]),
    *({"a": (1,), 2: None}, {1, 2}, frozenset("a"), fractions.Fraction(1, 3), decimal.Decimal("1.0"), MOMENT),
    *(Color.RED, Level.LOW, Flags.A | Flags.B, Point(1.0, (1,), note="unseen"), Tree(Point(1.0)), Named(1, Color.RED)),
    *(numpy.arange(3), numpy.float32(0.5), Taught(3), Box((1, 2)), Metres(2.0), uuid.UUID(int=5)),
]
"""Keys of the map "keys"; the value is the place in this list."""


KEY: Any = Color | Level | Flags | Point | Tree | Named | Box[tuple[int, int]] | Any
"""What `lookup_all` has to know of them."""


@hf.memoize("legacy", version=2)
def spectrum(point: Point, levels: Sequence[float] = (1.0,), *, mode: Level = Level.LOW) -> hf.Job[tuple[Point, Color]]:
    """Give something that only its type tells from lists; a test sees to it that it does not run."""
    return hf.pure((point, Color.RED))


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((Point(1),), {}),
    ((Point(2.0), [1, 2.5]), {"mode": Level.LOW}),
]
"""Arguments of recorded calls of `spectrum`."""


def maps() -> list[hf.KeyValMap[Any, Any]]:
    """Return the maps of `VALUES`, in their order."""
    return [hf.KeyValMap(f"values {number}", value=hint) for number, (hint, _) in enumerate(VALUES)]


@hf.job
async def fill() -> None:
    """Record everything."""
    for each, (_, value) in zip(maps(), VALUES, strict=True):
        await each.insert("k", value)
    await maps()[2].insert("long", 3**5000)  # is not kept in memory
    for number, key in enumerate(KEYS):
        await hf.KeyValMap("keys").insert(key, -1)
        await hf.KeyValMap("keys").insert(key, number)
    for args, kwargs in CALLS:
        await spectrum(*args, **kwargs)


def main() -> None:
    """Write a dump to stdout."""
    with tempfile.TemporaryDirectory() as base:
        program = hf.ProgramInfo.new(base)
        hf.run_job_local(fill(), cpus=1, program=program)
        connection = sqlite3.connect(program.database)
        for name in ("application_id", "user_version"):
            (number,) = connection.execute(f"PRAGMA {name}").fetchone()
            print(f"PRAGMA {name} = {number};")
        sys.stdout.writelines(f"{line}\n" for line in connection.iterdump())


if __name__ == "__main__":
    main()
