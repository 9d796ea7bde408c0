"""Kept: the values of a file that stay in memory, so that a lookup neither waits nor leaves the loop.

Guarantees: what is kept is the newest value of its key. It takes about `MEMORY_BUDGET`; when half of that has come
since the last time, what came before that is dropped.

One thread puts and drops; any other may ask meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 4096
"""Values up to this many characters stay in memory; longer ones are read at each lookup."""

MEMORY_BUDGET = 256 * 1024 * 1024
"""Bytes, by a rough count."""

OVERHEAD = 300
"""Bytes that an entry takes beside its characters."""

_Texts = dict[tuple[str, str], str]


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
        name = map_name, key
        text = self._young.get(name)  # first, because what leaves it is among the old before
        return self._old.get(name) if text is None else text

    def has_none(self, map_name: str, keys: Iterable[str]) -> bool:
        """Whether nothing is kept of any of these keys."""
        names = [(map_name, key) for key in keys]
        return self._young.keys().isdisjoint(names) and self._old.keys().isdisjoint(names)

    def put(self, map_name: str, key: str, text: str) -> None:
        """Keep the newest value of a key, unless it is long."""
        if len(text) > LONGEST:
            self.drop(map_name, key)
            return
        self._young[map_name, key] = text
        self._size += len(key) + len(text) + OVERHEAD
        if self._size * 2 > MEMORY_BUDGET:
            self._old = self._young
            self._young, self._size = {}, 0
            self.pages.clear()

    def put_all(self, entries: Iterable[tuple[str, str, str]]) -> None:
        """Keep the newest values of some keys: map, key and value of each."""
        put = self.put
        for map_name, key, text in entries:
            put(map_name, key, text)

    def drop(self, map_name: str, key: str) -> None:
        """Forget the value of a key, which has a newer one."""
        self._old.pop((map_name, key), None)
        self._young.pop((map_name, key), None)
