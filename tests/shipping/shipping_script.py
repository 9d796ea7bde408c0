"""A user's script: what only `__main__` has goes to another process, and comes back as what it was.

Each `check_...` is a test of its own in `test_pickler.py`, which runs this file once and reads what it prints.
"""

# The classes and lambdas are what is sent.
# ruff: noqa: D101, D103, PLW0108, PT017

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import logging
import sys
import typing
import xml
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypedDict, TypeVar

import attrs

from tests.shipping.elsewhere import Elsewhere, run_checks

T = TypeVar("T")
there: Elsewhere
SCALE = 3
log = logging.getLogger("shipping.script")


def back(value: Any) -> Any:
    """Send a value there and back: the same class, over there it is one class for all, and it is equal."""
    copy = there.call(lambda x: x, value)
    assert type(copy) is type(value), (type(copy), type(value))
    assert copy == value, (copy, value)
    assert there.call(lambda x, y: type(x) is type(y), value, value)
    assert there.call(isinstance, value, type(value))
    return copy


def made_there(make: Callable[[], T]) -> T:
    """Have a value made there."""
    return there.call(make)  # type: ignore[no-any-return]


# ---- functions -----------------------------------------------------------------------------------------------------


def scaled(x: int, *, by: int = 2) -> int:
    """Docstring."""
    return SCALE * x * by


def is_even(n: int) -> bool:
    return True if n == 0 else is_odd(n - 1)


def is_odd(n: int) -> bool:
    return False if n == 0 else is_even(n - 1)


def check_functions() -> None:
    """Functions of the script, with globals and defaults, and lambdas."""
    assert there.call(scaled, 2) == 12
    assert there.call(scaled, 2, by=5) == 30
    assert there.call(lambda x: scaled(x) + 1, 1) == 7
    assert there.call(is_even, 10) is True
    assert there.call(lambda: (scaled.__name__, scaled.__doc__, scaled.__module__)) == (
        "scaled",
        "Docstring.",
        "__main__",
    )
    assert there.call(lambda *args, **kwargs: (args, kwargs), 1, x=2) == ((1,), {"x": 2})


def check_functions_come_back() -> None:
    """A function made there can be called here."""
    add = there.call(lambda n: lambda x: x + n, 2)
    assert add(40) == 42


def check_closures_share_cells() -> None:
    """Two functions that share a variable still share it, over there."""

    def counter() -> tuple[Callable[[], int], Callable[[], int]]:
        count = 0

        def up() -> int:
            nonlocal count
            count += 1
            return count

        return up, lambda: count

    def use(pair: tuple[Callable[[], int], Callable[[], int]]) -> tuple[int, int]:
        up, read = pair
        up()
        return up(), read()

    up, read = counter()
    assert there.call(use, (up, read)) == (2, 2)
    assert read() == 0  # not with us
    assert there.call(lambda: (up(), up(), read())) == (1, 2, 2)


def check_local_recursion() -> None:
    """Local functions that call themselves and each other."""

    def fact(n: int) -> int:
        return n * fact(n - 1) if n else 1

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert there.call(fact, 5) == 120
    assert there.call(even, 7) is False


def check_an_empty_cell_stays_empty() -> None:
    """A captured variable without a value yet is one without a value there."""

    def outer() -> Callable[[], int]:
        def inner() -> int:
            return later

        if SCALE > 100:
            later = 1
        return inner

    try:
        there.call(outer())
    except NameError as error:
        assert "later" in str(error)
    else:
        raise AssertionError("no NameError")


def check_partials_methods_and_callables() -> None:
    """Whatever can be called."""

    class Adder:
        def __init__(self, n: int) -> None:
            self.n = n

        def add(self, x: int) -> int:
            return self.n + x

        @classmethod
        def make(cls, n: int) -> Adder:
            return cls(n)

        @staticmethod
        def triple(x: int) -> int:
            return 3 * x

        __call__ = add

    assert there.call(functools.partial(scaled, by=3), 1) == 9
    assert there.call(functools.partial(functools.partial(scaled, 1), by=1)) == 3
    assert there.call(Adder(40).add, 2) == 42
    assert there.call(Adder(40), 2) == 42
    assert there.call(Adder.triple, 14) == 42
    assert there.call(Adder.make, 7).n == 7
    assert type(there.call(Adder.make, 7)) is Adder
    assert there.call("-".join, ["a", "b"]) == "a-b"
    assert there.call(Adder, 3).n == 3
    assert there.call(map(scaled, [1, 2]).__next__) == 6


def check_globals_are_shared() -> None:
    """Functions of one packed call write and read the same global."""
    assert there.call(lambda: (set_total(5), read_total())[1]) == 5
    assert total == 0


total = 0


def set_total(n: int) -> None:
    global total  # noqa: PLW0603 (that is the point)
    total = n


def read_total() -> int:
    return total


def check_submodules() -> None:
    """A submodule that the script imported is there where the function reaches it through its package."""
    assert there.call(lambda text: xml.etree.ElementTree.fromstring(text).tag, "<a/>") == "a"


def check_loggers() -> None:
    """A logger goes by its name."""
    assert there.call(lambda: log.name) == "shipping.script"
    assert back(log) is log


@functools.lru_cache(maxsize=7)
def cached(x: int) -> int:
    return x * SCALE


def check_lru_cache() -> None:
    """It caches there, with its parameters."""
    assert there.call(lambda: (cached(2), cached(2), cached.cache_info().hits, cached.cache_info().maxsize)) == (
        6,
        6,
        1,
        7,
    )
    assert there.call(cached, 3) == 9


@functools.singledispatch
def kind(_: object) -> str:
    return "object"


@kind.register
def _of_int(_: int) -> str:
    return "int"


def check_singledispatch() -> None:
    """It dispatches there as here."""
    assert there.call(lambda: (kind(1), kind("x"))) == ("int", "object")


def check_annotations_and_attributes() -> None:
    """A function keeps its annotations and its own attributes."""

    def marked(x: list[Row]) -> None: ...

    marked.unit = "m"  # type: ignore[attr-defined]
    assert there.call(lambda f: (f.__annotations__["x"], f.unit), marked) == ("list[Row]", "m")
    assert there.call(lambda f: typing.get_type_hints(f)["by"], scaled) is int


def check_generators() -> None:
    """A generator function is a function; what it yields can be used there."""

    def count(n: int) -> Iterator[int]:
        yield from range(n)

    assert there.call(lambda: sum(count(4))) == 6


# ---- classes -------------------------------------------------------------------------------------------------------


@attrs.frozen
class Point:
    """Frozen, with slots."""

    x: float
    y: float = 0.0
    tags: list[str] = attrs.field(factory=list)

    @property
    def norm(self) -> float:
        return abs(self.x) + abs(self.y)

    def moved(self, by: float) -> Point:
        return attrs.evolve(self, x=self.x + by)


@attrs.define(slots=False)
class Loose:
    """With a dictionary."""

    x: int

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.x


@dataclasses.dataclass
class Row:
    name: str
    values: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Slotted:
    n: int
    also: Row | None = None


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"
    ROUGE = "r"  # noqa: PIE796 (an alias)

    @property
    def loud(self) -> str:
        return self.name + "!"

    @classmethod
    def _missing_(cls, value: object) -> Color:
        return Color.GREEN


class Level(enum.IntEnum):
    LOW = enum.auto()
    HIGH = enum.auto()


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2
    ALL = 3


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius


class Pair(NamedTuple):
    left: int
    right: str = "r"

    def swapped(self) -> tuple[str, int]:
        return self.right, self.left


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self.content == other.content

    __hash__ = None  # type: ignore[assignment]


class IntBox(Box[int]):
    def __init__(self, content: int) -> None:
        super().__init__(content + 1)


class Named(Protocol):
    name: str


@typing.runtime_checkable
class Sized2(Protocol):
    def size2(self) -> int: ...


class HasSize:
    def size2(self) -> int:
        return 2

    def __eq__(self, other: object) -> bool:
        return type(other) is HasSize

    __hash__ = object.__hash__


class Options(TypedDict, total=False):
    depth: int


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float) -> None:
        self.side = side

    def area(self) -> float:
        return self.side**2

    def __eq__(self, other: object) -> bool:
        return type(other) is Square and other.side == self.side

    __hash__ = object.__hash__


@Shape.register
class Blob:
    """A shape by registration only."""


class Registry(type):
    """A metaclass that notes its classes."""

    made: typing.ClassVar[list[str]] = []

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Registry:
        mcs.made.append(name)
        return super().__new__(mcs, name, bases, body)

    def shout(cls) -> str:
        return cls.__name__.upper()


class Noted(metaclass=Registry):
    __slots__ = ("_Noted__secret", "__weakref__", "x")

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is Noted and other.x == self.x

    __hash__ = object.__hash__


class Outer:
    class Inner:
        def __init__(self, n: int) -> None:
            self.n = n

        def __eq__(self, other: object) -> bool:
            return type(other) is Outer.Inner and other.n == self.n

        __hash__ = object.__hash__


class Failure(Exception):
    def __init__(self, place: str, *, code: int) -> None:
        super().__init__(f"{place}: {code}")
        self.place, self.code = place, code


class Tree:
    """Refers to itself, as a class and as an instance."""

    def __init__(self, parent: Tree | None = None) -> None:
        self.parent = parent
        self.children: list[Tree] = []
        if parent is not None:
            parent.children.append(self)

    @classmethod
    def grown(cls) -> Tree:
        root = cls()
        cls(root)
        return root


def check_attrs() -> None:
    """Attrs classes, frozen with slots and loose, with properties and factories."""
    assert back(Point(1, 2, ["a"])).norm == 3
    assert there.call(lambda p: p.norm, Point(-1)) == 1
    assert there.call(Point(1).moved, 2) == Point(3)
    assert type(made_there(lambda: Point(4))) is Point
    assert there.call(lambda: [a.name for a in attrs.fields(Point)]) == ["x", "y", "tags"]
    assert there.call(lambda x: x.twice, Loose(4)) == 8
    back(Loose(3))


def check_frozen_stays_frozen() -> None:
    """Assigning to a frozen instance raises there, and the error comes back as itself."""

    def write(p: Any) -> None:
        p.x = 3

    try:
        there.call(write, Point(1))
    except attrs.exceptions.FrozenInstanceError:
        return
    raise AssertionError("it could be written to")


def check_dataclasses() -> None:
    """With and without slots, nested, ordered, replaced."""
    back(Row("a", [1.0]))
    back(Slotted(n=1, also=Row("b")))
    assert there.call(lambda a, b: a < b, Slotted(n=1), Slotted(n=2))
    assert there.call(lambda s: dataclasses.replace(s, n=5), Slotted(n=1)) == Slotted(n=5)
    assert there.call(lambda: [f.name for f in dataclasses.fields(Row)]) == ["name", "values"]
    assert made_there(lambda: Row("made there").values) == []
    assert type(made_there(lambda: Slotted(n=1))) is Slotted


def check_enums() -> None:
    """Members are the very members, here and there; aliases, auto values, flags and members with data too."""
    assert back(Color.RED) is Color.RED is Color.ROUGE
    assert there.call(lambda c: (c is Color.RED, c.loud, Color["ROUGE"] is c), Color.RED) == (True, "RED!", True)
    assert there.call(lambda: (Color("r"), Color("else"))) == (Color.RED, Color.GREEN)
    assert there.call(lambda: list(Level)) == [Level.LOW, Level.HIGH]
    assert back(Level.HIGH) is Level.HIGH
    assert there.call(lambda: Planet.EARTH.radius) == 6.3
    assert made_there(lambda: Planet.EARTH) is Planet.EARTH


def check_flags() -> None:
    """Combined flags, and the operators."""
    assert back(Access.READ | Access.WRITE) is Access.ALL
    assert there.call(lambda a: a & Access.READ, Access.ALL) is Access.READ
    assert there.call(lambda: ~Access.READ) == Access.WRITE


def check_named_tuples() -> None:
    """With defaults and methods."""
    back(Pair(1))
    assert there.call(lambda p: p.swapped(), Pair(1, "x")) == ("x", 1)
    assert there.call(lambda p: p._replace(left=9), Pair(1)) == Pair(9)


def check_generics_and_protocols() -> None:
    """Generic classes and what derives from them; protocols that can be asked at run time."""
    back(Box([1]))
    assert back(IntBox(1)).content == 2
    assert there.call(lambda: Box[int](3).content) == 3
    assert there.call(lambda: typing.get_args(IntBox.__orig_bases__[0])) == (int,)  # type: ignore[attr-defined]
    back(HasSize())
    assert there.call(lambda x: (isinstance(x, Sized2), isinstance(3, Sized2)), HasSize()) == (True, False)


def check_typed_dicts() -> None:
    """They are dictionaries; the class itself can be called."""
    assert there.call(lambda: (Options(depth=1), Options.__total__, sorted(Options.__annotations__))) == (
        {"depth": 1},
        False,
        ["depth"],
    )


def check_abstract_classes() -> None:
    """Abstract methods, subclasses and registered classes."""
    back(Square(2))
    assert there.call(lambda s: (s.area(), isinstance(s, Shape)), Square(3)) == (9, True)
    assert there.call(lambda: issubclass(Blob, Shape)) is True
    assert there.call(lambda: Shape.__abstractmethods__) == frozenset({"area"})
    try:
        there.call(lambda: Shape())  # type: ignore[abstract]
    except TypeError:
        return
    raise AssertionError("an abstract class was instantiated")


def check_metaclasses_and_slots() -> None:
    """A metaclass of the script, slots with private names among them."""
    back(Noted(3))
    assert there.call(lambda: Noted.shout()) == "NOTED"
    assert Registry.made == ["Noted"]


def check_nested_and_local_classes() -> None:
    """Classes in classes and in functions, with `super()` and a captured variable."""
    back(Outer.Inner(3))
    factor = 7

    @attrs.frozen
    class Base:
        n: int

        def value(self) -> int:
            return self.n * factor

    @attrs.frozen
    class Derived(Base):
        def value(self) -> int:
            return super().value() + 1

        def same(self, other: object) -> bool:
            return type(other) is __class__  # type: ignore[name-defined]

    back(Derived(1))
    assert there.call(lambda d: (d.value(), isinstance(d, Base), d.same(d)), Derived(2)) == (15, True, True)
    assert type(made_there(lambda: Derived(5))) is Derived


def check_classes_made_there() -> None:
    """A class that a function makes there comes back once, and its instances are of it."""

    def make() -> Any:
        class Local:
            x = 5

        return Local, Local()

    cls, instance = there.call(make)
    assert type(instance) is cls
    assert instance.x == 5


def check_the_state_of_a_class_stays() -> None:
    """What a call set on a class stays until the class is changed here. Coming home changes nothing."""

    class Counter:
        count = 0

    def up() -> int:
        Counter.count += 1
        return Counter.count

    assert there.call(up) == 1
    assert there.call(lambda: (up(), Counter)) == (2, Counter)
    assert Counter.count == 0
    Counter.count = 10
    assert there.call(lambda: (up(), Counter)) == (11, Counter)
    assert Counter.count == 10


def check_classes_made_there_can_go_to_others() -> None:
    """A second worker, which has never heard of the class, gets it from us; it stays one class everywhere."""

    def make() -> Any:
        class Local:
            def double(self) -> int:
                return 2 * self.x

        local = Local()
        local.x = 21
        return local

    instance = there.call(make)
    with Elsewhere(there.packer) as another:
        assert another.call(lambda i: i.double(), instance) == 42
        assert another.call(lambda: instance.double()) == 42
        assert type(another.call(lambda i: i, instance)) is type(instance)
    assert there.call(lambda a, b: type(a) is type(b), instance, there.call(lambda i: i, instance))


def check_exceptions() -> None:
    """The script's own exceptions are raised as themselves, with their attributes."""

    def fail() -> None:
        raise Failure("there", code=7)

    try:
        there.call(fail)
    except Failure as error:
        assert (error.args, error.place, error.code) == (("there: 7",), "there", 7)
    else:
        raise AssertionError("nothing was raised")


def check_cycles() -> None:
    """Instances and classes that refer to themselves."""
    tree = there.call(Tree.grown)
    assert type(tree) is Tree
    assert tree.children[0].parent is tree
    assert there.call(lambda t: t.children[0].parent is t, tree)


def check_one_class_for_all_calls() -> None:
    """Calls at different times, of different functions, see one and the same class there."""
    there.call(lambda: keep.append(Point))
    assert there.call(remember, Point(1)) is True
    assert there.call(lambda p: remember(p), Point(2)) is True


keep: list[Any] = []
seen: dict[str, Any] = {}


def remember(point: Any) -> bool:
    return type(point) is sys.modules["builtins"].__dict__.setdefault("first_point_class", type(point))


def check_types_and_constants() -> None:
    """Classes themselves, their unions, and the odd constants."""
    for value in (Point, Color, int, None, ..., NotImplemented, type(None), int | Point, list[Point], Box[int], T):
        copy = there.call(lambda x: x, value)
        assert copy is value or copy == value, value


with Elsewhere() as there:
    run_checks(globals())
