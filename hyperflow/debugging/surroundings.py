"""What surrounds a failed evaluation, where its capsule is written: directory, versions, the user's own modules."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hyperflow._version import __version__
from hyperflow.debugging.capsule import About, Source

MOST_SOURCE = 2_000_000
"""Characters of the user's files that a capsule has."""

PACKAGES = ("site-packages", "dist-packages")
"""Directories of what was installed, and not written for this program."""


class Place(NamedTuple):
    """Where an evaluation ran; see WorkerInfo."""

    service_id: str
    node: str
    cpus: tuple[int, ...]
    log_file: str
    program: str


def about(task: int, function: str, error: str, trace: str, place: Place, *, as_left: bool) -> About:
    """Tell of an evaluation that has just failed."""
    return About(
        task=task,
        function=function,
        error=error,
        trace=trace,
        program=place.program,
        service_id=place.service_id,
        node=place.node,
        cpus=place.cpus,
        log_file=place.log_file,
        directory=_directory(),
        sys_path=tuple(map(str, sys.path)),
        made=time.time(),
        hyperflow=__version__,
        python=sys.version.split(maxsplit=1)[0],
        versions=versions(),
        arguments_as_left=as_left,
    )


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def sources() -> list[Source]:
    """Return the user's own files that are imported here, and the script's, as far as there is room."""
    found: list[Source] = []
    room = MOST_SOURCE
    for name, file, is_package in _own_modules():
        try:
            text = Path(file).read_text(encoding="utf-8") if file.endswith(".py") else ""
        except (OSError, ValueError):  # the script is on another machine, or no text
            continue
        room -= len(text)
        if room >= 0:
            found.append(Source(name, file, is_package, text))
    return found


def _own_modules() -> Iterator[tuple[str, str, bool]]:
    """Yield name, file and whether it is a package, of modules that were neither installed nor are Python's own."""
    stdlib = os.path.dirname(os.__file__)
    for name, module in list(sys.modules.items()):
        first = name.partition(".")[0]
        if first == "hyperflow" or first in sys.stdlib_module_names:
            continue
        space: Mapping[str, Any] = getattr(module, "__dict__", {})
        file, path = space.get("__file__"), space.get("__path__")
        if file is None and path is not None:  # a package without a file
            file = next((os.path.join(str(each), "") for each in path), None)
        if not isinstance(file, str) or not file.endswith((".py", os.sep)):
            continue
        inside = file.startswith(stdlib + os.sep) or any(part in PACKAGES for part in Path(file).parts)
        if not inside:
            yield name, file, path is not None


def versions() -> dict[str, str]:
    """Return the versions of the packages that are imported here, as far as they say."""
    found: dict[str, str] = {}
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "hyperflow" and name not in sys.stdlib_module_names:
            version = getattr(module, "__dict__", {}).get("__version__")
            if isinstance(version, str):
                found[name] = version[:100]
    return found
