"""A user's script in the syntax of Python 3.12: `type X = ...`, and type parameters in brackets.

`test_pickler.py` runs it where it finds such a Python.
"""

# ruff: noqa: D101, D102, D103

import dataclasses
import json
import traceback
import typing
from collections.abc import Callable
from typing import Any

from tests.shipping.elsewhere import Elsewhere

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
    assert there.call(lambda: (Pair[int].__args__, Pair.__value__ == tuple[(Pair.__type_params__ * 2)])) == ((int,), True)


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


def main() -> None:
    """Run all checks and print what became of each."""
    global there
    results: dict[str, str] = {}
    with Elsewhere() as there:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                try:
                    check()
                    results[name] = ""
                except BaseException:
                    results[name] = traceback.format_exc()
    print(json.dumps(results))


main()
