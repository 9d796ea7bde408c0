"""Pages: the rows of an SQLite file, found without its trees, its schema or its header. For `repair`.

Every page is looked at as if it were a leaf of a table, whatever it says of itself, and every place in it where its
list of cells may point. So no damage elsewhere hides a row; what is found by mistake, or is an older copy, is for the
caller to recognise, by the checksums in the rows. Pages in a write-ahead log count, too, up to its last commit.

The format is that of https://www.sqlite.org/fileformat2.html; it has not changed since 2004.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import attrs

Value: TypeAlias = int | float | str | bytes | None
Place: TypeAlias = tuple[bool, int, int]
"""Where a row is: whether in the log, the beginning of its page there, and of its cell in the page."""

LONGEST_CHAIN = 1_000_000

_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


@attrs.frozen(eq=False)
class Pages:
    """The pages of a file and its log; open one with `with Pages.open(path) as pages`."""

    file: mmap.mmap | bytes
    log: mmap.mmap | bytes
    size: int
    usable: int
    newest: dict[int, int]
    """Of the pages in the log: the number, and where the last copy begins."""
    stack: ExitStack

    @classmethod
    def open(cls, path: Path, log_path: Path) -> Pages:
        """Map a file, and its log if there is one. Raises OSError."""
        with ExitStack() as stack:
            file, log = (_mapped(each, stack) for each in (path, log_path))
            size = int.from_bytes(file[16:18], "big") or int.from_bytes(log[8:12], "big")
            size = 65536 if size == 1 else size
            if size < 512 or size & (size - 1):
                size = 4096
            reserved = int.from_bytes(file[20:21], "big")
            usable = size - (reserved if reserved <= 32 else 0)
            return cls(file, log, size, usable, _frames(log, size), stack.pop_all())

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def rows(self) -> Iterator[tuple[Place, int, list[Value]]]:
        """Return all that looks like a row: where it is, its number, its values. One may come several times."""
        starts = [(False, start) for start in range(0, len(self.file), self.size)]
        starts += [(True, start) for start in self.newest.values()]
        for in_log, start in starts:
            page = self._page(in_log, start)
            for cell in _cells(page, 108 if page.startswith(b"SQLite format 3") else 8):
                try:
                    number, values = self.row((in_log, start, cell))
                except (IndexError, ValueError, struct.error):
                    continue
                yield (in_log, start, cell), number, values

    def row(self, place: Place) -> tuple[int, list[Value]]:
        """Return the row at a place; raises IndexError, ValueError or struct.error if there is none."""
        page = self._page(*place[:2])
        length, at = _varint(page, place[2])
        number, at = _varint(page, at)
        if number >= 1 << 63:
            raise ValueError(number)
        return number, _values(self._payload(page, at, length))

    def _page(self, in_log: bool, start: int) -> bytes:
        return bytes((self.log if in_log else self.file)[start : start + self.size])

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """Return the contents of a cell, which go on in other pages if they are long."""
        most, least = self.usable - 35, (self.usable - 12) * 32 // 255 - 23
        if length > len(self.file) + len(self.log) or length < 2:
            raise ValueError(length)
        if length <= most:
            return page[at : at + length]
        here = least + (length - least) % (self.usable - 4)
        here = here if here <= most else least
        parts = [page[at : at + here]]
        following = int.from_bytes(page[at + here : at + here + 4], "big")
        missing = length - here
        while missing > 0:
            if following == 0 or len(parts) > LONGEST_CHAIN:
                raise ValueError(following)
            start = self.newest.get(following)
            more = self._page(False, (following - 1) * self.size) if start is None else self._page(True, start)
            following = int.from_bytes(more[:4], "big")
            parts.append(more[4 : min(self.usable, 4 + missing)])
            missing -= self.usable - 4
        return b"".join(parts)


def _mapped(path: Path, stack: ExitStack) -> mmap.mmap | bytes:
    """Map a file; what is empty or not there has no bytes."""
    if not path.exists() or not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        return stack.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def _frames(log: mmap.mmap | bytes, size: int) -> dict[int, int]:
    """Return where the newest copy of each page is in a log, up to the last commit of its last generation."""
    newest: dict[int, int] = {}
    since_commit: dict[int, int] = {}
    salts = log[40:48]
    for start in range(32, len(log) - 24 - size + 1, 24 + size):
        if sum(one != other for one, other in zip(log[start + 8 : start + 16], salts, strict=True)) > 1:
            break
        since_commit[int.from_bytes(log[start : start + 4], "big")] = start + 24
        if any(log[start + 4 : start + 8]):
            newest |= since_commit
            since_commit.clear()
    return newest


def _cells(page: bytes, first: int) -> Iterator[int]:
    """Return where cells may begin; the list of them grows from one end of the page, and they from the other."""
    nearest = len(page)
    at = first
    while at + 2 <= nearest:
        cell = int.from_bytes(page[at : at + 2], "big")
        at += 2
        if at <= cell < len(page) - 3:
            nearest = min(nearest, cell) if at < first + 64 else nearest
            yield cell


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | data[at], at + 1


def _values(payload: bytes) -> list[Value]:
    """Return the values of a record."""
    length, at = _varint(payload, 0)
    body = length
    values: list[Value] = []
    while at < length:
        kind, at = _varint(payload, at)
        size = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2 if kind >= 12 else 0)
        data = payload[body : body + size]
        if len(data) < size or kind in (10, 11):
            raise ValueError(kind)
        body += size
        if kind == 0:
            values.append(None)
        elif kind in _INTEGERS:
            values.append(int.from_bytes(data, "big", signed=True))
        elif kind == 7:
            values.append(struct.unpack(">d", data)[0])
        elif kind in (8, 9):
            values.append(kind - 8)
        else:
            values.append(data.decode("utf-8", "replace") if kind % 2 else data)
    return values
