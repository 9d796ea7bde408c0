"""The index: which entries of a file may have a key, 8 bytes for each entry, in memory and in the file.

An entry stands in it as a check sum of its map and key, and its number. Many of them, sorted, are a run. Runs are in
the file, too (table `runs`), so that a file with a million entries is ready after some milliseconds: reading the
entries took seconds.

Guarantees:
- What the index does not have is not in the file: all runs and the entries after them are read, as many as the file
  counts, before it says so. So a miss is sure, and needs no look at the file.
- The index is believed only where it proves itself. A run has a check sum, and begins where the one before it ends. One
  that does not is left aside, and what it covered is read from the entries.
- What it has found is looked at: an entry whose key only has the same check sum is another one.

Who writes a file without knowing of this table (an older hyperflow) does no harm: what it has added is after the runs.

One thread adds and writes; any other may ask meanwhile.

Rejected: an index of SQLite. One flipped byte in it makes entries vanish, without an error; and each
key is written in another place. Half of the memory, by check sums alone: then each miss of a large file asks the disk.
"""

from __future__ import annotations

import sqlite3
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

RUN = 16384
"""Entries after which they are written as a run; so many are read again after a program was killed."""

SHORTEST = 1024
"""Entries that are written as a run when the file is closed; fewer are read again."""

LONGEST = 64 * RUN
"""A run of so many entries is not merged any more; merging takes five times its memory."""

MOST = (1 << 32) - 1
"""Entries in a file: a number has 32 bits."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    last INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    entries BLOB NOT NULL,
    seal INTEGER NOT NULL
)
"""


class Run(NamedTuple):
    """The entries `first` to `last`, sorted by check sum: each has that in the high 32 bits, its number in the low."""

    first: int
    last: int
    entries: array[int]

    def has_any(self, of_keys: Iterable[int]) -> bool:
        """Whether it has one of these check sums."""
        entries = self.entries
        last = entries[-1] if entries else 0
        return any(
            of_key << 32 <= last and entries[bisect_left(entries, of_key << 32)] >> 32 == of_key for of_key in of_keys
        )


@lru_cache(1000)
def _start(map_name: str) -> int:
    return zlib.crc32(map_name.encode("utf-8", "surrogatepass"))


def digest(map_name: str, key: str) -> int:
    """Return the check sum of a key: 32 bits."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass"), _start(map_name))


class Index:
    """The index of one file."""

    def __init__(self) -> None:
        self.complete = False
        """All entries are in it."""
        self.whole = True
        """No entry is missing because of damage. Else that is to be told before anybody hears that a key is not there.

        A damaged entry is to be told at the next opening again; so no run may cover it.
        """
        self.runs: tuple[Run, ...] = ()
        self._packed = array("Q")
        self._recent: dict[int, int] = {}
        self._older: dict[int, int] = {}

    @property
    def covered(self) -> int:
        """The last entry in a run."""
        return self.runs[-1].last if self.runs else 0

    @property
    def count(self) -> int:
        """How many entries are in runs."""
        return sum(len(run.entries) for run in self.runs)

    @property
    def waiting(self) -> int:
        """How many entries are in no run."""
        return len(self._packed)

    def add(self, of_key: int, number: int) -> None:
        """Note the newest entry."""
        before = self._recent.get(of_key)
        if before is not None:
            self._older[number] = before
        self._recent[of_key] = number
        self._packed.append(of_key << 32 | number)

    def add_all(self, of_keys: Sequence[int], first: int) -> None:
        """Note the newest entries, which have numbers from `first` on."""
        recent, numbers = self._recent, range(first, first + len(of_keys))
        if recent.keys().isdisjoint(of_keys) and len(new := dict(zip(of_keys, numbers, strict=True))) == len(of_keys):
            recent.update(new)
            self._packed.extend([of_key << 32 | number for of_key, number in new.items()])
        else:
            for of_key, number in zip(of_keys, numbers, strict=True):
                self.add(of_key, number)

    def newest(self, of_key: int) -> int:
        """Return the newest entry with this check sum, 0 if there is none."""
        # In this order: what leaves `_recent` is in a run before.
        number = self._recent.get(of_key)
        if number is not None:
            return number
        for run in reversed(self.runs):
            entries = run.entries
            at = _after(entries, of_key) - 1
            if at >= 0 and (found := entries[at]) >> 32 == of_key:
                return found & MOST
        return 0

    def has_none(self, of_keys: Sequence[int]) -> bool:
        """Whether no entry has any of these check sums."""
        # In this order, as in `newest`.
        return self._recent.keys().isdisjoint(of_keys) and not any(run.has_any(of_keys) for run in self.runs)

    def numbers(self, of_key: int) -> list[int]:
        """Return all entries with this check sum, the newest first."""
        found: list[int] = []
        number = self._recent.get(of_key)
        while number is not None:
            found.append(number)
            number = self._older.get(number)
        for run in reversed(self.runs):
            at = _after(run.entries, of_key) - 1
            while at >= 0 and run.entries[at] >> 32 == of_key:
                found.append(run.entries[at] & MOST)
                at -= 1
        return found

    def read(self, connection: sqlite3.Connection, newest: int) -> None:
        """Take the runs of a file that has `newest` entries, as far as they are whole."""
        self.runs = ()
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs' AND type = 'table'").fetchone():
            return
        runs: list[Run] = []
        try:
            for last, first, data, seal in connection.execute("SELECT last, first, entries, seal FROM runs ORDER BY 1"):
                run = _whole(first, last, data, seal)
                if run is None or first != (runs[-1].last if runs else 0) + 1 or last > newest:
                    break
                runs.append(run)
        except sqlite3.Error:
            pass
        self.runs = tuple(runs)

    def write(self, connection: sqlite3.Connection, last: int) -> list[Run]:
        """Make a run of what is in none, up to the newest entry, and write what changes; return all runs, to `take`."""
        runs = [*self.runs, Run(self.covered + 1, last, array("Q", sorted(self._packed)))]
        while len(runs) > 1 and _alike(*runs[-2:]):
            runs[-2:] = [_merged(*runs[-2:])]
        new = [run for run in runs if run not in self.runs]
        if not self.runs:
            connection.execute("DROP TABLE IF EXISTS runs")  # which may have other columns, if it was spoilt
        connection.execute(SCHEMA)
        # Also what is no whole run, and was left aside when the runs were read.
        connection.execute("DELETE FROM runs WHERE last >= ?", (min(run.first for run in new),))
        for run in new:
            data = _swapped(run.entries[:] if sys.byteorder == "big" else run.entries).tobytes()
            seal = _seal(run.first, run.last, data)
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (run.last, run.first, data, seal))
        return runs

    def take(self, runs: list[Run]) -> None:
        """Go on with the runs that were written."""
        self.runs = tuple(runs)
        self._recent, self._older, self._packed = {}, {}, array("Q")


def _alike(older: Run, newer: Run) -> bool:
    """Whether these become one run: so few of them are left, and an entry is written some times only."""
    return len(older.entries) < 2 * len(newer.entries) and len(older.entries) + len(newer.entries) <= LONGEST


def _merged(older: Run, newer: Run) -> Run:
    # Of two sorted parts, which is what Python's sort looks for.
    return Run(older.first, newer.last, array("Q", sorted([*older.entries, *newer.entries])))


def _after(entries: array[int], of_key: int) -> int:
    """Return how many entries are before those with a higher check sum."""
    # Check sums are spread evenly, so this is nearly always between the two guesses.
    guess, room = of_key * len(entries) >> 32, 2 * isqrt(len(entries)) + 2
    low, high = max(guess - room, 0), min(guess + room, len(entries))
    after = of_key + 1 << 32
    if (low and entries[low - 1] >= after) or (high < len(entries) and entries[high] < after):
        low, high = 0, len(entries)
    return bisect_left(entries, after, low, high)


def _whole(first: object, last: object, data: object, seal: object) -> Run | None:
    if not (isinstance(first, int) and isinstance(last, int) and isinstance(data, bytes)) or len(data) % 8:
        return None
    if seal != _seal(first, last, data):
        return None
    return Run(first, last, _swapped(array("Q", data)))


def _seal(first: int, last: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{first}:{last}".encode()))


def _swapped(entries: array[int]) -> array[int]:
    """Return entries as they are in files, or here; on most machines that is the same."""
    if sys.byteorder == "big":
        entries.byteswap()
    return entries
