"""Work directories: one for each object, the same every time.

Guarantees: `new_work_dir(obj)` gives the directory that the database records for `obj`, also in a later program that
goes on from that database. A directory is for its user alone (mode 0700), and is recorded before the caller gets it.
Its name is a few harmless letters of the object's key, for people, and a hash of the key. So `"../../x"`, a name of
4 kB, or two that differ in case only, are all safe.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from hyperflow import environment, private
from hyperflow.database import keys
from hyperflow.database.values import codec_for
from hyperflow.errors import ConfigurationError, SerializationError
from hyperflow.flow import Job, Native

WORK_DIRS = "hyperflow:work_dirs"
"""The map that records them."""

CHECKPOINTS = "hyperflow:checkpoints"
"""The map that records the checkpoint directories of evaluations in memoized computations."""

CHECKPOINT_DIRS = "checkpoints"
"""The directory, among a program's work directories, that they are in."""


def new_work_dir(obj: object) -> Job[Path]:
    """Give a directory for an object: made at the first call, the same one at every later one.

    A recorded directory that has been removed is replaced by a new one of this program.

    Args:
        obj: Anything that can be a key: numbers, str, tuples, dicts, attrs classes, dataclasses, ...

    Raises:
        SerializationError: The object cannot be a key; the message shows how to register its type.
        ConfigurationError: The directory cannot be made, or something else is in its place.
    """
    return Job(Native("new_work_dir", _new_work_dir, (obj,)))


async def _new_work_dir(obj: Any) -> Path:
    here = environment.current("new_work_dir")
    try:
        key = keys.encode(obj, WORK_DIRS)
    except SerializationError as error:
        raise SerializationError(f"new_work_dir({obj!r:.60}): {error}") from error
    recorded = await here.database.lookup(WORK_DIRS, key)
    if recorded is not None:
        path = Path(codec_for(str).decode(recorded))
        if path.is_dir():  # noqa: ASYNC240 (a millisecond at most)
            return path
    path = here.program.data_dir / dir_name(key)
    make(path)
    await here.database.insert(WORK_DIRS, key, codec_for(str).encode(str(path)))
    return path


def dir_name(key: str) -> str:
    """Return a directory's name for a canonical key: a few letters of it, and a hash of all of it."""
    words = re.sub(r"![a-z]+", " ", key)
    letters = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.").replace("..", ".")[:32].strip("-.")
    digest = hashlib.blake2b(key.encode(), digest_size=10).hexdigest()
    return f"{letters}-{digest}" if letters else digest


def make(path: Path) -> None:
    """Make a directory for its user alone; raises ConfigurationError if it cannot be, or something is in the way."""
    try:
        private.make_all(path)
        status = path.lstat()
    except OSError as error:
        raise ConfigurationError(f"cannot make the work directory {path}: {error.strerror or error}") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} is in the way of a work directory: it is a link, or belongs to someone else")
