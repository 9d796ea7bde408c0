"""Texts of other people's objects, and of sizes, for messages: short. They work even if the objects' own methods fail.

A `__repr__` or `__str__` of the user's may raise anything, SystemExit included, or return a book. The error that is
being reported must not get lost because of that.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

_NOT_THE_USERS = (
    os.path.dirname(os.path.abspath(__file__)),
    *(os.path.join(os.path.dirname(os.__file__), name) for name in ("asyncio" + os.sep, "contextlib.py", "runpy.py")),
)


def short_repr(value: object, limit: int) -> str:
    """Return `repr(value)`, cut after so many characters; it looks only at the beginning of a large object."""
    return _text(_repr, value, limit, f"<{kind_name(value)}>")


LOOKED_AT = 2000
"""So many items or characters of a large object are enough for all that is ever shown of one."""


def _repr(value: object) -> str:
    if type(value) in (str, bytes, bytearray, list, tuple):
        sequence: Any = value
        if len(sequence) > LOOKED_AT:
            return repr(sequence[:LOOKED_AT])
    elif type(value) is dict and len(value) > LOOKED_AT:
        return repr(dict(itertools.islice(value.items(), LOOKED_AT)))
    elif type(value) in (set, frozenset):
        several: Any = value
        if len(several) > LOOKED_AT:
            return repr(set(itertools.islice(several, LOOKED_AT)))
    return repr(value)


def short_str(value: object, limit: int) -> str:
    """Return `str(value)`, cut after so many characters."""
    return _text(str, value, limit, "(its text could not be made)")


def in_words(error: BaseException, limit: int = 1000) -> str:
    """Return the type and the text of an error, cut after so many characters."""
    name = kind_name(error)
    return _text(lambda e: f"{name}: {e}", error, limit, name)


_NAME: Any = type.__dict__["__name__"]


def kind_name(value: object) -> str:
    """Return the name of an object's class, also where a metaclass has another idea of `__name__`."""
    return str(_NAME.__get__(type(value)))


def _text(show: Callable[[Any], str], value: object, limit: int, otherwise: str) -> str:
    try:
        text = str.__str__(show(value))  # a str itself, where a `__str__` returns one of a subclass
    except BaseException:  # noqa: BLE001 (see above)
        return otherwise
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Return a text as it can be shown on a terminal: in one line, and nothing in it is an order to the terminal.

    What would act there (colours, titles, a new line) is shown as an escape. Blanks are left as they are.
    """
    if text.isprintable():
        return text
    text = text.replace("\t", "    ")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def age(seconds: float) -> str:
    """Return a time span for people, in two parts at most: `45 s`, `12 min`, `3:20 h`, `2 d 5 h`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def unfit_name(name: str) -> str:
    """Say why a text cannot be a name; "" if it can. Names stand in lines of lists, logs, scripts and paths."""
    if name.isprintable() and "\\" not in name:
        return ""
    return "a name has no line break, no control character and no backslash"


def in_one_line(text: str) -> str:
    """Return a text for a terminal, as `printable` does, with a blank for each line break and the like."""
    return printable(" ".join(text.split()))


def in_short(text: str, limit: int = 100) -> str:
    """Return the first sentence of a text, shortened: for a table, where the whole can be had elsewhere."""
    first = in_one_line(text).partition(". ")[0]
    return first if len(first) <= limit else first[: limit - 1] + "…"


def warn(text: str, kind: type[Warning] = RuntimeWarning) -> None:
    """Warn at the line of the user's code that called us, however many of our own and of asyncio are in between."""
    here: types.FrameType = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] (inspect would take longer to import)
    frame: types.FrameType | None = here
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    place = frame or here
    registry = place.f_globals.setdefault("__warningregistry__", {})
    module = place.f_globals.get("__name__", "__main__")
    warnings.warn_explicit(text, kind, place.f_code.co_filename, place.f_lineno, module, registry)


def as_written(size: float) -> str:
    """Return a size in the units that options have (sizes.py): 1.5G."""
    for unit in ("", "K", "M", "G"):
        if size < 1024:
            return f"{size:.3g}{unit}" if size < 999.5 else f"{size:.0f}{unit}"
        size /= 1024
    return f"{size:.3g}T"


def rounded_up(size: float) -> str:
    """Return a size that is a little larger, as people would write it: 24G, 1600M."""
    for unit, bytes_of in (("G", 1024**3), ("M", 1024**2)):
        if size >= 4 * bytes_of:
            digits = max(len(str(int(size / bytes_of))) - 2, 0)
            step = 10**digits * bytes_of
            return f"{math.ceil(size / step) * step // bytes_of}{unit}"
    return "4M"
