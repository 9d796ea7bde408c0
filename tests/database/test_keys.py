"""Keys: canonical, the same everywhere, and back again."""

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperflow.database import keys, plain, records
from hyperflow.errors import MisuseError, SerializationError


class Color(enum.Enum):
    """An enum whose values are no help."""

    RED = object()
    BLUE = (object(),)


class Flags(enum.Flag):
    """Flags, whose combinations are values, too."""

    A = 1
    B = 2


@attrs.frozen
class Point:
    """A record with a private field and one that does not count."""

    x: float
    _y: Any = 0
    cache: int = attrs.field(default=0, eq=False)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A record of records."""

    left: Point
    right: tuple[Point, ...] = ()


class Named(NamedTuple):
    """A tuple with names."""

    n: int
    color: Color


@attrs.frozen
class Everything:
    """What `records.makers` needs to see to know all classes above."""

    a: Pair
    b: Named
    c: list[Flags]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from(Color)
    | st.sampled_from([Flags.A, Flags.A | Flags.B, Flags(0)])
    | st.builds(Path, st.sampled_from(["a", "/b/c d", "ü", "."]))
)
POINTS = st.builds(Point, st.floats(), SCALARS)
HASHABLE = st.recursive(
    SCALARS
    | POINTS
    | st.builds(Pair, POINTS, st.lists(POINTS).map(tuple))
    | st.builds(Named, st.integers(), st.sampled_from(Color)),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.dictionaries(st.text(st.sampled_from("!ab\ud800")), inner, max_size=3)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    """A key is ASCII, and gives back a value with the same key and type."""
    text = keys.encode(value)
    again = keys.decode(text, records.makers(Everything))

    assert text.isascii()
    assert type(again) is type(value)
    assert keys.encode(again) == text


@given(HASHABLE, HASHABLE)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    """Values that Python holds for different never share a key; a nan is not even equal to itself."""
    if one != other and '"nan"' not in keys.encode(one):
        assert keys.encode(one) != keys.encode(other)


@given(st.dictionaries(HASHABLE, st.integers()), st.randoms())
def test_order_of_a_dict_is_no_part_of_the_key(value: dict[Any, int], random: Any) -> None:
    """Dicts and sets have one key, however they were filled."""
    items = list(value.items())
    random.shuffle(items)

    assert keys.encode(dict(items)) == keys.encode(value)
    assert keys.encode({key for key, _ in items}) == keys.encode(set(value))


@pytest.mark.parametrize(
    "values",
    [
        (
            1,
            1.0,
            True,
            "1",
            b"1",
            fractions.Fraction(1),
            decimal.Decimal(1),
            complex(1),
            [1],
            (1,),
            {1},
            frozenset({1}),
        ),
        (0.0, -0.0, 0, False, None, float("nan"), float("inf"), float("-inf")),
        ({"!bytes": "aGk="}, b"hi"),
        ({"1": 2}, {1: 2}),
        ("\ud83d\ude00", "😀"),
        (datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1)),  # noqa: DTZ001
        ("a", Path("a")),
        (Color.RED, Color.BLUE, "RED"),
        (Point(1.0), Pair(Point(1.0)), {"x": 1.0, "_y": 0}),
    ],
)
def test_distinct(values: tuple[Any, ...]) -> None:
    """What looks alike is kept apart."""
    assert len({keys.encode(value) for value in values}) == len(values)


def test_the_text_itself() -> None:
    """The texts are a format on disk: a change of them forgets every user's results."""
    value = {"b": [1, 2.5, None, True], "a": (Point(1, b"x"), Color.RED, {2, 10})}

    assert keys.encode(value) == (
        '{"a":{"!tuple":[{"!class":["Point",{"_y":{"!bytes":"eA=="},"x":1.0}]},{"!enum":["Color","RED"]},'
        '{"!set":[10,2]}]},"b":[1,2.5,null,true]}'
    )


def test_fields_that_do_not_count() -> None:
    """A field with eq=False is no part of the key, like of `==`."""
    assert keys.encode(Point(1.0, cache=5)) == keys.encode(Point(1.0))


def test_ints_of_any_size() -> None:
    """Also those that Python refuses to write in decimal."""
    assert keys.decode(keys.encode(-(7**9999))) == -(7**9999)


def test_numpy_numbers_are_their_values() -> None:
    """Parameters from linspace and arange are the same call as Python's numbers."""
    assert keys.encode(numpy.float64(0.5)) == keys.encode(0.5)
    assert keys.encode(numpy.int32(3)) == keys.encode(3)
    assert keys.encode(numpy.bool_(True)) == keys.encode(True)


def test_numpy_arrays() -> None:
    """An array's key is its type, shape and elements, not how they lie in memory."""
    array = numpy.arange(6.0).reshape(2, 3)

    assert keys.encode(numpy.asfortranarray(array)) == keys.encode(array)
    assert keys.encode(array.astype(">f8")) == keys.encode(array)
    assert keys.encode(array.reshape(3, 2)) != keys.encode(array)
    assert (keys.decode(keys.encode(array)) == array).all()


@pytest.mark.parametrize(
    ("hint", "value", "same"),
    [
        (float, 1, 1.0),
        (float | None, 1, 1.0),
        (list[float], [1, 2.0], [1.0, 2.0]),
        (tuple[int, float], (1, 1), (1, 1.0)),
        (tuple[float, ...], (1, 2), (1.0, 2.0)),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (complex, 1, 1 + 0j),
        (float, numpy.int64(1), 1.0),
    ],
)
def test_widening(hint: Any, value: Any, same: Any) -> None:
    """Where float is annotated, an int is that float."""
    widen = keys.widening(hint)

    assert widen is not None
    assert keys.encode(widen(value)) == keys.encode(same)


def test_widening_loses_nothing() -> None:
    """An int that is no float stays what it is, and where int is annotated nothing is widened."""
    widen = keys.widening(float)

    assert widen is not None
    assert widen(2**53 + 1) == 2**53 + 1
    assert widen(10**400) == 10**400
    assert widen(True) is True
    assert keys.widening(int) is None
    assert keys.widening(int | float) is None
    assert keys.encode(Point(1)) == keys.encode(Point(1.0))


SCRIPT = """
    import attrs, enum, sys
    @attrs.frozen
    class Model:
        name: str
        tags: frozenset
    class Kind(enum.Enum):
        ONE = 1
    def key():
        from hyperflow.database import keys
        tags = frozenset("abcdefgh") if "reversed" not in sys.argv else frozenset("hgfedcba")
        return keys.encode({"m": Model("x", tags), "k": Kind.ONE, "s": {str(i) for i in range(50)}, "d": {(1, 2): {3}}})
    if __name__ == "__main__":
        print(key())
"""


def test_same_key_in_every_process(tmp_path: Path) -> None:
    """Neither the seed of hashes nor whether a class comes from `__main__` matters."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    commands = [["script.py"], ["script.py", "reversed"], ["-c", "import script; print(script.key())"]]
    root = str(Path(__file__).resolve().parents[2])

    def run(command: list[str], seed: str) -> str:
        environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environ, check=True, capture_output=True, text=True
        ).stdout

    found = {run(command, seed) for command, seed in zip(commands, ("0", "1", "random"), strict=True)}

    assert len(found) == 1
    assert "Model" in found.pop()


def test_classes_of_one_name_are_not_mixed_up() -> None:
    """Two classes with one qualified name in one map are refused; in different maps, or as `__main__`, they are not."""

    def made(module: str) -> Any:
        cls = attrs.make_class("Twin", ["x"])
        cls.__module__ = module
        return cls

    one, other, script = made("first"), made("second"), made("__main__")

    assert keys.encode(one(1), "map") == keys.encode(script(1), "map") == keys.encode(other(1), "another map")
    with pytest.raises(SerializationError, match=r"first\.Twin and second\.Twin"):
        keys.encode(other(1), "map")


class Opaque:
    """A class of a kind that keys do not know."""

    def __init__(self, n: int) -> None:
        self.n = n


def test_unknown_types_are_refused_with_the_recipe() -> None:
    """The error shows what to type; doing so helps."""
    with pytest.raises(SerializationError, match=r"hyperflow\.database\.register\(Opaque, encode="):
        keys.encode([Opaque(1)])

    plain.register(Opaque, lambda value: {"n": value.n}, lambda data: Opaque(data["n"]))

    again = keys.decode(keys.encode([Opaque(7)]))
    assert isinstance(again[0], Opaque)
    assert again[0].n == 7


def test_register_refuses_a_taken_name() -> None:
    """One name in the database stands for one type."""

    class First:
        pass

    class Second:
        pass

    plain.register(First, str, lambda data: First(), name="taken")
    with pytest.raises(MisuseError, match="taken"):
        plain.register(Second, str, lambda data: Second(), name="taken")


@pytest.mark.parametrize("value", [lambda: 1, object(), iter([1]), type, numpy.array([object()])])
def test_refused(value: Any) -> None:
    """What cannot be said in JSON is no key."""
    with pytest.raises(SerializationError):
        keys.encode(value)


def test_endless_values_are_refused() -> None:
    """A list that contains itself is an error, not a crash."""
    value: list[Any] = []
    value.append(value)

    with pytest.raises(SerializationError, match="contains itself"):
        keys.encode(value)


def test_dict_subclasses() -> None:
    """The standard library's dicts count as dicts."""
    assert keys.encode(collections.Counter("aab")) == keys.encode({"b": 1, "a": 2})
