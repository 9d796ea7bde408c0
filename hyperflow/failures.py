"""What is left of a failure: `Failed`, which stands where a result is missing; tracebacks short enough to be read.

A traceback that goes through hyperflow would show three frames of ours and of asyncio for each of the user's. So where
an error leaves a combinator, a worker or a program, these frames are cut out, and so are the errors behind it that
happened in asyncio or here (the cancellation behind a timeout). `HYPERFLOW_DEBUG=1` leaves everything as it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeAlias

import attrs

from hyperflow.errors import AllocationEnding, ConfigurationError, HyperflowError, MisuseError
from hyperflow.saying import in_one_line, in_words, short_repr

logger = logging.getLogger("hyperflow")

Errors: TypeAlias = Literal["raise", "return"]
"""What several flows side by side do about one that fails."""

MOST_FRAMES = 10
"""How many frames a traceback of ours has at most."""

FEWEST_FRAMES = 4
"""How many of them are left to an error however deep it is raised again."""

FIRST_FRAMES = 3
"""How many of the outermost frames are kept where there are too many; the others are the innermost ones."""

MOST_CALLS = 5
"""How many notes of an error name a call that was on its way."""

_IS_CALL = r"(?s)\(raised by .*, in \w+\)"
_CALLS_LEFT_OUT = r"\(\d+ calls? between (is|are) left out\)"

LEFT_OUT = "are left out of the traceback; HYPERFLOW_DEBUG=1 shows all)"

OURS = frozenset({"asyncio", "concurrent", "contextlib", "hyperflow", "uvloop"})
"""Packages whose frames say nothing of the user's program."""


@attrs.frozen(repr=False)
class Failed:
    """Stands in a list of results for one that is missing, where `errors="return"` was asked for.

    Args:
        index: The place in the list, from 0.
        call: The call that failed, with its arguments, as text: `simulate(3)`.
        error: The exception. What its frames held is let go, so that many failures keep no memory.
    """

    index: int
    call: str
    error: Exception

    def __repr__(self) -> str:
        return f"Failed(index={self.index}, call={self.call!r}, error={short_repr(self.error, 200)})"

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        return displays.error(f"place {self.index}: {self.call}", self.error)

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception whose __init__ takes other arguments than it hands on cannot be unpickled in the usual way.
        error = self.error
        try:
            reduced: Any = error.__reduce__()
            sound = type(reduced[0](*reduced[1])) is type(error)
        except BaseException:  # noqa: BLE001 (whatever its __init__ or __reduce__ raises)
            sound = False
        if sound:
            return type(self), (self.index, self.call, error)
        return _rebuilt, (self.index, self.call, type(error), error.args, dict(vars(error)))


def _rebuilt(index: int, call: str, kind: type[Exception], args: tuple[Any, ...], attributes: dict[str, Any]) -> Failed:
    """Make a Failed whose exception is made without its `__init__`."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return Failed(index, call, error)


def returned(index: int, call: str, error: Exception) -> Failed:
    """Make the Failed for an error; it lets go of what the error's frames hold."""
    shorten(error)
    let_go(error)
    return Failed(index, call, error)


def let_go(error: BaseException) -> None:
    """Forget what the frames of an error held that has been told; its traceback still shows their lines."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            waiting += [link.__cause__, link.__context__, *_members(link)]


def found_in(value: object, depth: int = 20) -> Failed | None:
    """Return a Failed that is in a value, maybe nested in lists, tuples, sets or dicts; None if there is none."""
    if isinstance(value, Failed):
        return value
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = value
    if depth == 0:
        return None
    return next((found for part in parts if (found := found_in(part, depth - 1)) is not None), None)


def check(errors: object, where: str, others: Mapping[str, object]) -> None:
    """Refuse what `errors` cannot be, and arguments that there are not, with what was probably meant."""
    for name, value in others.items():
        if name != "return_exceptions":
            raise MisuseError(f"{where}() got an unexpected keyword argument {name!r}")
        meant = "return" if value else "raise"
        raise MisuseError(f"{where}() takes no argument {name!r}: did you mean errors={meant!r}?")
    if errors not in ("raise", "return"):
        raise ConfigurationError(f'{where}(errors={errors!r}): "raise" or "return" is needed')


watcher: Callable[[asyncio.Future[Any]], None] | None = None
"""In a notebook: gets each evaluation that has failed, to see later whether anybody has awaited it."""


on_item: Callable[[BaseException], None] | None = None
"""On a worker: gets the errors that take the place of items in the results of a chunk, while they have their frames."""


def tell(where: str, returned: Sequence[Failed], of: int, count: int | None = None) -> None:
    """Log how many of the results are a Failed (`count`, if these are not all), and the first."""
    if returned:
        first = min(returned, key=_place)
        logger.warning(
            "%s: %d of %d failed, and hold a hyperflow.Failed; the first: %s: %s",
            *(where, count or len(returned), of, in_one_line(first.call), in_one_line(in_words(first.error, 300))),
        )


def _place(failed: Failed) -> int:
    return failed.index


def may_return(error: BaseException | None) -> bool:
    """Whether an error may be returned as a Failed.

    Not a cancellation, not the end of the allocation, after which nothing goes on, and not a mistake in the call.
    """
    return isinstance(error, Exception) and not isinstance(error, (AllocationEnding, MisuseError))


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, if it takes one."""
    with suppress(BaseException):  # a frozen exception takes none, and a user's method may raise anything
        BaseException.add_note(error, note)


def note_call(error: BaseException, call: str, where: str) -> None:
    """Note which call raised an error, unless a note says so already."""
    if names(error, call):
        return
    add_note(error, f"(raised by {call}, in {where})")
    with suppress(BaseException):  # it takes no notes, or they are no list
        _thin_out(error.__notes__)


def names(error: BaseException, call: str) -> bool:
    """Whether a note of an error names a call."""
    return any(call in note for note in _notes(error))


def _thin_out(notes: list[str]) -> None:
    """Leave the innermost calls and the outermost one in the notes of an error, and say how many are left out."""
    calls = [index for index, note in enumerate(notes) if re.fullmatch(_IS_CALL, note)]
    if len(calls) <= MOST_CALLS:
        return
    told = next((index for index, note in enumerate(notes) if re.fullmatch(_CALLS_LEFT_OUT, note)), None)
    if told is None:
        notes[calls[-2]] = "(1 call between is left out)"
    else:
        count = int(notes[told][1:].split()[0]) + 1
        notes[told] = f"({count} calls between are left out)"
        del notes[calls[-2]]


def note_tries(error: BaseException, times: int) -> None:
    """Note how often a call was tried, if more than once."""
    if times > 1:
        add_note(error, f"(tried {times} times)")


def _notes(error: BaseException) -> list[str]:
    try:
        return [str(note) for note in error.__notes__]
    except BaseException:  # noqa: BLE001 (there are none, or they are no list; or what a user's __getattribute__ raises)
        return []


def lost_in_words(errors: list[BaseException]) -> str:
    """Return the number of errors that nobody gets, and the first of them in words."""
    words = "; ".join(in_words(error, 200) for error in errors[:3]) + "; ..." * (len(errors) > 3)
    return f"{len(errors)} more failed: {words}"


# ---- tracebacks ------------------------------------------------------------------------------------------------------


def debugging() -> bool:
    """Whether `HYPERFLOW_DEBUG=1` asks for all frames."""
    return os.environ.get("HYPERFLOW_DEBUG", "") not in ("", "0")


def shorten(error: BaseException, most: int = MOST_FRAMES) -> None:
    """Cut frames of asyncio and hyperflow out of an error's traceback, and errors behind it that are asyncio's or ours.

    At most so many frames are left, the user's own.
    """
    if not debugging():
        with suppress(BaseException):  # the error itself counts more than its looks
            _shorten(error, max(most, FEWEST_FRAMES), set())


def shorten_here(error: BaseException) -> None:
    """The same, where the error will pass the frames that are on the stack now, up to the program's first one."""
    depth = 0
    frame: types.FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and depth < MOST_FRAMES:
        depth, frame = depth + 1, frame.f_back
    shorten(error, MOST_FRAMES - depth)


def shorten_in_task(error: BaseException) -> None:
    """The same, where the error will pass the frames of the coroutines that await each other in this task."""
    depth = 0
    frame: types.FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and depth < MOST_FRAMES and not _is_loops(frame):
        depth, frame = depth + 1, frame.f_back
    shorten(error, MOST_FRAMES - depth)


@contextmanager
def shortened() -> Iterator[None]:
    """Shorten what leaves the scope."""
    try:
        yield
    except BaseException as error:
        shorten(error)
        raise


def _shorten(error: BaseException, most: int, seen: set[int]) -> None:
    if id(error) in seen:
        return
    seen.add(id(error))
    frames = list(_frames(error.__traceback__))
    kept = [one for one in frames if not _is_ours(one.tb_frame)]
    if frames and _is_ours(frames[-1].tb_frame) and _is_mistake_of_ours(error):
        kept.append(frames[-1])
    if len(kept) > most:
        first = min(FIRST_FRAMES, most // 2)
        _note_left_out(error, len(kept) - most, len(kept))
        kept = kept[:first] + kept[first - most :]
    if len(kept) < len(frames):
        # In place: a scope that the error passes puts back the traceback that came in. Its own frame is left of that.
        following: types.TracebackType | None = None
        for one in reversed(frames):
            one.tb_next = following
            if kept and one is kept[-1]:
                following = kept.pop()
        BaseException.with_traceback(error, following)
    _cut_chain(error)
    for link in (error.__cause__, error.__context__, *_members(error)):
        if link is not None:
            _shorten(link, most, seen)


def _note_left_out(error: BaseException, count: int, of: int) -> None:
    """Say how many frames are left out; those that were left out before count."""
    for index, note in enumerate(_notes(error)):
        if note.endswith(LEFT_OUT):
            before = int(note[1:].split()[0])
            with suppress(BaseException):  # the notes are no list
                error.__notes__[index] = f"({before + count} of {before + of} frames {LEFT_OUT}"
            return
    add_note(error, f"({count} of {of} frames {LEFT_OUT}")


def _members(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else ()


def _frames(trace: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_ours(frame: types.FrameType) -> bool:
    name: object = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] in OURS


def _is_loops(frame: types.FrameType) -> bool:
    """Whether the event loop called what the frame called."""
    name: object = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] in ("asyncio", "uvloop")


def _is_mistake_of_ours(error: BaseException) -> bool:
    """Whether an error that comes out of our code was not made on purpose: then the last frame says where to look."""
    meant = isinstance(error, (HyperflowError, TimeoutError, asyncio.CancelledError))
    return isinstance(error, Exception) and not meant and not _notes(error)


_CAUSE: Any = BaseException.__cause__
_CONTEXT: Any = BaseException.__context__
_SUPPRESSED: Any = BaseException.__suppress_context__


def _cut_chain(error: BaseException) -> None:
    """Take errors of asyncio and ours out of what is behind an error. (By descriptors: a frozen one would refuse.)"""
    cause, context, suppressed = error.__cause__, error.__context__, error.__suppress_context__
    with suppress(BaseException):
        if (left := _users(cause)) is not cause:
            _CAUSE.__set__(error, left)
            _SUPPRESSED.__set__(error, suppressed)
        if (left := _users(context)) is not context:
            _CONTEXT.__set__(error, left)


def _users(link: BaseException | None) -> BaseException | None:
    """Return the first error from here on that is the user's."""
    for _ in range(100):
        if link is None or not _happened_here(link):
            return link
        link = link.__cause__ or link.__context__
    return link


def _happened_here(error: BaseException) -> bool:
    """Whether an error behind another one happened in asyncio or hyperflow, and says nothing of the user's program."""
    if isinstance(error, asyncio.CancelledError):
        return True
    return error.__traceback__ is not None and all(_is_ours(one.tb_frame) for one in _frames(error.__traceback__))
