"""What tasks have written, from the pieces that are recorded of it, for who reads it from outside.

Guarantees: bytes come as they were written, in order; what other tries of a task have written is not among them. What
is in memory is some bytes for each piece, and one piece.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Sequence

from hyperflow.commands.records import OUTPUT, Stream, piece_of
from hyperflow.commands.sources import Source, scan


class Written:
    """Where the pieces of one stream of some tasks are; None for all tasks."""

    def __init__(self, stream: Stream, numbers: Collection[int] | None) -> None:
        self._stream = stream
        self._wanted = numbers
        self._numbers = array("q")
        self._tokens = array("Q")
        self._places = array("q")
        self._sources = array("H")
        self._entries = array("q")
        self._names: list[str] = []
        self._seen: list[int] = []
        """By source, its name, and its last entry that was looked at."""
        self._order: array[int] | None = None

    def look(self, sources: Sequence[Source]) -> None:
        """Note the pieces that have come since the last time; of the sources, some may have come or gone."""
        for source in sources:
            if source.name not in self._names:
                self._names.append(source.name)
                self._seen.append(0)
            at = self._names.index(source.name)
            seen = self._seen[at]
            for entry in scan(source, OUTPUT, self._wanted, seen):
                self._seen[at] = max(self._seen[at], entry.number)
                self._note(at, entry.number, entry.key)

    def _note(self, source: int, entry: int, key: str) -> None:
        number, token, stream, place = json.loads(key)
        if stream == self._stream and (self._wanted is None or number in self._wanted):
            self._numbers.append(number)
            self._tokens.append(int(token, 16))
            self._places.append(place)
            self._sources.append(source)
            self._entries.append(entry)
            self._order = None

    def _of(self, number: int) -> array[int]:
        """Return which pieces are of a task."""
        if self._order is None:
            self._order = array("q", sorted(range(len(self._numbers)), key=self._numbers.__getitem__))
        first = bisect_left(self._order, number, key=self._numbers.__getitem__)
        return self._order[first : bisect_right(self._order, number, first, key=self._numbers.__getitem__)]

    def newest(self, number: int) -> str:
        """Return the token of the newest try of a task that has written something, "" for none."""
        newest = max((self._tokens[at] for at in self._of(number)), default=0)
        return f"{newest:x}" if newest else ""

    def read(self, sources: Sequence[Source], number: int, token: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the pieces of a try from a place on, each with its place; without those that are damaged."""
        wanted = int(token or "0", 16)
        opened = {self._names.index(source.name): source for source in sources if source.name in self._names}
        done = start
        for at in sorted((at for at in self._of(number) if self._tokens[at] == wanted), key=self._places.__getitem__):
            source = opened.get(self._sources[at])
            if self._places[at] < done or source is None:  # it is there twice, or in another database by now
                continue
            text = source.text(OUTPUT, self._entries[at])
            if text is not None:
                data = piece_of(text)
                done = self._places[at] + len(data)
                yield self._places[at], data
