"""What an array consists of: its tasks, and how they are run. Plain data, as JSON in the run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class TaskSpec:
    """One task: a command, and what it needs. `number` begins at 1 and names it (`hyperflow output RUN 17`).

    Args:
        number: Its place in the array.
        name: What people call it; unique among the tasks of a file, "" where there is none.
        command: The program and its arguments, with everything filled in.
        after: Numbers of the tasks that have to be done before.
        cwd: The directory that it starts in, absolute.
        env: Variables to add.
        stdin: A file to read, absolute; "" for nothing.
        inputs: Files that it needs: name in its directory, and path or URL.
        outputs: Files that it makes, relative to its directory; they come to `cwd`.
        on_failure: The same, of those that come only when it has failed.
        options: Fields of `hf.using` for it: cpus, gpus, memory, time_limit, retries, priority, ...
    """

    number: int
    command: tuple[str, ...]
    name: str = ""
    after: tuple[int, ...] = ()
    cwd: str = ""
    env: Mapping[str, str] = attrs.field(factory=dict)
    stdin: str = ""
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    outputs: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def is_staged(self) -> bool:
        """Whether it runs in a directory of its own, because it has files of its own."""
        return bool(self.inputs or self.outputs or self.on_failure)
