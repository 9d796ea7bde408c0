"""The node's cache of files, as a worker uses it."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path

from hyperflow.errors import FileUnavailable
from hyperflow.staging import asking
from hyperflow.staging.file import File
from hyperflow.wire import scratch


class NodeCache:
    """Files of this node by digest, in a directory that all workers of a launcher share."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def get(self, file: File) -> Path:
        """Return the node's copy of a file, which nobody may change; it stays there until the evaluation ends."""
        there = self.place / file.digest
        if not there.exists():
            self.place.mkdir(exist_ok=True, parents=True)
            if not os.path.exists(file.source):
                return Path(asking.fetch(file.digest, file.size, file.source, self.place))
            (shutil.copytree if file.is_dir else shutil.copyfile)(file.source, there)
        return there

    def put(self, path: Path, digest: str) -> Path:
        """Move or copy a file of this node into it, where it stays until `unpin`."""
        self.place.mkdir(exist_ok=True, parents=True)
        return Path(shutil.copyfile(path, self.place / digest))

    def unpin(self, digest: str) -> None:
        """Let go what `put` has put there."""

    def ended(self) -> None:
        """The evaluation has ended: nothing of it is in use any more."""


@functools.cache
def node_cache() -> NodeCache:
    """Return the cache of this worker's node; raises FileUnavailable where there is none."""
    if scratch.place is None:
        raise FileUnavailable("there is no scratch directory on this node")
    return NodeCache(scratch.place / "files")
