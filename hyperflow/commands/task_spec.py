"""One task of an array: a command, and what it needs."""

from __future__ import annotations

import os.path
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.staging.file import is_url


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

    @property
    def title(self) -> str:
        """What sentences call it: `task 17`, `task 17 (align)`."""
        return f"task {self.number} ({self.name})" if self.name else f"task {self.number}"


def absolute(path: str, cwd: str) -> str:
    """Return a path or URL as it is from everywhere; "" stays."""
    return path if not path or is_url(path) else os.path.join(cwd, path)


def inputs_of(paths: Iterable[str], cwd: str) -> dict[str, str]:
    """Return files by the names that they have in the directory of a task.

    One below `cwd` has the same name there as here, so that the words of the command fit; any other has the last part
    of its path.

    Raises:
        ConfigurationError: Two have the same name, or one has none.
    """
    found: dict[str, str] = {}
    for path in paths:
        name = _name(path)
        if name in ("", ".", ".."):
            raise ConfigurationError(f"the input {path!r} has no name")
        if name in found:
            raise ConfigurationError(f"two inputs would have the name {name!r}: {found[name]} and {path}")
        found[name] = absolute(path, cwd)
    return found


def _name(path: str) -> str:
    if is_url(path):
        return posixpath.basename(urlsplit(path).path)
    plain = os.path.normpath(path)
    return os.path.basename(plain) if os.path.isabs(plain) or plain.startswith("..") else plain
