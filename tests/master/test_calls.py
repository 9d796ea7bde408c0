"""Which calls are the same in the next run, and how results and errors travel between processes."""

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow.errors import RemoteError, SerializationError
from hyperflow.flow import Flow
from hyperflow.master import calls
from hyperflow.shipping import rebuild


@attrs.frozen
class Point:
    """Can be in a key."""

    x: float


class Opaque:
    """Cannot be in a key."""

    def __init__(self, x: int) -> None:
        self.x = x


def square(x: int) -> int:
    """Be evaluated."""
    return x * x


@hf.job
async def work(x: Any, y: int = 2) -> None:
    """Be a job."""


@hf.memoize("memo")
@hf.job
async def memoized(x: float) -> float:
    """Be recorded."""
    return x


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (work(1), 'work({"x":1,"y":2})'),
        (work(y=2, x=1), 'work({"x":1,"y":2})'),
        (work(Point(1.0)), 'work({"x":{"!class":["Point",{"x":1.0}]},"y":2})'),
        (memoized(1), 'memoized({"x":1.0})'),
        (hf.remote_eval(square, 3), 'remote_eval square({"x":3})'),
        (work(1).using(cpus=2), 'work({"x":1,"y":2}).using({"cpus":2})'),
    ],
)
def test_identity(flow: Flow[Any], text: str) -> None:
    """A call is known by its function and arguments, however they were written."""
    assert calls.identity(flow) == text


def test_long_identity() -> None:
    """Of long arguments only a digest is kept; other arguments have another one."""
    one, other = (calls.identity(work(list(range(n)))) for n in (2000, 2001))
    assert len(one) < 100
    assert one.startswith("work(digest ")
    assert one != other


SCRIPT = """
import json, sys
import hyperflow as hf
from hyperflow.master import calls

class Opaque:
    def __init__(self, x):
        self.x = x

def outer(n):
    @hf.job
    async def inner(x):
        return x + n
    return inner

@hf.job
async def work(x):
    return x

flows = [
    work(Opaque(1)), work(Opaque(2)), outer(1)(5), outer(2)(5), hf.remote_eval(lambda x: x + 1, 3), work(1).map(str),
    work({"b": 1, "a": [Opaque(3)]}),
]
print(json.dumps([calls.identity(flow) for flow in flows]))
"""


def test_identity_is_stable(tmp_path: Path) -> None:
    """Where arguments cannot be in a key, and for closures, a digest stands: the same next time, another for others."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    runs = [
        json.loads(subprocess.run([sys.executable, script], capture_output=True, check=True, text=True).stdout)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])
    assert not [text for text in runs[0] if "unknown" in text]


class Frozen(Exception):
    """Takes no note."""

    __slots__ = ()

    def add_note(self, note: str) -> None:
        """Refuse."""
        raise AttributeError(note)


class TwoArguments(Exception):
    """Cannot be made from what it hands on."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}, {b}")
        self.b = b


class Unsendable(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def thrown(error: BaseException) -> BaseException:
    """Return an error that has a traceback."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 (whatever it is)
        return caught


@pytest.mark.parametrize(
    "error", [ValueError("a", 1), TwoArguments(1, 2), Frozen("x"), hf.WorkerDied("e", "w", "n", -9, "log", "tail")]
)
def test_errors_travel_as_themselves(error: Exception) -> None:
    """An exception arrives with its type, arguments and attributes, and with the remote traceback if it takes notes."""
    back = calls.unpack_error(calls.pack_error(thrown(error), "raised over there"))
    assert (type(back), back.args) == (type(error), error.args)
    assert getattr(back, "b", None) == getattr(error, "b", None)
    if not isinstance(error, Frozen):
        assert "Traceback" in back.__notes__[-2]
        assert back.__notes__[-1] == "(raised over there)"


class Trap:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return sys.exit, (7,)


UNFIT = [Unsendable("words"), KeyError(Trap()), StopIteration(1), KeyboardInterrupt(), SystemExit(3)]


@pytest.mark.parametrize("error", UNFIT)
def test_other_errors_travel_in_words(error: BaseException) -> None:
    """What cannot travel, or would end or interrupt the program, arrives as a RemoteError that names it."""
    back = calls.unpack_error(calls.pack_error(thrown(error), "raised over there"))
    assert isinstance(back, RemoteError)
    assert type(error).__qualname__ in back.type_name
    assert "Traceback" in back.traceback


def test_classes_of_a_script_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that a former master had sent is the script's own of that name to the next; a missing one is named."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "Opaque", Opaque, raising=False)
    assert calls.class_of_script("__main__", "Opaque", "elsewhere:7") is Opaque
    assert calls.class_of_script("__main__", "Other", rebuild.track(Point)) is Point
    with pytest.raises(SerializationError, match="a Gone of the script"):
        calls.class_of_script("__main__", "Gone", "elsewhere:8")


def test_what_cannot_travel_is_named() -> None:
    """A job with an open file in its arguments is refused, and the argument is named."""
    with open(__file__) as file, pytest.raises(SerializationError, match="an open file"):
        calls.pack_job(work({"file": file}))
    with open(__file__) as file, pytest.raises(SerializationError, match="an open file"):
        calls.pack_value([file], "job 1")
    assert pickle.loads(calls.pack_value([1], "job 1")) == [1]
