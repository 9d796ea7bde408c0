"""Errors cross processes: every class survives pickle, with its text, its notes and its place in the tree."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import hyperflow
from hyperflow import errors
from hyperflow.commands.running import TaskDone
from hyperflow.errors import HyperflowError

SAMPLES: dict[str, Any] = {
    "str": "some text\nof two lines",
    "int": -9,
    "float": 1.5,
    "list[str]": ["gzip", "a b"],
    "TaskDone": TaskDone(3, 1.5, 0.5, 1 << 20, "node7", 2, b"", b"no such file", 0, 0, "token"),
}


for _found in pkgutil.walk_packages(hyperflow.__path__, "hyperflow."):
    if not _found.name.endswith("__main__"):
        importlib.import_module(_found.name)  # so that every class is there


def tree(cls: type[BaseException] = HyperflowError) -> Iterator[type[BaseException]]:
    """Yield a class and all below it, as far as they are the library's own."""
    if cls.__module__.startswith("hyperflow."):
        yield cls
    for below in cls.__subclasses__():
        yield from tree(below)


# Also those beside the tree. Private ones are for the process that raises them.
ALL = sorted({cls for cls in tree(BaseException) if not cls.__name__.startswith("_")}, key=lambda cls: cls.__name__)


def sample(cls: type[BaseException]) -> BaseException:
    """Make an error, with a value of the right type for each argument."""
    if cls.__init__ is HyperflowError.__init__ or not inspect.isfunction(cls.__init__):  # they take anything
        return cls("what went wrong")
    return cls(*(SAMPLES[p.annotation] for p in inspect.signature(cls).parameters.values()))


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("protocol", [2, 5])
def test_errors_survive_pickle(cls: type[BaseException], protocol: int) -> None:
    """Class, arguments, text, attributes and notes are the same on the other side, and once more after that."""
    error = sample(cls)
    error.add_note("(raised by evaluation 7)")
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(error, protocol))

        assert type(copy) is cls
        assert (copy.args, str(copy), repr(copy)) == (error.args, str(error), repr(error))
        assert vars(copy) == vars(error)
        error = copy


@pytest.mark.parametrize("cls", ALL)
def test_errors_say_what_they_were_given(cls: type[BaseException]) -> None:
    """Each text argument appears in the text of the error, or is an attribute; each class has a docstring."""
    error = sample(cls)

    assert str(error)
    assert cls.__doc__
    for value in error.args:
        assert value in vars(error).values() or str(value) in str(error)


@pytest.mark.parametrize("cls", [one for one in ALL if issubclass(one, HyperflowError)])
def test_errors_say_where_to_read_about_them(cls: type[BaseException]) -> None:
    """The first note names the page of the class, or of the public class above it; once, also after pickling."""
    error = pickle.loads(pickle.dumps(sample(cls)))
    public = next(one.__name__ for one in cls.__mro__ if one.__module__ == errors.__name__)

    assert error.__notes__ == [f"about this: hyperflow docs {public}"]


class Frozen(HyperflowError):
    """A user's error that takes no attributes, and so no notes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class OwnNotes(HyperflowError):
    """A user's error whose notes are no list."""

    __notes__ = ()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Deaf(HyperflowError):
    """A user's error with another kind of notes."""

    def add_note(self, note: str) -> None:
        raise RuntimeError(note)


@pytest.mark.parametrize("cls", [Frozen, OwnNotes, Deaf])
def test_errors_of_users_may_be_odd(cls: type[HyperflowError]) -> None:
    """A user's class that takes no note can be made all the same, and survives pickle."""
    copy = pickle.loads(pickle.dumps(cls("what went wrong")))
    assert (type(copy), str(copy)) == (cls, "what went wrong")


def test_the_docstring_shows_the_tree() -> None:
    """Every error of the module is in it, below its parent."""
    lines = (errors.__doc__ or "").splitlines()
    places = {word: (number, line.index(word)) for number, line in enumerate(lines) for word in line.split()}
    for cls in tree():
        if cls.__module__ == errors.__name__ and cls is not HyperflowError:
            number, column = places[cls.__name__]
            parent_number, parent_column = places[next(b.__name__ for b in cls.__mro__[1:] if b.__name__ in places)]
            assert parent_number < number
            assert parent_column < column


def test_public_errors_are_public() -> None:
    """Whatever a user may want to catch is a name of the package."""
    assert {cls.__name__ for cls in tree() if cls.__module__ == errors.__name__} <= set(hyperflow.__all__)


def test_errors_that_python_has_too() -> None:
    """Code that knows nothing of hyperflow catches them as what they are."""
    assert issubclass(hyperflow.MisuseError, TypeError)
    assert issubclass(hyperflow.TimeLimitExceeded, TimeoutError)
    assert issubclass(hyperflow.FlowNeverAwaited, RuntimeWarning)
