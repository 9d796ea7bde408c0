"""What is recorded of the tasks of an array already: of a million of them, in 150 MB."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

from hyperflow.commands.records import TaskRecord


class Known(Mapping[tuple[int, str], TaskRecord]):
    """The newest record of each task. One under another key is as if it was not there: the task is another one now.

    A key stands here as a check sum. Records are one long text, and made when they are asked for.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._starts = array("Q")
        """By number, where a record begins: its length, its key, itself. 0 for none."""
        self._count = 0

    def add(self, key: str, text: str) -> None:
        """Take an entry of the database; newer ones come later."""
        try:
            number, name = json.loads(key)
            place = int(number)
        except (TypeError, ValueError):  # not ours
            return
        if place >= len(self._starts):
            self._starts.extend([0] * (place + 1 - len(self._starts) + place // 8))
        self._count += not self._starts[place]
        if not self._text:
            self._text += b"\0"
        self._starts[place] = len(self._text)
        data = text.encode()
        self._text += len(data).to_bytes(4, sys.byteorder) + _digest(name) + data

    def __getitem__(self, key: tuple[int, str]) -> TaskRecord:
        number, name = key
        start = self._starts[number] if 0 <= number < len(self._starts) else 0
        if not start or not self._text.startswith(_digest(name), start + 4):
            raise KeyError(key)
        size = int.from_bytes(self._text[start : start + 4], sys.byteorder)
        return TaskRecord.of(self._text[start + 12 : start + 12 + size].decode())

    def is_done(self, number: int, key: str) -> bool:
        """Whether a task is done: quicker than to make its record."""
        start = self._starts[number] if 0 <= number < len(self._starts) else 0
        if not start or not self._text.startswith(_digest(key), start + 4):
            return False
        return self._text.startswith(b'{"state":"done"', start + 12)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self._text) + len(self._starts) * self._starts.itemsize

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("the keys of what is known are not kept: ask for one")

    def __len__(self) -> int:
        return self._count


def _digest(key: str) -> bytes:
    return blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
