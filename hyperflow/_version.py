"""The version, here and nowhere else; and those of what has to be the same on all nodes."""

from __future__ import annotations

import contextlib
import os
import sys

__version__ = "0.1.0"


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution, "none" if there is none.

    By the name of its directory: importlib.metadata takes 15 ms to import, and every start of a launcher waits for it.
    """
    for path in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(path or "."):
                if name.startswith(f"{distribution}-") and name.endswith(".dist-info"):
                    return name.removeprefix(f"{distribution}-").removesuffix(".dist-info")
    return "none"
