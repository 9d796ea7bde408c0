"""Which files of a program were edited since it started: a running program has its old code in memory."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from hyperflow.database.sources import is_of_user

STARTED = time.time()
"""When this module was imported, which a program does with hyperflow, at its beginning."""


def edited_files(since: float = STARTED) -> list[str]:
    """Return the source files of the user's modules, the script included, that are newer than the program."""
    found: set[str] = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and file.endswith(".py") and is_of_user(file):
            with suppress(OSError):
                if os.stat(file).st_mtime > since:
                    found.add(os.path.abspath(file))
    return sorted(found)
