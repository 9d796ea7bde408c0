"""A user's typed script: annotations, classes with machinery of their own, and who looks them up over there.

Each `check_...` is a test of its own in `test_pickler.py`, which runs this file once and reads what it prints.
"""

# The classes and lambdas are what is sent.
# ruff: noqa: D101, D103, PLW0108, PT017

from __future__ import annotations

import abc
import array
import collections
import dataclasses
import datetime
import enum
import io
import multiprocessing
import pickle
import sys
import threading
import types
import typing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import InitVar
from typing import (
    Annotated,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    NamedTuple,
    NewType,
    NotRequired,
    ParamSpec,
    Protocol,
    Required,
    TypedDict,
    TypeVar,
    TypeVarTuple,
    Unpack,
    runtime_checkable,
)

import attrs
import numpy as np
import typing_extensions

from tests.shipping.elsewhere import Elsewhere, run_checks

T = TypeVar("T", bound="Node")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")
UserId = NewType("UserId", int)
Nested = NewType("Nested", UserId)
there: Elsewhere


def raises(kind: type[BaseException], fn: Callable[..., Any], *args: Any) -> BaseException:
    """Have a call fail over there, and return how."""
    try:
        there.call(fn, *args)
    except kind as error:
        return error
    raise AssertionError("nothing was raised")


# ---- typing --------------------------------------------------------------------------------------------------------


Defaulted = typing_extensions.TypeVar("Defaulted", default=int, bound="Node")
Inferred = typing_extensions.TypeVar("Inferred", infer_variance=True)
DefaultedP = typing_extensions.ParamSpec("DefaultedP", default=[int])
DefaultedTs = typing_extensions.TypeVarTuple("DefaultedTs", default=Unpack[tuple[int]])
Numbers = typing_extensions.TypeAliasType("Numbers", list[T], type_params=(T,))
Tree = typing_extensions.TypeAliasType("Tree", "dict[str, Tree] | Leaf")
MISSING = typing_extensions.Sentinel("MISSING")


class Leaf(Generic[Defaulted]):
    above: Tree


def total(xs: Numbers[int], tree: Tree | None = None, *more: DefaultedP.args, start: Any = MISSING) -> int:
    return sum(xs) + (0 if start is MISSING else start)


class Unreadable:
    def __reduce__(self) -> str:
        return "unreadable"


unreadable = Unreadable()


def takes_unreadable(x: unreadable) -> int:  # type: ignore[valid-type]
    return 5


def check_backports_of_typing() -> None:
    """What typing_extensions gives to older versions of Python, too; what cannot be read there stays away."""
    for form in (Defaulted, DefaultedP, DefaultedTs):
        assert there.call(lambda x: x, form) is form
        assert there.call(lambda f: (f.__name__, f.__module__, f.has_default()), form) == (
            form.__name__, "__main__", True,
        )  # fmt: skip
    assert there.call(lambda: (Defaulted.__default__, Defaulted.__bound__.__forward_arg__)) == (int, "Node")
    assert there.call(lambda: Inferred.__infer_variance__)
    for alias in (Numbers, Tree, MISSING):
        assert there.call(lambda x: x, alias) is alias
        assert there.call(lambda x, y: x is y, alias, alias)
    assert there.call(lambda: (Numbers.__value__ == list[T], Numbers.__type_params__ == (T,), Tree.__module__)) == (
        True, True, "__main__",
    )  # fmt: skip
    assert there.call(total, [1, 2]) == 3
    assert there.call(lambda: total([1], start=2)) == 3
    assert type(there.call(lambda: Leaf[int]())) is Leaf
    assert there.call(typing.get_type_hints, total) == typing.get_type_hints(total)
    assert there.call(takes_unreadable, unreadable.__class__.__name__) == 5


def check_type_variables() -> None:
    """Variables of all kinds come home as themselves, are one thing over there, and say where they are from."""
    for form in (T, P, Ts, UserId, Nested):
        assert there.call(lambda x: x, form) is form
        assert there.call(lambda x, y: x is y, form, form)
        assert there.call(lambda x: (x.__name__, x.__module__), form) == (form.__name__, "__main__")
    assert there.call(lambda: UserId(5)) == 5
    assert there.call(lambda: Nested.__supertype__) is UserId
    assert there.call(lambda: (P.args, P.kwargs)) == (P.args, P.kwargs)
    for variable in (TypeVar("C", covariant=True), TypeVar("S", str, bytes), ParamSpec("Q", contravariant=True)):
        copy = there.call(lambda v: (v.__covariant__, v.__contravariant__, v.__name__), variable)
        assert copy == (variable.__covariant__, variable.__contravariant__, variable.__name__)
    assert there.call(lambda: T.__bound__).__forward_arg__ == "Node"


def decorated(fn: Callable[Concatenate[int, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    return fn(1, *args, **kwargs)


def evaluated(fn: Callable[P, T]) -> Callable[P, T]:
    """Take the annotations as they would be without the future import."""

    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return fn(*args, **kwargs)

    wrapper.__annotations__ = {"args": P.args, "kwargs": P.kwargs, "return": T, "user": UserId, "ts": Unpack[Ts]}
    return wrapper


@evaluated
def plus(x: int) -> int:
    return x + 1


def check_annotations_of_functions() -> None:
    """Annotations arrive, evaluated or as texts, and `get_type_hints` finds what the texts refer to."""
    assert there.call(plus, 1) == 2
    assert there.call(lambda: plus.__annotations__)["args"] is P.args or P.args
    hints = there.call(typing.get_type_hints, decorated)
    assert hints == typing.get_type_hints(decorated)
    assert there.call(lambda: typing.get_type_hints(joined)) == typing.get_type_hints(joined)


def joined(first: Point, rest: list[Point], at: np.ndarray, user: UserId) -> Line | None: ...


class Stack(Generic[P, T]):
    def __init__(self, fn: Callable[P, T]) -> None:
        self.fn = fn


class Rows(Generic[*Ts]):
    pass


class Node(Generic[T]):
    next: Node[T] | None = None
    content: T


def check_generic_classes() -> None:
    """Generic in parameters and in several types; their parameters stay."""
    assert there.call(lambda: Stack[[int], str].__args__) == ((int,), str)
    assert there.call(lambda: Rows[int, str].__args__) == (int, str)
    assert there.call(lambda: Stack.__parameters__) == (P, T)
    assert type(there.call(lambda: Rows())) is Rows
    assert there.call(lambda: Stack(lambda x: x + 1).fn(1)) == 2
    assert there.call(typing.get_type_hints, Node) == typing.get_type_hints(Node)
    assert there.call(lambda x: x, Node[int]) == Node[int]


class Base(TypedDict):
    name: str
    note: NotRequired[str]


class Derived(Base, total=False):
    size: int
    must: Required[Point]


class Of(TypedDict, Generic[T]):
    """Words."""

    content: T


def check_typed_dicts() -> None:
    """Inherited ones keep their required and optional keys, their bases and their words."""
    for cls in (Base, Derived, Of):
        told = there.call(lambda c: (c.__required_keys__, c.__optional_keys__, c.__total__, c.__module__), cls)
        assert told == (cls.__required_keys__, cls.__optional_keys__, cls.__total__, cls.__module__), told
        assert there.call(lambda c: c, cls) is cls
        assert there.call(typing.get_type_hints, cls) == typing.get_type_hints(cls)
    assert there.call(lambda: Derived(name="a", size=3)) == {"name": "a", "size": 3}
    assert there.call(lambda: (typing.is_typeddict(Derived), Of.__doc__)) == (True, "Words.")
    assert there.call(lambda: Of[int].__args__) == (int,)
    assert there.call(lambda: typing.get_type_hints(Derived, include_extras=True)["must"]) == Required[Point]


# ---- records -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    names: ClassVar[list[str]] = ["x", "y"]


@dataclasses.dataclass
class Line:
    start: Point
    ends: list[Point] = dataclasses.field(default_factory=list)
    label: Annotated[str, Color] | None = None  # type: ignore[valid-type]
    factor: InitVar[int] = 1

    def __post_init__(self, factor: int) -> None:
        self.ends = [Point(p.x * factor, p.y) for p in self.ends]


@attrs.define
class Shape:
    color: Color
    user: UserId
    corner: Corner
    start: Point
    lines: dict[str, Line] = attrs.field(factory=dict)


class Corner(NamedTuple):
    at: Point
    color: Color


class Color(enum.Enum):
    RED = "r"


def check_hints_of_classes() -> None:
    """`get_type_hints` finds over there what the annotations of the script's classes refer to."""
    for cls in (Point, Line, Shape, Corner):
        hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name != "factor"}
        for found in (there.call(typing.get_type_hints, cls), there.call(lambda cls=cls: typing.get_type_hints(cls))):
            found.pop("factor", None)  # two InitVar[int] are not equal
            assert found == hints, (found, hints)


def structure(raw: Any, cls: Any) -> Any:
    """Make a record as cattrs does: by the types that its annotations turn out to be."""
    if type(raw) is not dict:
        return cls(raw)
    hints = typing.get_type_hints(cls)
    return cls(**{name: structure(part, hints[name]) for name, part in raw.items()})


def check_structure() -> None:
    """Nested records are made over there by their annotations, as cattrs does."""
    raw = {"color": "r", "user": 5, "corner": {"at": {"x": 1}, "color": "r"}, "start": {"x": 1}}
    wanted = Shape(Color.RED, UserId(5), Corner(Point(1), Color.RED), Point(1))
    assert there.call(structure, raw, Shape) == wanted
    assert there.call(lambda: structure(raw, Shape)) == wanted
    assert there.call(lambda: attrs.fields(attrs.resolve_types(Shape)).color.type) is Color


def check_dataclass_tools() -> None:
    """Fields, replace, asdict and make_dataclass; classes with annotations as texts that are made there."""
    line = Line(Point(1), [Point(2)])
    assert there.call(dataclasses.asdict, line) == dataclasses.asdict(line)
    assert there.call(lambda: [f.name for f in dataclasses.fields(Line)]) == ["start", "ends", "label"]
    assert there.call(dataclasses.replace, Point(1), y=5) == Point(1, 5)
    assert there.call(lambda: dataclasses.replace(Point(1), x=3)) == Point(3)

    def make() -> Any:
        made = dataclasses.make_dataclass("Made", [("z", "ClassVar[int]", 3)], bases=(Point,), frozen=True)
        return [f.name for f in dataclasses.fields(made)], made(4).x

    def define() -> list[str]:
        @dataclasses.dataclass
        class Inside(Line):
            kind: ClassVar[str] = "inside"
            start_at: InitVar[int] = 0
            more: typing.ClassVar[str] = "more"

            def __post_init__(self, factor: int, start_at: int) -> None: ...

        return [f.name for f in dataclasses.fields(Inside)]

    assert there.call(define) == ["start", "ends", "label"]
    assert there.call(make)[1] == 4

    @dataclasses.dataclass
    class Local:
        where: Point

    assert there.call(lambda: typing.get_type_hints(Local)) == {"where": Point}


class HoldsLock:
    lock = threading.Lock()


def takes_lock(x: int, holder: HoldsLock | None = None) -> int:
    return x


@dataclasses.dataclass
class MayHold:
    x: int
    holder: HoldsLock | None = None


def check_what_annotations_name_need_not_travel() -> None:
    """A function or class works although its annotations name something that cannot be sent."""
    assert there.call(takes_lock, 3) == 3
    assert there.call(lambda m: m.x, MayHold(4)) == 4
    assert there.call(lambda: MayHold(5)) == MayHold(5)


# ---- the module __main__ over there --------------------------------------------------------------------------------


def square(x: int) -> int:
    return x * x


def in_pool(fn: Callable[[int], int], xs: list[int]) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(fn, xs)


def square_in_pool(xs: list[int]) -> list[int]:
    return in_pool(square, xs)


class Simulation:
    def __init__(self, by: int) -> None:
        self.by = by

    def step(self, x: int) -> int:
        return square(x) * self.by

    def run(self, xs: list[int]) -> list[int]:
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(self.step, xs) + pool.map(square, xs)

    class Inner:
        pass


def check_pools() -> None:
    """A function may use a multiprocessing pool with functions and methods of the script."""
    assert there.call(square_in_pool, [1, 2]) == [1, 4]
    assert there.call(in_pool, square, [1, 2]) == [1, 4]
    assert there.call(lambda xs: in_pool(square, xs), [3]) == [9]
    assert there.call(Simulation(2).run, [3]) == [18, 9]
    assert there.call(lambda s: [*s.run([1]), square(2)], Simulation(3)) == [3, 1, 4]

    def executor() -> list[Any]:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return [pool.submit(square, 3).result(), pool.submit(Point, 3).result()]

    assert there.call(executor) == [9, Point(3)]


def check_pickling_over_there() -> None:
    """Functions, classes, instances and exceptions of the script can be pickled and copied inside an evaluation."""

    def around(thing: Any) -> Any:
        return pickle.loads(pickle.dumps(thing))

    assert there.call(lambda: around(square) is square)
    assert there.call(lambda f: (around(f) is f, f(3)), square) == (True, 9)
    assert there.call(lambda f: (around(f) is f, around(square) is square, f is square), square) == (True, True, True)
    assert there.call(around, Point(3)) == Point(3)
    assert there.call(around, Color.RED) is Color.RED
    assert there.call(around, Point) is Point
    assert there.call(around, Simulation.Inner) is Simulation.Inner
    assert there.call(lambda: around(Simulation(4)).by) == 4
    assert there.call(lambda: around(UserId) is UserId)
    assert there.call(lambda: (around(T) is T, around(Corner(Point(1), Color.RED)))) == (
        True,
        Corner(Point(1), Color.RED),
    )
    assert pickle.loads(there.call(lambda: pickle.dumps((square, Point(1))))) == (square, Point(1))


def check_main_is_a_module() -> None:
    """`__main__` over there is a module with what has arrived, and is what functions have as globals."""

    def look() -> tuple[Any, ...]:
        main = sys.modules["__main__"]
        return square.__globals__ is vars(main), main.__name__, square.__module__, main.square is square

    def imported() -> tuple[int, int]:
        import __main__

        return __main__.square(3), __main__.LEVEL

    assert there.call(look) == (True, "__main__", "__main__", True)
    assert there.call(imported) == (9, 1)
    assert there.call(lambda: main_module.LEVEL) == 1
    assert there.call(lambda: __file__) == __file__


LEVEL = 1
main_module = sys.modules["__main__"]


def set_level(level: int) -> int:
    global LEVEL
    before, LEVEL = LEVEL, level
    return before


def read_level() -> int:
    return LEVEL


def check_each_definition_keeps_its_globals() -> None:
    """A call sees the values from when it was made, and what earlier calls of the same definition made of them."""
    global LEVEL  # noqa: PLW0603 (that is the point)
    ours = LEVEL
    read, seen = (lambda: LEVEL), []
    for level in (10, 20, 10, 30):
        LEVEL = level
        seen.append((there.call(read), there.call(read_level)))
    LEVEL = ours
    assert seen == [(10, 10), (20, 20), (10, 10), (30, 30)]
    assert there.call(set_level, 50) == ours
    assert there.call(read_level) == ours  # another definition
    assert there.call(set_level, 60) == 50  # the same as before
    assert there.call(lambda f: (f(7), read_level()), set_level) == (ours, 7)  # one module for arguments and function
    assert there.call(read_level) == ours


def check_arguments_leave_nothing_behind() -> None:
    """What came with the arguments of a call is gone when it has ended."""

    def names() -> list[str]:
        return [name for name in vars(sys.modules["__main__"]) if name == "only_in_arguments"]

    assert there.call(lambda f: f(), lambda: only_in_arguments) == [5]
    assert there.call(names) == []


only_in_arguments = [5]


# ---- classes with machinery ----------------------------------------------------------------------------------------

registry: dict[str, str] = {}


class Plugin:
    def __init_subclass__(cls, /, key: str, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        registry[key] = cls.__name__
        cls.key = key  # type: ignore[attr-defined]
        cls.seen = cls.required  # type: ignore[attr-defined]


class One(Plugin, key="one"):
    required = 5


class Two(One, key="two"):
    required = 6


class Meta(type):
    made: ClassVar[list[str]] = []

    def __new__(mcs, name: str, bases: Any, body: Any, *, level: int) -> Meta:
        made = super().__new__(mcs, name, bases, body)
        made.level = level  # type: ignore[attr-defined]
        mcs.made.append(name)
        return made

    def __init__(cls, name: str, bases: Any, body: Any, *, level: int) -> None:
        super().__init__(name, bases, body)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name != "level":
            raise TypeError("no")
        super().__setattr__(name, value)


class Leveled(metaclass=Meta, level=3):
    x = 1


class Guarding(type):
    @property
    def title(cls) -> str:
        return "of the metaclass"


class Guarded(metaclass=Guarding):
    title = "of the class"


class AbstractMeta(abc.ABCMeta):
    def __new__(mcs, name: str, bases: Any, body: Any, *, tag: str = "", **rest: Any) -> Any:
        made = super().__new__(mcs, name, bases, body, **rest)
        made.tag = tag  # type: ignore[attr-defined]
        return made


class Abstract(metaclass=AbstractMeta, tag="a"):
    @abc.abstractmethod
    def area(self) -> float: ...


class Concrete(Abstract, tag="c"):
    def area(self) -> float:
        return 2.0


class Hooked(abc.ABC):  # noqa: B024 (all that it has is the hook)
    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return hasattr(other, "hook_me")


class Quacks:
    hook_me = 1


@runtime_checkable
class Quack(Protocol):
    hook_me: int

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)


class Named:
    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.times = name, getattr(self, "times", 0) + 1

    def __get__(self, instance: Any, owner: type) -> tuple[str, int]:
        return self.name, self.times


class HasNamed:
    thing = Named()


def check_classes_are_not_made_twice() -> None:
    """Neither `__init_subclass__` nor a metaclass nor `__set_name__` runs again over there."""
    assert there.call(lambda: (One.key, Two.key, Two.seen, registry)) == ("one", "two", 6, {"one": "One", "two": "Two"})
    assert there.call(lambda: (Leveled.level, Leveled.x, Meta.made)) == (3, 1, ["Leveled"])
    assert there.call(lambda c: type(c).__name__, Leveled()) == "Leveled"
    assert there.call(lambda: (Concrete().area(), Concrete.tag, Abstract.tag)) == (2.0, "c", "a")
    raises(TypeError, lambda: Abstract())
    assert there.call(lambda: HasNamed.thing) == ("thing", 1)
    assert there.call(lambda: (Guarded.title, Guarded().title)) == ("of the metaclass", "of the class")

    def subclass() -> dict[str, str]:
        class Three(One, key="three"):
            required = 7

        return {**registry, Three.key: str(Three.seen)}

    assert there.call(subclass)["three"] == "7"  # it runs where it ought to
    raises(KeyError, lambda: {}[type("Four", (One,), {"required": 1}, key="four").key])  # type: ignore[call-overload]


def check_subclass_hooks() -> None:
    """`__subclasshook__` is kept, of abstract classes and protocols."""
    assert there.call(lambda: (issubclass(Quacks, Hooked), issubclass(int, Hooked))) == (True, False)
    assert there.call(lambda: (isinstance(Quacks(), Quack), isinstance(3, Quack))) == (True, False)


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)
    TERRA = (5.9, 1.0)

    def __new__(cls, mass: float, radius: float) -> Planet:
        member = object.__new__(cls)
        member._value_ = mass
        member.radius = radius  # type: ignore[attr-defined]
        return member


class Labelled(int, enum.Enum):
    LOW = 1, "low"
    HIGH = 2, "high"

    def __new__(cls, number: int, label: str) -> Labelled:
        member = int.__new__(cls, number)
        member._value_ = label
        return member


class Coordinates(tuple, enum.Enum):  # type: ignore[type-arg]  # noqa: SLOT001
    ORIGIN = (0, 0)
    UNIT = (1, 1)


class Based(enum.Enum):
    def __init__(self, first: int, second: int) -> None:
        self.total = first + second


class Sums(Based):
    A = (1, 2)
    B = (3, 4)


class Text(str, enum.Enum):  # noqa: UP042 (the older form)
    A = "a"

    def __str__(self) -> str:
        return "not a"


class Strict(enum.Flag, boundary=enum.STRICT):
    A = 1
    B = 2


class Keep(enum.IntFlag, boundary=enum.KEEP):
    A = 1


class Day(datetime.date, enum.Enum):
    FIRST = 2024, 1, 1


class Functions(enum.Enum):
    SQUARE = enum.member(square)
    helper = enum.nonmember(5)


class AutoNames(enum.StrEnum):
    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name + "!"

    A = enum.auto()


class Scores(collections.OrderedDict):  # type: ignore[type-arg]
    __slots__ = ("extra",)


class Dictionary(dict, enum.Enum):  # type: ignore[type-arg]
    A = {"a": 1}  # noqa: RUF012


class Items(list, enum.Enum):  # type: ignore[type-arg]
    A = [1, 2]  # noqa: RUF012


class Group(set, enum.Enum):  # type: ignore[type-arg]
    A = {1}  # noqa: RUF012


class Raw(bytearray, enum.Enum):
    A = b"x"


class Ordered(collections.OrderedDict, enum.Enum):  # type: ignore[type-arg]
    A = [(2, 1), (1, 2)]  # noqa: RUF012


class Grouped(collections.defaultdict, enum.Enum):  # type: ignore[type-arg]
    A = list, {1: [2]}


class Counted(collections.Counter, enum.Enum):  # type: ignore[type-arg]
    A = "aab"


class Queue(collections.deque, enum.Enum):  # type: ignore[type-arg]
    A = [1, 2, 3], 2


class Pattern(array.array, enum.Enum):  # type: ignore[type-arg]
    A = "i", [1, 2]


class Wrong(ValueError, enum.Enum):
    A = "text", 3


class Chosen(Scores, enum.Enum):
    A = {"a": 1}  # noqa: RUF012


def check_enums_of_containers() -> None:
    """Enums mixed with types that `__init__` fills hold what they held; each member has its value, too."""
    for cls in (Dictionary, Ordered, Counted, Chosen):
        assert there.call(lambda c: list(dict.items(c.A)), cls) == list(dict.items(cls.A)), cls
    for other in (Items, Group, Raw, Queue, Pattern):
        assert there.call(lambda c: list(c.A), other) == list(other.A), other
    assert there.call(lambda m: list(m), Items.A) == [1, 2]
    for every in (Dictionary, Items, Group, Raw, Ordered, Grouped, Counted, Queue, Pattern, Chosen):
        assert there.call(lambda c: c.A.value, every) == every.A.value
        assert there.call(lambda m: m, every.A) is every.A
    assert there.call(lambda: (Grouped.A[5], Grouped.A[1], Queue.A.maxlen, Wrong.A.args)) == ([], [2], 2, ("text", 3))
    assert there.call(lambda: (Ordered.A.popitem(last=False), Counted.A["c"])) == ((2, 1), 0)


def check_enums() -> None:
    """Enums with `__new__` of their own, of tuples, with mixed-in types, with boundaries, on a base with `__init__`."""
    for cls in (Planet, Labelled, Coordinates, Sums, Text, Strict, Keep, Day, Functions, AutoNames):
        assert there.call(lambda c: [m.name for m in c], cls) == [m.name for m in cls], cls
        assert cls is Functions or there.call(lambda c: [m.value for m in c], cls) == [m.value for m in cls], cls
        assert there.call(lambda c: sorted(c.__members__), cls) == sorted(cls.__members__)
        for member in cls:
            assert there.call(lambda x: x, member) is member
            assert there.call(lambda m: type(m)(m.value) is m, member)
            assert there.call(lambda c: c[c.A.name] if hasattr(c, "A") else None, cls) is getattr(cls, "A", None)
            assert there.call(lambda m: pickle.loads(pickle.dumps(m)) is m, member) or cls is Functions
    assert there.call(lambda: (Planet.EARTH.radius, Planet(0.6).name, Planet.TERRA is Planet.EARTH)) == (
        6.3, "MARS", True,
    )  # fmt: skip
    assert there.call(lambda: (int(Labelled.HIGH), Labelled("high").name, Labelled.LOW + 1)) == (2, "HIGH", 2)
    assert there.call(lambda: (Coordinates.UNIT[1], Sums.B.total, str(Text.A), Text.A == "a")) == (1, 7, "not a", True)
    assert there.call(lambda: (Day.FIRST.year, Functions.SQUARE.value(3), Functions.helper)) == (2024, 9, 5)
    assert there.call(lambda: (Strict.A | Strict.B).value) == 3
    assert there.call(lambda: Keep(9).value) == 9
    raises(ValueError, lambda: Strict(8))
    assert there.call(lambda: AutoNames.A) == "A!"


class Early(str):
    __slots__ = ()

    def __new__(cls, text: str, *_: Any) -> Early:
        return super().__new__(cls, text.upper())


def check_subclasses_of_builtins() -> None:
    """Subclasses of what Python is made of."""
    scores = Scores(a=1)
    scores.extra = 5
    assert there.call(lambda s: (type(s).__name__, s["a"], s.extra), scores) == ("Scores", 1, 5)
    assert there.call(lambda: Early("abc")) == "ABC"


# ---- methods, streams, views ---------------------------------------------------------------------------------------


def loud(fn: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs) + 100

    return wrapper


class Worker:
    def __init__(self, n: int) -> None:
        self.n = n

    def plain(self, x: int) -> int:
        return self.n + x

    def __private(self, x: int) -> int:
        return self.n * x

    def private(self) -> Callable[[int], int]:
        return self.__private

    @loud
    def decorated(self, x: int) -> int:
        return self.n - x

    @classmethod
    def made(cls, n: int) -> Worker:
        return cls(n)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Late(Worker):
    def __private(self, x: int) -> int:
        return -x

    def private(self) -> Callable[[int], int]:
        return self.__private

    def up(self) -> Callable[[int], int]:
        return super().plain

    def plain(self, x: int) -> int:
        return 0


def check_bound_methods_in_arguments() -> None:
    """Private ones, decorated ones without `wraps`, those put on by hand, those of a base."""

    def call(fns: list[Callable[..., Any]], x: int) -> list[Any]:
        return [fn(x) for fn in fns]

    worker, late = Worker(2), Late(3)
    late.by_hand = types.MethodType(lambda self, x: self.n + 10 * x, late)  # type: ignore[attr-defined]
    methods = [worker.plain, worker.private(), worker.decorated, late.private(), late.up(), late.by_hand]
    assert there.call(call, methods, 5) == [7, 10, 97, -5, 8, 53]
    assert there.call(call, [Worker.made, Late.made], 4)[1].n == 4
    assert type(there.call(call, [Late.made], 4)[0]) is Late
    assert there.call(lambda m, w: m.__self__ is w, worker.plain, worker)
    assert there.call(lambda: methods[1](5)) == 10
    assert there.call(types.MethodType(square, 5)) == 25
    assert there.call(call, [types.MethodType(pow, 2)], 5) == [32]
    assert there.call(lambda m: m.__func__ is type(m.__self__).plain, worker.plain)
    assert there.call(lambda w: w.private(), worker)(5) == 10  # and home
    assert there.call(call, ["-".join, [1].count, dict.fromkeys], ["a"])[0] == "a"


class Validated:
    checks: ClassVar[list[Callable[[int], bool]]] = []

    @classmethod
    def positive(cls, n: int) -> bool:
        return n > 0

    def even(self, n: int) -> bool:
        return n % 2 == 0


Validated.checks = [Validated.positive, Validated().even]


def check_a_class_that_holds_its_own_methods() -> None:
    """Bound methods in the attributes of their own class, where libraries keep validators."""
    assert there.call(lambda: [check(4) for check in Validated.checks]) == [True, True]
    assert there.call(lambda v: [check(-3) for check in v.checks], Validated()) == [False, False]
    assert there.call(lambda: Validated.checks[0].__func__ is Validated.positive.__func__)  # type: ignore[attr-defined]


def say(text: str, file: Any = sys.stdout, also: Any = sys.stderr, *, source: Any = sys.stdin) -> bool:
    print(text, file=file)
    return file is sys.stdout and also is sys.stderr and source is sys.stdin


def check_streams() -> None:
    """The standard streams as defaults, captures and arguments are those of the place where they are used."""
    assert there.call(say, "to the log") is True
    assert there.call(lambda out: out is sys.stdout, sys.stdout)
    assert there.call(lambda write: write("x\n"), sys.stdout.write) == 2
    err = sys.stderr
    assert there.call(lambda: err is sys.stderr)
    assert there.call(lambda: sys.stderr) is sys.stderr
    try:
        there.call(lambda f: f, io.open(__file__))  # noqa: UP020 (it must be refused)
    except Exception as error:  # noqa: BLE001
        assert "an open file" in str(error), error
    else:
        raise AssertionError("an open file was sent")


def check_memoryviews() -> None:
    """Views of bytes, of arrays, of parts; writable ones can be written to, there."""
    data = bytearray(b"abcdef")
    numbers = np.arange(6, dtype="i4").reshape(2, 3)
    for view in (memoryview(b"abc"), memoryview(data), memoryview(data)[1:3], memoryview(numbers), memoryview(b"")):
        copy = there.call(lambda v: v, view)
        assert type(copy) is memoryview
        assert (copy.format, copy.shape) == (view.format, view.shape)
        assert copy.readonly == view.readonly, view.obj
        assert np.asarray(copy).tolist() == np.asarray(view).tolist()
    for base in (np.arange(3.0), np.arange(3), np.array(2.5), np.ones((2, 3)), np.array([True])):
        whole = memoryview(base)
        first = (0,) * base.ndim
        assert there.call(lambda v, at: (v.format, v[at], v.tolist()), whole, first) == (
            whole.format, whole[first], whole.tolist(),
        )  # fmt: skip
    for odd in (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([1 + 2j]), np.zeros(2, "i4,f8"), numbers.T):
        copy = there.call(lambda v: v, memoryview(odd))
        assert (copy.format, np.asarray(copy).tolist()) == (memoryview(odd).format, odd.tolist())
    assert there.call(lambda v: v[::2].tobytes(), memoryview(data)) == b"ace"
    assert there.call(lambda v: v.tobytes(), memoryview(data)[::2]) == b"ace"
    captured = memoryview(data)

    def write(array: bytearray, view: memoryview) -> bytes:
        view[0] = 65
        captured[0] = 66
        return bytes(array)

    assert there.call(write, data, memoryview(data)) == b"Abcdef"
    assert data == b"abcdef"


# ---- exceptions ----------------------------------------------------------------------------------------------------


class Coded(Exception):
    def __init__(self, place: str, *, code: int) -> None:
        super().__init__(f"{place}: {code}")
        self.code = code


class Own(ExceptionGroup):  # type: ignore[type-arg]
    def __new__(cls, errors: list[Exception], level: int) -> Own:
        made = super().__new__(cls, "own", errors)
        made.level = level
        return made

    level: int


def check_exception_groups() -> None:
    """A group arrives with the script's exceptions in it; what cannot travel is there in words."""

    def fail(kind: int) -> None:
        coded, lock = Coded("there", code=7), ValueError("lock", threading.Lock())
        if kind == 1:
            raise ExceptionGroup("several", [coded, KeyError("k"), ExceptionGroup("deeper", [Coded("x", code=8)])])
        if kind == 2:
            raise ExceptionGroup("locked", [coded, lock])
        if kind == 3:
            raise Own([coded], 5)
        raise RuntimeError("wraps", coded)

    error: Any = raises(ExceptionGroup, fail, 1)
    assert [type(e) for e in error.exceptions] == [Coded, KeyError, ExceptionGroup], error.exceptions
    assert (error.exceptions[0].code, error.exceptions[2].exceptions[0].code, error.message) == (7, 8, "several")
    error = raises(ExceptionGroup, fail, 2)
    assert type(error.exceptions[0]) is Coded
    assert "lock" in str(error.exceptions[1])
    error = raises(Own, fail, 3)
    assert (error.level, error.exceptions[0].code, error.message) == (5, 7, "own")
    error = raises(RuntimeError, fail, 4)
    assert error.args[1].code == 7
    try:
        there.call(fail, 1)
    except* KeyError:
        pass
    except* Coded as group:
        assert len(group.exceptions) == 2


# ---- modules that only this process has ----------------------------------------------------------------------------


def check_dynamic_modules() -> None:
    """A module that was made by hand travels whole, with functions that share its globals."""
    module = types.ModuleType("made_by_hand")
    source = "count = 1\ndef up():\n    global count\n    count += 1\n    return count\nclass A: x = 5\nlen2 = len"
    exec(source, vars(module))
    module.itself = module  # type: ignore[attr-defined]
    assert there.call(lambda: (module.up(), module.count, module.A.x, module.itself is module)) == (2, 2, 5, True)
    assert there.call(lambda m: (m.__name__, m.len2("ab")), module) == ("made_by_hand", 2)
    assert there.call(module.up) == 2
    assert module.count == 1


with Elsewhere() as there:
    run_checks(globals())
