"""A user's script in the syntax of Python 3.12: `type X = ...`, and type parameters in brackets.

It is a text, because the oldest Python that we support cannot read it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attr
import pytest

from tests.imports import TOP
from tests.support import script

SCRIPT = '''
import dataclasses
import typing
from collections.abc import Callable

from tests.shipping.elsewhere import Elsewhere, run_checks

there: Elsewhere

type Number = int | float
type Json = None | str | Number | list[Json] | dict[str, Json]
type Pair[T] = tuple[T, T]
type Maker[**P, T] = Callable[P, T]
type Later = list[Defined]


class Defined:
    x: Number


class Box[T: (int, str)]:
    content: T
    others: list[Json]

    def __init__(self, content: T) -> None:
        self.content = content

    def map[S](self, fn: Callable[[T], S]) -> S:
        return fn(self.content)


@dataclasses.dataclass
class Record[*Ts, **P]:
    name: Later
    pair: Pair[int]
    fn: "Pair[str] | None" = None


class Sub[T](Box[T]):
    pass


def first[T, *Ts](x: T, *rest: *Ts) -> Pair[T]:
    return x, x


def check_aliases() -> None:
    """Aliases come home as themselves; over there they have name, module, parameters and value."""
    for alias in (Number, Json, Later, Pair, Maker):
        assert there.call(lambda x: x, alias) is alias
        assert there.call(lambda x: (x.__name__, x.__module__), alias) == (alias.__name__, "__main__")
    assert there.call(lambda: Number.__value__) == int | float
    assert there.call(lambda: typing.get_args(Json.__value__)[3].__args__[0] is Json)
    assert there.call(lambda: Later.__value__) == list[Defined]
    assert there.call(lambda: (Pair[int].__args__, Pair.__value__ == tuple[(Pair.__type_params__ * 2)])) == (
        (int,),
        True,
    )


def check_generic_classes() -> None:
    """Type parameters of classes and functions."""
    assert there.call(lambda: Box(3).map(lambda x: x + 1)) == 4
    assert there.call(lambda b: b.content, Box("a")) == "a"
    assert there.call(lambda: [p.__name__ for p in Box.__type_params__]) == ["T"]
    assert there.call(lambda: Box.__type_params__[0].__constraints__) == (int, str)
    assert there.call(lambda: first.__type_params__[0].__name__) == "T"
    assert there.call(lambda: Sub[int].__origin__ is Sub)
    assert type(there.call(lambda: Sub(4))) is Sub
    assert there.call(first, 5) == (5, 5)
    assert there.call(lambda: Box.map.__type_params__[0].__infer_variance__)


def check_hints() -> None:
    """`get_type_hints` finds the aliases."""
    for thing in (Defined, Record, Box, first):
        assert there.call(typing.get_type_hints, thing) == typing.get_type_hints(thing)
    assert there.call(lambda: Record([], (1, 2)).pair) == (1, 2)


with Elsewhere() as there:
    run_checks(globals())
'''


def newer_python() -> str | None:
    """Return a Python of 3.12 or newer, if there is one here."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = ("python3.12", "python3.13")
    found = [path for name in names if (path := shutil.which(name))]
    found += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[23]*/bin/python3")))
    for path in found:
        done = subprocess.run(
            [path, "-c", "import sys; print(sys.version_info >= (3, 12))"], capture_output=True, check=False
        )
        if done.stdout == b"True\n":
            return path
    return None


def test_syntax_of_python_3_12(tmp_path: Path) -> None:
    """Aliases and type parameters of the script work on the workers, and come home as themselves."""
    python = newer_python()
    if python is None:
        pytest.skip("there is no Python 3.12 here, whose syntax the script has")
    for package in ("attr", "attrs"):  # pure Python, so that another version can read them; all that a worker needs
        (tmp_path / package).symlink_to(Path(attr.__file__).parent.with_name(package))
    path = f"{TOP}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [python, "-B", str(script(tmp_path, SCRIPT))],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(json.loads(done.stdout), "")
