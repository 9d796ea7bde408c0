"""What tasks have written, and how they ended, on the way into the results database."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from hyperflow.commands.records import State, TaskRecord
from hyperflow.commands.running import TaskDone


class Recorder:
    """Records tasks; made within the Job. It receives what tasks post."""

    def __init__(self) -> None: ...

    async def known(self) -> Mapping[tuple[int, str], TaskRecord]:
        """Return what is recorded already, by number and key; the newest record of each number counts."""
        raise NotImplementedError

    def ended(
        self, number: int, key: str, done: TaskDone | BaseException, state: State | None = None
    ) -> Awaitable[TaskRecord]:
        """Record how a task ended; it is on the disk when that is awaited.

        Args:
            number: Of the task.
            key: What it is known by: its command and all that counts for its result.
            done: How its last try ended; an exception where it has failed, or was not run.
            state: Where it does not follow from `done`: "skipped", "cancelled".
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Record what is under way, and leave nothing behind."""
        raise NotImplementedError
