"""What tasks are made of, as people give it: lines, numbers, JSON objects.

Guarantees: all of it is read and checked before anything runs. An error names the file and up to ten lines, and counts
the rest. A line is what stands between two line feeds, byte for byte, and nothing else ends one.

Rejected: to skip empty lines in silence (then task 17 is not line 17); to replace bytes that are no UTF-8 (then a
command gets the name of a file that there is not).
"""

from __future__ import annotations

import bisect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any, cast, overload

from hyperflow.errors import ConfigurationError
from hyperflow.saying import short_repr

MOST_SHOWN = 10
"""So many lines, or tasks, a sentence names."""

MOST_TASKS = 100_000_000
"""A range with more numbers is a mistake."""

LONGEST = (1 << 17) - 1
"""Bytes of an argument: Linux takes no longer ones."""

_RANGE = re.compile(r"(-?\d+)(?:-(-?\d+)(?::(\d+))?)?", re.ASCII)


class Numbers(Sequence[str]):
    """The numbers of `1,5,7-9` or `1-1000:5` as texts, without a list of them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._ranges = [_range(part.strip(), text) for part in text.split(",")]
        self._ends = list(accumulate(map(len, self._ranges)))
        if self._ends[-1] > MOST_TASKS:
            raise ConfigurationError(f"--range {text}: these are {self._ends[-1]:,} tasks; {MOST_TASKS:,} may be")
        _check_once(self._ranges, text)

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        which = bisect.bisect_right(self._ends, at)
        return str(self._ranges[which][at - (self._ends[which - 1] if which else 0)])


def read_numbers(text: str, name: str = "--range") -> Numbers:
    """Return the numbers that `1-1000`, `1-1000:10` or `1,5,7-9` means.

    Raises:
        ConfigurationError: It means none, a number twice, or more than there can be tasks.
    """
    try:
        return Numbers(text)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("--range", name, 1)) from None


def read_lines(file: str) -> list[str]:
    """Return the lines of a file, or of standard input for "-"; what is empty at its end is no line.

    Raises:
        ConfigurationError: It cannot be read, has no lines, or lines that cannot be an argument.
    """
    data = read_bytes(file)
    lines = data.rstrip(b"\n").split(b"\n")
    if lines == [b""]:
        raise ConfigurationError(f"{shown(file)} is empty: there is nothing to run")
    if all(line.endswith(b"\r") for line in lines):
        raise ConfigurationError(f"{shown(file)}: its lines end as on Windows; type: sed -i 's/\\r$//' {shown(file)}")
    _refuse(file, (at for at, line in enumerate(lines, 1) if not line), "empty, and would be an empty argument")
    if b"\0" in data:
        _refuse(
            file, (at for at, line in enumerate(lines, 1) if b"\0" in line), "with a NUL, which no argument can have"
        )
    if max(map(len, lines)) > LONGEST:
        too_long = f"longer than {LONGEST:,} bytes, which no argument can be"
        _refuse(file, (at for at, line in enumerate(lines, 1) if len(line) > LONGEST), too_long)
    try:
        return data.decode().rstrip("\n").split("\n")
    except UnicodeDecodeError:
        _refuse(file, (at for at, line in enumerate(lines, 1) if not _is_utf8(line)), "not UTF-8")
        raise  # it is one of them


def read_objects(file: str) -> list[str]:
    """Return the objects of a file, each as a line of JSON: a line each, or an array of them; "-" is standard input.

    Raises:
        ConfigurationError: It cannot be read, has none, or something that is no object.
    """
    data = read_bytes(file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{shown(file)}: line {line} is not UTF-8") from None
    if text.lstrip().startswith("["):
        found: Iterable[tuple[int, Any]] = enumerate(_array(file, text), 1)
        where = "element"
    else:
        lines = ((at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip())
        found = ((at, _parsed(file, at, line)) for at, line in lines)
        where = "line"
    objects = [_object(file, f"{where} {at}", value) for at, value in found]
    if not objects:
        raise ConfigurationError(f"{shown(file)} has no objects: there is nothing to run")
    return objects


def read_bytes(file: str) -> bytes:
    """Return what is in a file, or comes from standard input for "-"; raises ConfigurationError."""
    try:
        if file == "-":
            if sys.stdin is None or sys.stdin.isatty():
                raise ConfigurationError(
                    "- stands for standard input, and that is the terminal: pipe something into it"
                )
            return sys.stdin.buffer.read()
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"{shown(file)} cannot be read: {said}") from None


def shown(file: str) -> str:
    """Return a file's name for a sentence."""
    return "standard input" if file == "-" else file if file.isprintable() and " " not in file else repr(file)


def some(found: Sequence[Any]) -> str:
    """Return the first ten of these as text, and how many more there are."""
    more = f" and {len(found) - MOST_SHOWN:,} more" if len(found) > MOST_SHOWN else ""
    return ", ".join(str(each) for each in found[:MOST_SHOWN]) + more


def _range(part: str, text: str) -> range:
    match = _RANGE.fullmatch(part)
    if match is None:
        raise ConfigurationError(
            f"--range {text}: {part!r} is no number and no range; write 1-1000, 1-1000:10 or 1,5,7-9"
        )
    first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    if step == 0 or last < first:
        raise ConfigurationError(f"--range {text}: {part} has no number in it")
    return range(first, last + 1, step)


def _check_once(ranges: Sequence[range], text: str) -> None:
    """Refuse a number that is there twice: two tasks would write the same files."""
    among = sorted(ranges, key=lambda each: each.start)
    if all(one.stop <= other.start for one, other in pairwise(among)):
        return
    seen = set[int]()
    for number in chain.from_iterable(ranges):
        if number in seen:
            raise ConfigurationError(f"--range {text}: {number} is in it twice")
        seen.add(number)


def _refuse(file: str, found: Iterable[int], what: str) -> None:
    if lines := list(found):
        which = f"line {lines[0]} is" if len(lines) == 1 else f"lines {some(lines)} are"
        raise ConfigurationError(f"{shown(file)}: {which} {what}")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _array(file: str, text: str) -> list[Any]:
    try:
        return cast("list[Any]", json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{shown(file)}: this is no JSON: {error}") from None


def _parsed(file: str, at: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{shown(file)}: line {at} is no JSON: {error}") from None


def _object(file: str, where: str, value: Any) -> str:
    if not isinstance(value, dict):
        raise ConfigurationError(
            f'{shown(file)}: {where} is no object, but {short_repr(value, 60)}; write {{"key": ...}}, or --each-line'
        )
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{shown(file)}: {where} has half of a character (\\ud800 to \\udfff)") from None
    return text


def words_of(text: str) -> dict[str, str]:
    """Return the members of an object as words: texts as they are, numbers as JSON writes them, true and false."""
    members: dict[str, Any] = json.loads(text)
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in members.items()}
