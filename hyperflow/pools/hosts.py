"""Hosts without Slurm: machines that the user names, each reached once by ssh, for as long as the pool is open.

Guarantees:
- All hosts are tried side by side, and the pool waits for none of them.
- A host that cannot be used is left out, with the reason, and tried again: after 30 s, then after twice as long each
  time, up to 10 min. So is one that was lost. The reason is told when it changes, not each time.
- A host that a person has given back stays away until that person takes it back.
- When the scope ends, no attempt is under way. What runs on the hosts is the user's to end, as is all that it uses.

This machine is a host like any other: if the user names it, it is reached by ssh. (Rejected: a child of this process,
which would be quicker to start. One machine under two names would then be found in two ways, and what works on
"localhost" would fail on the next machine that the user adds.)
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import attrs

from hyperflow.errors import ConfigurationError, LauncherError
from hyperflow.pools.users import NodeUser, PoolNode
from hyperflow.request import Capacity, NodeKind

logger = logging.getLogger("hyperflow")

FIRST_PAUSE = 30.0
"""Seconds before a host is tried again; doubled each time."""

LONGEST_PAUSE = 600.0
"""At most so many."""

UNKNOWN = 1 << 16
"""Nodes that may join, and CPUs of a host of which nobody has said how many it has, until it is up: more
than anybody asks for."""

UNKNOWN_GPUS = Capacity(tuple(map(str, range(64))))
"""The same of its GPUs; nor is its memory known."""

GIVEN_BACK = "given back by hand; `hyperflow node resume` takes it back"


def _nothing() -> None:
    """Do nothing."""


@attrs.define
class Host:
    """A host, and how it stands.

    Args:
        name: For ssh.
        cpus: Those to use there; None for all.
        state: "starting", "up", "failed", "lost", or "released" by hand.
        cause: Why it is not up.
        since: When the state began, in seconds since 1970.
        next_try: When it is tried again; None where it is up, or being tried, or not tried.
    """

    name: str
    cpus: int | None
    state: str = "starting"
    cause: str = ""
    since: float = attrs.field(factory=time.time)
    next_try: float | None = None
    found: NodeKind | None = None
    """What it had when it was up."""

    def to_json(self) -> dict[str, Any]:
        """Return it for `hyperflow pool info`."""
        return attrs.asdict(self, filter=lambda field, _: field.name != "found")

    def kind(self) -> NodeKind:
        """Return it as a node that may come."""
        if self.found is not None:
            return NodeKind(self.name, self.found.cpus, self.found.capacity._replace(ends=math.inf))
        return NodeKind(self.name, self.cpus or UNKNOWN, UNKNOWN_GPUS)

    def becomes(self, state: str, cause: str = "", pause: float | None = None) -> None:
        """Change the state; after `pause` seconds it is tried again."""
        self.since = time.time()
        self.next_try = None if pause is None else self.since + pause
        self.state, self.cause = state, cause


class Hosts:
    """Keeps hosts in use while its scope lasts: `async with Hosts({"box1": 32}.items(), user) as hosts`."""

    def __init__(
        self,
        hosts: Sequence[tuple[str, int | None]],
        user: NodeUser,
        on_change: Callable[[], object] = _nothing,
        pauses: tuple[float, float] = (FIRST_PAUSE, LONGEST_PAUSE),
    ) -> None:
        """Make it. `on_change` is called when `kinds` may have changed; `pauses` are the first and the longest."""
        self._hosts = {name: Host(name, cpus) for name, cpus in hosts}
        self._user = user
        self._on_change = on_change
        self._first, self._longest = pauses
        self._told: dict[str, str] = {}
        self._wake = {name: asyncio.Event() for name in self._hosts}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(host)) for host in self._hosts.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def __contains__(self, name: object) -> bool:
        return name in self._hosts

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def table(self) -> list[dict[str, Any]]:
        """Return how each host stands, in the order in which they were given."""
        return [host.to_json() for host in self]

    @property
    def starting(self) -> int:
        """How many are being tried now."""
        return sum(host.state == "starting" for host in self)

    def kinds(self) -> list[NodeKind]:
        """Return the hosts as nodes that may come, or come back."""
        return [host.kind() for host in self]

    def give_back(self, name: str) -> None:
        """Do not try a host again until `take_back`; the caller has its user release it."""
        self._hosts[name].becomes("released", GIVEN_BACK)

    def take_back(self, name: str) -> bool:
        """Try a host now that is not up; return whether that is so."""
        host = self._hosts.get(name)
        if host is None or host.state in ("up", "starting"):
            return False
        host.becomes("starting", host.cause)
        self._wake[name].set()
        return True

    async def _keep(self, host: Host) -> None:
        """Use a host, again and again."""
        pause = self._first
        while True:
            host.becomes("starting", host.cause)
            try:
                await self._user.use(PoolNode(host.name, host.cpus))
            except Exception as error:
                if not isinstance(
                    error, (LauncherError, ConfigurationError)
                ):  # of these: what is preloaded is not there
                    logger.warning("a mistake of hyperflow's, at host %s", host.name, exc_info=error)
                state, cause = "failed", str(error) or repr(error)
            else:
                pause = self._first
                host.found = self._user.found(host.name)
                host.becomes("up")
                self._on_change()
                if self._told.pop(host.name, None) is not None:
                    logger.warning("host %s is used again", host.name)
                state, cause = "lost", await self._user.gone(host.name)
            await self._rest(host, state, cause, pause)
            pause = min(2 * pause, self._longest)

    async def _rest(self, host: Host, state: str, cause: str, pause: float) -> None:
        """Wait until a host is to be tried again."""
        wake = self._wake[host.name]
        wake.clear()
        if host.state == "released":
            self._on_change()
            await wake.wait()
            return
        host.becomes(state, cause, pause)
        self._on_change()
        self._tell(host, pause)
        try:
            async with asyncio.timeout(pause):
                await wake.wait()
        except TimeoutError:
            if host.state == "released":  # meanwhile
                await wake.wait()

    def _tell(self, host: Host, pause: float) -> None:
        """Tell why a host is left out, if that is news. (Numbers in it may be those of processes.)"""
        known = re.sub("[0-9]+", "0", host.cause)
        if self._told.get(host.name) == known:
            return
        self._told[host.name] = known
        words = "going on without host %s, which is tried again in %g s, and then less and less often: %s"
        logger.warning(words, host.name, pause, host.cause)
