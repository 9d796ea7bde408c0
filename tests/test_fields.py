"""Classes with fields: what is true of those of attrs is true of ours."""

import pickle
from typing import Any, ClassVar

import attrs
import pytest

from hyperflow.fields import define, evolve, field, frozen, only_changed
from hyperflow.fields import fields as fields_of


def positive(_: object, about: Any, value: Any) -> None:
    """Refuse what is not."""
    if value <= 0:
        raise ValueError(f"{about.name} is not positive")


def made(library: str) -> Any:
    """Return a class of ours or of attrs, with all that a field can be."""
    make: Any = frozen if library == "ours" else attrs.frozen(slots=False)
    one: Any = field if library == "ours" else attrs.field
    unseen = {"shown": False} if library == "ours" else {"repr": False}

    class Thing:
        kind: ClassVar[str] = "none"
        x: int = one(validator=positive)
        y: str = "a"
        z: list[int] = one(factory=list)
        hidden: int = one(default=3, eq=False, **unseen)
        named: int = one(default=4, kw_only=True)

    return make(Thing)


@pytest.mark.parametrize(
    ("args", "named"), [((1,), {}), ((1, "b", [2]), {"named": 5}), ((1,), {"z": [], "hidden": 1}), ((0,), {}), ((), {})]
)
def test_objects_are_as_those_of_attrs(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Arguments, defaults, factories, validators, `==`, `repr`, and attrs' own functions."""
    results: list[object] = []
    for library in ("ours", "attrs"):
        cls = made(library)
        try:
            it = cls(*args, **named)
        except (TypeError, ValueError) as error:
            results.append(type(error))
            continue
        changed = attrs.evolve(it, y="c")
        results.append(
            (
                attrs.asdict(it),
                repr(it).rpartition(".")[2],
                it == cls(*args, **{**named, "hidden": 9}) if len(args) == 1 else None,
                it == changed,
                changed.y,
                [each.name for each in attrs.fields(cls)],
                attrs.has(cls),
            )
        )
    ours, theirs = results
    assert ours == theirs


@frozen
class Point:
    """One that does not change."""

    x: int
    y: int = 0


@define
class Open:
    """One that may change."""

    x: int
    double: int = field(init=False)

    def __post_init__(self) -> None:
        self.double = 2 * self.x


@define(shown=False)
class Refused(ValueError):
    """An error."""

    what: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.what} x {self.times}"


def test_frozen_ones_do_not_change() -> None:
    """They are compared and hashed by their fields; evolve makes another one."""
    point: Any = Point(1)
    with pytest.raises(AttributeError, match="a Point does not change: 'x'"):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    assert (point, hash(point)) == (Point(1, 0), hash(Point(1)))
    assert point != Open(1)
    assert evolve(point, y=3) == Point(1, 3)
    assert only_changed(Point(1, 3)) == {"x": 1, "y": 3}
    assert only_changed(point) == {"x": 1}
    assert pickle.loads(pickle.dumps(point)) == point


def test_open_ones_change() -> None:
    """Fields that are no arguments get their values afterwards; such an object cannot be hashed."""
    it: Any = Open(2)
    it.x = 5
    assert (it.x, it.double, [each.name for each in fields_of(Open)]) == (5, 4, ["x", "double"])
    with pytest.raises(TypeError, match="unhashable"):
        hash(it)


def test_exceptions_hand_their_fields_on() -> None:
    """So they survive pickle, and stay what they are as keys."""
    error: Any = Refused("no", 2)
    copy = pickle.loads(pickle.dumps(error))
    assert (error.args, str(copy), copy.times) == (("no", 2), "no x 2", 2)
    assert error != copy
    assert {error: 1}[error] == 1
