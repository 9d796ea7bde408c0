"""A call that is made a little later. Several requests before then cause only one call."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable


class Later:
    """Deals together with what comes within `pause` seconds; 0 for this turn of the event loop."""

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
        """Do not do it any more."""
        self.due = True
        if self._handle is not None:
            self._handle.cancel()
