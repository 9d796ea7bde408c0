"""Objects whose own methods fail when the head reads or shows them; each breaks in one place."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn

SECONDS = 1.5
"""How long what hangs does so: a test makes the watchdog quicker than that."""


class Evil(BaseException):
    """Nobody expects it."""


def _raises(kind: type[BaseException]) -> Callable[[], NoReturn]:
    def strike() -> NoReturn:
        raise kind("evil")

    return strike


def _hangs() -> str:
    time.sleep(SECONDS)
    return "late"


STRIKES: dict[str, Callable[[], Any]] = {
    kind.__name__: _raises(kind)
    for kind in (ValueError, Evil, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration)
} | {"hang": _hangs}
"""What a method does, by name: names travel, so that head and worker find the same."""


def strike(how: str) -> Any:
    """Do it."""
    return STRIKES[how]()


class OnRead:
    """Strikes when it is unpickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)
        strike(self.how)


class OnReduce(OnRead):
    """Strikes when it is unpickled, by its recipe."""

    def __reduce__(self) -> Any:
        return strike, (self.how,)


class OnDump:
    """Strikes when it is pickled."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        strike(self.how)
        return OnDump, (self.how,)


class OnRepr:
    """Strikes when it is shown."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __repr__(self) -> str:
        return f"{strike(self.how)}"


class OnStr(Exception):
    """Strikes when its text is wanted."""

    def __str__(self) -> str:
        return f"{strike(self.args[0])}"


class OnNote(Exception):
    """Strikes when a note is added, or the notes are looked at."""

    def add_note(self, _: str) -> None:
        strike(self.args[0])

    @property
    def __notes__(self) -> Any:
        return strike(self.args[0])


class OnErrorRead(Exception):
    """Strikes when it is unpickled, though only in the head."""

    def __setstate__(self, _: Any) -> None:
        from hyperflow.worker import worker

        if worker._info is None:
            strike(self.args[0])

    def __reduce__(self) -> Any:
        return type(self), self.args, {}


class OnErrorClass(Exception):
    """Strikes when somebody asks for its class in another way than by `type`."""

    @property
    def __class__(self) -> Any:
        return strike(self.args[0])


class Meta(type):
    """Strikes when a class is asked for its name."""

    @property
    def __name__(cls) -> Any:
        return strike(cls.__dict__["how"])


class Liar(Exception):
    """Becomes something in the head that only says that it is an exception."""

    def __reduce__(self) -> Any:
        return _lie, (self.args[0],)


def _lie(how: str) -> Any:
    from hyperflow.worker import worker

    return Lie() if worker._info is None else Liar(how)


class Lie:
    """Says that it is an exception."""

    @property
    def __class__(self) -> Any:
        return Exception


def give(make: Callable[[str], Any], how: str) -> Any:
    """On a worker: return such an object."""
    return make(how)


def throw(make: Callable[[str], Any], how: str) -> NoReturn:
    """On a worker: raise such an error."""
    raise make(how)


def fail(*_: Any) -> NoReturn:
    """On a worker: raise an ordinary error, whose message shows the arguments."""
    raise ValueError("ordinary")


def make_named(how: str) -> Any:
    """Make an object whose class does not say its name."""
    return Meta("Named", (OnRepr,), {"how": how})(how)
