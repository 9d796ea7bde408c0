"""The files of an event log.

    events.jsonl            the tail: plain lines, which a run adds to
    events.000001.jsonl     a full segment, which waits to be packed
    events.000001.packed    one that was packed (packed.py)

A log begins as its tail alone, and most never have more. Each tail but the first one begins with its number, as
`{"t": ..., "state": "segment", "number": 2}`, so a reader that has opened it knows which segments come before, whatever
is renamed meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "events.jsonl"

_NUMBER = r"\.(\d{6,9})\.(?:jsonl|packed)"


def full(tail: Path, number: int) -> Path:
    """Return where a full segment is until it is packed."""
    return tail.with_name(f"{tail.stem}.{number:06}.jsonl")


def packed(tail: Path, number: int) -> Path:
    """Return where a packed segment is."""
    return tail.with_name(f"{tail.stem}.{number:06}.packed")


def first_line(number: int) -> bytes:
    """Return how a tail begins; the first one, which has number 1, has no such line."""
    return f'{{"t": {time.time():.6f}, "state": "segment", "number": {number}}}\n'.encode()


def number_of(line: bytes) -> int:
    """Return the number of the segment that begins with a line."""
    with suppress(ValueError, RecursionError):
        found: Any = json.loads(line)
        if type(found) is dict and found.get("state") == "segment" and type(found.get("number")) is int:
            return int(found["number"])
    return 1


def numbers(tail: Path) -> list[int]:
    """Return the numbers of the full segments that are there, in order; none where there is no such directory."""
    found: set[int] = set()
    with suppress(OSError):
        for name in os.listdir(tail.parent):
            match = re.fullmatch(_NUMBER, name.removeprefix(tail.stem)) if name.startswith(tail.stem) else None
            if match is not None:
                found.add(int(match[1]))
    return sorted(found)


def size(tail: Path) -> int:
    """Return how many bytes a log has on the disk."""
    total = 0
    for path in [tail, *(where(tail, number) for number in numbers(tail) for where in (full, packed))]:
        with suppress(OSError):
            total += path.stat().st_size
    return total


def plain_size(tail: Path, number: int) -> int:
    """Return how many bytes of lines a full segment has, or had before it was packed; 0 where that is not known."""
    with suppress(OSError, ValueError, IndexError), packed(tail, number).open("rb") as file:
        return int(file.readline(100).split()[-1])
    with suppress(OSError):
        return full(tail, number).stat().st_size
    return 0
