"""What functions capture: always as it is when the call is submitted, and in no more memory than what is alive."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperflow as hf
from hyperflow.testing import open_inline_job
from tests.support import local, run_script

STEPS = int(os.environ.get("HYPERFLOW_MEMORY_STEPS", "400"))
"""Steps of each kind in the tests of memory; 10,000 take a quarter of an hour."""

CHANGES = """
import enum, functools
import hyperflow as hf

class Base: factor = 1
class Thing(Base):
    x = 1
    many = [1]
    def method(self): return self.x, self.factor, self.many
class Kind(enum.Enum): A = 1
class Meta(type): pass
class Made(metaclass=Meta): pass
def f(a=1, *, k=1): return a, k, getattr(f, "note", None)
@functools.cache
def cached(x): return number * x
@functools.lru_cache(maxsize=None)
def over(x): return cached(x) + number
def plain(x): return x
def decorate(fn):
    @functools.wraps(fn)
    def wrapper(*args): return fn(*args)
    return wrapper
@decorate
@decorate
def decorated(x=0): return number
class Callable:
    def __call__(self): return number, self.z
    z = 1
part = functools.partial(decorated, 1)
number = 1
settings = {"a": [1]}
e = hf.remote_eval

import attrs, dataclasses, typing
def double(x): return 2 * x * number
@dataclasses.dataclass
class Data:
    x: int = 1
    y: int = dataclasses.field(default_factory=lambda: number)
@attrs.define
class Attrs:
    x: int = 1
    y: int = attrs.field(default=1, converter=lambda v: v * number)
    z: int = attrs.Factory(lambda self: self.x * number, takes_self=True)
class Tuple(typing.NamedTuple):
    x: int = 1
class Other: base = "other"
class Late(Base): pass
class Level(enum.IntEnum): LOW = 1
class Lists(enum.Enum): A = [1]
shadow = max
max = min
doomed = 5
def missing():
    try: return doomed
    except NameError: return "gone"
def biggest(): return max(1, 2)
def tools():
    data, made = Data(), Attrs()
    enums = Lists.A.value, vars(Level.LOW).get("w")
    return data.x, data.y, made.x, made.y, made.z, Tuple().x, enums, hasattr(Late, "base")

@hf.job
async def main():
    thing, called = Thing(), Callable()
    def look():
        kind, meta = Kind.A.__dict__.get("w"), type(Made).__dict__.get("m")
        return Thing.x, Base.factor, Thing.many, thing.x, kind, meta, Kind.A.value
    def all_of_it():
        rest = tools(), missing(), biggest()
        return look(), thing.method(), f(), cached(2), over(3), decorated(), called(), part(), settings["a"], rest
    steps = {
        "class attribute": lambda: setattr(Thing, "x", 2),
        "attribute of a base": lambda: setattr(Base, "factor", 3),
        "list of a class": lambda: Thing.many.append(4),
        "member": lambda: setattr(Kind.A, "w", 5),
        "metaclass": lambda: setattr(Meta, "m", 6),
        "attribute": lambda: setattr(f, "note", 7),
        "defaults": lambda: setattr(f, "__defaults__", (8,)),
        "keyword defaults": lambda: f.__kwdefaults__.update(k=9),
        "code": lambda: setattr(plain, "__code__", (lambda x: -x).__code__),
        "global": lambda: globals().update(number=10),
        "callable": lambda: setattr(Callable, "z", 11),
        "nested": lambda: settings["a"].append(12),
        "method": lambda: setattr(Thing, "method", lambda self: "new"),
        "deleted": lambda: (delattr(Thing, "x"), setattr(Base, "x", 13)),
        "instance": lambda: setattr(thing, "x", 14),
        "defaults of a dataclass": lambda: setattr(Data.__init__, "__defaults__", (15, Data.__init__.__defaults__[1])),
        "defaults of a named tuple": lambda: setattr(Tuple.__new__, "__defaults__", (16,)),
        "global of factories": lambda: globals().update(number=17),
        "value of a member": lambda: Lists.A.value.append(18),
        "member that is a number": lambda: setattr(Level.LOW, "w", 19),
        "bases": lambda: setattr(Late, "__bases__", (Other,)),
        "deleted global": lambda: globals().pop("doomed"),
        "a builtin again": lambda: globals().pop("max"),
    }
    def now():
        here = [all_of_it(), called(), plain(1), f(), cached(2), part(), Thing.method(thing), decorated(1)]
        return here
    async def there():
        return [await e(all_of_it), await e(called), await e(plain, 1), await e(f), await e(cached, 2), await e(part),
                await e(thing.method), await e(decorated, 1)]
    for name, step in steps.items():
        step()
        for wrapped in (cached, over):
            wrapped.cache_clear()
        seen, expected = await there(), now()
        assert seen == expected, (name, seen, expected)
        assert await there() == expected, name
    print(len(steps), "changes seen")

hf.run_job_local(main(), cpus=1)
"""


def test_a_worker_sees_every_change(tmp_path: Path) -> None:
    """Of classes, bases, members of enums, functions and their parts, under decorators and caches, of a script."""
    assert run_script(tmp_path, CHANGES) == "23 changes seen\n"


class Case:
    """Its attribute is what an evaluation returns."""

    n = 0


async def test_changes_within_one_turn_of_the_loop() -> None:
    """A hundred calls that are submitted without a pause see a hundred states, whatever holds the state."""
    Case.__module__ = "__main__"  # else it travels by name
    array, small, numbers, count = np.zeros(100_000), np.zeros(10), [0] * 30_000, 0
    case = Case()

    def change(n: int) -> None:
        nonlocal count
        array[0] = small[0] = numbers[0] = Case.n = count = n

    functions: list[Callable[[], Any]] = [
        lambda: int(array[0]), lambda: int(small[0]), lambda: numbers[0], lambda: Case.n, lambda: count,
        lambda: case.n, lambda: type(case).n,
    ]  # fmt: skip
    async with local():
        for fn in functions:

            def submit(n: int, fn: Callable[[], Any] = fn) -> hf.Job[Any]:
                change(n)
                return hf.remote_eval(fn)

            assert await hf.map_concurrently(submit, range(100)) == list(range(100))

        def passed(n: int) -> hf.Job[int]:
            change(n)
            return hf.remote_eval(lambda it: it.n, case)

        assert await hf.map_concurrently(passed, range(100)) == list(range(100))


async def test_a_call_starts_with_what_was_captured() -> None:
    """What one call changes in a list, an array or a generator of numbers, the next does not see, on no worker."""
    numbers: list[int] = []
    count = 0
    array = np.zeros(50_000)
    rng = np.random.default_rng(1)
    first = np.random.default_rng(1).random()

    def grow() -> tuple[int, float, float]:
        numbers.append(1)
        array[0] += 1
        return len(numbers), float(array[0]), rng.random()

    def up() -> int:
        nonlocal count
        count += 1
        return count

    for environment in (local(), open_inline_job(cpus=2)):
        async with environment:
            assert await hf.replicate_concurrently(20, hf.remote_eval(grow)) == [(1, 1.0, first)] * 20
            assert await hf.replicate_concurrently(20, hf.remote_eval(up)) == [1] * 20
    assert not numbers
    assert count == 0


# ---- put -----------------------------------------------------------------------------------------------------------


async def test_what_is_put_arrives_as_itself() -> None:
    """As an argument, inside one, captured, in remote_map; here and inline; arrays cannot be written to."""
    array = np.arange(100_000.0)
    handle: Any = hf.put(array)
    table: dict[str, int] = hf.put({"a": 1})
    assert handle.value.sum() == array.sum()
    assert repr(handle).startswith("<hyperflow.put(ndarray), 800,")

    def check(it: Any) -> tuple[str, float, bool]:
        return type(it).__name__, float(it[1]), it.flags.writeable

    for environment in (local(), open_inline_job(cpus=1)):
        async with environment:
            assert (await hf.remote_eval(check, handle))[:2] == ("ndarray", 1.0)
            assert await hf.remote_eval(lambda it: it["x"][0][2], {"x": [handle]}) == 2.0
            assert await hf.remote_eval(lambda: float(handle[3]) + table["a"]) == 4.0
            assert await hf.remote_map(lambda x: float(handle[x]), range(50)) == list(range(50))
    async with local():
        assert (await hf.remote_eval(check, handle))[2] is False


async def test_what_is_put_is_as_it_was() -> None:
    """Later changes of the original are not seen; objects of the script's classes are put, too."""
    numbers = [1, 2]
    handle = hf.put((numbers, Case()))
    numbers.append(3)
    async with local():
        assert await hf.remote_eval(lambda it: it[0], handle) == [1, 2]
        assert type(await hf.remote_eval(lambda it: it[1], handle)) is Case


async def test_what_cannot_be_put() -> None:
    """Is told at once."""
    with pytest.raises(hf.SerializationError, match=r"the list that was put .*\[0\] = .*belongs to this process"):
        hf.put([(n for n in range(3))])


# ---- memory --------------------------------------------------------------------------------------------------------


def private_bytes(pid: int | str) -> int:
    """Return what a process has for itself."""
    words = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(each) for each in re.findall(r"(?:Private_\w+|Swap): +(\d+)", words))


def block_bytes() -> int:
    """Return the size of the blocks of memory that this process holds."""
    files = [os.stat(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_block(fd)]
    return sum(file.st_size for file in files)


def _is_block(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:hyperflow")
    except OSError:  # that of the listing
        return False


def one_step(kind: str, state: np.ndarray[Any, Any], n: int) -> hf.Job[Any]:
    """Change something that an evaluation has; return the evaluation, which returns n."""
    state[0] = n
    if kind == "captured array":
        return hf.remote_eval(lambda: int(state[0]))
    if kind == "argument":
        return hf.remote_eval(lambda it: int(it[0]), state)
    if kind == "new array":
        fresh = state.copy()
        return hf.remote_eval(lambda: int(fresh[0]))
    if kind == "put":
        stored = hf.put(state)
        return hf.remote_eval(lambda: int(stored[0]))
    if kind == "list":
        numbers = [n] * 5000
        return hf.remote_eval(lambda: numbers[0])
    if kind == "class":

        class Local:
            value = n
            more = tuple(range(1000))

            def me(self) -> Any:
                return Local.value

        return hf.remote_eval(lambda it: it.me(), Local())
    text = f"lambda: {n} + 0 * len({'x' * 1000!r})"
    return hf.remote_eval(eval(text))


@pytest.mark.parametrize("kind", ["captured array", "argument", "new array", "put", "list", "class", "lambda"])
async def test_memory_follows_what_is_alive(kind: str) -> None:
    """Steps that each have something new: head, launcher and worker do not grow with their number."""
    state = np.zeros(125_000)  # a megabyte
    async with local(cpus=1):
        worker, launcher = await hf.remote_eval(lambda: (os.getpid(), os.getppid()))
        seen: list[list[int]] = []
        for n in range(STEPS):
            assert await one_step(kind, state, n) == n
            if n in (STEPS // 2, STEPS - 1):
                seen.append([private_bytes("self"), private_bytes(launcher), private_bytes(worker), block_bytes()])
    growth = [after - before for before, after in zip(*seen, strict=True)]
    assert max(growth) < 10_000_000, (growth, seen)
    assert seen[-1][3] < 30_000_000, seen
