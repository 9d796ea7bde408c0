"""Packed calls: sent once, never stale, and refused with the name of what cannot travel."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import dill
import pytest

import hyperflow as hf
from hyperflow.errors import SerializationError
from hyperflow.shipping import definitions as definitions_module
from hyperflow.shipping import diagnose, pickler
from hyperflow.shipping import packer as packer_module
from hyperflow.shipping.definitions import Limit
from hyperflow.shipping.packer import Packer, take_apart
from tests.shipping.elsewhere import Elsewhere


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    """Give a worker in another process."""
    with Elsewhere() as made:
        yield made


def double(x: int) -> int:
    """Have a name in a module."""
    return 2 * x


limit = 1


def above(x: int) -> bool:
    """Refer to a global."""
    return x > limit


@attrs.frozen
class Line:
    """Can be called, and has a method."""

    slope: int

    def __call__(self, x: int) -> int:
        return self.slope * x

    def at(self, x: int) -> int:
        return self(x)


# ---- once ----------------------------------------------------------------------------------------------------------


def test_a_function_is_sent_once(there: Elsewhere) -> None:
    """However often it is called, and whichever way: bound methods and partials share their function's definition."""
    before = len(there.sent)
    n = 3

    def times(x: int) -> int:
        return x * n

    assert [there.call(times, x) for x in range(5)] == [0, 3, 6, 9, 12]
    assert there.call(functools.partial(times, 4)) == 12
    assert len(there.sent) == before + 1
    assert [there.call(Line(n).at, 2) for n in range(3)] == [0, 2, 4]
    assert [there.call(Line(n), 2) for n in range(3)] == [0, 2, 4]
    assert len(there.sent) == before + 3


@pytest.fixture
def pickled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect what is pickled by value, which is the slow way."""
    found: list[Any] = []
    real = pickler.by_value
    monkeypatch.setattr(pickler, "by_value", lambda obj, *args: found.append(obj) or real(obj, *args))
    return found


@attrs.frozen
class OfScript:
    """Has no name in another process."""

    x: int


OfScript.__module__ = "__main__"


@pytest.mark.parametrize("argument", ["__main__", {"text": "in __main__"}, b"__main__"])
def test_one_argument_that_looks_like_the_script_s(pickled: list[Any], argument: Any) -> None:
    """One call with the text `__main__` in it is looked at closely; the calls after it are as fast as before."""
    packer = Packer()
    packer.pack(double, (argument,), {})
    for n in range(5):
        packer.pack(double, (n,), {})

    assert pickled == [double, (argument,)]


def test_arguments_of_the_script_go_by_value_at_once(pickled: list[Any]) -> None:
    """After one such call the fast way is not tried in vain; the first call without any finds back to it."""
    packer = Packer()
    contents: list[tuple[Any, ...]] = [(OfScript(1),), (OfScript(2), lambda: 0), ("__main__",), (3,), (4,)]
    needs = [[need.number for need in packer.pack(double, content, {}).needs] for content in contents]

    cls = needs[0][0]
    assert needs == [[cls], [cls], [], [], []]
    assert [it for it in pickled if not isinstance(it, type)] == [double, *contents[:3]]
    assert pickled.count(OfScript) == 1


def test_a_function_is_pickled_once(pickled: list[Any]) -> None:
    """What captured only what cannot change is recognised by identity, in later turns of the event loop too."""
    packer = Packer()
    n, s = 3, ("a", 1.5, frozenset({1}))

    def fn(x: int) -> Any:
        return x * n, s, double(x)

    for _ in range(3):
        packer.pack(fn, (1,), {})

    assert pickled == [fn]


def test_equal_functions_are_one_definition() -> None:
    """A lambda made anew in a loop is sent once, as long as it is the same in the end."""
    packer = Packer()

    def make(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    numbers = [packer.pack(make(n), (1,), {}).function.number for n in (1, 1, 2, 1)]

    assert numbers == [1, 1, 2, 1]


def test_a_class_is_sent_once_and_before_it_is_needed(there: Elsewhere) -> None:
    """Arguments name their classes; each goes ahead of the first call that needs it."""

    @attrs.frozen
    class Local:
        x: int

    before = len(there.sent)
    read = there.call(lambda a, b: a.x + b.x, Local(1), Local(2))
    assert read == 3
    assert len(there.sent) == before + 2
    assert there.call(double, 1) == 2
    assert there.call(lambda a: a, Local(5)) == Local(5)

    assert there.packer.pack(double, (Local(1),), {}).needs[0].number in there.sent


def test_what_a_callable_stands_for() -> None:
    """Partials, bound methods and callables are a plain function and arguments."""
    line = Line(3)

    assert take_apart(functools.partial(double, x=1), (), {}) == (double, (), {"x": 1})
    assert take_apart(functools.partial(functools.partial(max, 1), 2, key=abs), (3,), {"key": len}) == (
        max, (1, 2, 3), {"key": len},
    )  # fmt: skip
    assert take_apart(line.at, (1,), {}) == (Line.at, (line, 1), {})
    assert take_apart(line, (1,), {}) == (Line.__call__, (line, 1), {})
    assert take_apart(Line, (1,), {}) == (Line, (1,), {})


def test_unused_definitions_are_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many; those of a call under way or of something alive stay. What went can be sent again."""
    monkeypatch.setattr(definitions_module, "KEPT", Limit(20, 1 << 22))
    packer = Packer()

    @attrs.frozen
    class Local:
        x: int

    functions = [eval(f"lambda x: x + {n}") for n in range(30)]
    packed = [packer.pack(fn, (Local(1),), {}) for fn in functions]
    packer.hold(packed[3])
    assert packer.evict() == []
    kept = functions[4]
    del functions
    gone = packer.evict()

    assert set(gone) < {call.function.number for n, call in enumerate(packed) if n not in (3, 4)}
    assert len(gone) == 18
    # Half of 20, that of the call, that of the function, the class and the one that attrs made for it.
    assert len(packer.definitions.known) == 14
    assert packer.evict() == []
    again = packer.pack(eval("lambda x: x + 0"), (1,), {}).function
    assert again.number not in gone
    assert packer.pack(kept, (1,), {}).function is packed[4].function
    packer.release(packed[3])
    assert packer.evict() == []


def test_many_living_functions_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest definitions go, although their functions are there; a call of such a function defines it again."""
    monkeypatch.setattr(definitions_module, "KEPT_OF_LIVING", Limit(20, 1 << 22))
    packer = Packer()
    functions = [eval(f"lambda x: x + {n}") for n in range(30)]
    first = [packer.pack(fn, (1,), {}).function for fn in functions]
    assert len(packer.evict()) == 20
    assert len(packer._functions) == len(packer.definitions.known) == 10
    again = packer.pack(functions[0], (1,), {}).function
    assert again.number != first[0].number
    assert packer.pack(functions[29], (1,), {}).function is first[29]
    del functions[:]
    assert packer.evict() == []
    assert not packer._functions


def test_definitions_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large captured text that is new in each step does not stay, nor do the blocks of arrays and stored values."""
    numpy = pytest.importorskip("numpy")
    packer = Packer()
    for n in range(50):
        text, array, stored = str(n) * 1_000_000, numpy.full(100_000, n), hf.put(numpy.full(100_000, n))
        packed = packer.pack(lambda text=text, array=array, stored=stored: (text, array, stored), (array,), {})
        packer.hold(packed)
        packer.release(packed)
        packer.evict()
    kept = packer.definitions.known.values()
    assert sum(len(definition.data) for definition in kept) < 10_000_000
    assert sum(buffer.block.size for buffer in packer.buffers.known.values()) < 10_000_000
    packer.buffers.close()


def test_advice_about_what_is_pickled_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes once, and says what to write; what changes each time is not meant."""
    monkeypatch.setattr(packer_module, "MUCH_PICKLED", 100_000)
    packer = Packer()
    numbers = list(range(10_000))

    def fn() -> int:
        return len(numbers)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(10):
            numbers[0] = n
            packer.pack(fn, (), {})
    with pytest.warns(RuntimeWarning, match=r"fn captures 0\.0 MB .* data = hyperflow\.put\(data\)") as caught:
        for _ in range(20):
            packer.pack(fn, (), {})
    assert len(caught) == 1


def test_a_function_that_is_gone_is_not_held() -> None:
    """The packer's account does not keep functions alive, nor mixes up two at one address."""
    packer = Packer()
    numbers = set()
    for n in range(200):
        fn = eval(f"lambda: {n}")
        numbers.add(packer.pack(fn, (), {}).function.number)
        del fn
        gc.collect(0)
        packer.evict()

    assert len(numbers) == 200
    assert not packer._functions


# ---- never stale ---------------------------------------------------------------------------------------------------


def test_a_captured_variable_that_is_bound_anew(there: Elsewhere) -> None:
    """Is noticed at the next call, also through another function."""
    n = 1

    def inner() -> int:
        return n

    def outer() -> int:
        return 10 * inner()

    assert (there.call(inner), there.call(outer)) == (1, 10)
    n = 2
    assert (there.call(inner), there.call(outer)) == (2, 20)


def test_a_global_that_is_bound_anew(there: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, for a function that travels by value."""
    code = above.__code__
    script: dict[str, Any] = {"__name__": "__main__", "limit": 1}
    fn = type(above)(code, script)

    assert there.call(fn, 2) is True
    script["limit"] = 5
    assert there.call(fn, 2) is False
    del script["limit"]
    with pytest.raises(NameError, match="limit"):
        there.call(fn, 2)


@pytest.mark.parametrize("through", ["cell", "default", "inner", "object", "tuple"])
def test_a_captured_list_that_changes(there: Elsewhere, through: str) -> None:
    """Is noticed; the definition goes again only if the bytes differ."""
    values = [1]
    holder = (1, values)
    thing = Line(values)  # type: ignore[arg-type]

    def inner() -> int:
        return sum(values)

    functions: dict[str, Callable[[], int]] = {
        "cell": lambda: sum(values),
        "default": lambda values=values: sum(values),  # type: ignore[misc]
        "inner": lambda: 1 * inner(),
        "object": lambda: sum(thing.slope),  # type: ignore[arg-type]
        "tuple": lambda: sum(holder[1]),
    }
    fn = functions[through]
    assert there.call(fn) == 1
    sent = len(there.sent)
    assert there.call(fn) == 1
    assert len(there.sent) == sent
    values.append(5)
    assert there.call(fn) == 6
    values.pop()
    assert there.call(fn) == 1
    assert len(there.sent) == sent + 1


def test_a_small_capture_is_taken_anew_for_each_call() -> None:
    """What a captured list holds when a call is made is what the call gets, within one turn of the loop, too."""
    packer = Packer()
    values = [1]

    def fn() -> int:
        return sum(values)

    first = packer.pack(fn, (), {}).function
    assert packer.pack(fn, (), {}).function is first
    values.append(2)
    assert packer.pack(fn, (), {}).function is not first


@pytest.mark.parametrize("slow", [False, True])
def test_arguments_are_taken_as_they_are_at_the_call(slow: bool) -> None:
    """An array that is used again for the next call changes nothing for the one before, which may still wait."""
    numpy = pytest.importorskip("numpy")
    packer = Packer()
    array = numpy.zeros(1000)
    extra = (lambda: None,) if slow else ()
    packed = [packer.pack(double, (array, *extra), {})]
    array += 1
    packed.append(packer.pack(double, (array, *extra), {}))

    sums = [pickler.loads(packed.payload, buffers=packed.buffers)[0].sum() for packed in packed]
    assert sums == [0, 1000]
    assert all(packed.buffers and len(packed.payload) < 2000 for packed in packed)


def test_arrays_arrive_writable(there: Elsewhere) -> None:
    """What a function gets is its own."""
    numpy = pytest.importorskip("numpy")

    def add_one(array: Any) -> Any:
        array += 1
        return array

    array = numpy.arange(5000.0)
    back = there.call(add_one, array)
    back -= 1
    assert (back == array).all()


# ---- refused -------------------------------------------------------------------------------------------------------


@attrs.define
class Holder:
    """Keeps something in an attribute."""

    thing: Any


def things() -> dict[str, Any]:
    """Make one of each kind that belongs to this process."""
    return {
        "a lock": threading.Lock(),
        "a socket": socket.socket(),
        "an open file": open(os.devnull),
        "a running generator": (n for n in range(3)),
    }


@pytest.mark.parametrize("kind", ["a lock", "a socket", "an open file", "a running generator"])
def test_what_belongs_to_this_process_is_refused(kind: str) -> None:
    """Captured, global, default, argument, in attributes and containers: the error says where it is and what."""
    made = things()
    thing = made[kind]
    holder = Holder({"deep": [1, thing]})
    packer = Packer()

    def captures() -> Any:
        return thing

    def through_another() -> Any:
        return captures()

    def by_default(x: Any = thing) -> Any:
        return x

    def in_attributes() -> Any:
        return holder.thing

    script: dict[str, Any] = {"__name__": "__main__", "limit": thing}
    by_global = type(above)(above.__code__, script)
    wanted = [
        (captures, (), f"function .*captures cannot be sent.*: variable 'thing' captured by .*captures = .*{kind}"),
        (through_another, (), rf"variable 'captures' .* variable 'thing' captured by .*{kind}"),
        (by_default, (), rf"default value 0 of .*by_default = .*{kind}"),
        (in_attributes, (), rf"variable 'holder' captured by .*in_attributes\.thing\['deep'\]\[1\] = .*{kind}"),
        (by_global, (1,), rf"global variable 'limit' used by above = .*{kind}"),
        (double, (thing,), rf"an argument of double cannot be sent.*: \[0\] = .*{kind}"),
        (double, (1, {"k": holder}), rf"an argument of double .*\[1\]\['k'\]\.thing\['deep'\]\[1\] = .*{kind}"),
        (functools.partial(double, thing), (), rf"an argument of double .*{kind}"),
        (Holder(thing).__eq__, (1,), rf"an argument of .*__eq__ .*\[0\]\.thing = .*{kind}"),
    ]
    for fn, args, words in wanted:
        with pytest.raises(SerializationError, match=words):
            packer.pack(fn, args, {})
    for other in made.values():
        getattr(other, "close", lambda: None)()


async def test_asyncio_things_are_refused() -> None:
    """A task, a future, a coroutine."""

    async def sleeps() -> None:
        await asyncio.Event().wait()

    coroutine = sleeps()
    task = asyncio.create_task(sleeps())
    for thing in (task, asyncio.get_running_loop().create_future(), coroutine):
        with pytest.raises(SerializationError, match=r"an argument of double .*belongs to this process"):
            Packer().pack(double, (thing,), {})
    coroutine.close()
    task.cancel()


class Stubborn:
    """Cannot be pickled, and says why."""

    def __reduce__(self) -> Any:
        raise ValueError("not today")


def test_an_argument_whose_reduce_raises() -> None:
    """Its words are in the error, its error is the cause, and its name is there."""
    with pytest.raises(SerializationError, match=r"double .*\[0\]\['s'\] = .*ValueError: not today") as caught:
        Packer().pack(double, ({"s": Stubborn()},), {})
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_is_nested_too_deeply() -> None:
    """Is refused, and does not take the program down."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="an argument of double"):
        Packer().pack(double, (deep,), {})
    while deep:
        deep = deep.pop()


def test_a_result_that_cannot_be_sent(there: Elsewhere) -> None:
    """Is the function's fault, and named; the worker goes on."""
    with pytest.raises(SerializationError, match=r"the result cannot be sent.*\['lock'\].*a lock"):
        there.call(lambda: {"lock": threading.Lock()})
    assert there.call(double, 2) == 4


def test_what_belongs_to_this_process_is_refused_beside_what_dill_can_do() -> None:
    """Dill is not asked to make a new lock; the error names the lock, not what stands before it."""
    with pytest.raises(SerializationError, match=r"argument of double .*: \[1\] = .*a lock .*belongs to this process"):
        Packer().pack(double, ({"a": 1}.keys(), threading.Lock()), {})
    with pytest.raises(pickler.BelongsToProcess):
        pickler.by_value([{"a": 1}.keys(), threading.Lock()])


class OddReduce:
    """Says the words of a refusal, and means something else."""

    def __reduce__(self) -> Any:
        raise TypeError("it belongs to this process")


def test_words_of_an_error_steer_nothing() -> None:
    """Only the class of an error says that it is a refusal."""
    with pytest.raises(TypeError) as caught:
        pickler.by_value(OddReduce())
    assert not isinstance(caught.value, pickler.BelongsToProcess)


class Exits:
    """Ends the program when somebody pickles it or looks at it."""

    def __reduce__(self) -> Any:
        raise SystemExit("while it is pickled")

    def __repr__(self) -> str:
        raise SystemExit("while it is shown")


def test_a_part_that_wants_to_exit_while_it_is_diagnosed(there: Elsewhere) -> None:
    """Whatever it raises, the error is told, and names it; a worker that has it as a result goes on."""
    error = diagnose.explain("a call", [1, Exits()], ValueError("no"))
    assert "[1] = <Exits>; SystemExit: while it is pickled" in str(error)
    with pytest.raises(
        SerializationError, match=r"the result cannot be sent.*: \[0\] = <Exits>; SystemExit: while it is pickled"
    ):
        there.call(lambda: [Exits()])
    assert there.call(double, 2) == 4


def test_arrays_beside_what_needs_dill(there: Elsewhere) -> None:
    """Dill has them inside, so they do not travel beside the pickle as well."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(5000.0)
    packed = there.packer.pack(double, (array, {"a": 1}.keys()), {})
    assert not packed.buffers
    back, keys = there.call(lambda *args: args, array, {"a": 1}.keys())
    assert (back == array).all()
    assert list(keys) == ["a"]


def test_what_only_dill_can_do(there: Elsewhere) -> None:
    """Dictionary views and the like travel by dill."""
    assert list(there.call(lambda keys: keys, {"a": 1}.keys())) == ["a"]


def test_another_version_of_dill(there: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what needed dill fails: a function, an argument, a result; the error names both versions and the command."""
    keys = {"a": 1}.keys()
    ours = dill.__version__
    monkeypatch.setattr(dill, "__version__", "77.7")

    def captures() -> Any:
        return keys

    for fn, args, what in [(captures, (), "the function"), (double, (keys,), "an argument")]:
        words = rf"{what} could not .*'dict_keys'.* dill is 77.7 where .* and {ours} .*`pip install dill==77.7`"
        with pytest.raises(SerializationError, match=words):
            there.call(fn, *args)
    with pytest.raises(SerializationError, match=rf"dill is {ours} where .* and 77.7 where it is read"):
        there.call({"a": 1}.keys)

    assert there.call(double, 2) == 4
    assert there.call(lambda: [OfScript(1)]) == [OfScript(1)]


def test_no_dill_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so."""
    data = pickler.by_value({"a": 1}.keys())
    monkeypatch.setitem(sys.modules, "dill", None)
    with pytest.raises(SerializationError, match="and missing where it is read"):
        pickler.loads(data)
