"""What killed heads have left beside the destinations of outputs: found by its name, removed when its owner has gone.

Guarantees: nothing of a head that lives, or may live on another machine, is touched. A part is only taken for one if it
has the name of one. A directory that was moved aside in the moment of the kill is moved back.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hyperflow import files
from hyperflow.database.ownership import Owner
from hyperflow.program import ProgramInfo
from hyperflow.staging import exchange
from hyperflow.wire import removal

BEING_WRITTEN = 3600.0
"""Seconds for which a marker without an owner counts as one that is being written."""

NOTES = "landings"
"""The file in a run's directory that names the directories where its outputs came, a line each."""

_PART = re.compile(
    r"(\.(?P<name>.+)\.(?P<run>\d{8}-\d{6}-[^.]+)-[0-9a-f]{10,14}\.part)(?P<rest>\.[0-9a-f]{12}(\.old)?)?"
)


def visit(directory: str, program: ProgramInfo) -> None:
    """A run is to make something in a directory: note that, and remove what others have left there."""
    notes = program.log_dir.parent / NOTES
    with suppress(OSError), notes.open("a") as file:
        file.write(f"{os.path.abspath(directory)}\n")
    sweep(directory)


def noted(home: Path) -> list[str]:
    """Return the directories where outputs of a run came, as it has noted them."""
    return sorted(set(files.read_text(home / NOTES).splitlines()))


def sweep(directory: str) -> list[str]:
    """Remove what is left in a directory of heads that have gone; return the names."""
    removed = list(_abandoned(directory))
    for name in removed:
        remove(os.path.join(directory, name))
    return removed


def of_run(directory: str, run: str) -> list[str]:
    """Return the names of all that outputs of a run have left in a directory, whoever lives."""
    with suppress(OSError):
        matches = map(_PART.fullmatch, os.listdir(directory))
        return sorted(match[0] for match in matches if match is not None and match["run"] == run)
    return []


def remove(path: str) -> None:
    """Remove a part, or move back what was moved aside, if nothing has taken its place."""
    directory, name = os.path.split(path)
    match = _PART.fullmatch(name)
    if match is not None and name.endswith(exchange.OLD):
        place = os.path.join(directory, match["name"])
        if not os.path.lexists(place):
            with suppress(OSError):
                os.rename(path, place)
                return
    removal.remove(path)


def _abandoned(directory: str) -> Iterator[str]:
    """Yield the names of what nobody needs any more."""
    with suppress(OSError):
        found = {name: match for name in os.listdir(directory) if (match := _PART.fullmatch(name)) is not None}
        gone: dict[str, bool] = {}
        for match in found.values():
            marker = match[1]
            if marker not in gone:
                gone[marker] = _is_gone(os.path.join(directory, marker))
        yield from (name for name, match in found.items() if gone[match[1]])


def _is_gone(marker: str) -> bool:
    """Whether the head that has made a marker has gone, or its marker."""
    if not os.path.lexists(marker):
        return True
    with suppress(OSError), files.opened(marker) as file:
        owner = Owner.from_text(file.read(65536).decode(errors="replace"))
        if owner is not None:
            return owner.is_gone()
        return time.time() - os.fstat(file.fileno()).st_mtime > BEING_WRITTEN  # by a head that was killed just then
    return False
