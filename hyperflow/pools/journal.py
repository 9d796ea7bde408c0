"""The journal of a pool: what it has asked of Slurm, in its private directory, so that nothing is asked for twice.

    <run>/pool/
      pool.lock          which process has the pool
      journal            allocations that have not ended: number, kind, token, Slurm id
      claim              renewed as long as somebody wants the allocations (see `claim`)
      holder-3           what the holder of allocation 3 says
      allocation-3.log   what it printed

Guarantees:
- The token of an allocation is on the disk before sbatch is called; so whoever comes next finds at Slurm what was
  submitted, also where the answer of sbatch was lost. Where it cannot be written, nothing is submitted.
- One process at a time has the directory. A second one is refused, with the name of the first.
- A number is never used again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import attrs

from hyperflow import files, private
from hyperflow.checked_files import Damaged, read_checked, read_private, write_checked
from hyperflow.database.ownership import Owner, Ownership
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.head.capacity import Supply
from hyperflow.pools.allocation import Place
from hyperflow.pools.holder import report_name
from hyperflow.pools.kinds import Kind

KIND = "pool journal"
FILE = "journal"


@attrs.frozen
class Entry:
    """One allocation: `kind` is the text of its options."""

    number: int
    kind: str
    token: str
    slurm_job: int | None = None


@attrs.frozen
class Report:
    """What a holder has said."""

    slurm_job: int
    ends: float | None
    places: tuple[Place, ...]


def kind_text(kind: Kind) -> str:
    """Return what tells kinds apart, also in another process."""
    return json.dumps(attrs.asdict(kind.options), sort_keys=True, default=dict)


class Journal:
    """The directory of a pool, held until `close`. All of it blocks."""

    def __init__(self, directory: private.Held, lock: Ownership, entries: Iterable[Entry], following: int) -> None:
        self._held = directory
        self._lock = lock
        self._entries = {entry.number: entry for entry in entries}
        self.following = following
        """The number of the next allocation."""

    @classmethod
    def open(cls, path: Path, owner: str) -> Self:
        """Open the directory, which is made if need be; `owner` is the name of the program or pool.

        Raises:
            ConfigurationError: Another process has it; it is not private, or cannot be written; it is damaged.
        """
        try:
            private.make_all(path)
        except OSError as error:
            raise ConfigurationError(f"cannot make the pool's directory {path}: {error.strerror or error}") from error
        held = private.Held.open(path)
        try:
            lock = _locked(path, owner)
            try:
                entries, following = _read(held)
                return cls(held, lock, entries, following)
            except BaseException:
                lock.release()
                raise
        except BaseException:
            held.close()
            raise

    @property
    def path(self) -> Path:
        return self._held.path

    @property
    def entries(self) -> list[Entry]:
        """Allocations that are not known to have ended."""
        return list(self._entries.values())

    def add(self, entry: Entry) -> None:
        """Note an allocation, before it is submitted; raises ConfigurationError."""
        self._entries[entry.number] = entry
        self.following = max(self.following, entry.number + 1)
        try:
            self._write()
        except BaseException:
            del self._entries[entry.number]
            raise

    def submitted(self, number: int, job: int) -> None:
        """Note its Slurm id; raises ConfigurationError."""
        if number in self._entries:
            self._entries[number] = attrs.evolve(self._entries[number], slurm_job=job)
            self._write()

    def remove(self, number: int) -> None:
        """Forget an allocation that has ended; raises ConfigurationError."""
        if self._entries.pop(number, None) is not None:
            self._write()
        (self.path / report_name(number)).unlink(missing_ok=True)

    def report(self, number: int) -> Report | None:
        """Return what a holder has said; None as long as it has not, or what it said makes no sense."""
        try:
            said = files.from_json(read_private(self._held / report_name(number)))
            places = tuple(_place(node) for node in said["nodes"])
            ends = said["ends"]
            return Report(int(said["slurm_job"]), None if ends is None else float(ends), places)
        except (OSError, Damaged, ValueError, KeyError, TypeError):
            return None

    def close(self) -> None:
        self._lock.release()
        self._held.close()

    def _write(self) -> None:
        said = {"following": self.following, "entries": [attrs.asdict(entry) for entry in self._entries.values()]}
        write_checked(self._held / FILE, KIND, json.dumps(said).encode())


def _place(node: Any) -> Place:
    gpus, memory = node["gpus"], node["memory"]
    supply = Supply(None if gpus is None else tuple(map(str, gpus)), None if memory is None else int(memory))
    return Place(str(node["name"]), int(node["cpus"]), supply=supply)


def _locked(path: Path, owner: str) -> Ownership:
    try:
        return Ownership.acquire(path / "pool", owner)
    except DatabaseError as error:
        lock = path / "pool.lock"
        found = Owner.from_text(files.read_text(lock))
        if found is None:
            raise ConfigurationError(f"the pool's directory {path} is locked: {error}") from None
        advice = "wait until it ends"
        if not found.is_near():
            advice += f". Only if you know that it has ended: rm {lock}"
        raise ConfigurationError(f"the pool in {path} is in use by {found}; {advice}") from None


def _read(held: private.Held) -> tuple[list[Entry], int]:
    try:
        _, payload = read_checked(held / FILE, KIND)
    except FileNotFoundError:
        return [], 1
    except Damaged as error:
        raise ConfigurationError(
            f"{error}. It says which allocations an earlier process has left at Slurm: look for them with "
            f"`squeue --me`, cancel them, and remove the file"
        ) from error
    said = files.from_json(payload)
    return [Entry(**each) for each in said["entries"]], int(said["following"])
