"""Texts of other people's objects: short, and there whatever the objects do."""

import pytest

from hyperflow import saying
from tests import hostile


class Bad:
    """Raises when it is shown."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error

    __str__ = __repr__


class BadError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), KeyboardInterrupt(), RecursionError()])
def test_nothing_that_an_object_raises_gets_through(error: BaseException) -> None:
    """What is said in place of its text."""
    assert saying.short_repr(Bad(error), 40) == "<Bad>"
    assert saying.short_str(Bad(error), 40) == "(its text could not be made)"


def test_errors_in_words() -> None:
    """Type and text; the type alone where there is no text."""
    assert saying.in_words(ValueError("why")) == "ValueError: why"
    assert saying.in_words(BadError()) == "BadError"


def test_long_texts_are_cut() -> None:
    """To exactly so many characters."""
    assert saying.short_repr("x" * 100, 40) == "'" + 36 * "x" + "..."
    assert saying.short_repr("x" * 38, 40) == repr("x" * 38)
    assert len(saying.short_str("x" * 100, 40)) == len(saying.in_words(ValueError("x" * 100), 40)) == 40


def test_texts_for_a_terminal() -> None:
    """What would act there is an escape; a line break is one, too, or a blank."""
    text = "a \x1b]0;b\x07  \u202e\ud800\r\nü"
    assert saying.printable(text) == r"a \x1b]0;b\x07  \u202e\ud800\r\nü"
    assert saying.in_one_line(text) == r"a \x1b]0;b\x07 \u202e\ud800 ü"


@pytest.mark.parametrize("how", [how for how in hostile.STRIKES if how != "hang"])
def test_class_without_a_name(how: str) -> None:
    """A class that does not say its name is called by the one that it was made with."""
    named = hostile.make_named(how)
    assert saying.short_repr(named, 100) == "<Named>"
    assert saying.kind_name(named) == "Named"
