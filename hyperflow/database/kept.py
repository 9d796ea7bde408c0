"""Kept: the values of a file that stay in memory, so that a lookup neither waits nor leaves the loop.

Guarantees: what is kept is the newest value of its key. It takes about `MEMORY_BUDGET`; when half of that has come
since the last time, what came before that is dropped.

One thread puts and drops; any other may ask meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress

LONGEST = 4096
"""Values up to this many characters stay in memory; longer ones are read at each lookup."""

MEMORY_BUDGET = 256 * 1024 * 1024
"""Bytes, by a rough count."""

OVERHEAD = 300
"""Bytes that an entry takes beside its characters."""

_Texts = dict[str, dict[str, str]]
"""By map, and by key in it."""

_NONE: dict[str, str] = {}


class Kept:
    """Values by map and key."""

    def __init__(self) -> None:
        self.pages: set[int] = set()
        """Pages of the file of which all that can be kept is here; see `file`."""
        self._young: _Texts = {}
        self._old: _Texts = {}
        self._size = 0

    def get(self, map_name: str, key: str) -> str | None:
        """Return a value that is kept."""
        text = self._young.get(map_name, _NONE).get(key)  # first, because what leaves it is among the old before
        return self._old.get(map_name, _NONE).get(key) if text is None else text

    def has_none(self, map_name: str, keys: Collection[str]) -> bool:
        """Whether nothing is kept of any of these keys."""
        return self._young.get(map_name, _NONE).keys().isdisjoint(keys) and (
            self._old.get(map_name, _NONE).keys().isdisjoint(keys)
        )

    def put(self, map_name: str, key: str, text: str) -> None:
        """Keep the newest value of a key, unless it is long."""
        self.put_all(map_name, (key,), (text,))

    def put_all(self, map_name: str, keys: Sequence[str], texts: Sequence[str]) -> None:
        """Keep the newest values of some keys."""
        sizes = list(map(len, texts))
        if max(sizes) > LONGEST:
            for key, size in zip(keys, sizes, strict=True):
                if size > LONGEST:
                    self.drop(map_name, key)
            short = [size <= LONGEST for size in sizes]
            keys, texts, sizes = list(compress(keys, short)), list(compress(texts, short)), list(compress(sizes, short))
        self._young.setdefault(map_name, {}).update(zip(keys, texts, strict=True))
        self._size += sum(map(len, keys)) + sum(sizes) + OVERHEAD * len(sizes)
        if self._size * 2 > MEMORY_BUDGET:
            self._old = self._young
            self._young, self._size = {}, 0
            self.pages.clear()

    def drop(self, map_name: str, key: str) -> None:
        """Forget the value of a key, which has a newer one."""
        self._old.get(map_name, _NONE).pop(key, None)
        self._young.get(map_name, _NONE).pop(key, None)
