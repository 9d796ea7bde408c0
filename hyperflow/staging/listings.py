"""Manifests of directories as files of the run, for nodes that do not see the directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hyperflow import files
from hyperflow.environment import current
from hyperflow.errors import NotInFlow
from hyperflow.staging import content
from hyperflow.staging.content import Entry
from hyperflow.wire import scratch


def place() -> Path | None:
    """Return the run's directory for what comes with files; on a worker and where there is no run, None."""
    if scratch.worker is not None:
        return None
    try:
        program = current().program
    except NotInFlow:
        return None
    made = program.log_dir.parent / "files"
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def write(entries: Sequence[Entry]) -> tuple[str, int]:
    """Write a manifest, and return where it is and its size; "" where there is no place for it."""
    if (made := place()) is None:
        return "", 0
    data = content.manifest(entries)
    path = made / content.digest_of(data)
    if not path.exists():
        files.write_whole(path, data, durable=False)
    return str(path), len(data)
