"""The tokens of a program: how many of each name there are, and how many are free. A task waits for its own.

Guarantee: no more are given out than there are. The oldest that waits for tokens keeps what is free of them from
younger ones; so whoever asks for many gets them, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperflow.request import Request


class Tokens:
    """Those of one name."""

    __slots__ = ("free", "lent", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.lent = 0
        """Of those that are free, how many speculative tasks have."""


class Purse(dict[str, Tokens]):
    """Those of all names."""

    def fill(self, totals: Mapping[str, int]) -> None:
        """There are so many of each."""
        for name, total in totals.items():
            if name in self:
                raise ValueError(f"tokens {name!r} are declared already")
            self[name] = Tokens(total)

    def has(self, request: Request, kept: Mapping[str, int], lent: bool = False) -> bool:
        """Whether all that is asked for is free, beside what is kept, and what is lent."""
        return all(
            self[name].free - kept.get(name, 0) - lent * self[name].lent >= count for name, count in request.resources
        )

    def lend(self, request: Request, sign: int) -> None:
        """A speculative task has what it asks for, or has it no more."""
        for name, count in request.resources:
            self[name].lent += sign * count

    def take(self, request: Request) -> None:
        """Give out what is asked for."""
        for name, count in request.resources:
            if self[name].free < count:
                raise ValueError(f"{count} of {name!r} are not free")
            self[name].free -= count

    def give_back(self, request: Request) -> None:
        """Take back what was given out for this."""
        for name, count in request.resources:
            self[name].free += count
            if self[name].free > self[name].total:
                raise ValueError(f"more of {name!r} come back than there are")
