"""The modules of the script on a worker: which names are bound when, and for how long."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from hyperflow.shipping.arrivals import Arrivals

NAME = "script_of_this_test"


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    """Return what has arrived: an empty module."""
    monkeypatch.setitem(sys.modules, NAME, sys)  # so that it is put back
    made = Arrivals()
    made.module(NAME, {})
    return made


def names() -> dict[str, Any]:
    """Return what is bound now."""
    return {name: value for name, value in vars(sys.modules[NAME]).items() if not name.startswith("__")}


def arrive(arrivals: Arrivals, number: int, is_class: bool = False, **values: Any) -> None:
    """Have a definition bring some names."""
    with arrivals.arriving(number, is_class):
        arrivals.bind(NAME, values)


def test_definitions_have_their_own_values(arrivals: Arrivals) -> None:
    """What a definition brought, and what its calls have made of that, is bound when it is called again."""
    arrive(arrivals, 1, n=1, only=1)
    arrive(arrivals, 2, n=2)
    assert names() == {"n": 2, "only": 1}
    vars(sys.modules[NAME])["n"] = 20
    arrivals.enter(1)
    assert names()["n"] == 1
    arrivals.enter(2)
    assert names()["n"] == 20
    del vars(sys.modules[NAME])["n"]
    arrivals.enter(1)
    arrivals.enter(2)
    assert "n" not in names()


def test_names_of_classes_stay(arrivals: Arrivals) -> None:
    """They are there for all definitions, unless one has its own; then they come back after it."""
    arrive(arrivals, 1, is_class=True, n=1, base=1)
    arrive(arrivals, 2, n=2)
    assert names() == {"n": 2, "base": 1}
    arrive(arrivals, 3, other=3)
    assert names()["n"] == 1
    vars(sys.modules[NAME])["n"] = 10  # a method did that
    arrivals.enter(2)
    assert names()["n"] == 2
    arrivals.enter(3)
    assert names()["n"] == 10
    arrive(arrivals, 1, is_class=True, n=11, base=1)  # the class has changed
    assert names()["n"] == 11


def test_names_of_arguments_go(arrivals: Arrivals) -> None:
    """They are bound for the call."""
    arrive(arrivals, 1, n=1)
    arrivals.bind(NAME, {"n": 5, "more": 6})
    assert names() == {"n": 5, "more": 6}
    arrivals.leave()
    assert names() == {"n": 1}
    assert not arrivals.visitors


def test_forgotten_definitions_leave_nothing(arrivals: Arrivals) -> None:
    """What nobody has any more is gone; what another definition has stays."""
    for number in range(1, 1000):
        arrive(arrivals, number, is_class=number % 2 == 0, **{f"own_{number}": 1, "shared": number})
    for number in range(1, 999):
        arrivals.forget(number)
    arrivals.enter(999)
    assert names() == {"own_999": 1, "shared": 999}
    arrivals.forget(999)
    arrivals.forget(999)
    assert names() == {}
    kept = [value for value in vars(arrivals).values() if isinstance(value, dict)]
    assert sum(map(len, kept)) == 2, kept  # the module, and the names of no definition


def test_a_definition_that_comes_again(arrivals: Arrivals) -> None:
    """It has what it brought last."""
    arrive(arrivals, 1, n=1, gone=1)
    arrive(arrivals, 1, n=2)
    assert names() == {"n": 2}
