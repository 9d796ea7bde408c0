"""Standard error, as progress needs it: whether it can be drawn on, and who does that now."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TextIO

drawing = threading.Lock()
"""Held by what draws on the terminal: a display of progress, or a table of jobs."""


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal that can be drawn on."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except (OSError, ValueError):  # it was closed
        return False


def say(line: str) -> None:
    """Write a line to standard error, if it takes one."""
    with suppress(OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, none
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
