"""The program's side of a named pool: it says what waits, and uses what is lent to it.

Guarantees:
- The connection to the manager is the lease. When the manager is killed, the program goes on with what it has (its
  nodes are Slurm's, not the manager's), looks for the next manager, and says what it holds; also what a launcher that
  ends still has. If it ends before there is one, it leaves a note (`loans`).
- A node's launcher is started when the first CPU of it is lent, and ends when the last one is returned. A node on which
  it does not start is reported, with the reason, and costs nothing but a warning.
- What is asked back is returned as evaluations end; nothing that runs is ended.
- When the pool is stopped, what runs goes on to its end, and what still waits then gets an error that says so.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Protocol, cast

from hyperflow._version import __version__
from hyperflow.aio import settled
from hyperflow.database.ownership import started
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.pools.named import leases, loans, named
from hyperflow.pools.named.leases import Line, Nonsense, Stream
from hyperflow.pools.named.lent import Demand
from hyperflow.pools.named.named import LOG, Named, NoPool
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Want

logger = logging.getLogger("hyperflow")

TICK = 0.05
"""Seconds between two looks at what waits."""

REPEAT = 1.0
"""Seconds after which numbers that have only changed a little are told, too."""

SEARCH = 0.5
"""Seconds between two looks for a new manager."""

NO_END = 7 * 24 * 3600.0
"""Seconds that what runs may take after a pool was stopped whose nodes have no end of their own."""

WELCOME = 20.0
"""Seconds that a manager may take to answer."""


class Uses(Protocol):
    """The engine, as far as it uses nodes on loan; nodes have the names that it gives them."""

    async def add(self, node: PoolNode, cpus: Sequence[int], gpus: Sequence[str], /) -> str: ...
    def lend(self, node: str, cpus: Sequence[int], gpus: Sequence[str], /) -> None: ...
    def reclaim(self, node: str, count: int, /) -> None: ...
    def drain(self, node: str, cause: str, /) -> None: ...
    async def release(self, node: str, cause: str, /) -> None: ...
    def may_come(self, kinds: Sequence[NodeKind], /) -> None: ...
    def stop(self, why: str, seconds: float, /) -> None: ...
    def demand(self) -> Sequence[Want]: ...
    def idle_cpus(self, node: str, /) -> int: ...
    def watch(
        self,
        on_returned: Callable[[str, Sequence[int], Sequence[str]], object],
        on_gone: Callable[[str, str], object],
        /,
    ) -> None: ...


class Held:
    """A node of which this program has CPUs."""

    def __init__(self, node: PoolNode) -> None:
        self.node = node
        self.cpus: set[int] = set()
        self.gpus: set[str] = set()
        self.asked = 0
        """CPUs that are asked back before the launcher is up."""
        self.engine_name = ""
        """What the engine calls it; "" until its launcher is up."""
        self.drained = False


class Ending(NamedTuple):
    """What a launcher had that ends: it is returned when nothing of it is left."""

    key: str
    cpus: list[int]
    gpus: list[str]
    over: asyncio.Event


class Borrowing:
    """What one program has of a named pool."""

    def __init__(self, pool: Named, program: str) -> None:
        self.nodes: dict[str, Held] = {}
        """By their keys."""
        self._ending: list[Ending] = []
        self._pool = pool
        self._program = program
        self._engine: Uses = cast(Uses, _Nobody())
        self._kinds: list[NodeKind] = []
        self._stream: Stream | None = None
        self._said: Demand | None = None
        self._said_at = 0.0
        self._stopped = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # ---- the connection -----------------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Connect to the manager, and tell what we have.

        Raises:
            NoPool: It does not answer.
        """
        address = self._pool.address()
        stream: Stream | None = None
        try:
            stream = await leases.connect(address)
            pid, (held, gpus) = os.getpid(), self._holds()
            who: dict[str, Any] = {"program": self._program, "pid": pid, "since": started(pid)}
            stream.write("attach", **who, held=held, gpus=gpus, hyperflow=__version__)
            self._stream, self._said = stream, None  # what changes from now on is told behind that
            async with asyncio.timeout(WELCOME):
                line = await stream.read()
            if line is None or line["do"] != "welcome":
                raise Nonsense("no welcome" if line is None else str(line.get("cause", line["do"])))
            self._kinds = leases.kinds_from_json(line["kinds"])
        except (OSError, TimeoutError, Nonsense, KeyError) as error:
            self._stream = None
            if stream is not None:
                stream.abort()
                await stream.close()
            log = self._pool.home / LOG
            raise NoPool(
                f"the manager of the pool {self._pool.name} (process {address.pid}) does not answer: "
                f"{str(error) or 'it is stopped, or busy'}; its log is {log}"
            ) from error
        self._engine.may_come(self._kinds)

    def _holds(self) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
        """Return the CPUs and GPUs that nobody else may have, by node."""
        cpus = {key: set(held.cpus) for key, held in self.nodes.items()}
        gpus = {key: set(held.gpus) for key, held in self.nodes.items()}
        for each in self._ending:
            cpus.setdefault(each.key, set()).update(each.cpus)
            gpus.setdefault(each.key, set()).update(each.gpus)
        return (
            {key: sorted(found) for key, found in cpus.items() if found},
            {key: sorted(found) for key, found in gpus.items() if found},
        )

    async def _run(self) -> None:
        """Do what the manager says until this is cancelled; look for the next one when it ends."""
        while True:
            assert self._stream is not None
            await self._listen(self._stream)
            await self._stream.close()
            self._stream = None
            if self._stopped:
                return
            logger.warning(
                "the manager of the pool %s has ended; this program goes on with what it has (%d CPUs). "
                "`hyperflow pool start %s` goes on with the pool",
                self._pool.name,
                sum(len(held.cpus) for held in self.nodes.values()),
                self._pool.name,
            )
            if not await self._find_next():
                return
            logger.warning("the pool %s has a manager again", self._pool.name)

    async def _find_next(self) -> bool:
        """Wait for the next manager, and attach to it; False if the pool has ended."""
        while True:
            await asyncio.sleep(SEARCH)
            with suppress(ConfigurationError):
                found = await asyncio.to_thread(named.read, self._pool.name)
                if found is None or found.state == "ended":
                    self._stop(f"has ended: {found.about.cause}" if found is not None else "has been forgotten")
                    return False
                self._pool = found
                await self.attach()
                return True

    async def _listen(self, stream: Stream) -> None:
        try:
            while (line := await stream.read()) is not None:
                self._heard(line)
        except (HyperflowError, KeyError, TypeError, ValueError) as error:
            logger.warning("the manager of the pool %s says what makes no sense: %s", self._pool.name, error)

    def _heard(self, line: Line) -> None:
        match line["do"]:
            case "kinds":
                if not self._stopped:
                    self._engine.may_come(leases.kinds_from_json(line["kinds"]))
            case "lend":
                self._lent(leases.node_from_json(line["node"]), leases.indices(line["cpus"]), line["gpus"])
            case "ask":
                self._asked(leases.text(line, "node"), int(line["cpus"]))
            case "drain":
                self._drain(leases.text(line, "node"), leases.text(line, "cause"))
            case "gone":
                self._start(self._leave(leases.text(line, "node"), leases.text(line, "cause")))
            case "stop":
                self._stop(leases.text(line, "cause"))
            case other:
                raise Nonsense(f"nobody knows what {other!r} is")

    def _tell(self, do: str, **members: Any) -> None:
        if self._stream is not None:
            self._stream.write(do, **members)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- nodes --------------------------------------------------------------------------------------------------

    def _lent(self, node: PoolNode, cpus: Sequence[int], gpus: Sequence[str]) -> None:
        held = self.nodes.get(node.key)
        is_new = held is None
        if held is None:
            held = self.nodes[node.key] = Held(node)
        held.cpus.update(cpus)
        held.gpus.update(gpus)
        if is_new:
            self._start(self._bring_up(held))
        elif held.engine_name:
            self._engine.lend(held.engine_name, cpus, gpus)

    async def _bring_up(self, held: Held) -> None:
        """Start a launcher."""
        node, cpus, gpus = held.node, sorted(held.cpus), sorted(held.gpus)
        try:
            name = await self._engine.add(node, cpus, gpus)
        except Exception as error:  # whatever it is, what waits must not wait for this node
            if self.nodes.get(node.key) is held:
                expected = isinstance(error, HyperflowError)
                words = "%s of the pool %s cannot be used: %s"
                logger.warning(words, node.name, self._pool.name, error, exc_info=None if expected else error)
                self._failed(held, str(error))
            return
        if self.nodes.get(node.key) is not held:  # it was taken away meanwhile
            await self._engine.release(name, "it was given back")
            return
        held.engine_name = name
        later, more = sorted(held.cpus.difference(cpus)), sorted(held.gpus.difference(gpus))
        if later or more:
            self._engine.lend(name, later, more)
        if held.drained:
            self._give_up(held, "the pool gives it back")
        elif held.asked:
            self._engine.reclaim(name, held.asked)

    def _asked(self, name: str, count: int) -> None:
        if (held := self.nodes.get(name)) is None:
            return
        if held.engine_name:
            self._engine.reclaim(held.engine_name, count)
        else:
            held.asked += count

    def _drain(self, name: str, cause: str) -> None:
        """Start nothing more there; as evaluations end, CPUs are returned."""
        held = self.nodes.get(name)
        if held is not None and not held.drained:
            held.drained = True
            if held.engine_name:
                self._give_up(held, cause)

    def _give_up(self, held: Held, cause: str) -> None:
        self._engine.drain(held.engine_name, cause)
        self._engine.reclaim(held.engine_name, len(held.cpus))

    async def _leave(self, name: str, cause: str) -> None:
        held = self.nodes.pop(name, None)
        if held is not None and held.engine_name:
            await self._engine.release(held.engine_name, cause)
        for ending in [each for each in self._ending if each.key == name]:
            await ending.over.wait()
        self._tell("released", node=name)

    def on_returned(self, engine_name: str, cpus: Sequence[int], gpus: Sequence[str]) -> None:
        """The engine has given CPUs back."""
        held = self._named(engine_name)
        if held is None:
            return
        held.cpus.difference_update(cpus)
        held.gpus.difference_update(gpus)
        if held.cpus:
            self._tell("returned", node=held.node.key, cpus=list(cpus), gpus=list(gpus))
        else:
            del self.nodes[held.node.key]
            ending = Ending(held.node.key, list(cpus), sorted({*held.gpus, *gpus}), asyncio.Event())
            self._ending.append(ending)
            self._start(self._return_last(held, ending))

    async def _return_last(self, held: Held, ending: Ending) -> None:
        """End the launcher; then its last CPUs are somebody else's."""
        await self._engine.release(held.engine_name, "its CPUs were given back to the pool")
        self._ending.remove(ending)
        self._tell("returned", node=ending.key, cpus=ending.cpus, gpus=ending.gpus)
        ending.over.set()

    def on_node_gone(self, engine_name: str, cause: str) -> None:
        """The engine has lost a node."""
        held = self._named(engine_name)
        if held is not None:
            self._failed(held, cause)

    def _failed(self, held: Held, why: str) -> None:
        """Give back what we know of a node; what was lent meanwhile, and is still to be read, stays ours."""
        del self.nodes[held.node.key]
        self._tell("failed", node=held.node.key, cpus=sorted(held.cpus), gpus=sorted(held.gpus), why=why[:1000])

    def _named(self, engine_name: str) -> Held | None:
        return next((held for held in self.nodes.values() if held.engine_name == engine_name), None)

    # ---- what waits ---------------------------------------------------------------------------------------------

    async def _report_on(self) -> None:
        """Tell what waits, until this is cancelled."""
        while True:
            await asyncio.sleep(TICK)
            if self._stream is not None and not self._stopped:
                self._report(self._loop.time())

    def _report(self, now: float) -> None:
        demand = self._demand()
        if demand == self._said:
            return
        before = self._said
        urgent = before is None or bool(demand.waiting) != bool(before.waiting) or demand.held != before.held
        if urgent or now >= self._said_at + REPEAT:
            self._said, self._said_at = demand, now
            self._tell("demand", **leases.demand_to_json(demand))

    def _demand(self) -> Demand:
        held = {name: len(node.cpus) for name, node in self.nodes.items()}
        idle: dict[str, int] = {}
        for name, node in self.nodes.items():
            if not node.engine_name:
                idle[name] = len(node.cpus)  # it will serve what waits when it is up
            elif count := self._engine.idle_cpus(node.engine_name):
                idle[name] = min(count, len(node.cpus))
        return Demand(leases.units_of(self._engine.demand()), held, idle)

    # ---- the end ------------------------------------------------------------------------------------------------

    def _stop(self, cause: str) -> None:
        """Start nothing more. When nothing runs any more, what waits gets an error that says why."""
        if self._stopped:
            return
        self._stopped = cause
        ends = [held.node.ends or time.time() + NO_END for held in self.nodes.values()]
        self._engine.stop(f"the pool {self._pool.name} {cause}", max(max(ends, default=0.0) - time.time(), 0.0))
        for name in list(self.nodes):
            self._drain(name, cause)

    # ---- scopes -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self, engine: Uses) -> AsyncIterator[None]:
        """Let an engine use what is lent, within a scope. What it has at the end it keeps until it ends."""
        self._engine = engine
        engine.watch(self.on_returned, self.on_node_gone)
        engine.may_come(self._kinds)
        loops = [asyncio.create_task(self._run(), name="pool"), asyncio.create_task(self._report_on(), name="demand")]
        try:
            yield
        finally:
            ending = [*loops, *self._tasks]
            for task in ending:
                task.cancel()
            await settled(*ending)

    async def close(self) -> None:
        """End the lease."""
        manager_is_gone = self._stream is None or self._stream.has_ended()
        if self._stream is not None:
            await self._stream.close()
        if manager_is_gone and not self._stopped:
            loans.note_left(self._pool.home, os.getpid(), self._program)


class _Nobody:
    """An engine that is not there yet."""

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        """Do nothing."""


@asynccontextmanager
async def borrowing(pool: Named, program: str) -> AsyncIterator[Borrowing]:
    """Be attached to a named pool within a scope, whose end gives all back; raises NoPool.

    async with borrowing(pool, "scan") as lease:      # all that uses its nodes ends within this
        async with lease.serving(engine):
            ...
    """
    lease = Borrowing(pool, program)
    await lease.attach()
    try:
        yield lease
    finally:
        await lease.close()
