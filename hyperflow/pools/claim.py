"""The claim of a pool: the file by which holders see that somebody still wants what they hold. Standard library only.

Guarantees:
- A holder ends when its number is given back, when the pool has ended, or when the file has not changed for longer than
  it says. What counts is that its contents change: clocks differ from node to node, and times of files with them.
- Renewing it needs no room on the disk: the file keeps its size, and is written in place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

NAME = "claim"

SIZE = 4096

RENEWED = 10.0
"""Seconds between two renewals."""

MOST_GIVEN_BACK = 200
"""Numbers that the file has room for, the newest."""


class Claim(NamedTuple):
    """What the file says.

    Args:
        renewals: Counts, so that the contents change.
        owner: Of whoever renews it: another one counts from the beginning.
        patience: Seconds after the last change at which holders end.
        given_back: Numbers of allocations that are not wanted any more.
        ended: Whether none is.
    """

    renewals: int
    owner: str
    patience: float
    given_back: Collection[int] = ()
    ended: bool = False

    def to_bytes(self) -> bytes:
        """Return it at full length."""
        said: dict[str, Any] = self._asdict()
        said["given_back"] = sorted(self.given_back)[-MOST_GIVEN_BACK:]
        return json.dumps(said).encode().ljust(SIZE - 1) + b"\n"

    @classmethod
    def of(cls, data: bytes) -> Claim | None:
        """Read it; None where it is just being written."""
        try:
            said = json.loads(data)
            given_back = frozenset(map(int, said["given_back"]))
            return cls(
                int(said["renewals"]), str(said["owner"]), float(said["patience"]), given_back, said["ended"] is True
            )
        except (ValueError, KeyError, TypeError):
            return None

    def wants(self, number: int) -> bool:
        """Whether an allocation is still wanted."""
        return not self.ended and number not in self.given_back


def write(directory: Path, claim: Claim) -> None:
    """Write the claim in place; raises OSError."""
    number = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(number, claim.to_bytes(), 0)
        os.fsync(number)
    finally:
        os.close(number)


def read(directory: Path) -> bytes:
    """Return what the file has; b"" where it cannot be read now."""
    try:
        number = os.open(directory / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return os.pread(number, SIZE, 0)
        finally:
            os.close(number)
    except OSError:
        return b""
