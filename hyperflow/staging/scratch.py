"""scratch: a directory on the node's own disk, gone with the evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperflow import files
from hyperflow.wire import scratch as wired


@contextmanager
def scratch(keep_on_failure: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield an empty directory on the node's own disk: `with hf.scratch() as d: ...`."""
    above = wired.directory_of(wired.worker) if wired.worker is not None else None
    if above is None:
        made = files.make_temporary("hyperflow-scratch-")
    else:
        made = above / os.urandom(5).hex()
        made.mkdir(parents=True)
    try:
        yield made
    finally:
        files.remove_tree(made)
