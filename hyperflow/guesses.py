"""Guesses: what is computed in case somebody wants it, and when it becomes wanted. See `speculate`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Guess:
    """A part of the program that nobody wants yet; once it is wanted, it is like any other.

    What belongs to it is told then: its evaluations, and what these wait for. What ends is forgotten.
    """

    __slots__ = ("_of", "_parts", "_waiting", "is_wanted")

    def __init__(self) -> None:
        self.is_wanted: bool = False
        self._parts: dict[object, Callable[[], object]] = {}
        self._of: list[Guess] = []
        self._waiting: asyncio.Future[None] | None = None

    def add(self, part: object, want: Callable[[], object]) -> None:
        """Something belongs to it: `want` is called when this is wanted."""
        if self.is_wanted:
            want()
        else:
            self._parts[part] = want

    def drop(self, part: object) -> None:
        """It has ended."""
        self._parts.pop(part, None)

    def want(self) -> None:
        """Somebody wants it."""
        if self.is_wanted:
            return
        self.is_wanted = True
        parts, self._parts = self._parts, {}
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        for want in parts.values():
            want()

    def wanted_by(self, other: Guess | None) -> None:
        """Somebody waits for it: the program itself, or another guess; then it is wanted as soon as that one is."""
        if other is None or other.is_wanted:
            self.want()
        elif other is not self and not self.is_wanted:
            other.add(self, self.want)
            self._of.append(other)

    def end(self) -> None:
        """It has ended."""
        for other in self._of:
            other.drop(self)
        self._of.clear()

    def until_wanted(self) -> asyncio.Future[None]:
        """Return a future that ends when it is wanted; cancel it only by `shield`."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
            if self.is_wanted:
                self._waiting.set_result(None)
        return self._waiting
