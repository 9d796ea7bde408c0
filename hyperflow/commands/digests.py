"""The digests of the files that tasks read: what counts of them in a task's key.

Guarantees: a file is read beside the event loop, and once, however many tasks need it. One that a task makes
is looked at when that is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hyperflow.commands.task_spec import TaskSpec
from hyperflow.staging.file import File


class Digests:
    """Of the files of an array."""

    def __init__(self) -> None:
        self._of: dict[str, str | OSError] = {}

    async def look_at(self, tasks: Iterable[TaskSpec]) -> None:
        """Read what these tasks need."""
        paths = {path for task in tasks for path in (*task.inputs.values(), *([task.stdin] if task.stdin else []))}
        if new := [path for path in paths if path not in self._of]:
            self._of.update(await asyncio.to_thread(_read, new))

    def of(self, path: str) -> str:
        """Return the digest of a file that was looked at; raises OSError if it cannot be read."""
        found = self._of[path]
        if isinstance(found, OSError):
            del self._of[path]  # it may be there later
            raise found
        return found


def _read(paths: Iterable[str]) -> dict[str, str | OSError]:
    found: dict[str, str | OSError] = {}
    for path in paths:
        try:
            found[path] = File(path).digest
        except OSError as error:
            found[path] = error
    return found
