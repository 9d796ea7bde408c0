"""A pool of nodes: its allocations, its hosts, and what people see and change of it.

Guarantees: the end of the scope gives all back, also after an error or a cancel. An error of one part is told, and the
others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from hyperflow.aio import settled
from hyperflow.config import Settings
from hyperflow.errors import ConfigurationError
from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.pools import scripts
from hyperflow.pools.allocation import COMING, LIVE, Place
from hyperflow.pools.allocations import Allocations
from hyperflow.pools.hosts import UNKNOWN, UNKNOWN_GPUS, Hosts
from hyperflow.pools.journal import Journal
from hyperflow.pools.nodepool import FIELDS, NodePool
from hyperflow.pools.users import NodeUser
from hyperflow.request import NodeKind
from hyperflow.slurm import nodelist
from hyperflow.slurm.client import PollIntervals, SlurmClient
from hyperflow.steering import LIMITS

if TYPE_CHECKING:
    from hyperflow.pools.joining.listening import Listening


class Pool:
    """Brings nodes to a user of nodes, and takes them away.

        async with Pool(options, directory, name, settings) as pool:    # gives all back at its end
            async with pool.serving(user):                              # nodes come and go
                ...

    There are two scopes, so that a program can end what runs on its nodes between the ends of the two: the end of
    `serving` leaves nodes as they are. Entering the first one raises ConfigurationError where Slurm cannot be used or
    takes no allocation of a kind, or where another process has the directory.
    """

    def __init__(
        self,
        options: NodePool,
        directory: Path,
        name: str,
        settings: Settings,
        *,
        pace: PollIntervals | None = None,
        said: Supply = NOTHING,
    ) -> None:
        """Make it.

        Args:
            options: What it may have.
            directory: Its own, private, on a file system that all nodes share. What an earlier process has left there
                is taken over.
            name: In the names of its Slurm jobs.
            settings: How nodes are reached.
            pace: How often Slurm is asked.
            said: What the program says that each node has.
        """
        nodelist.excluded(settings.exclude_nodes)
        self.options = options
        self.directory = directory
        self.name = name
        self._settings = settings
        self._pace = pace
        self._said = said
        self._stack = AsyncExitStack()
        self._allocations: Allocations | None = None
        self._hosts: Hosts | None = None
        self._listening: Listening | None = None
        self._user: NodeUser | None = None

    # ---- scopes -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            journal = await self._open_journal()
            stack.callback(journal.close)
            if self.options.sbatch or journal.entries:
                client = await stack.enter_async_context(SlurmClient(self._pace))
                await client.check(patient=bool(journal.entries))
                await scripts.check(client, self.options, self.name, self.directory, self._settings.exclude_nodes)
                self._allocations = Allocations(self.options, journal, client, self.name, self._settings, self._said)
                self._allocations.on_kinds = self._tell_kinds
                stack.push_async_callback(self._allocations.give_back)
            self._stack = stack.pop_all()
        return self

    async def _open_journal(self) -> Journal:
        """Open it in a thread; if cancelled meanwhile, close it again: else nobody else in this process could."""
        opening = asyncio.ensure_future(asyncio.to_thread(Journal.open, self.directory, self.name))
        try:
            await settled(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                opening.result().close()
            raise
        return opening.result()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def serving(self, user: NodeUser) -> AsyncIterator[Self]:
        """Bring nodes to a user, within a scope."""
        self._user = user
        self._hosts = Hosts(self.options.hosts, user, self._tell_kinds)
        self._tell_kinds()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._hosts)
            if self.options.listen is not None:
                from hyperflow.pools.joining.listening import Listening  # noqa: PLC0415 (asyncssh costs 0.1 s)

                margin = self._settings.end_margin
                self._listening = Listening(
                    self.options.listen, self.directory, self.directory.parent / "log", user, margin
                )
                await stack.enter_async_context(self._listening)
            if self._allocations is not None:
                await stack.enter_async_context(self._allocations.serving(user))
            yield self
        self._user = self._hosts = self._listening = None

    # ---- for people ---------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return what people see of it: {"state": "running|paused|held", "why", "limits", "wanted", "reason",
        "allocations": [{"number", "kind", "state", "slurm_job", "reason", "nodes", "cpus", "since", "ends", "cause",
        "log"}], "hosts": [...], "joined": [names], "calls": {...}}; times in seconds since 1970. "nodes" has, for
        each: "name", "state" (coming, trying, up, failed, lost), "cpus", "busy", "why".
        """
        limits = {name: getattr(self.options, name) for name in LIMITS}
        shown: dict[str, Any] = {"state": "running", "why": "", "limits": limits, "wanted": 0, "reason": ""}
        if self._allocations is not None:
            rules, need = self._allocations.rules, self._allocations.need
            if rules.paused:
                shown |= {"state": "paused", "why": "`hyperflow pool resume` goes on"}
            elif rules.held:
                held = [f"{rules.kinds[kind].name}: {why}" for kind, why in sorted(rules.held.items())]
                shown |= {"state": "held", "why": "; ".join(held)}
            shown |= {"wanted": sum(need.allocations), "reason": need.why}
        mine = self._allocations
        shown["allocations"] = [] if mine is None else mine.table()
        shown["hosts"] = [] if self._hosts is None else self._hosts.table()
        shown["joined"] = [] if self._listening is None else self._listening.nodes
        shown["calls"] = {} if mine is None else dict(mine.client.calls)
        return shown

    def set(self, **changes: Any) -> None:
        """Change options of the NodePool, such as max_allocations=5; raises ConfigurationError."""
        if unknown := [name for name in changes if name not in LIMITS]:
            more = "; `hyperflow pool resume` changes what is asked of Slurm" if unknown[0] in FIELDS else ""
            raise ConfigurationError(f"{unknown[0]} cannot be changed: a pool has {', '.join(LIMITS)}{more}")
        self.options = self.options.changed(**changes)
        if self._allocations is not None:
            self._allocations.set_limits(self.options)
        self._tell_kinds()

    def pause(self) -> None:
        """Ask for no more allocations. What is queued stays there, and what is up goes on."""
        self._of_slurm("pause").rules.pause()

    def resume(self, **changes: Any) -> None:
        """Go on after `pause`, or after allocations were held; with changes of the SbatchOptions of all kinds that are
        held (of all kinds, if none is), such as partition="other"; raises ConfigurationError.
        """
        mine = self._of_slurm("resume")
        if changes:
            mine.change_kinds(changes)
        mine.rules.resume()
        self._tell_kinds()
        mine.wake()

    def asked(self) -> int:
        """Return how many nodes have been asked for, and are not there: of queued allocations, and hosts."""
        hosts = 0 if self._hosts is None else self._hosts.starting
        if self._allocations is None:
            return hosts
        rules = self._allocations.rules
        coming = [it for it in rules.allocations.values() if it.state in COMING]
        return hosts + sum((len(it.places) or rules.kinds[it.kind].nodes) - len(it.up) for it in coming)

    def keep_away(self, node: str) -> None:
        """A person gives a node back: it is not used again by itself. An allocation without any other goes back."""
        if self._hosts is not None and node in self._hosts:
            self._hosts.give_back(node)
        elif (place := self._place(node)) is not None:
            place.state, place.why, place.busy = "failed", "given back by hand", False

    def take_back(self, node: str) -> bool:
        """A person wants a node again that is not there: try it now; return whether it is one that can be tried."""
        if self._hosts is not None and self._hosts.take_back(node):
            return True
        place = self._place(node)
        if place is None or place.state not in ("failed", "lost"):
            return False
        place.state, place.tries, place.again = "lost", 0, 0.0
        self.wake()
        return True

    def _place(self, node: str) -> Place | None:
        """Return a node of an allocation that has not ended."""
        live = [] if self._allocations is None else self._allocations.rules.of(*LIVE)
        return next((place for it in live for place in it.places.values() if place.name == node), None)

    def wake(self) -> None:
        """Look at once at what waits."""
        if self._allocations is not None:
            self._allocations.wake()

    def _of_slurm(self, what: str) -> Allocations:
        if self._allocations is None:
            raise ConfigurationError(f"this pool has no allocations to {what}: NodePool(sbatch=...) was not given")
        return self._allocations

    def _tell_kinds(self) -> None:
        """Say to the user which nodes may come; also of kinds that are held: what needs them waits."""
        if self._user is not None:
            kinds = [] if self._allocations is None else self._allocations.rules.kinds
            most = self.options.max_allocations
            may_come = [kind.node_kind(most) for kind in kinds]
            if self.options.listen is not None:  # nobody knows what size they will be, and how many
                may_come.append(NodeKind("a node that joins", UNKNOWN, UNKNOWN_GPUS, UNKNOWN))
            self._user.may_come([*may_come, *(() if self._hosts is None else self._hosts.kinds())])
