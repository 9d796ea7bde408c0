"""Codecs: values come back as what they were, or are refused."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import attrs
import numpy
import numpy.typing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.database import plain
from hyperflow.database.values import codec_for
from hyperflow.errors import SerializationError

T = TypeVar("T")
Metres = NewType("Metres", float)


@attrs.frozen
class Point:
    """A record with defaults and a private field."""

    x: float
    ys: list[int] = attrs.field(factory=list)
    _z: int = 3


@attrs.frozen
class Point3(Point):
    """A subclass, whose own field would be lost."""

    w: int = 0


@dataclasses.dataclass
class Tree:
    """A record that contains itself."""

    value: Point
    children: list["Tree"] = dataclasses.field(default_factory=list)
    parent: Optional["Tree"] = None
    either: "Point | Tree | None" = None


@attrs.frozen
class Other:
    """A record with the fields of none."""

    y: int


@attrs.frozen
class Box(Generic[T]):
    """A generic record."""

    content: T


class Color(enum.Enum):
    """Values that JSON cannot say."""

    RED = (1, 2)
    GREEN = object()


class Level(enum.IntEnum):
    """An enum that is an int, too."""

    LOW = 1


class Mode(enum.StrEnum):
    """An enum that is a str, too."""

    FAST = "f"


class Flags(enum.Flag):
    """Flags."""

    A = 1
    B = 2


class Named(NamedTuple):
    """A tuple with names."""

    a: int
    b: float


class Options(TypedDict):
    """A dict with known names."""

    a: int
    b: Path


@attrs.frozen
class Lists:
    """Sequences where nothing, or little, is said of them."""

    untyped = attrs.field()
    typed = attrs.field(type=Sequence[Any])


class Nested(TypedDict, total=False):
    """A dict that contains itself."""

    inner: "Nested"


@attrs.frozen
class Ints(Box[int]):
    """A class without a parameter, made of one that has one."""

    more: list[int]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (None, None),
        (int, -(7**99)),
        (float, -0.0),
        (float, math.inf),
        (str, "ä\ud800\x00"),
        (bytes, b"\xff\x00"),
        (complex, complex(math.inf, -0.0)),
        (Metres, 1.5),
        (Point, Point(1.5, [1], 4)),
        (Tree, Tree(Point(1.0), [Tree(Point(2.0))], Tree(Point(3.0)), Point(1.0))),
        (Tree, Tree(Point(1.0), either=Tree(Point(2.0)))),
        (Box[int], Box(3)),
        (Box[Point], Box(Point(1.0))),
        (Color, Color.GREEN),
        (Level, Level.LOW),
        (Mode, Mode.FAST),
        (list[Level], [Level.LOW]),
        (Flags, Flags.A | Flags.B),
        (Named, Named(1, 2.0)),
        (Options, {"a": 1, "b": Path("/x y")}),
        (list[Point], [Point(1.0)]),
        (Sequence[int], [1]),
        (tuple[int, str], (1, "a")),
        (tuple[Point, ...], (Point(1.0),)),
        (tuple[()], ()),
        (set[int], {1, 2}),
        (frozenset[str], frozenset("ab")),
        (collections.deque[int], collections.deque([1])),
        (dict[str, Point], {"a": Point(1.0), "!b": Point(2.0)}),
        (dict[int, float], {1: 2.0}),
        (dict[tuple[int, int], Point], {(1, 2): Point(1.0)}),
        (Mapping[str, int], {"a": 1}),
        (Point | Other, Other(1)),
        (Point | Point3, Point3(1.0)),
        (Point | None, None),
        (Point | None, Point(1.0)),
        (int | float | str | None, 1),
        (int | float, 1.0),
        (bool | int, True),
        (float | str, math.nan),
        (int | list[int], [1]),
        (Literal["a", 1] | None, 1),
        (datetime.datetime, datetime.datetime(2020, 1, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
        (datetime.date, datetime.date(2020, 1, 1)),
        (datetime.timedelta, datetime.timedelta(-1, 2, 3)),
        (decimal.Decimal, decimal.Decimal("1.10")),
        (fractions.Fraction, fractions.Fraction(-1, 3)),
        (numpy.float32, numpy.float32(0.1)),
        (Any, {"a": [1, None, 2.5, b"x"], 1: {2, 3}, "!bytes": {"!x": 1}}),
        (Any, fractions.Fraction(1, 3)),
        (list, [1, "a", math.nan]),
        (Any, collections.deque([1])),
        (list[int] | list[str], ["a"]),
        (list[Any], [(1, (2,))]),
        (Sequence[int], (1, 2)),
        (Lists, Lists((1, (2,)), ((3,), [4]))),
        (Options, {"a": 1, "b": Path("x"), "more": (1,)}),
        (Nested, {"inner": {"inner": {}}}),
        (Ints, Ints(3, [1])),
        (dict[str, Mode] | Color, {"a": Mode.FAST}),
        (tuple, (1, [2])),
        (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
        (collections.Counter[str], collections.Counter("aab")),
        (collections.defaultdict[int, list[int]], collections.defaultdict(list, {1: [2]})),
        (collections.defaultdict[str, int], collections.defaultdict(int, a=1)),
        (Annotated[Path, []], Path("x")),
        (dict, {"a": {1: 2}}),
        (object, 1),
    ],
)
def test_round_trip(hint: Any, value: Any) -> None:
    """Value and type survive, and the text is ASCII."""
    text = codec_for(hint).encode(value)
    again = codec_for(hint).decode(text)

    assert text.isascii()
    assert type(again) is type(value)
    assert again == value or repr(again) == repr(value)  # nan is not itself; sets have no order


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters())
        | st.binary()
        | st.fractions(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.sampled_from("!a")) | st.integers(), inner) | st.just({1, 2})
        ),
        max_leaves=10,
    )
)
def test_plain_data(value: Any) -> None:
    """Untyped values come back as they were."""
    assert repr(codec_for(Any).decode(codec_for(Any).encode(value))) == repr(value)


def test_tuples_stay_tuples_in_plain_data() -> None:
    """Also inside lists, dicts, sets, and as keys of a dict, where no type says so."""
    value = {"a": (1, (2, [3])), (1, 2): {(3, (4,))}}

    assert codec_for(Any).decode(codec_for(Any).encode(value)) == value


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6.0).reshape(2, 3),
        numpy.asfortranarray(numpy.arange(6).reshape(2, 3)),
        numpy.arange(10)[::2],
        numpy.array([], dtype="i2"),
        numpy.array(5),
        numpy.array([1 + 2j], dtype="c8"),
        numpy.array(["a", "bcd"]),
        numpy.array([True, False]),
        numpy.array([1, 2], dtype=">i4"),
        numpy.array(["2020-01-01"], dtype="M8[D]"),
    ],
)
@pytest.mark.parametrize("hint", [Any, numpy.ndarray, numpy.typing.NDArray[Any]])
def test_arrays(hint: Any, array: Any) -> None:
    """Arrays keep their type, shape and elements, and can be written to."""
    again = codec_for(hint).decode(codec_for(hint).encode(array))

    assert again.dtype == array.dtype.newbyteorder("<")
    assert again.shape == array.shape
    assert (again == array).all()
    assert again.flags.writeable


def test_numpy_numbers_where_python_numbers_are_annotated() -> None:
    """`-> float` may well return what numpy calls one; it comes back as a float."""
    assert codec_for(float).decode(codec_for(float).encode(numpy.float32(0.5))) == 0.5
    assert type(codec_for(int).decode(codec_for(int).encode(numpy.int8(5)))) is int
    assert codec_for(Point).decode(codec_for(Point).encode(Point(numpy.float64(1.5)))) == Point(1.5)


OPAQUE = object()


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (int, 2.5),
        (int, True),
        (int, Level.LOW),
        (int, "1"),
        (float, "1"),
        (float, 2**53 + 1),
        (float, None),
        (float, fractions.Fraction(1, 3)),
        (bool, 1),
        (str, 1),
        (str, b"a"),
        (None, 1),
        (bytes, "a"),
        (Point, Point3(1.0)),
        (Point, Other(1)),
        (Point, {"x": 1.0}),
        (Point, Point("no float")),  # type: ignore[arg-type]
        (list[str], "abc"),
        (list[int], [1, "2"]),
        (tuple[int, int], (1, 2, 3)),
        (dict[str, int], {1: 2}),
        (dict[str, int], [("a", 1)]),
        (datetime.date, datetime.datetime(2020, 1, 1)),  # noqa: DTZ001
        (float | str, OPAQUE),
        (Point | Other, 1),
        (Literal["a"], "b"),
        (Color, Level.LOW),
        (numpy.ndarray, numpy.array([OPAQUE])),
        (numpy.ndarray, [1]),
        (Any, OPAQUE),
        (Any, Point(1.0)),
        (Any, Color.RED),
        (Any, {"a": [Named(1, 2.0)]}),
    ],
)
def test_values_of_another_type_are_refused(hint: Any, value: Any) -> None:
    """Nothing is converted into what the annotation says, and nothing is cut off."""
    with pytest.raises(SerializationError):
        codec_for(hint).encode(value)


class Foreign:
    """A class that nothing is known of."""


@attrs.frozen
class Unresolvable:
    """A record whose annotation names nothing."""

    x: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "hint",
    [
        Foreign,
        list[Foreign],
        dict[str, Foreign],
        Foreign | None,
        Box[Foreign],
        tuple[int, Foreign],
        Callable[[int], int],
        Iterator[int],
        Unresolvable,
    ],
)
def test_types_are_refused_before_there_is_a_value(hint: Any) -> None:
    """Then a function can be refused before hours of work."""
    with pytest.raises(SerializationError):
        codec_for(hint)


def test_the_refusal_shows_the_way_out() -> None:
    """The error's advice, followed, works."""

    class Taught:
        pass

    with pytest.raises(SerializationError, match=r"hyperflow\.database\.register\(Taught"):
        codec_for(list[Taught])

    plain.register(Taught, lambda value: [], lambda data: Taught())

    (again,) = codec_for(list[Taught]).decode(codec_for(list[Taught]).encode([Taught()]))
    assert isinstance(again, Taught)
    assert isinstance(codec_for(Any).decode(codec_for(Any).encode(Taught())), Taught)


@pytest.mark.parametrize(
    "text", ['{"y":1}', "1", '"a"', '{"x":"a"}', "[", '{"!numpy":1}', '{"!class":["Point",{"x":1.0}]} 1']
)
def test_unreadable_texts(text: str) -> None:
    """What is not of the type is an error of this library, whatever it is."""
    with pytest.raises(SerializationError):
        codec_for(Point).decode(text)


def test_numpy_is_not_imported_for_numbers() -> None:
    """It costs more than everything else together."""
    code = (
        "import sys, hyperflow.database\nfrom hyperflow.database.values import codec_for\nfrom typing import Any\n"
        "for t, v in ((int, 1), (float, 1.0), (str, ''), (bool, True), (None, None), (Any, [1])):\n"
        "    codec_for(t).encode(v)\n"
        "print(sorted({'numpy', 'decimal', 'fractions'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"


def test_ints_of_any_size() -> None:
    """Also those that Python refuses to write in decimal."""
    for hint in (int, Any, int | str):
        assert codec_for(hint).decode(codec_for(hint).encode(-(7**9999))) == -(7**9999)


def test_typing_names() -> None:
    """The old spellings mean the same."""
    assert codec_for(typing.List[int]).encode([1]) == "[1]"  # noqa: UP006
    assert codec_for(typing.Optional[int]).encode(None) == "null"  # noqa: UP045
