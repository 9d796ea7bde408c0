"""A memoized function that changed does not go unnoticed; what is no change is none."""

import gc
import importlib
import subprocess
import sys
import types
import warnings
import weakref
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


HIDDEN = {
    "a factory of attrs": (
        "import attrs\n@attrs.define\nclass C:\n    k: int = attrs.field(factory=lambda: NUMBER)\ndef f(): return C().k"
    ),
    "a factory of attrs that takes self": (
        "import attrs\n@attrs.define\nclass C:\n"
        "    k: int = attrs.field(default=attrs.Factory(lambda self: NUMBER, takes_self=True))\ndef f(): return C().k"
    ),
    "a converter": (
        "import attrs\n@attrs.define\nclass C:\n"
        "    k: int = attrs.field(default=0, converter=lambda v: v + NUMBER)\ndef f(): return C().k"
    ),
    "a converter around a converter": (
        "import attrs\n@attrs.define\nclass C:\n"
        "    k: int = attrs.field(default=0, converter=attrs.converters.optional(lambda v: v + NUMBER))\n"
        "def f(): return C().k"
    ),
    "a chain of converters": (
        "import attrs\n@attrs.define\nclass C:\n"
        "    k: int = attrs.field(default=0, converter=[int, lambda v: v + NUMBER])\ndef f(): return C().k"
    ),
    "a validator": (
        "import attrs\n@attrs.define\nclass C:\n"
        "    k: int = attrs.field(default=0, validator=attrs.validators.ge(-NUMBER))\ndef f(): return C().k"
    ),
    "singledispatch": (
        "import functools\n@functools.singledispatch\ndef g(x): return 1\n@g.register\ndef _(x: int): return NUMBER\n"
        "def f(): return g(1)"
    ),
    "the default of singledispatch": (
        "import functools\n@functools.singledispatch\ndef g(x): return NUMBER\nf = lambda: g(1)"
    ),
    "singledispatchmethod": (
        "import functools\nclass C:\n    @functools.singledispatchmethod\n    def m(self, x): return NUMBER\n"
        "def f(): return C()"
    ),
    "what is registered with a singledispatchmethod": (
        "import functools\nclass C:\n    @functools.singledispatchmethod\n    def m(self, x): return 1\n"
        "    @m.register\n    def _(self, x: int): return NUMBER\n    del _\ndef f(): return C()"
    ),
    "partialmethod": (
        "import functools\nclass C:\n    def m(self, x): return x\n    n = functools.partialmethod(m, NUMBER)\n"
        "def f(): return C().n()"
    ),
    "a special method that is a partialmethod": (
        "import functools\nclass C:\n    def m(self, x): return x\n    __call__ = functools.partialmethod(m, NUMBER)\n"
        "def f(): return C()()"
    ),
    "a metaclass": (
        "class M(type):\n    def m(cls): return NUMBER\nclass C(metaclass=M): pass\ndef f(): return C.m()"
    ),
    "an inherited metaclass": (
        "class M(type):\n    def m(cls): return NUMBER\nclass B(metaclass=M): pass\n"
        "class C(B): pass\ndef f(): return C.m()"
    ),
    "an attribute of the function": "def f(): return f.k\nf.k = NUMBER",
    "an attribute of another function": "def g(): pass\ng.k = [NUMBER]\ndef f(): return g.k",
    "an attribute of a decorated function": (
        "import functools\n@functools.wraps(len)\ndef g(): return g.k\ng.k = NUMBER\ndef f(): return g()"
    ),
    "an array of objects": "import numpy\nA = numpy.array([NUMBER, 'a'], dtype=object)\ndef f(): return A",
    "an array of functions": "import numpy\nA = numpy.array([lambda: NUMBER])\ndef f(): return A[0]()",
    "a memoryview": "V = memoryview(bytes([NUMBER]))\ndef f(): return V",
    "what was put": "import hyperflow as hf\nK = hf.put([NUMBER])\ndef f(): return K",
    "a large array that was put": (
        "import hyperflow as hf, numpy\nK = hf.put(numpy.full(100_000, NUMBER))\ndef f(): return K"
    ),
    "an object that was put": (
        "import hyperflow as hf, fractions\nK = hf.put({'a': fractions.Fraction(NUMBER, 3)})\ndef f(): return K"
    ),
    "the factory of a defaultdict": "import collections\nD = collections.defaultdict(lambda: NUMBER)\nf = lambda: D",
    "a ChainMap": "import collections\nD = collections.ChainMap({1: NUMBER})\ndef f(): return D",
    "a UserDict": "import collections\nD = collections.UserDict({1: NUMBER})\ndef f(): return D",
    "an itemgetter": "import operator\nG = operator.itemgetter(NUMBER)\ndef f(): return G",
}  # fmt: skip


@pytest.mark.parametrize("source", HIDDEN.values(), ids=HIDDEN)
def test_a_change_behind_an_object(source: str) -> None:
    """Functions and values inside objects of the standard library, attrs or hyperflow; the same again is none."""
    before, again, after = (Fingerprint.of(made(source.replace("NUMBER", number))) for number in "112")
    assert before.text == again.text
    assert before.differs(after.text)


UNCHANGED = {
    "singledispatch in another order": (
        (
            "import functools\n@functools.singledispatch\ndef g(x): return 1\n"
            "@g.register\ndef _(x: int): return 2\n@g.register\ndef _(x: str): return 3\nf = lambda: g(1)"
        ),
        (
            "import functools\n@functools.singledispatch\ndef g(x): return 1\n"
            "@g.register\ndef _(x: str): return 3\n@g.register\ndef h(x: int): return 2\nf = lambda: g(1)"
        ),
    ),
    "a function that counts its calls": (
        "def g(): g.calls += 1\ng.calls = 0\ndef f(): return g()",
        "def g(): g.calls += 1\ng.calls = 7\ndef f(): return g()",
    ),
    "a decorated function that counts its calls": (
        (
            "import functools\ndef d(fn): return functools.wraps(fn)(lambda: fn())\n"
            "@d\ndef g(): g.calls += 1\ng.calls = 0\ndef f(): return g()"
        ),
        (
            "import functools\ndef d(fn): return functools.wraps(fn)(lambda: fn())\n"
            "@d\ndef g(): g.calls += 1\ng.calls = 7\ndef f(): return g()"
        ),
    ),
    "a set that was put": (
        "import hyperflow as hf\nK = hf.put({'a', 'b', 'c'})\ndef f(): return K",
        "import hyperflow as hf\nhf.put(1)\nK = hf.put({'c', 'a', 'b'})\ndef f(): return K",
    ),
    "objects in an array": (
        "import numpy\nA = numpy.array([object(), None])\ndef f(): return A",
        "import numpy\nA = numpy.array([object(), None])\ndef f(): return A",
    ),
}  # fmt: skip


@pytest.mark.parametrize("sources", UNCHANGED.values(), ids=UNCHANGED)
def test_no_change_behind_an_object(sources: tuple[str, str]) -> None:
    """What differs without a change of the program: order, counts, tokens, addresses."""
    before, after = (Fingerprint.of(made(source)).text for source in sources)
    assert before == after


LIBRARY = """
import functools, math
from fp_other import deep, unused as not_used
K = 3
def a(x: int) -> int:
    return x + 1
def with_constant(x): return x + K
def with_helper(x): return a(x)
def with_import(x): return deep(x)
def with_inner_import(x):
    from fp_other import deep
    return deep(x)
class Model:
    def run(self): return a(1)
@functools.singledispatch
def kinds(x): return 1
@kinds.register
def _(x: int): return 2
TABLE = {}
TABLE["a"] = 1
if K:
    def either(): return 1
else:
    def either(): return 2
Z = 1
"""

INSIDE = {
    "a function": ("from fp_lib import a; return a(1)", ("x + 1", "x + 2")),
    "through the module": ("import fp_lib; return fp_lib.a(1)", ("x + 1", "x + 2")),
    "by another name": ("import fp_lib as q; return q.a(1)", ("x + 1", "x + 2")),
    "a constant": ("import fp_lib; return fp_lib.K", ("K = 3", "K = 5")),
    "a constant of a function": ("from fp_lib import with_constant as w; return w(1)", ("K = 3", "K = 5")),
    "a helper": ("import fp_lib; return fp_lib.with_helper(1)", ("x + 1", "x + 2")),
    "a class": ("from fp_lib import Model; return Model().run()", ("return a(1)", "return a(2)")),
    "a helper of a class": ("from fp_lib import Model; return Model().run()", ("x + 1", "x + 2")),
    "a registered function": ("import fp_lib; return fp_lib.kinds(1)", ("return 2\nTABLE", "return 3\nTABLE")),
    "an entry of a table": ("import fp_lib; return fp_lib.TABLE", ('TABLE["a"] = 1', 'TABLE["a"] = 2')),
    "one of two": ("import fp_lib; return fp_lib.either()", ("either(): return 1", "either(): return 4")),
    "in an inner function": (
        "\n  def g():\n    import fp_lib\n    return fp_lib.a(1)\n  return g()",
        ("x + 1", "x + 2"),
    ),
    "a submodule": ("import fp_pkg.sub.lib; return fp_pkg.sub.lib.a(1)", ("x + 1", "x + 2")),
    "from a package": ("from fp_pkg.sub import lib; return lib.a(1)", ("x + 1", "x + 2")),
    "from a package, relative": ("from fp_pkg import again; return again(1)", ("x + 1", "x + 2")),
    "by a star": ("from fp_pkg.stars import a; return a(1)", ("x + 1", "x + 2")),
    "a package without a file": ("from fp_names.sub import lib; return lib.a(1)", ("x + 1", "x + 2")),
    "another module": ("import fp_lib; return fp_lib.with_import(1)", ("OTHER * 2", "OTHER * 3")),
    "another module, inside again": ("import fp_lib; return fp_lib.with_inner_import(1)", ("OTHER * 2", "OTHER * 3")),
    "a constant of another module": ("import fp_lib; return fp_lib.with_import(1)", ("OTHER = 1", "OTHER = 2")),
}  # fmt: skip

INSIDE_SAME = {
    "what is not used": ("import fp_lib; return fp_lib.a(1)", ("Z = 1", "Z = 2\nY = 3")),
    "another function": ("import fp_lib; return fp_lib.a(1)", ("return x + K", "return x - K")),
    "another decorated function": (
        "import fp_lib; return fp_lib.a(1)",
        ("def kinds(x): return 1", "def kinds(x): pass"),
    ),
    "a docstring": ("import fp_lib; return fp_lib.a(1)", ("    return x + 1", '    """Add."""\n    return x + 1')),
    "a docstring of a class": ("import fp_lib; return fp_lib.Model()", ("class Model:", 'class Model:\n    """M."""')),
    "a comment and lines": (
        "import fp_lib; return fp_lib.a(1)",
        ("    return x + 1", "    # add\n\n    return (x +\n1)"),
    ),
    "an annotation": ("import fp_lib; return fp_lib.a(1)", ("a(x: int) -> int", "a(x)")),
    "an import beside": (
        "import fp_lib; return fp_lib.with_import(1)",
        ("import functools, math", "import math, functools"),
    ),
    "a name beside": ("import fp_lib; return fp_lib.with_import(1)", ("deep, unused as not_used", "deep")),
    "another function there": ("import fp_lib; return fp_lib.with_import(1)", ("def unused(): pass", "")),
}  # fmt: skip


def write_modules(there: Path, change: tuple[str, str] = ("", "")) -> None:
    """Write the modules of the user that the functions import."""
    files = {
        "fp_lib.py": LIBRARY,
        "fp_other.py": "OTHER = 1\ndef deep(x): return x + OTHER * 2\ndef unused(): pass\n",
        "fp_pkg/__init__.py": "from .sub.lib import a as again\n",
        "fp_pkg/stars.py": "from .sub.lib import *\n",
        "fp_pkg/sub/__init__.py": "",
        "fp_pkg/sub/lib.py": LIBRARY,
        "fp_names/sub/lib.py": LIBRARY,
    }
    for name, text in files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(text.replace(*change) if change[0] else text)
    importlib.invalidate_caches()


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a place for modules of the user."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write_modules(tmp_path)
    yield tmp_path
    assert not [name for name in sys.modules if name.startswith("fp_")], "a fingerprint runs no code of the user's"


@pytest.mark.parametrize(("body", "change"), INSIDE.values(), ids=INSIDE)
def test_a_change_behind_an_import_in_the_function(modules: Path, body: str, change: tuple[str, str]) -> None:
    """What is imported inside the function counts, although this process never imports it."""
    fn = made(f"def f(): {body}")
    before = Fingerprint.of(fn)
    write_modules(modules, change)
    assert before.differs(Fingerprint.of(fn).text)


@pytest.mark.parametrize(("body", "change"), INSIDE_SAME.values(), ids=INSIDE_SAME)
def test_no_change_behind_an_import_in_the_function(modules: Path, body: str, change: tuple[str, str]) -> None:
    """What it does not use, comments, docstrings, formatting."""
    fn = made(f"def f(): {body}")
    before = Fingerprint.of(fn).text
    write_modules(modules, change)
    assert Fingerprint.of(fn).text == before


def test_it_does_not_matter_whether_the_module_is_imported(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a miss the function imports it, on a hit nobody does."""
    source = (
        "def f():\n import fp_lib, fp_pkg.sub, fp_names.sub.lib as n\n return fp_lib.Model(), fp_pkg.again(1), n.a(1)"
    )
    fn = made(source)
    before = Fingerprint.of(fn).text
    with monkeypatch.context() as patched:
        patched.setattr(sys, "modules", {**sys.modules})
        fn()
        assert "fp_lib" in sys.modules
        assert Fingerprint.of(fn).text == before


def test_a_module_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody made in this process counts by its values, and is seen when it is bound anew."""
    module: Any = types.ModuleType("fp_made")
    module.k = 1
    monkeypatch.setitem(sys.modules, "fp_made", module)
    fn = made("def f(): import fp_made; return fp_made.k")
    before = Fingerprint.of(fn)
    assert before.is_current()
    module.k = 2
    assert not before.is_current()
    assert before.differs(Fingerprint.of(fn).text)


def test_an_attribute_that_is_bound_anew() -> None:
    """As a global."""
    fn = made("def f(): return f.k\nf.k = 1")
    before = Fingerprint.of(fn)
    assert before.is_current()
    fn.k = 2
    assert not before.is_current()
    assert before.differs(Fingerprint.of(fn).text)


def test_code_is_not_kept() -> None:
    """What was found out about code goes with it: a program may make new code in each step."""
    fn = made("def f(): import math; return [g for g in (lambda: math.pi,)]")
    Fingerprint.of(fn)
    gone = weakref.ref(fn.__code__)
    del fn
    gc.collect()
    assert gone() is None


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
