"""The nodes: all are started at the same time, watched, and ended together.

Guarantees: a node that cannot be started costs a warning, as long as `min_nodes` are there; first each way to reach it
is tried, and the warning has the reasons of all. A node that takes much longer to start than most is not waited for: it
joins when it is there. Others may be added and released at any time. Nor is a launcher on this machine that is a child
of ours by now, if that is all there is: what could be wrong with it is known, and what is meant for it is kept until it
has answered. The head stops using a node that ends, falls silent or cannot start workers. At the end nothing is left on
any node.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import os
import sys
import time
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from hyperflow import saying
from hyperflow.aio import settled
from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.events.writer import EventLog
from hyperflow.head import capacity
from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.head.link import Link, OnFrames, OnLost, OnPeers, nobody
from hyperflow.head.log_places import LogPlaces
from hyperflow.head.watchdog import Watchdog
from hyperflow.program import ProgramInfo
from hyperflow.request import Capacity
from hyperflow.transports.process import Local, Transport, portable_environment
from hyperflow.wire import findings, frames, machine
from hyperflow.wire.findings import Findings
from hyperflow.wire.messages import Greeting

logger = logging.getLogger("hyperflow")

BLOCKED = 10.0
"""Seconds for which user code may block the event loop before a warning says what that costs."""

SHORTEST_WAIT, LONGEST_WAIT = 3.0, 10.0
"""When most nodes are up, the others are waited for until it has taken twice as long; but at least until the first of
these many seconds after the beginning, and at most the second of them longer."""

BEATS_AT_ONCE = 500
"""Nodes that get a sign of life in one turn of the event loop: two milliseconds."""

FAILED_STARTS_SECONDS = 20.0
"""Give a node up after this many seconds in which no worker on it managed to start a task, and none is at work."""


class NodePlan(NamedTuple):
    """A node to be used."""

    transport: Transport | Sequence[Transport]
    """How it is reached; of several ways the first one counts on which a launcher answers."""
    cpus: int | None = None  # how many to use there; None for all that may be used
    granted: bool = False  # a batch system granted just these; if more are visible, nobody knows which are ours
    shared: bool = False  # others here use the same CPUs: pinned only if all are used, and no warning about that
    said: Supply = NOTHING  # what else the program says that it has
    grant: Supply = NOTHING  # what else a batch system granted there
    ends: float | None = None  # in seconds since 1970, where it ends by itself
    once: bool = False  # not if another node with this flag is the same machine under another name
    slurm_job: int | None = None  # that has it, where that is not the one that we are in
    logs: str = ""  # the directory there for the logs of its workers, on a node that does not share the run's
    share: Sequence[int] | None = None
    """Which of its CPUs are ours to begin with, as places in the sorted ids; None: all. See Engine.lend."""

    @property
    def transports(self) -> Sequence[Transport]:
        return self.transport if isinstance(self.transport, Sequence) else (self.transport,)

    @property
    def node(self) -> str:
        return self.transports[0].node

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return isinstance(self.transports[0], Local)

    @property
    def is_here(self) -> bool:
        """Whether its launcher is a child of this process, which runs by now."""
        (way, *others) = self.transports
        return isinstance(way, Local) and way.spawned is not None and not others


def check_job(greeting: Greeting, job: int, node: str) -> None:
    """Raise LauncherError if a launcher is not within the Slurm job that has its node."""
    if greeting.slurm_job != job:
        where = f"that of job {greeting.slurm_job}" if greeting.slurm_job else "no Slurm job's"
        raise LauncherError(
            f"{node}: the control group in which ssh starts a launcher is {where}, and job {job} has the node: its "
            " limits would not hold, and its end would not end it. Let srun reach the node (transport = "
            '"srun"), or ask the administrators for pam_slurm_adopt'
        )


def _share(link: Link, places: Sequence[int]) -> tuple[Capacity, Sequence[int]]:
    """Return the part of a node that is ours to begin with; raises LauncherError."""
    ids = link.ids_at(places)
    return link.capacity._replace(memory=link.memory_for(len(ids))), ids


def _environment(job: int | None) -> dict[str, str]:
    """Return what is portable of our environment to a node that is not of our own allocation."""
    from hyperflow.slurm.commands import clean  # noqa: PLC0415 (most programs have one allocation)

    ours = portable_environment(clean(os.environ))
    return ours if job is None else {**ours, "SLURM_JOB_ID": str(job)}


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


def _name(transport: Transport) -> str:
    return type(transport).__name__.lower()


class OnNodes(Protocol):
    """Who has to know which nodes there are."""

    def node_up(self, node: str, cpus: Sequence[int], capacity: Capacity, /) -> None:
        """It has these CPUs, and all that."""

    def node_late(self, node: str, cpus: int, /) -> None:
        """It is still being started, and has so many CPUs; `node_up` or `node_failed` follows."""

    def node_failed(self, node: str, /) -> None:
        """One that was late does not come."""


class Fleet:
    """The links to all nodes that are up."""

    def __init__(
        self,
        program: ProgramInfo,
        settings: Settings,
        events: EventLog,
        on_frames: OnFrames,
        on_nodes: OnNodes,
        on_end: OnLost,
        on_lost: OnLost,
    ) -> None:
        """Make it.

        Args:
            on_end: Is told at once that a node has gone; calls `lost` when all that came from there is dealt with.
            on_lost: Is told then.
        """
        self.links: dict[str, Link] = {}
        self.failed_starts: dict[str, float] = {}
        """Since when no worker of a node has started anything."""
        self.echo = False
        """Whether nodes are to send what evaluations print; set before `start`."""
        self.on_peers: OnPeers = nobody
        """Who is told what nodes say about what they get from each other; set before `start`."""
        self.logs = LogPlaces(program.log_dir)
        """Where nodes have their logs."""
        self._program = program
        self._settings = settings
        self._events = events
        self._on_frames = on_frames
        self._on_nodes = on_nodes
        self._on_end = on_end
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._path = sys.path[:]
        self._preload: tuple[str, ...] = ()
        self._once = set[str]()  # nodes whose machine is not to be used under another name, too
        self._gone: dict[str, asyncio.Future[str]] = {}  # who waits for the end of a node
        self._losing = set[asyncio.Task[None]]()
        self._joining: dict[str, asyncio.Task[LauncherError | str | None]] = {}  # nodes that are being added, by name
        self._losses: list[str] = []
        self._leading: dict[asyncio.Task[None], Link] = {}  # of nodes that are used before they have answered
        self._answered: set[str] = set()  # nodes whose launcher has greeted us
        self._late: dict[asyncio.Task[LauncherError | str | None], NodePlan] = {}
        self._beating: asyncio.TimerHandle | None = None
        self._found: Findings | None = None  # on this machine
        self._watchdog = Watchdog()

    async def start(self, nodes: Sequence[NodePlan], preload: Sequence[str]) -> None:
        """Start all launchers; raises LauncherError if too few come up. Without any, they may be added later."""
        self._preload = tuple(preload)
        if not nodes:
            self._beating = self._loop.call_later(self._settings.heartbeat, self._beat, self._loop.time())
            self._watchdog.start()
            return
        environment = portable_environment(os.environ)  # once: it is the same for all
        if len(nodes) == 1 and nodes[0].is_here and not preload:
            self._beating = self._loop.call_later(self._settings.heartbeat, self._beat, self._loop.time())
            await self._look(nodes)
            if remark := self._lead(nodes[0], environment):
                saying.warn(f"nothing is pinned: {remark}")
            self._watchdog.start()
            return
        await self._look(nodes)
        tasks = {self._loop.create_task(self._try(plan, preload, environment)): plan for plan in nodes}
        # Those that are up have to hear of us while others take their time.
        self._beating = self._loop.call_later(self._settings.heartbeat, self._beat, self._loop.time())
        try:
            await self._most_of(tasks)
            outcomes = [task.result() for task in tasks if task.done()]
        except BaseException:
            for task in tasks:
                task.cancel()
            await settled(*tasks)
            for task in tasks:
                _ = task.cancelled() or task.exception()  # counts as seen: the first one is raised
            raise
        failures = [outcome for outcome in outcomes if isinstance(outcome, LauncherError)]
        if len(self.links) < self._settings.min_nodes:
            raise LauncherError(
                f"{len(self.links)} of {len(nodes)} nodes could be started, and min_nodes is "
                f"{self._settings.min_nodes}:\n" + "\n".join([*map(str, failures), *self._losses])
            )
        for failure in failures:
            saying.warn(f"going on without a node: {failure}")
        unpinned = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if unpinned:
            saying.warn("nothing is pinned: " + "; ".join(unpinned))
        for task, plan in tasks.items():
            if not task.done():
                logger.warning("node %s is slow to start; it joins when it is there", plan.node)
                self._late[task] = plan
                self._on_nodes.node_late(plan.node, plan.cpus or 0)
                task.add_done_callback(self._came_late)
        self._watchdog.start()

    async def add(self, plan: NodePlan, name: str) -> None:
        """Start a launcher on one more node, and use it by a name that `name_for` gave. Cancelling ends it.

        Raises:
            LauncherError: It cannot be reached, or the fleet closes.
            ConfigurationError: A module of `preload` does not import there.
        """
        task = self._loop.create_task(self._try(plan, self._preload, _environment(plan.slurm_job), name))
        self._joining[name] = task
        try:
            await settled(task, on_cancel=task.cancel)
        finally:
            del self._joining[name]
        if task.cancelled():
            raise LauncherError(f"{name} is not waited for any more: the run ends")
        outcome = task.result()
        if isinstance(outcome, LauncherError):
            raise outcome
        if outcome is not None:
            logger.warning("nothing is pinned: %s", outcome)

    def name_for(self, node: str) -> str:
        """Return a name that no node has: where a machine has several allocations of ours, its second is "node1.2"."""
        taken = {*self.links, *self._joining, *(plan.node for plan in self._late.values())}
        names = itertools.chain([node], (f"{node}.{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in taken)

    def _lead(self, plan: NodePlan, environment: dict[str, str]) -> str | None:
        """Use a node before it has answered; return why its workers are not pinned."""
        link = self._link(plan.transports[0])
        link.lead()
        task = self._loop.create_task(link.start(self._program.program_id, (), self.echo, environment))
        self._leading[task] = link
        task.add_done_callback(self._followed)
        found = self._found or findings.look()
        return self._use(plan, link, machine.affinity(), machine.cpu_quota(), found)

    async def _look(self, nodes: Sequence[NodePlan]) -> None:
        """Find out about the GPUs of this machine, where that may take a while."""
        here = [plan for plan in nodes if plan.is_local and not plan.granted]
        if not here:
            return
        self._found = findings.look()
        if any(capacity.needs_smi(plan.said, self._found) for plan in here):
            self._found, remark = await asyncio.to_thread(capacity.asked_smi, self._found)
            if remark:
                saying.warn(f"{here[0].node}: {remark}")

    def _followed(self, task: asyncio.Task[None]) -> None:
        """A node that is used already has answered, or could not be started."""
        link = self._leading.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.links.get(link.node) is link:
            self._on_end(link, str(error), False)

    def _link(self, transport: Transport, name: str | None = None) -> Link:
        link = Link(transport, self._settings, self._program.log_dir, self._on_frames, self._on_end, name)
        link.on_peers = self.on_peers
        return link

    async def _most_of(self, tasks: Mapping[asyncio.Task[LauncherError | str | None], NodePlan]) -> None:
        """Wait until all are started or have failed, or most are and the others take too long to answer.

        Those that have answered are waited for: imports take what they take.
        """
        began, until = self._loop.time(), math.inf
        pending = set(tasks)
        while pending:
            left = until - self._loop.time()
            waited = pending if left > 0 else {task for task in pending if tasks[task].node in self._answered}
            if not waited:
                return
            timeout = left if 0 < left < math.inf else None
            done, _ = await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is not None for task in done):
                return  # its caller raises it
            pending = {task for task in pending if not task.done()}
            enough = max(self._settings.min_nodes, len(tasks) / 2)
            if until == math.inf and len(self.links) >= enough:
                took = self._loop.time() - began
                until = began + max(SHORTEST_WAIT, took + min(took, LONGEST_WAIT))

    def _came_late(self, task: asyncio.Task[LauncherError | str | None]) -> None:
        """A node that was not waited for is up, or could not be started."""
        plan = self._late.pop(task, None)
        if plan is None or task.cancelled():
            return
        outcome = task.exception() or task.result()
        if isinstance(outcome, BaseException):
            # Not by warnings, which -W error turns into errors, and nobody could catch one here.
            logger.warning("going on without a node: %s", outcome)
            self._on_nodes.node_failed(plan.node)
        else:
            logger.info("node %s has joined", plan.node)
            if outcome is not None:
                logger.warning("nothing is pinned: %s", outcome)

    async def _try(
        self, plan: NodePlan, preload: Sequence[str], environment: dict[str, str], name: str | None = None
    ) -> LauncherError | str | None:
        """Start a launcher; return the error if it cannot be started, or why its workers are not pinned."""
        causes: list[str] = []
        for transport in plan.transports:
            link = self._link(transport, name)
            link.on_greeting = functools.partial(self._greeted, plan, transport, link)
            try:
                await link.start(self._program.program_id, preload, self.echo, environment)
            except LauncherError as error:
                causes.append(str(error))
                if len(plan.transports) > 1:
                    logger.warning("%s: %s does not work: %s", plan.node, _name(transport), error)
            else:
                if plan.once and (cause := self._same_machine(link)):
                    await link.close()
                    causes.append(cause)
                    break
                logger.info("%s: reached by %s", plan.node, _name(transport))
                if plan.once:
                    self._once.add(link.node)
                try:
                    return self._take_in(plan, link)
                except LauncherError as error:
                    self._once.discard(link.node)
                    causes.append(str(error))
                    await link.close()
                    break
        failure = LauncherError("; ".join(causes))
        self._events.note("not started", node=plan.node, cause=str(failure))
        return failure

    def _same_machine(self, link: Link) -> str:
        """Say if a host is in use already, under another name; else nothing."""
        new = link.greeting
        for node in self._once:
            there = self.links[node].greeting
            if new is not None and there is not None and new.boot and (new.host, new.boot) == (there.host, there.boot):
                return (
                    f"{link.node} and {node} are two names of one machine, which is called {new.host}; it is used as "
                    f"{node}, once: leave out one of the names"
                )
        return ""

    def _greeted(self, plan: NodePlan, transport: Transport, link: Link) -> None:
        self._answered.add(plan.node)
        if plan.slurm_job is not None and not getattr(transport, "within_job", False) and link.greeting is not None:
            check_job(link.greeting, plan.slurm_job, plan.node)

    def _take_in(self, plan: NodePlan, link: Link) -> str | None:
        greeting = link.greeting
        assert greeting is not None, link.node
        found = self._found if plan.is_local and self._found is not None else greeting.findings()
        said = self._use(plan, link, greeting.affinity, greeting.quota, found)
        link.follow_path()  # while the node started, it may have changed
        return said

    def _use(
        self, plan: NodePlan, link: Link, affinity: Sequence[int], quota: float | None, found: Findings
    ) -> str | None:
        link.cpus = cpus = machine.choose_cpus(plan.cpus, affinity, quota, plan.granted or plan.shared)
        choice = capacity.choose(
            plan.said, plan.grant if plan.granted else None, found, cpus.ids if cpus.pinned else None
        )
        self.logs.add(link.node, plan.logs)
        there, ids = choice.capacity, cpus.ids
        link.capacity = there
        if plan.share is not None:
            there, ids = _share(link, plan.share)
        self.links[link.node] = link
        self._on_nodes.node_up(link.node, ids, there)
        more: dict[str, Any] = {"gpus": list(there.gpus), "gpus_from": choice.gpus_from} if there.gpus else {}
        more |= {"ends": plan.ends} if plan.ends is not None else {}
        more |= {"logs": plan.logs} if plan.logs else {}
        self._events.note("up", node=link.node, cpus=list(ids), pinned=cpus.pinned, memory=there.memory, **more)
        for remark in filter(None, (choice.remark, link.remark)):
            # Not by warnings: a node may come late.
            logger.warning("%s: %s", link.node, remark)
        return f"{link.node}: {cpus.remark}" if cpus.remark and not plan.shared else None

    def keep(self, names: Collection[str]) -> None:
        """End what runs on nodes that are not among these: they are no longer ours."""
        cause = "the allocation does not have it any more"
        if not self.links.keys() & set(names):
            return
        for link in [link for node, link in self.links.items() if node not in names]:
            link.give_up(cause)
        for task, plan in list(self._late.items()):
            if plan.node not in names:
                del self._late[task]
                task.cancel()
                _ = self._end(_ended(task))
                self._events.note("not started", node=plan.node, cause=cause)
                self._on_nodes.node_failed(plan.node)

    async def gone(self, node: str) -> str:
        """Wait until a node is not in use any more; return why."""
        if node not in self.links:
            return "it is not in use"
        return await asyncio.shield(self._gone.setdefault(node, self._loop.create_future()))

    def follow_path(self) -> None:
        """Tell all nodes where modules are, if the program has changed that."""
        if sys.path != self._path:
            self._path = sys.path[:]
            for link in self.links.values():
                link.follow_path()

    def tell_heard(self) -> None:
        """All answers of all nodes have been read: let them send more."""
        for link in self.links.values():
            if link.unheard:
                link.tell_heard()

    def write(self, node: str, parts: Sequence[frames.Bytes]) -> None:
        """Send to a node; to one that has gone, nothing."""
        link = self.links.get(node)
        if link is not None:
            link.write(parts)

    def _beat(self, due: float) -> None:
        """Exchange signs of life with the nodes."""
        self._watchdog.alive()
        now = self._loop.time()
        heartbeat = self._settings.heartbeat
        late = now - due - heartbeat
        if late > BLOCKED:
            logger.warning(
                "the event loop was blocked for %.0f s: evaluations went on, but none was started or delivered; put "
                "long calculations into remote_eval, or into asyncio.to_thread",
                late,
            )
        self._beat_some(list(self.links.values()), min(now - due, 2 * heartbeat))
        self._beating = self._loop.call_later(heartbeat, self._beat, now)

    def _beat_some(self, links: list[Link], lapse: float) -> None:
        """Exchange signs of life with some nodes now, and with the others in the next turns of the loop."""
        moment = time.monotonic()
        for link in links[:BEATS_AT_ONCE]:
            link.beat(moment, lapse)
        if len(links) > BEATS_AT_ONCE:
            self._loop.call_soon(self._beat_some, links[BEATS_AT_ONCE:], lapse)

    def release(self, link: Link, cause: str) -> bool:
        """Give a node up, and end what is left of it; return whether it was there."""
        if not self._remove(link, cause):
            return False
        logger.info("node %s has left: %s", link.node, cause)
        self._events.note("left", node=link.node, cause=cause)
        return True

    def _remove(self, link: Link, cause: str) -> bool:
        if self.links.get(link.node) is not link:
            return False
        if (waits := self._gone.pop(link.node, None)) is not None:
            waits.set_result(cause)
        del self.links[link.node]
        self._once.discard(link.node)
        self.failed_starts.pop(link.node, None)
        self._answered.discard(link.node)
        link.closing = self._end(link.close())
        return True

    def _end(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """End something, at the latest when the fleet closes."""
        task = self._loop.create_task(ending)
        self._losing.add(task)
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._losing.discard(task)

    def lost(self, link: Link, cause: str, silent: bool) -> None:
        """Remove a node that has gone without being asked to, and end what is left of it."""
        if not self._remove(link, cause):
            return
        said = f"node {link.node} was lost: {cause}; its log: {link.log_file}"
        logger.warning("%s", said)
        self._losses.append(said)
        self._events.note("lost", node=link.node, cause=cause)
        self._on_lost(link, cause, silent)

    def failed_start(self, node: str, cause: str, working: bool) -> None:
        """Note that a worker ended before it started a task; give the node up if that goes on, and none is working."""
        since = self.failed_starts.setdefault(node, self._loop.time())
        if not working and self._loop.time() - since > FAILED_STARTS_SECONDS and node in self.links:
            self.links[node].give_up(f"for {FAILED_STARTS_SECONDS:g} s no worker could start: {cause}")

    async def close(self) -> None:
        """End all nodes and wait until they have gone; if cancelled, kill instead of asking."""
        if self._beating is not None:
            self._beating.cancel()
        self._watchdog.close()
        late = [*self._late, *self._leading, *self._joining.values()]
        self._late.clear()
        for task in late:
            task.cancel()
        await settled(*late)
        links = list(self.links.values())
        self.links.clear()
        closing = [*self._losing, *(self._loop.create_task(link.close()) for link in links)]

        def abort() -> None:
            for link in links:
                link.abort()

        await settled(*closing, on_cancel=abort)
        for one in closing:
            one.result()
