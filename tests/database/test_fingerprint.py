"""A memoized function that changed does not go unnoticed; what is no change is none."""

import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow.database.fingerprint import Fingerprint
from hyperflow.database.store import open_database
from hyperflow.program import ProgramInfo
from hyperflow.shipping import pickler
from hyperflow.testing import open_inline_job
from tests.database.conftest import running
from tests.support import run_script

SCRIPT = '''
import enum, functools, math, os
import attrs, numpy
from dataclasses import dataclass

RATE = 0.5
NAMES = {"a", "b", "c"}
LIMITS = {"low": (1, 2), "high": [3, None, 4.5]}
GRID = numpy.arange(5.0)
POINT = numpy.float64(2.5)

class Kind(enum.Enum):
    LEFT = 1
    RIGHT = "r"

class Base:
    scale = 2
    def value(self, x):
        return x * self.scale

class Model(Base):
    def __init__(self, n):
        self.n = n
    @property
    def size(self):
        return self.n + 1
    @staticmethod
    def half(x):
        return x / 2

@attrs.frozen
class Settings:
    order: int = 3

@dataclass
class Window:
    low: float = 1.0

MODEL = Model(7)

def deep(x, power=2, *, shift=1):
    return x ** power + shift

@functools.lru_cache
def cached(x):
    return deep(x) + RATE

def adder(n):
    return lambda x: x + n

add = adder(5)
twice = functools.partial(deep, power=3)

def f(x, start=0):
    """Compute."""
    try:
        y = cached(x) + add(x) + twice(x) + MODEL.value(x) + MODEL.size + Model.half(x)
    except ValueError:
        y = 0
    if x in ("p", "q") or y in {1, 2, 3}:
        return [NAMES, LIMITS, GRID, POINT, Kind.LEFT, Settings(), Window()]
    return [y + start + i for i in range(3)], math.pi, os.sep
'''

SAME = {
    "nothing": ("", ""),
    "a comment": ("    try:", "    # try it\n\n    try:"),
    "a docstring": ('"""Compute."""', '"""Compute it well, and say more about it."""'),
    "no docstring": ('    """Compute."""\n', ""),
    "line breaks": ("+ Model.half(x)\n", "+ Model.half(\n            x,\n        )\n"),
    "another order of definitions": ("RATE = 0.5\n", "OTHER = 1\nRATE = 0.5\n"),
    "what it does not refer to": ("import enum,", "import sys, enum,"),
    "a set in another order": ('{"a", "b", "c"}', '{"c", "b", "a"}'),
}

DIFFERENT = {
    "a constant": ("y = 0", "y = 1"),
    "an operation": ("cached(x) + add", "cached(x) - add"),
    "a name": ("os.sep", "os.curdir"),
    "a condition": ("or y in", "and y in"),
    "a set of constants": ("{1, 2, 3}", "{1, 2, 4}"),
    "what is within try": ("    try:\n        y = cached", "    q = len(str(x))\n    try:\n        y = q + cached"),
    "the exception": ("except ValueError", "except KeyError"),
    "a default": ("start=0", "start=1"),
    "inner code": ("+ start + i", "+ start * i"),
    "a global number": ("RATE = 0.5", "RATE = 0.6"),
    "the type of a number": ("RATE = 0.5", "RATE = 1"),
    "a global set": ('{"a", "b", "c"}', '{"a", "b", "d"}'),
    "within a dict": ("(1, 2)", "(1, 3)"),
    "an array": ("numpy.arange(5.0)", "numpy.arange(5.0) * 2"),
    "the type of an array": ("numpy.arange(5.0)", "numpy.arange(5)"),
    "a numpy number": ("float64(2.5)", "float64(2.6)"),
    "an enum's value": ('LEFT = 1', "LEFT = 2"),
    "another function": ("return x ** power + shift", "return x ** power - shift"),
    "its default": ("power=2", "power=4"),
    "its keyword-only default": ("shift=1", "shift=2"),
    "a cached function": ("deep(x) + RATE", "deep(x) * RATE"),
    "a closure": ("adder(5)", "adder(6)"),
    "a lambda": ("x + n", "x - n"),
    "a partial": ("power=3", "power=5"),
    "an object's attribute": ("Model(7)", "Model(8)"),
    "a class attribute of a base": ("scale = 2", "scale = 3"),
    "a method of a base": ("x * self.scale", "x + self.scale"),
    "a property": ("self.n + 1", "self.n + 2"),
    "a static method": ("return x / 2", "return x / 3"),
    "a default of attrs": ("order: int = 3", "order: int = 4"),
    "a default of a dataclass": ("low: float = 1.0", "low: float = 1.5"),
}  # fmt: skip


def made(source: str, filename: str = "script.py") -> Any:
    """Return the function of a script."""
    module = types.ModuleType("__main__")
    exec(compile(source, filename, "exec"), vars(module))
    return module.f


def changed(change: tuple[str, str]) -> str:
    """Return the script after a change."""
    assert change[0] in SCRIPT
    return SCRIPT.replace(*change)


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_no_change(change: tuple[str, str]) -> None:
    """Comments, formatting, the place of the file: the fingerprint stays."""
    assert Fingerprint.of(made(changed(change), "/elsewhere/other.py")).text == Fingerprint.of(made(SCRIPT)).text


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_a_change(change: tuple[str, str]) -> None:
    """Code and values, through functions, classes, partials, decorators."""
    before = Fingerprint.of(made(SCRIPT))
    assert before.differs(Fingerprint.of(made(changed(change))).text)


def test_other_versions_of_python_tell_nothing() -> None:
    """Each has its own instructions."""
    mine = Fingerprint.of(made(SCRIPT))
    assert not mine.differs(f"3.9 {mine.text.partition(' ')[2][:-1]}0")


def test_the_same_in_each_process() -> None:
    """Whatever the hash seed is."""
    code = (
        "from tests.database import test_fingerprint as t\n"
        "print(t.Fingerprint.of(t.made(t.SCRIPT)).text)"
    )  # fmt: skip
    texts = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2],
                       capture_output=True, text=True, check=True).stdout.strip()
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert texts == {Fingerprint.of(made(SCRIPT)).text}


def test_the_same_where_it_was_sent_to() -> None:
    """A job on another node has the function from a pickle."""
    fn = made(SCRIPT)
    assert Fingerprint.of(pickler.loads(pickler.by_value(fn))).text == Fingerprint.of(fn).text


class Endless:
    """An object that contains itself, and whose methods fail."""

    def __init__(self) -> None:
        self.me = self
        self.deep: list[Any] = []
        for _ in range(10_000):
            self.deep = [self.deep]

    def __eq__(self, other: object) -> bool:
        raise SystemExit

    def __hash__(self) -> int:
        raise SystemExit

    def __getattr__(self, name: str) -> Any:
        raise SystemExit

    def __repr__(self) -> str:
        raise SystemExit


def test_any_object_can_be_captured() -> None:
    """Objects that contain themselves, or fail, end in a fingerprint all the same."""
    captured = Endless()

    def f(x: int) -> Any:
        return captured, f, x

    assert Fingerprint.of(f).text == Fingerprint.of(f).text


# ---- what memoize does about it ------------------------------------------------------------------------------------


def square(x: int, power: int, on_change: Any = "warn", version: int = 1) -> hf.Job[int]:
    """Call a memoized function that captured a value."""

    @hf.memoize("square", version=version, on_change=on_change)
    def square(x: int) -> hf.Job[int]:
        return hf.pure(x**power)

    return square(x)


@contextmanager
def told() -> Iterator[list[warnings.WarningMessage]]:
    """Collect the warnings that come."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


async def test_on_change(program: ProgramInfo) -> None:
    """The default warns and returns what is recorded; "recompute" computes and records; "ignore" does neither."""
    await all_answers(running(program))
    await all_answers(open_inline_job())


async def test_on_change_on_a_server(program: ProgramInfo, server_url: str) -> None:
    """PostgreSQL keeps the fingerprints, too."""
    await all_answers(running(attrs.evolve(program, database=server_url)))


async def all_answers(scope: AbstractAsyncContextManager[Any]) -> None:
    """Change the function under each of the three."""
    async with scope:
        with told() as caught:
            assert await square(3, 2) == 9
            assert await square(3, 2) == 9
            assert await square(3, 3, "ignore") == 9
        assert caught == []
        with pytest.warns(
            hf.FunctionChanged, match=r"square has changed since .*version=2.*\"recompute\".*\"ignore\""
        ) as it:
            assert await square(3, 3) == 9
        assert it[0].filename == __file__
        with told() as caught:
            assert await square(4, 2) == 16
            assert await square(3, 3, "recompute") == 27
            assert await square(3, 3, "recompute") == 27
            assert await square(3, 3) == 27
            assert await square(3, 2, version=2) == 9
        assert caught == []
        with pytest.warns(hf.FunctionChanged):
            assert await square(3, 2) == 27


async def test_once_per_function_and_run(program: ProgramInfo) -> None:
    """A thousand hits give one warning; the next run gives one again, also after a new start of the program."""
    async with running(program):
        assert [await square(n, 2) for n in range(3)] == [0, 1, 4]

    @hf.memoize("square")
    def other(x: int) -> hf.Job[int]:
        return hf.pure(x**3)

    for _ in range(2):
        async with running(program):
            with told() as caught:
                assert [await other(n) for n in range(3)] == [0, 1, 4]
                assert await other(5) == 125
            assert [one.category for one in caught] == [hf.FunctionChanged]


RATE = 1


async def test_a_global_that_is_bound_anew(program: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the program runs, as in a notebook."""

    @hf.memoize("rated", on_change="recompute")
    def rated(x: int) -> hf.Job[int]:
        return hf.pure(x * RATE)

    async with running(program):
        assert await rated(2) == 2
        monkeypatch.setattr(sys.modules[__name__], "RATE", 5)
        assert await rated(2) == 10
        monkeypatch.undo()
        assert await rated(2) == 2


async def test_results_without_a_fingerprint(program: ProgramInfo) -> None:
    """What an older hyperflow has recorded, or `insert`, is nobody's other code."""
    async with running(program) as store:
        await store.insert("memoize:square:1", '{"x":3}', "7")
        with told() as caught:
            assert await square(3, 2) == 7
            assert await square(3, 2, "recompute") == 7
        assert caught == []
        m = hf.KeyValMap[int, int]("squares")
        await m.insert(3, 8)
        with told() as caught:
            assert await m.memoize(lambda x: hf.pure(x * x))(3) == 8
            assert await m.memoize(lambda x: hf.pure(x * x))(4) == 16
        assert caught == []
        with pytest.warns(hf.FunctionChanged, match="use a map of another name"):
            assert await m.memoize(lambda x: hf.pure(x + x))(4) == 16
        assert await m.memoize(lambda x: hf.pure(x + x), on_change="recompute")(4) == 8


async def test_long_values_keep_it(program: ProgramInfo) -> None:
    """Also those that are read from the file each time."""

    def long(factor: int, on_change: Any) -> Any:
        @hf.memoize("long", on_change=on_change)
        def f(x: int) -> hf.Job[list[int]]:
            return hf.pure([x * factor] * 10_000)

        return f

    for _ in range(2):
        async with running(program):
            assert (await long(1, "recompute")(1))[0] == 1
            assert (await long(2, "recompute")(1))[0] == 2
    async with open_database(program.database, "p") as store:
        ((_, text),) = await store.lookup_all("memoize:long:1")
        assert text.startswith("[2")


async def test_on_change_is_one_of_three(program: ProgramInfo) -> None:
    """Anything else is refused where it is written."""
    with pytest.raises(hf.ConfigurationError, match='"warn", "recompute" or "ignore" is needed'):
        square(1, 2, "error")
    with pytest.raises(hf.ConfigurationError, match="is needed"):
        hf.KeyValMap("m").memoize(hf.pure, on_change="never")  # type: ignore[arg-type]


def test_an_edited_script(tmp_path: Path) -> None:
    """The next run of a script says it, at the line of the function; a new comment says nothing."""
    source = (
        "import hyperflow as hf, sys\n"
        "RATE = 2\n"
        "def helper(x):\n    return x * RATE\n"
        "@hf.memoize('rated')\n@hf.job\nasync def rated(x: int) -> int:\n    return await hf.remote_eval(helper, x)\n"
        "program = hf.ProgramInfo.new('runs', database='results.sqlite')\n"
        "print(hf.run_job_local(rated(3), cpus=1, program=program))\n"
    )
    quiet = {"PYTHONWARNINGS": "ignore:nothing is pinned"}
    assert run_script(tmp_path, source, check=False, **quiet) == "6\n"
    assert (
        run_script(tmp_path, source.replace("    return x", "    # scaled\n\n    return x"), check=False, **quiet)
        == "6\n"
    )
    for edited in (source.replace("RATE = 2", "RATE = 5"), source.replace("x * RATE", "x + RATE")):
        text = run_script(tmp_path, edited, check=False, **quiet)
        assert text.startswith("6\n")
        assert "script.py:5: FunctionChanged: rated has changed" in text
        assert "@hyperflow.memoize('rated', version=2)" in text
    recomputing = source.replace("'rated'", "'rated', on_change='recompute'").replace("RATE = 2", "RATE = 5")
    assert run_script(tmp_path, recomputing, check=False, **quiet) == "15\n"
