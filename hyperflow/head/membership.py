"""Nodes that come and go while a Job runs: added, drained, released; and what may come.

Guarantees:
- A node that is added is used at once; a name that was there before may come again, and nothing confuses the two.
- Two nodes of one machine have two names: the second is "node1.2" for people, in logs and in orders of ours.
- To release a node costs evaluations the time that they have run there, and nothing else: no retry, no suspicion, and
  no word about a loss. `release` returns when nothing of ours is left there.
- A named pool lends some CPUs of a node, and may lend more or ask for some back (scheduling/lending.py).
- What only a node can serve that may come waits, also while no node is up.

Who brings the nodes, and why, is not known here (pools/).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from hyperflow.head.fleet import NodePlan
from hyperflow.head.head import Head
from hyperflow.head.link import Link
from hyperflow.request import Capacity, NodeKind, Want
from hyperflow.scheduling.lending import Returned
from hyperflow.scheduling.state import Task
from hyperflow.scheduling.trust import BY_HAND

OnReturned = Callable[[str, tuple[int, ...], tuple[str, ...], int], object]
"""Gets a node, places of CPUs in the order of their ids, ids of GPUs, and bytes of memory."""


def _nobody(node: str, cpus: tuple[int, ...], gpus: tuple[str, ...], memory: int) -> None:
    """Do nothing."""


class Membership:
    """Who is a node of a head.

    Args:
        leave: Has a link given up, for a cause, behind what has come from there; then sets the future.
        refuse: Ends those that have become impossible.
    """

    def __init__(
        self,
        head: Head,
        leave: Callable[[Link, str, asyncio.Future[None]], None],
        refuse: Callable[[list[Task]], None],
    ) -> None:
        self.may_come_any = False
        """Whether any node may come."""
        self.on_returned: OnReturned = _nobody
        head.scheduler.lending.on_returned = self._has_returned
        self._head = head
        self._leave = leave
        self._refuse = refuse

    async def add(self, plan: NodePlan, ends: float | None = None) -> str:
        """Use one more node, and return its name for people: another one where that of the plan is taken.

        Args:
            ends: When it ends, in seconds since 1970; None where it does not, or nobody knows.

        Raises:
            LauncherError: It cannot be reached, with the reason; or the run ends.
            ConfigurationError: A module of `preload` does not import there.

        Cancelling it ends what has been started there.
        """
        head = self._head
        name = head.fleet.name_for(plan.node)
        if ends is not None:
            head.ends.expect(name, ends)
        try:
            await head.fleet.add(plan._replace(ends=ends), name)
        except BaseException:
            if name not in head.fleet.links:
                head.ends.forget(name)
            raise
        return name

    def capacity(self, node: str, found: Capacity) -> Capacity:
        """Return what a node has, with its end."""
        left = self._head.ends.end_of(node)
        return found if left is None else found._replace(ends=self._head.scheduler.clock() + left)

    def drain(self, node: str, cause: str) -> None:
        """Start nothing more on a node, which is to be given back; what runs there goes on. If it has gone: nothing."""
        if node in self._head.fleet.links:
            self._head.aside.drain(node, cause)
            self._head.ends.tell(node)
            self._head.flush_soon()

    def resume(self, node: str, cause: str) -> None:
        """Use a node again that was drained, as it need not be given back. One that has gone, or is in use: nothing."""
        if node in self._head.fleet.links and node in self._head.aside.trust.drained:
            if self._head.aside.trust.aside[node] == BY_HAND != cause:
                return  # only a person takes that back
            self._head.aside.resume(node, cause)
            self._head.ends.tell(node)
            self._head.flush_soon()

    async def release(self, node: str, cause: str) -> None:
        """Give a node up, and return when nothing of ours is left there. What ran there waits again, uncharged.

        One that has gone already: nothing. Cancelling it lets the node end without being waited for.
        """
        link = self._head.fleet.links.get(node)
        if link is None:
            return
        self._head.scheduler.pool.put_aside(node)  # nothing more goes there meanwhile
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leave(link, cause, left)
        await left
        if link.closing is not None:
            await asyncio.wait([link.closing])

    def forgive(self, node: str) -> None:
        """A node was lost because its allocation was ended: no charge against what ran there (`crash_limit`)."""
        for evaluation in self._head.evaluations.values():
            past = evaluation.task.past
            if past is not None and node in past.lost:
                past.lost.remove(node)

    def lend(self, node: str, cpus: Sequence[int], gpus: Sequence[str] = ()) -> None:
        """More of a node is ours now: CPUs, as places in the order of their ids, with their part of its memory.

        A node that has gone: nothing. Raises LauncherError if it does not have as many CPUs, and ValueError if it has
        one of them already.
        """
        link = self._head.fleet.links.get(node)
        if link is not None:
            ids, account = link.ids_at(cpus), self._head.scheduler.pool.nodes[node]
            memory = link.memory_for(len(account.ids) + len(ids)) - account.capacity.memory
            self._head.scheduler.lend(node, ids, gpus, memory)
            self._resized()

    def reclaim(self, node: str, count: int, gpus: Sequence[str] = ()) -> None:
        """So many CPUs of a node are not ours any more: `on_returned` gets them, what is free soon, the rest as
        evaluations end. Nothing starts on the node until all have come. GPUs go with them if nobody has them.

        A node that has gone: nothing.
        """
        if node in self._head.fleet.links:
            self._head.scheduler.reclaim(node, count, gpus)
            self._resized()

    def _resized(self) -> None:
        self._head.account.holds(self._head.scheduler.pool.total, len(self._head.fleet.links))
        self._head.flush_soon()

    def _has_returned(self, returned: Returned) -> None:
        link = self._head.fleet.links.get(returned.node)
        if link is not None:
            places = link.places_of(returned.cpus)
            told = functools.partial(self.on_returned, returned.node, places, returned.gpus, returned.memory)
            asyncio.get_running_loop().call_soon(told)

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        """Only these nodes may come from now on: what only they can serve waits; what not even they can is refused."""
        self.may_come_any = bool(kinds)
        self._refuse(self._head.scheduler.may_come(kinds))
        self._head.flush_soon()

    def close(self) -> None:
        """No node may come any more; what waits is ended by others."""
        self.may_come_any = False

    def demand(self) -> list[Want]:
        """Return what waits for CPUs, the oldest first; cheap. None while nothing is started any more."""
        return self._head.scheduler.demand()

    def free_cpus(self) -> int:
        """Return how many CPUs of nodes in use anybody can have; cheap."""
        self._head.scheduler.settle()
        return self._head.scheduler.pool.free

    def is_busy(self, node: str) -> bool:
        """Whether anything has CPUs of a node: it runs there, or is on its way there; cheap."""
        self._head.scheduler.settle()
        account = self._head.scheduler.pool.nodes.get(node)
        return account is not None and (len(account.free) < len(account.ids) or bool(account.lent))
