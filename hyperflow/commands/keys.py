"""The key of a task: what it is known by when the array goes on.

Guarantees: two tasks with the same key run the same words in the same directory, with the same variables of `env=`, and
read the same content. The variables of the login shell do not count: they differ from day to day, and nothing would
ever be found again. Nor does the content of the program: who has compiled it anew begins a new array.

Rejected: `database.keys.encode`, whose keys can be read and take ten times as long; here a million are made at once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from hyperflow.commands.task_spec import TaskSpec
from hyperflow.staging.file import File

_ENCODED = ("utf-8", "surrogatepass")


def key_of(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    inputs: Mapping[str, str] | None = None,
) -> str:
    """Return the key, 32 hex digits; 2 µs.

    Args:
        argv: The program and its arguments.
        cwd: Its directory.
        env: What is added to its variables.
        stdin: The digest of what it reads; "" for nothing.
        inputs: The digests of the files that it needs, by their names.
    """
    # No text here has a NUL. How many words and variables there are says where each begins.
    text = f"{len(argv)}\0{cwd}\0{stdin}\0" + "\0".join(argv)
    if env:
        text += f"\0{len(env)}\0" + "\0".join(f"{name}\0{env[name]}" for name in sorted(env))
    if inputs:
        text += "\0\0" + "\0".join(f"{name}\0{inputs[name]}" for name in sorted(inputs))
    return hashlib.blake2b(text.encode(*_ENCODED), digest_size=16).hexdigest()


class Digests:
    """The digests of the files that tasks read.

    A file is read beside the event loop, and once, however many tasks need it. One that a task makes is looked at when
    that is done.
    """

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
