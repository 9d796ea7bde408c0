"""State that a worker keeps: `@per_worker`, and what has been made with it in this process.

Guarantees:
- What is in use is not closed: by the evaluation that runs, or by another value that was made with it.
- A value is known by its function as it was sent, and by its arguments. So nobody gets one of an older definition.
- Values are closed in the reverse order of their making. An error in that goes to the log, and to nobody else.

A function that goes by value carries a digest of its pickle, made where it is at home (`PerWorker.__reduce__`): on a
worker, each definition that refers to it brings a copy of its own, and these are one. (Rejected: to compare copies on
the worker. It would have to know all that pickling knows.)
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import inspect
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, Generic, ParamSpec, TypeVar, overload

from hyperflow import failures
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.saying import short_repr
from hyperflow.shipping import captures, pickler, rebuild, watch

P = ParamSpec("P")
T = TypeVar("T")

USUAL_MOST = 8
"""How many values of one function a worker keeps, unless the user says another number."""

LONGEST_ARGUMENT = 60
"""Characters of an argument in errors and logs."""

_PLAIN = frozenset({int, str, bytes, bool, type(None)})
"""Types of arguments that are compared as they are."""

_ABSENT = object()


class PerWorker(Generic[P, T]):
    """A generator function under `@per_worker`; calling it returns the value that is kept here."""

    __qualname__: str

    def __init__(self, fn: types.FunctionType, most: int, identity: str = "") -> None:
        functools.update_wrapper(self, fn)
        self.__wrapped__: types.FunctionType = fn
        self.most: int = most
        self.identity: str = identity
        """Tells its definitions apart, where it came by value."""
        self.place: tuple[str, str] = (fn.__module__, fn.__qualname__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        value: T = here().get(self, args, kwargs)
        return value

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def close(self) -> None:
        """Close what is kept of it in this process; for tests, which want a new one each time."""
        here().close(lambda _, kept: kept.of.place == self.place)

    def __reduce__(self) -> tuple[Any, ...]:
        fn = self.__wrapped__
        if captures.found_by_name(self, fn.__module__, fn.__qualname__):
            return rebuild.fetch, (fn.__module__, *fn.__qualname__.split("."))
        return PerWorker, (fn, self.most, self.identity or _digest(fn))

    def __repr__(self) -> str:
        return f"<per_worker {self.__wrapped__.__qualname__}>"


watch.WRAPPERS.add(PerWorker)

_digesting = set[int]()


def _digest(fn: Callable[..., Any]) -> str:
    """Return what changes with a function, and with whatever it refers to that travels with it."""
    if id(fn) in _digesting:  # it refers to itself
        return "itself"
    _digesting.add(id(fn))
    try:
        data = pickler.by_value(fn, pickler.Beside(sys.maxsize, classes_apart=False))
    finally:
        _digesting.discard(id(fn))
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Kept:
    """A value that is kept."""

    __slots__ = ("functions", "generator", "identity", "names", "needs", "of", "shown", "stamp", "users", "value")

    def __init__(
        self, of: PerWorker[..., Any], identity: object, shown: str, generator: Iterator[Any], value: Any
    ) -> None:
        self.of = of
        self.identity = identity  # of its definition
        self.shown = shown
        self.generator = generator
        self.value = value
        self.names = captures.referenced_globals(of.__wrapped__) if of.identity else {}
        """The globals of its function as they were: by its end, others of these names may have come."""
        self.needs: list[Kept] = []
        """Others that were asked for while it was made."""
        self.users = 0  # how many others need it
        self.stamp: object = None  # the evaluation that asked for it last
        self.functions: set[int] = set()  # definitions that asked for it

    def end(self) -> None:
        """Resume its function to the end."""
        space = self.of.__wrapped__.__globals__
        before = {name: space.get(name, _ABSENT) for name in self.names}
        space.update(self.names)
        try:
            next(self.generator)
        except StopIteration:
            return
        finally:
            for name in [name for name, value in self.names.items() if space.get(name) is value]:
                if before[name] is _ABSENT:
                    del space[name]
                else:
                    space[name] = before[name]
        if isinstance(self.generator, Generator):
            self.generator.close()
        raise MisuseError(f"{self.shown} has yielded twice; what a worker keeps is one value: yield it once")


class Keeping:
    """What is kept in one process, or in one inline environment.

    Args:
        stamp: Returns what stands for the evaluation that runs. None: there are none, and so no moment at which values
            could be closed but the end.
        log: Gets what goes wrong while values are closed.
        settling: The scope in which values are made and closed: what that sets in the process stays.
        function: Returns the number of the definition that runs.
    """

    def __init__(
        self,
        stamp: Callable[[], object] | None = None,
        log: Callable[[str], object] = lambda line: print(line, file=sys.stderr),
        settling: Callable[[], AbstractContextManager[None]] = nullcontext,
        function: Callable[[], int] = int,
    ) -> None:
        self.asked = False
        """Whether a value has been asked for since this was set to False."""
        self.changed = False
        """The same: whether what `functions` returns may have changed."""
        self._kept: dict[Any, Kept] = {}  # what was used last is at the end
        self._made: dict[Any, None] = {}  # their keys, in the order of making
        self._stamp = stamp
        self._log = log
        self._settling = settling
        self._function = function
        self._under_way: list[tuple[Any, list[Kept]]] = []
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def get(self, of: PerWorker[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the value for these arguments; make it if it is not there."""
        key = of.place, of.identity or id(of), _key(of, args, kwargs)
        with self._lock:
            kept = self._kept.pop(key, None)
            if kept is None:
                kept = self._make(key, of, args, kwargs)
                self._made[key] = None
            self._kept[key] = kept
            self.asked = True
            if self._stamp is not None:
                kept.stamp = self._stamp()
            if (number := self._function()) not in kept.functions:
                kept.functions.add(number)
                self.changed = True
            if self._under_way and kept not in (needs := self._under_way[-1][1]):
                needs.append(kept)
                kept.users += 1
            return kept.value

    def _make(self, key: Any, of: PerWorker[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kept:
        shown = _shown(of, args, kwargs)
        if key in (each for each, _ in self._under_way):
            raise MisuseError(f"per_worker: {shown} asks for itself while it is made")
        if self._stamp is not None:
            self._close_old(self._stamp(), of, key[1], coming=1)
        needs: list[Kept] = []
        self._under_way.append((key, needs))
        try:
            with self._settling():
                generator = iter(of.__wrapped__(*args, **kwargs))
                kept = Kept(of, key[1], shown, generator, next(generator))
        except StopIteration:
            self._unneeded(needs)
            raise MisuseError(
                f"per_worker: {shown} has returned and yielded nothing; `yield` the value, and close it after that"
            ) from None
        except BaseException as error:
            self._unneeded(needs)
            failures.add_note(error, f"(while hyperflow.per_worker made {shown})")
            raise
        finally:
            self._under_way.pop()
        kept.needs = needs
        return kept

    def trim(self) -> None:
        """Between evaluations: close what is too much, and what older definitions have made."""
        before = -1
        while self._stamp is not None and len(self._kept) != before:  # what has been closed may have needed others
            before = len(self._kept)
            latest = {kept.of.place: kept for kept in self._kept.values()}
            for kept in latest.values():
                self._close_old(None, kept.of, kept.identity, coming=0)

    def _close_old(self, stamp: object, of: PerWorker[..., Any], identity: object, coming: int) -> None:
        """Close what a function need not keep, unless that is in use."""
        if os.getpid() != self._pid:
            return
        mine = [(key, kept) for key, kept in self._kept.items() if kept.of.place == of.place]
        free = [(key, kept) for key, kept in mine if not kept.users and kept.stamp != stamp]
        old = [key for key, kept in free if kept.identity != identity]
        rest = [key for key, kept in free if kept.identity == identity]
        surplus = max(sum(kept.identity == identity for _, kept in mine) + coming - of.most, 0)
        closing = {*old, *rest[:surplus]}
        self.close(lambda key, _: key in closing)

    def close(self, which: Callable[[Any, Kept], bool] = lambda *_: True) -> None:
        """Close values that no others need, the one made last first."""
        with self._lock:
            for key in [*reversed(self._made)]:
                if (kept := self._kept.get(key)) is not None and not kept.users and which(key, kept):
                    self._end(key, kept)

    def _end(self, key: Any, kept: Kept) -> None:
        del self._kept[key], self._made[key]
        self.changed = True
        self._unneeded(kept.needs)
        if os.getpid() != self._pid:
            return
        try:
            with self._settling():
                kept.end()
        except BaseException:
            self._log(f"hyperflow.per_worker: {kept.shown} failed while it was closed: {traceback.format_exc()}")

    def _unneeded(self, needs: list[Kept]) -> None:
        for each in needs:
            each.users -= 1

    def functions(self) -> set[int]:
        """Return the definitions for which something is kept."""
        return set[int]().union(*(kept.functions for kept in self._kept.values()))


inside: ContextVar[Keeping | None] = ContextVar("hyperflow_per_worker", default=None)
"""What keeps the values of an inline environment."""

_here: Keeping | None = None


def here() -> Keeping:
    """Return what keeps values in this process."""
    global _here  # noqa: PLW0603 (one for the process)
    if (inline := inside.get()) is not None:
        return inline
    if _here is None:
        _here = Keeping()
        atexit.register(_here.close)
    return _here


def settle(keeping: Keeping) -> None:
    """In a worker: keep values here from now on."""
    global _here  # noqa: PLW0603 (one for the process)
    _here = keeping


def _key(of: PerWorker[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what is equal for equal arguments, however they are written."""
    signature = _signature(of.__wrapped__)
    if kwargs or len(args) != len(signature.parameters):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        args = tuple(bound.arguments.values())
    return tuple([_part(of, value) for value in args])


_signature = functools.lru_cache(maxsize=256)(inspect.signature)


def _part(of: PerWorker[..., Any], value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN or isinstance(value, PurePath):
        return kind, value
    try:
        return kind, pickler.by_value(value)
    except Exception as error:
        raise MisuseError(
            f"per_worker: an argument of {of.__qualname__} cannot be pickled, so nobody could tell whether it is "
            f"another one: {short_repr(value, LONGEST_ARGUMENT)}; pass what it is made of"
        ) from error


def _shown(of: PerWorker[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    words = [short_repr(value, LONGEST_ARGUMENT) for value in args]
    words += [f"{name}={short_repr(value, LONGEST_ARGUMENT)}" for name, value in kwargs.items()]
    return f"{of.__qualname__}({', '.join(words)})"


@overload
def per_worker(fn: Callable[P, Iterator[T]], /) -> PerWorker[P, T]: ...
@overload
def per_worker(*, most: int = USUAL_MOST) -> Callable[[Callable[P, Iterator[T]]], PerWorker[P, T]]: ...
def per_worker(fn: Any = None, /, *, most: int = USUAL_MOST) -> Any:
    """Make something once in each worker, and keep it for later evaluations there.

        @hf.per_worker
        def model(path: str) -> Iterator[Model]:
            m = load(path)
            yield m
            m.close()

        def predict(x): return model("weights.pt")(x)

    A worker makes the value when a function there first asks for it, after the worker was forked, and keeps it: for the
    same function and arguments, every later call in that worker returns the same object. When the worker retires or the
    run ends, the generator is resumed, so that it closes what it has made, in the reverse order of making. Evaluations
    go to an idle worker that has what their function used there, where that costs no wait.

    A value is known by the function and its arguments (those that are no plain values, by their pickle). Where the
    function or what it captured has changed, a new one is made, and the old one is closed before that. At most `most`
    values of one function are kept: the one that was used longest ago is closed first. What the running evaluation has
    asked for, or another value was made with, stays, even if it is more. With `using(fresh_process=True)` it is made
    anew, and so it is in each worker: also those of more CPUs, or other GPUs.

    Threads that a value starts, also later, in an evaluation that asks for it, stay with it; so do signal handlers,
    directory and environment as it has set them while it was made. State of random generators does not.

    Two seconds after it was told to leave, a worker is killed, whatever it is closing; values of a worker that is
    killed are not closed. In the job itself, in tests of yours and in `open_inline_job` it works, too: the value is
    kept by the process, and closed when that ends (`model.close()` does it before), or the inline job does.

    Args:
        most: How many values, for different arguments, a worker keeps of this function.

    Raises:
        MisuseError: It decorates something that is no generator function. At the call: it has yielded nothing, asks for
            itself, or an argument cannot be pickled. Other errors are those of the evaluation, with a note.
        ConfigurationError: `most` makes no sense.
    """
    if type(most) is not int or most < 1:
        raise ConfigurationError(f"per_worker(most={most!r}): a whole number of at least 1 is needed")
    if fn is None:
        return lambda each: PerWorker(_checked(each), most)
    return PerWorker(_checked(fn), most)


def _checked(fn: Any) -> Any:
    name = getattr(fn, "__qualname__", None) or repr(fn)
    if inspect.isasyncgenfunction(fn):
        raise MisuseError(
            f"@per_worker: {name} is an async generator, and a worker's event loop does not stay from one evaluation "
            f"to the next; write: def {name}(...), and make what belongs to a loop in the evaluation"
        )
    if not inspect.isgeneratorfunction(fn):
        what = "a class" if isinstance(fn, type) else "async" if inspect.iscoroutinefunction(fn) else "no generator"
        raise MisuseError(
            f"@per_worker: {name} is {what}; it takes a generator function, which yields the value once, and closes it "
            "after that:\n    @hyperflow.per_worker\n    def model(path):\n        m = load(path)\n        yield m\n"
            "        m.close()"
        )
    return fn
