"""A call that is due: made once, a little later, however often it is asked for until then."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable


class Later:
    """What is submitted or changed in one turn of the event loop is dealt with together.

    Args:
        action: What to do.
        pause: How many seconds later; 0 for the end of this turn.
    """

    def __init__(self, action: Callable[[], None], pause: float = 0.0) -> None:
        self.due = False
        loop = asyncio.get_running_loop()
        self._action = action
        self._arrange = functools.partial(loop.call_later, pause) if pause else loop.call_soon
        self._handle: asyncio.Handle | None = None

    def ask(self) -> None:
        """Let it be done. (Where each call counts, look at `due` first.)"""
        if not self.due:
            self.due = True
            self._handle = self._arrange(self._call)

    def _call(self) -> None:
        self.due = False
        self._action()

    def close(self) -> None:
        """Do it no more."""
        self.due = True
        if self._handle is not None:
            self._handle.cancel()
