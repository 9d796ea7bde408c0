"""What outlives the manager of a named pool: the file that says who has which CPUs, and notes of programs that left.

    <pool>/lent            who has what, written before it is lent, and when a program has left
    <pool>/left-PID-...    a program gave everything back while no manager was there to be told

Without such a note, a manager that comes after a killed one would keep CPUs for a process that goes on without them: a
notebook whose pool was closed. Nothing here is trusted with more than that: a file that makes no sense is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hyperflow import checked_files, files
from hyperflow.errors import ConfigurationError
from hyperflow.private import Held

FILE = "lent"
LEFT = "left-"


def write(home: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write who has what; raises OSError, or ConfigurationError. (Not brought to the disk: a crash ends all leases.)"""
    with Held.open(home) as held:
        files.write_whole((held / FILE).through, json.dumps(rows).encode(), durable=False)


def read(home: Path) -> list[dict[str, Any]]:
    """Return who has what; raises OSError, ValueError, ConfigurationError, or Damaged."""
    with Held.open(home) as held:
        found: Any = files.from_json(checked_files.read_private(held / FILE))
    if not isinstance(found, list):
        raise ValueError("it is no list")
    return found


def _note(pid: int, program: str) -> str:
    return f"{LEFT}{pid}-{hashlib.sha256(program.encode()).hexdigest()[:16]}"


def note_left(home: Path, pid: int, program: str) -> None:
    """Note that a program has given everything back; as well as that is possible."""
    with suppress(OSError, ConfigurationError), Held.open(home) as held:
        files.write_whole((held / _note(pid, program)).through, b"", durable=False)


def have_left(home: Path, programs: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return which of these have noted that they have left."""
    try:
        with Held.open(home) as held:
            there = set(held.names())
    except (OSError, ConfigurationError):
        return set()
    return {each for each in programs if _note(*each) in there}


def forget_notes(home: Path) -> None:
    """Remove the notes, once all of them were read, or nothing is lent."""
    with suppress(OSError, ConfigurationError), Held.open(home) as held:
        for name in held.names():
            if name.startswith(LEFT):
                (held / name).through.unlink(missing_ok=True)
