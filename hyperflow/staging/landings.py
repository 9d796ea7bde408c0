"""All outputs that are on their way to one head: who brings which, and which places are taken.

Guarantees: while a command is under way, no other one may have an output in the same place, or in a directory that it
replaces. What a worker posts of a command that has ended is dropped. What killed heads left beside destinations is
looked for once in each directory, and these are noted in the run's directory, for `hyperflow gc`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import attrs

from hyperflow.database.ownership import Owner
from hyperflow.environment import Environment
from hyperflow.errors import ConfigurationError
from hyperflow.program import ProgramInfo
from hyperflow.saying import short_repr
from hyperflow.staging import leftovers
from hyperflow.staging.landing import Landing, as_post
from hyperflow.staging.naming import Plan, Wanted
from hyperflow.staging.parts import RECEIVER, Ticket, marker_name

UNDER_WAY = 1000
"""Commands whose outputs have a place, beside two for each CPU; who comes later waits. So ten thousand commands that
wait for CPUs have not ten thousand markers on the disk."""


class Landings:
    """The landings of one evaluator."""

    def __init__(self, program: ProgramInfo) -> None:
        self._program = program
        self._owner = Owner.this_process(program.program_id)
        self._open: dict[str, Landing] = {}
        self._taken: dict[str, Sequence[str]] = {}  # places, and whose they are
        self._above = Counter[str]()  # directories in which such places are
        self._swept: dict[str, asyncio.Future[None]] = {}
        self._under_way = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @classmethod
    def of(cls, env: Environment) -> Landings:
        """Return those of an environment."""
        receivers = env.evaluator.receivers
        if RECEIVER not in receivers:
            receivers[RECEIVER] = cls(env.program).received
        return cast("Landings", cast("Any", receivers[RECEIVER]).__self__)

    def received(self, content: Any) -> asyncio.Future[None] | None:
        """A worker has posted something."""
        post = as_post(content)
        landing = None if post is None else self._open.get(post.token)
        return None if landing is None or post is None else landing.received(post)

    def open(self, plan: Plan) -> Landing:
        """Begin a landing, which has its places to itself; raises ConfigurationError."""
        token = f"{self._program.program_id}-{os.urandom(5).hex()}"
        proof = json.dumps(attrs.asdict(attrs.evolve(self._owner, token=token)))
        markers = {wanted.asked: _marker(wanted, token) for wanted in plan.at_home}
        landing = Landing(plan, Ticket(token, markers, proof))
        places = [wanted for wanted in plan.at_home if wanted.kind != "files"]
        for wanted in places:
            if (other := self._in_the_way(wanted.place)) is not None:
                raise _taken(wanted, plan.words, other)
        for wanted in places:
            self._taken[wanted.place] = plan.words
            self._above.update(_all_above(wanted.place))
        self._open[token] = landing
        return landing

    def close(self, landing: Landing, plan: Plan) -> None:
        """A landing has ended, and others may have its places."""
        del self._open[landing.ticket.token]
        for wanted in plan.at_home:
            if self._taken.pop(wanted.place, None) is not None:
                self._above.subtract(_all_above(wanted.place))
        self._above += Counter()  # without those that are nought

    @asynccontextmanager
    async def turn(self, cpus: int) -> AsyncIterator[None]:
        """Wait until few enough landings are under way; within the scope, this one is."""
        while self._under_way >= UNDER_WAY + 2 * cpus:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                else:
                    self._next()  # its turn is that of another one
                raise
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._next()

    def _next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def sweep(self, landing: Landing) -> None:
        """Remove what killed heads have left where this landing is to be, once in each directory."""
        for directory in {os.path.dirname(marker) for marker in landing.ticket.markers.values()}:
            if directory not in self._swept:
                loop = asyncio.get_running_loop()
                self._swept[directory] = loop.run_in_executor(None, leftovers.visit, directory, self._program)
            await asyncio.wait([self._swept[directory]])

    def _in_the_way(self, place: str) -> Sequence[str] | None:
        for path in (place, *_all_above(place)):
            if path in self._taken:
                return self._taken[path]
        if self._above[place]:
            return next(words for path, words in self._taken.items() if path.startswith(f"{place}/"))
        return None


def _taken(wanted: Wanted, words: Sequence[str], other: Sequence[str]) -> ConfigurationError:
    return ConfigurationError(
        f"output {wanted.asked!r} of command {short_repr(list(words), 200)} comes to {wanted.place}, and an output of "
        f"command {short_repr(list(other), 200)}, which is under way, does so, too: one would replace the other. Name "
        "another place, or await one before the other"
    )


def _marker(wanted: Wanted, token: str) -> str:
    """Return where the marker of an output is to be."""
    if wanted.kind == "files":
        return os.path.join(wanted.place, marker_name("files", f"{token}{os.urandom(2).hex()}"))
    directory, name = os.path.split(wanted.place)
    return os.path.join(directory, marker_name(name, token))


def _all_above(place: str) -> list[str]:
    parts = place.split("/")
    return ["/".join(parts[:count]) for count in range(2, len(parts))]
