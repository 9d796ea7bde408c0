"""The pieces of a stream that have come and are not read yet, between the engine and the program."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

SMALL = 1 << 20
"""Bytes; that a larger piece was read is told at once."""

TOLD_TOGETHER = 8
"""So many small ones that were read are told of together; the generator may be ahead by twice as many, and by more than
they take (worker/producing.py)."""


Receiver: TypeAlias = "Callable[[Any], asyncio.Future[Any] | None]"
"""Takes what an evaluation posts; where it returns a future, the evaluation may post more when that is done."""


class Post(NamedTuple):
    """Something that an evaluation which is no stream says before its end, to whom it concerns."""

    to: str  # the name of a receiver
    serial: int  # as its worker counts them
    content: Any


class Pieces:
    """What has come of one stream.

    Guarantees: a piece is handed out once, in order. When the evaluation starts again, what has come before is dropped,
    unless something of it was handed out: then it may not start again.
    """

    def __init__(self) -> None:
        self.delivered: int = 0
        """How many were handed out."""
        self.more: Callable[[int], None] = _nobody
        """Tells the generator how many were read."""
        self.broken: Exception | None = None
        """What ends the stream behind the pieces that are here."""
        self._here: deque[tuple[Any, int]] = deque()
        self._untold: int = 0
        self._waiter: asyncio.Future[None] | None = None

    def arrived(self, value: Any, size: int) -> None:
        """The next one is here."""
        self._here.append((value, size))
        self.wake()

    def may_restart(self) -> bool:
        """The evaluation is to start again: return whether it may, and forget what nobody has read."""
        if self.delivered:
            return False
        self._here.clear()
        return True

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __bool__(self) -> bool:
        """Whether one is here."""
        return bool(self._here)

    def take(self) -> Any:
        """Hand out the next one."""
        value, size = self._here.popleft()
        self.delivered += 1
        self._untold += 1
        if size > SMALL or self._untold >= TOLD_TOGETHER:
            self._untold = 0
            self.more(self.delivered)
        return value

    def drop(self) -> None:
        """Nobody reads any more."""
        self._here.clear()
        self.more = _nobody

    async def changed(self) -> None:
        """Wait for the next change; one may wait at a time."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits."""
        return self._waiter is not None


def _nobody(read: int) -> None:
    """Nobody is to be told."""
