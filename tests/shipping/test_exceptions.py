"""Exceptions on their way to the one who awaits: as themselves, else in words, whatever their methods do."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from hyperflow.errors import RemoteError
from hyperflow.shipping import exceptions

WORDS = ("a.Name", "its text", "its traceback")


class TwoArguments(Exception):
    """Cannot be made from what it hands on."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}, {b}")
        self.b = b


class Incomparable(Exception):
    """Has arguments that cannot be compared, as arrays cannot."""

    class Argument:
        """Stand for an array."""

        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]


class Exits(Exception):
    """Wants to end the process, whatever is done with it."""

    def __reduce__(self) -> Any:
        raise SystemExit(1)

    def __str__(self) -> str:
        raise SystemExit(2)

    __repr__ = __str__


def leave() -> Any:
    """Be what a pickle calls."""
    raise SystemExit(3)


class ExitsOnArrival(Exception):
    """Wants to end the process that gets it."""

    def __reduce__(self) -> Any:
        return leave, ()


class HoldsLock(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    "error",
    [ValueError("x", 1), TwoArguments(1, 2), Incomparable(Incomparable.Argument()), KeyError()],
    ids=lambda error: type(error).__name__,
)
def test_as_itself(error: Exception) -> None:
    """Class, arguments and attributes survive, also where the constructor takes others."""
    data = exceptions.dumps(error, pickle.dumps)
    assert data is not None
    back = exceptions.loads(data, WORDS)
    assert type(back) is type(error)
    assert str(back.args)[:20] == str(error.args)[:20]
    assert getattr(back, "b", None) == getattr(error, "b", None)


@pytest.mark.parametrize("error", [HoldsLock(), StopIteration(1)], ids=repr)
def test_what_cannot_travel(error: Exception) -> None:
    """There are words, always: the three arguments of a RemoteError, which can be pickled."""
    assert exceptions.dumps(error, pickle.dumps) is None
    words = exceptions.in_words(error)
    assert words[0].endswith(type(error).__name__)
    assert type(pickle.loads(pickle.dumps(RemoteError(*words)))) is RemoteError


def test_one_that_wants_to_exit() -> None:
    """Its methods are not needed for it to travel, nor for the words."""
    data = exceptions.dumps(Exits(), pickle.dumps)
    assert data is not None
    assert type(exceptions.loads(data, WORDS)) is Exits
    assert exceptions.in_words(Exits())[1] == "(its text could not be made)"


def test_notes_that_are_no_list() -> None:
    """What a user has put in the place of an error's notes does not hinder it; a list of notes is read once."""
    error = ValueError("x")
    error.add_note("seen here")
    assert exceptions.without_notes("ValueError: x\nseen here", error) == "ValueError: x"
    error.__notes__ = None  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert exceptions.without_notes("ValueError: x", error) == "ValueError: x"


class OddText(str):
    """A text that cannot be pickled."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        raise TypeError("no")


class SaysOddText(Exception):
    """Has such a text."""

    def __str__(self) -> str:
        return OddText("odd")


def test_words_are_plain_and_bounded() -> None:
    """They are exactly of type str, and no book."""
    assert [type(word) for word in exceptions.in_words(SaysOddText())] == [str, str, str]
    assert len(exceptions.in_words(ValueError("x" * 10**6))[1]) == exceptions.LONGEST_TEXT


@pytest.mark.parametrize("data", [b"rubbish", pickle.dumps(5), pickle.dumps(ExitsOnArrival())])
def test_what_cannot_be_made_here(data: bytes) -> None:
    """Arrives in words; it does not end the process that reads it."""
    error = exceptions.loads(data, WORDS)
    assert type(error) is RemoteError
    assert error.args == WORDS
