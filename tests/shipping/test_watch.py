"""Watches: each thing that a function or class refers to, changed; what cannot be watched; nothing is kept alive."""

from __future__ import annotations

import abc
import array
import collections
import enum
import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import attrs
import pytest

from hyperflow.shipping.watch import Watch

n = 1


class Base:
    """Of the script."""

    factor = 2

    def inherited(self) -> int:
        return self.factor


class Color(enum.Enum):
    """Its members have attributes."""

    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    """Its members are numbers."""

    LOW = 1


class Shape(abc.ABC):
    """Can have virtual subclasses."""

    @abc.abstractmethod
    def area(self) -> float: ...


class Square(Base):
    """Has a bit of everything."""

    side: float = 1.0
    tags = ("a", 1)

    @property
    def area(self) -> float:
        return self.side * n

    @functools.cached_property
    def costly(self) -> float:
        return self.side

    @classmethod
    def unit(cls) -> Square:
        return cls()

    @staticmethod
    def name() -> str:
        return "square"

    def method(self) -> int:
        return n


def of_script(*things: Any) -> None:
    """Let them look like things of the script: nobody else can import them."""
    for thing in things:
        thing.__module__ = "__main__"


@attrs.define
class Things:
    """What one function refers to, made anew for each test."""

    fn: Any
    inner: Any
    cls: Any
    base: Any
    cached: Any
    script: dict[str, Any]


@pytest.fixture
def things(monkeypatch: pytest.MonkeyPatch) -> Things:
    """Give a script: a module `__main__` of our own."""
    source = """
import enum, functools
number = 1
class Base:
    factor = 2
class Color(enum.Enum):
    RED = 1
class Thing(Base):
    side = 1.0
    def method(self): return number
    @property
    def area(self): return self.side
    @classmethod
    def unit(cls): return cls()
    @staticmethod
    def name(): return "thing"
    @functools.cached_property
    def costly(self): return 1
def inner(x=1, *, k=2): return x + k + number
@functools.lru_cache
def cached(x): return inner(x)
def wrap(f):
    @functools.wraps(f)
    def wrapper(*args): return f(*args)
    return wrapper
@wrap
def decorated(x): return x
def outer():
    cell = 5
    def fn(x): return inner(x), Thing, Color, cached, decorated, cell, missing
    def rebind(value):
        nonlocal cell
        cell = value
    return fn, rebind
fn, rebind = outer()
"""
    module = types.ModuleType("script_of_watch")
    monkeypatch.setitem(__import__("sys").modules, "script_of_watch", module)
    module.__dict__["__name__"] = "__main__"
    exec(source, module.__dict__)
    monkeypatch.setitem(__import__("sys").modules, "__main__", module)
    space = module.__dict__
    return Things(space["fn"], space["inner"], space["Thing"], space["Base"], space["cached"], space)


def other() -> int:
    """Take another function's place."""
    return 7


CHANGES: dict[str, Callable[[Things], object]] = {
    "global": lambda it: it.script.update(number=2),
    "new global": lambda it: it.script.update(missing=None),
    "deleted global": lambda it: it.script.pop("number"),
    "cell": lambda it: it.script["rebind"](6),
    "inner function": lambda it: it.script.update(inner=other),
    "code": lambda it: setattr(it.inner, "__code__", other.__code__),
    "own code": lambda it: setattr(it.fn, "__code__", it.fn.__code__.replace(co_name="another")),
    "defaults": lambda it: setattr(it.inner, "__defaults__", (9,)),
    "no defaults": lambda it: setattr(it.inner, "__defaults__", None),
    "keyword defaults": lambda it: it.inner.__kwdefaults__.update(k=9),
    "function attribute": lambda it: setattr(it.inner, "mode", 1),
    "own attribute": lambda it: setattr(it.fn, "mode", 1),
    "class attribute": lambda it: setattr(it.cls, "side", 2.0),
    "new class attribute": lambda it: setattr(it.cls, "fresh", 2.0),
    "deleted class attribute": lambda it: delattr(it.cls, "side"),
    "one class attribute for another": lambda it: (delattr(it.cls, "side"), setattr(it.cls, "edge", 1.0)),
    "attribute of a base": lambda it: setattr(it.base, "factor", 3),
    "bases": lambda it: setattr(it.cls, "__bases__", (type("B", (it.base,), {}),)),
    "method": lambda it: setattr(it.cls, "method", lambda self: 0),
    "defaults of a method": lambda it: setattr(it.cls.method, "__defaults__", (3,)),
    "property": lambda it: setattr(it.cls, "area", property(lambda self: 0)),
    "classmethod": lambda it: setattr(it.cls, "unit", classmethod(lambda cls: 0)),
    "staticmethod": lambda it: setattr(it.cls, "name", staticmethod(lambda: 0)),
    "cached_property": lambda it: setattr(it.cls, "costly", functools.cached_property(lambda self: 0)),
    "code of a classmethod": lambda it: setattr(it.cls.unit.__func__, "__code__", (lambda cls: 0).__code__),
    "enum member": lambda it: setattr(it.script["Color"].RED, "weight", 3),
    "under a cache": lambda it: setattr(it.cached.__wrapped__, "__code__", other.__code__),
    "attribute of a cached function": lambda it: setattr(it.cached, "mode", 3),
    "under a decorator": lambda it: setattr(it.script["decorated"].__wrapped__, "__defaults__", (1,)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(things: Things, change: str) -> None:
    """Whatever it is; and without it nothing is."""
    watch = Watch(things.fn)
    assert not watch.mutable
    assert watch.unchanged()
    CHANGES[change](things)
    assert not watch.unchanged()
    assert Watch(things.fn).unchanged()


def test_a_virtual_subclass_is_seen(things: Things) -> None:
    """`register` changes what `isinstance` says."""
    of_script(Shape)
    watch = Watch(Shape)
    assert watch.unchanged()
    Shape.register(int)
    assert not watch.unchanged()


class Point(NamedTuple):
    """Of the script."""

    x: int = 1


class Number(int):
    """Has attributes, unlike an int."""


MUTABLE: dict[str, Any] = {
    "list": [1],
    "dict": {},
    "set": {1},
    "bytearray": bytearray(2),
    "array": array.array("d", [1]),
    "object": Base(),
    "tuple with a list": (1, [2]),
    "partial": functools.partial(int, "1"),
    "method of a list": [1].append,
    "method of an object": Base().inherited,
    "subclass of int": Number(3),
    "deque": collections.deque([1]),
    "member of an enum of the script": Color.RED,
    "named tuple of the script": Point(),
}


@pytest.mark.parametrize("kind", MUTABLE)
def test_what_can_change_without_being_bound_anew(kind: str) -> None:
    """Only pickling it again shows a change."""
    of_script(Base, Color, Number, Point)
    thing = MUTABLE[kind]

    def fn() -> Any:
        return thing

    assert Watch(fn).mutable


def test_what_cannot_change() -> None:
    """Is not pickled again: constants, C functions, what is imported by name, most classes of the script."""
    numpy = pytest.importorskip("numpy")

    @attrs.frozen
    class Frozen:
        x: int = 1

    of_script(Square, Base)
    constants = (1, "a", b"b", None, 1.5, (1, ("x", frozenset({2}))), ..., range(3), len, object.__init__, int, gc,
                 numpy.float64(1), numpy.int32(2), numpy.bool_(True), attrs.field, Level.LOW)  # fmt: skip
    for constant in constants:

        def fn(thing: Any = constant) -> Any:
            return thing

        assert not Watch(fn).mutable, constant
    for cls in (Square, Frozen, Point, Level, Color, Shape):
        assert not Watch(cls).mutable, cls


def test_a_watch_keeps_nothing_alive() -> None:
    """Neither a function that refers to itself, nor a class, nor what they hold, whichever way they refer to it."""

    class Holder:
        """Can be referred to weakly."""

    def make() -> tuple[Any, list[weakref.ref[Any]]]:
        class Local:
            def me(self) -> Any:
                return Local, fn

            @property
            def it(self) -> Any:
                return fn

            both = staticmethod(lambda: Local)

        def fn(x: int) -> Any:
            return fn(x - 1), Local, holder

        cached = functools.lru_cache(fn)
        fn.cached = cached  # type: ignore[attr-defined]
        holder = Holder()
        return [Watch(fn), Watch(Local), Watch(cached)], [weakref.ref(each) for each in (fn, Local, cached, holder)]

    watches, refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 4
    assert not watches[0].unchanged()


def test_a_namespace_of_its_own_is_not_kept() -> None:
    """What `exec` filled goes with its function."""

    class Holder(dict[str, Any]):
        """Can be referred to weakly."""

    space: dict[str, Any] = {"__name__": "__main__", "big": Holder()}
    exec("def fn(): return big, fn", space)
    watch, ref = Watch(space["fn"]), weakref.ref(space["big"])
    assert watch.mutable
    del space
    gc.collect()
    assert ref() is None
