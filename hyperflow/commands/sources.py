"""Where entries of an array are, for who reads them from outside: the database of its run, and those of its jobs.

A job on an allocation records in a file of its own, whose entries come into the run's database now and then, and at its
end. So while it runs, both are read; afterwards, its own is left out. An entry may be in both, which does no harm.

Guarantees: nothing is written or locked (see `database/reading.py`), and a program that writes does not wait long.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from hyperflow import program
from hyperflow.commands.records import beginning
from hyperflow.database import reading, results, scanning
from hyperflow.database.entries import warn_of
from hyperflow.database.file import DatabaseFile
from hyperflow.database.readers import reader
from hyperflow.database.reading import Reader
from hyperflow.database.scanning import Scanned
from hyperflow.errors import ConfigurationError

_OF_JOB = re.compile(r"results\.(\d+\.\d+)\.sqlite")


class Source(Protocol):
    """A database that is open for reading."""

    name: str

    def scan(self, map_name: str, after: int = 0) -> Iterator[Scanned]:
        """Yield the entries of a map after one, the oldest first; without their values, where those are long."""
        ...

    def scan_of(self, map_name: str, task: int, after: int = 0) -> Iterator[Scanned]:
        """Yield those of one task."""
        ...

    def text(self, map_name: str, number: int) -> str | None:
        """Return the value of an entry that was scanned; None if it is damaged."""
        ...


class _File:
    def __init__(self, file: DatabaseFile) -> None:
        self.name = str(file.path)
        self._file = file

    def scan(self, map_name: str, after: int = 0) -> Iterator[Scanned]:
        return scanning.scan(self._file, map_name, after)

    def scan_of(self, map_name: str, task: int, after: int = 0) -> Iterator[Scanned]:
        return scanning.scan_of(self._file, map_name, beginning(task), after)

    def text(self, map_name: str, number: int) -> str | None:
        return scanning.text_at(self._file, map_name, number)


class _Server:
    """It is asked by key, and numbers the entries of all programs: so keys are numbered here, the oldest first."""

    def __init__(self, found: Reader) -> None:
        self.name = found.where
        self._reader = found
        self._keys: dict[str, list[str]] = {}

    def scan(self, map_name: str, after: int = 0) -> Iterator[Scanned]:
        keys = self._keys[map_name] = self._reader.read_keys(map_name)
        for number in range(after, len(keys)):
            yield Scanned(number + 1, keys[number], None, 0.0)

    def scan_of(self, map_name: str, task: int, after: int = 0) -> Iterator[Scanned]:
        return (each for each in self.scan(map_name, after) if each.key.startswith(beginning(task)))

    def text(self, map_name: str, number: int) -> str | None:
        return self._reader.lookup(map_name, self._keys[map_name][number - 1])


FEW = 8
"""Tasks that are asked for one by one; for more of them, all entries are gone through once."""


def scan(source: Source, map_name: str, tasks: Collection[int] | None, after: int = 0) -> Iterator[Scanned]:
    """Yield the entries of some tasks, in the order of each of them, and maybe those of others; None for all."""
    if tasks is None or len(tasks) > FEW:
        yield from source.scan(map_name, after)
        return
    for task in tasks:
        yield from source.scan_of(map_name, task, after)


@contextmanager
def opened(home: Path) -> Iterator[list[Source]]:
    """Open all databases of a run within a scope; there may be none yet.

    Raises:
        DatabaseError: One is damaged, or of a newer version.
    """
    with ExitStack() as stack:
        found: list[Source] = []
        taken: dict[str, int] = {}
        where = _of_run(home)
        if isinstance(where, str):
            found.append(_Server(reader(where)))
        elif where is not None:
            file = stack.enter_context(reading.opened(where))
            stack.callback(warn_of, file.damaged)
            found.append(_File(file))
            if (home / "jobs").is_dir():
                taken = {name: mark.newest for name, mark in file.watermarks().items()}
        for path, name in _of_jobs(home):
            with suppress(ConfigurationError):  # it is just being made
                file = stack.enter_context(reading.opened(path))
                stack.callback(warn_of, file.damaged)
                if taken.get(name, 0) < file.counts.total.newest:
                    found.append(_File(file))
        yield found


def _of_run(home: Path) -> Path | str | None:
    try:
        where = results.database_of(home, home.parent)
    except ConfigurationError:
        return None  # nothing is recorded yet
    if isinstance(where, Path) and not program.is_url(str(where)) and where.exists() and where.stat().st_size == 0:
        return None
    return where


def _of_jobs(home: Path) -> Iterator[tuple[Path, str]]:
    """Yield the databases of jobs, each with the id under which its entries are taken."""
    for path in sorted(home.glob("jobs/*/results.*.sqlite")):
        if (match := _OF_JOB.fullmatch(path.name)) and path.stat().st_size:
            yield path, f"{home.name}-{path.parent.name}-{match[1]}"
