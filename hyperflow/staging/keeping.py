"""Keeping files on the nodes where they were made: what an evaluation says of one, and how long the head wants it.

    on a worker    keep(path, digest, size)    `path`: in the node's cache, pinned
    at the head    follow(file, digest)        as long as this object lives, nodes get the content from there

Guarantees: the head knows of a file before the evaluation that has made it ends. When the last object that follows it
is gone, or the run ends, its node may remove it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

KEEPING = "keeping"
"""To whom an evaluation says that it keeps something."""


class KeptAt(NamedTuple):
    """A file that stays on its node."""

    node: str
    path: str
    digest: str
    size: int


def keep(path: str | os.PathLike[str], digest: str, size: int) -> KeptAt:
    """On a worker: tell the head that a file stays on this node, at this place in the cache.

    The cache has pinned it there already; the launcher takes the pin away when the head does not want it any more.
    """
    from hyperflow.worker.worker import post, worker_info  # noqa: PLC0415 (the head reads this, too)

    kept = KeptAt(worker_info().node, os.fspath(path), digest, size)
    post(KEEPING, kept)
    return kept


def follow(file: object, digest: str) -> None:
    """At the head: have the nodes keep a content for as long as this object lives."""
    from hyperflow.environment import current  # noqa: PLC0415 (as above)

    files: Any = getattr(current().evaluator, "node_files", None)
    if files is None:  # an inline environment: the file is on this machine
        return
    files.kept.used(digest)
    loop = asyncio.get_running_loop()
    weakref.finalize(file, _release, loop, files.kept.unused, digest).atexit = False


def _release(loop: asyncio.AbstractEventLoop, unused: Callable[[str], object], digest: str) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and the run with it
        loop.call_soon_threadsafe(unused, digest)
