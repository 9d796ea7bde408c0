"""The watchdog: a thread that tells what the program's event loop is stuck in, while it is stuck.

An object's method that hangs while the head reads or shows it, or a calculation in a job, stops everything: nothing is
started or delivered until it returns. Only another thread can say so meanwhile. It looks and tells; what the loop does
is the user's code, and nobody can end that.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import types

logger = logging.getLogger("hyperflow")

STUCK = 10.0
"""Seconds for which the event loop may be blocked before it is told what it is in."""

LOOKS = 10
"""Looks in that time. A process that was stopped, or a machine that slept, has looked no more often meanwhile."""

SHOWN = 8
"""Frames that are shown: the innermost ones."""


class Watchdog:
    """Watches the thread in which it was made. `alive` has to be called now and then."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._beats = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hyperflow-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> None:
        """The event loop has had its turn."""
        self._beats += 1

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        seen, looks, tell_at = -1, 0, LOOKS
        while not self._end.wait(STUCK / LOOKS):
            if self._beats != seen:
                seen, looks, tell_at = self._beats, 0, LOOKS
                continue
            looks += 1
            if looks >= tell_at:
                tell_at *= 4  # later, so that a log of a long one stays readable
                self._tell(looks * STUCK / LOOKS)

    def _tell(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._main)  # pyright: ignore[reportPrivateUsage]
        if frame is not None:
            reads = _reading(frame)
            logger.warning(
                "the event loop has been stuck for %.0f s%s: evaluations go on, but none is started or delivered until "
                "this returns:\n%s",
                *(seconds, f", while it reads what {reads} has ended with" if reads else ""),
                "".join(traceback.format_stack(frame)[-SHOWN:]).rstrip(),
            )


def _reading(frame: types.FrameType | None) -> str:
    """Return the evaluation that the head is reading, if it is in that."""
    while frame is not None:
        if frame.f_code.co_name in ("on_results", "_on_failure") and "evaluation" in frame.f_locals:
            return str(frame.f_locals["evaluation"].name)
        if frame.f_code.co_name == "read" and "calls" in frame.f_locals and "task" in frame.f_locals:
            return f"evaluation {frame.f_locals['task']} of {frame.f_locals['calls'].group}"
        frame = frame.f_back
    return ""
