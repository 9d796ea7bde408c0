"""What is recorded of a task, in the results database of its job: how it ended, and what it has written.

Two maps: TASKS, from a task's number and key to its newest record; OUTPUT, from (number, key, stream, place of the
piece) to a piece. A task that is run again has the pieces of its newest try only.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs

TASKS, OUTPUT = "array tasks", "array output"
"""The names of the maps."""

Stream: TypeAlias = Literal["out", "err"]
State: TypeAlias = Literal["waiting", "running", "done", "failed", "skipped", "cancelled"]
"""`skipped`: something that it comes after has failed."""

PIECE = 1 << 16
"""Bytes of a piece of output, at most."""

MOST_OUTPUT = 1 << 26
"""Bytes that are kept of each stream of a task; what is beyond them is counted."""


@attrs.frozen
class TaskRecord:
    """How a task ended, and what it used.

    Args:
        state: "done", "failed", "skipped" or "cancelled".
        exit_code: Of the command; minus the signal that ended it; None where it did not end by itself.
        seconds: From start to end of its last try.
        cpu_seconds: User and system time in it.
        memory: Bytes, of its largest process.
        node: Where the last try ran.
        tries: How many there were.
        error: What went wrong, in a line; "" where nothing did.
        out: Bytes that it wrote to its output, kept or not; `err`: to its error output.
    """

    state: State
    exit_code: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory: int = 0
    node: str = ""
    tries: int = 1
    error: str = ""
    out: int = 0
    err: int = 0
