"""The lender: uses the nodes of a named pool by lending their CPUs to programs, one connection each.

It is the pool's `NodeUser`. Who gets what is decided by `Lending`; here are the connections, the nodes, and the file
that says who has what.

Guarantees:
- The end of a connection is the end of the lease: all that the program had is free at once. Its launchers end with it.
- Before CPUs are lent, the file says so (`loans`). A manager that comes after a killed one keeps what living programs
  have for them, until they say themselves what they have, or leave, or end. Where the file cannot be written (a full
  disk), lending goes on, and a warning says what is at risk.
- Of a node that is given back, nothing more is lent; who has CPUs there is told to drain it, or to leave it at once,
  and `release` returns when all have left, or their programs have ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow._version import __version__
from hyperflow.checked_files import Damaged
from hyperflow.errors import ConfigurationError, LauncherError
from hyperflow.pools.named import leases, loans
from hyperflow.pools.named.leases import Line, Nonsense, Stream
from hyperflow.pools.named.lending import Lending
from hyperflow.pools.named.lent import Ask, Lend, Unit
from hyperflow.pools.named.named import is_alive
from hyperflow.pools.users import PoolNode
from hyperflow.request import Capacity, NodeKind, Want

logger = logging.getLogger("hyperflow.pools")

LOOK = 0.5
"""Seconds between two rounds of lending without news: what has been idle for long is asked for."""

UNFIT_FOR = 60.0
"""Seconds after which a program that could not use a node may get it again."""

LEAVING = 15.0
"""Seconds that programs may take to leave a node that is taken from them."""

MOST_UNSENT = 1 << 22
"""Bytes that a program has not read, after which it is given up."""


@attrs.define(eq=False)
class Program:
    """One that borrows; `stream` is None for one that a manager before us knew, and that has not come back."""

    number: int
    pid: int
    started: str
    name: str
    since: float
    stream: Stream | None = None
    greeted: bool = False

    @property
    def who(self) -> tuple[int, str, str]:
        return self.pid, self.started, self.name


class Lender:
    """A NodeUser that lends what it is given."""

    def __init__(
        self, pool: str, home: Path, on_demand: Callable[[], object], look: Callable[[PoolNode], Awaitable[int]]
    ) -> None:
        """Make it.

        Args:
            pool: Its name.
            home: Its directory.
            on_demand: Is called when programs want more than there is.
            look: Finds out how many CPUs a host has; raises LauncherError if it cannot be reached.
        """
        self.lending = Lending()
        self.programs: dict[int, Program] = {}
        self.last_wanted = time.monotonic()
        """When a program last wanted or had anything, by a clock that nobody sets."""
        self._pool = pool
        self._home = home
        self._on_demand = on_demand
        self._look = look
        self._nodes: dict[str, PoolNode] = {}  # by their keys, as all that is said of them here and to programs
        self._keys: dict[str, str] = {}  # by their names in the pool
        self._kinds: Sequence[NodeKind] = ()
        self._left: dict[tuple[int, str], asyncio.Event] = {}  # who has to leave which node
        self._leaving: dict[str, str] = {}  # nodes that all have to leave, and why
        self._following = 1
        self._news = asyncio.Event()
        self._stopping = ""
        self._told = False
        self._next_look = 0.0
        self._is_noted = True  # the file says no more than is so
        self._gone: dict[str, asyncio.Event] = {}

    # ---- the nodes of the pool (NodeUser) -----------------------------------------------------------------------

    async def use(self, node: PoolNode) -> None:
        if node.slurm_job is None:  # a holder of Slurm's has said that it is there, and nobody has for a host
            found = await self._look(node)
            node = attrs.evolve(node, cpus=node.cpus or found)
        if self._stopping:
            raise LauncherError(f"{node.name} comes too late: the pool {self._pool} {self._stopping}")
        key = self._keys[node.name] = node.key
        self._nodes[key] = node
        self._gone[key] = asyncio.Event()
        self.lending.node_up(key, node.cpus or 1, node.supply.gpus or (), node.supply.memory or 0)
        self._news.set()

    def _key(self, node: str) -> str:
        return self._keys.get(node, node)

    def drain(self, node: str, cause: str) -> None:
        key = self._key(node)
        self.lending.close(key)
        for number in self._users(key):
            self._tell(number, "drain", node=key, cause=cause)

    async def release(self, node: str, cause: str) -> None:
        key = self._key(node)
        self.lending.close(key)
        self._leaving[key] = cause
        for number in self._users(key):
            self._tell(number, "gone", node=key, cause=cause)
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING):
                while users := self._users(key):  # also those who come back meanwhile
                    await self._left.setdefault((users[0], key), asyncio.Event()).wait()
        self._leaving.pop(key, None)
        self.lending.node_gone(key)
        self._nodes.pop(key, None)
        if self._keys.get(node) == key:
            del self._keys[node]
        if (gone := self._gone.pop(key, None)) is not None:
            gone.set()
        self._note()

    async def gone(self, node: str) -> str:
        if (gone := self._gone.get(self._key(node))) is not None:
            await gone.wait()
        return "it was given back"

    def is_busy(self, node: str) -> bool:
        return self.lending.is_busy(self._key(node))

    def is_up(self, node: str) -> bool:
        return self._key(node) in self._nodes

    def takes_work(self, node: str) -> bool:
        return self.is_up(node)

    def forgive(self, node: str) -> None:
        """Do nothing: programs lose nodes by themselves."""

    def found(self, node: str) -> NodeKind | None:
        there = self._nodes.get(self._key(node))
        if there is None:
            return None
        return NodeKind(node, there.cpus or 1, Capacity(there.supply.gpus or (), there.supply.memory or 0))

    def demand(self) -> list[Want]:
        return leases.wants_of(self.waiting())

    def free_cpus(self) -> int:
        return self.lending.free_cpus()

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self._kinds = list(kinds)
        for number in self.programs:
            self._tell(number, "kinds", kinds=leases.kinds_to_json(self._kinds))

    # ---- what there is to see -----------------------------------------------------------------------------------

    def waiting(self) -> list[Unit]:
        """Return what waits in all programs."""
        return [unit for each in self.lending.borrowers.values() for unit in each.demand.waiting]

    def table(self) -> list[dict[str, Any]]:
        """Return the programs, for people."""
        return [
            {
                "pid": program.pid,
                "program": program.name,
                "since": program.since,
                "attached": program.stream is not None,
                "cpus": sum(len(cpus) for cpus in self.lending.held_by(number).values()),
                "nodes": {self._name(key): len(cpus) for key, cpus in self.lending.held_by(number).items()},
                "wants": sum(unit.number * unit.cpus for unit in self.lending.borrowers[number].demand.waiting),
            }
            for number, program in self.programs.items()
        ]

    def _name(self, key: str) -> str:
        return self._nodes[key].name if key in self._nodes else key

    def cpus(self) -> tuple[int, int]:
        """Return how many CPUs there are, and how many of them are lent."""
        holders = [holder for ground in self.lending.nodes.values() for holder in ground.holders]
        return len(holders), sum(holder is not None for holder in holders)

    # ---- connections --------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk with a program until its connection ends."""
        stream = Stream(reader, writer)
        program: Program | None = None
        try:
            stream.check_peer()
            line = await stream.read()
            if line is None:
                return
            program = self._attach(line, stream)
            while (line := await stream.read()) is not None:
                self._heard(program, line)
        except Nonsense as error:
            logger.warning("a connection is ended: %s", error)
            stream.write("stop", cause=f"the manager of the pool {self._pool} was told nonsense: {error}")
        finally:
            if program is not None:
                self._detach(program)
            await stream.close()

    def _attach(self, line: Line, stream: Stream) -> Program:
        """Take in a program; what it says that it has, it has."""
        dictionaries = isinstance(line.get("held"), dict) and isinstance(line.get("gpus", {}), dict)
        if line["do"] != "attach" or type(line.get("pid")) is not int or not dictionaries:
            raise Nonsense("no program says who it is")
        if line.get("hyperflow") != __version__:
            theirs = str(line.get("hyperflow"))[:40]
            raise Nonsense(
                f"the program has hyperflow {theirs}, the manager {__version__}: stop the pool, start it again"
            )
        held = {str(node): leases.indices(cpus) for node, cpus in line["held"].items()}
        gpus = {str(node): leases.names(ids) for node, ids in line.get("gpus", {}).items()}
        pid, began = line["pid"], leases.text(line, "since")
        program = Program(self._following, pid, began, leases.text(line, "program"), time.time(), stream)
        self._following += 1
        who = (pid, began, program.name)  # a process may be several programs
        ghosts = [each for each in self.programs.values() if each.stream is None and each.who == who]
        for ghost in ghosts:
            self._forget(ghost)
        self.programs[program.number] = program
        self.lending.join(program.number, time.monotonic())
        program.greeted = True
        self._tell(program.number, "welcome", pool=self._pool, pid=os.getpid(), kinds=leases.kinds_to_json(self._kinds))
        for node, cpus in held.items():
            taken = self.lending.holds(program.number, node, cpus, gpus.get(node, ()))
            if node in self._leaving:
                self._tell(program.number, "gone", node=node, cause=self._leaving[node])
            elif taken:  # which cannot be, but for a file that could not be written
                words = "%s and another program both have CPUs %s of %s: it is told to leave that node"
                logger.warning(words, program.name, taken, node)
                self.lending.returned(program.number, node, set(cpus).difference(taken), gpus.get(node, ()))
                self._tell(program.number, "gone", node=node, cause="another program has CPUs of it that this one had")
        logger.info("program %s (process %d) borrows", program.name, pid)
        if self._stopping:
            self._tell(program.number, "stop", cause=self._stopping)
        self._news.set()
        return program

    def _detach(self, program: Program) -> None:
        logger.info("program %s (process %d) has gone", program.name, program.pid)
        self._forget(program)

    def _forget(self, program: Program) -> None:
        self.programs.pop(program.number, None)
        self.lending.leave(program.number)
        self._is_noted = False
        for (number, node), left in list(self._left.items()):
            if number == program.number:
                left.set()
                del self._left[number, node]
        self._news.set()

    def _heard(self, program: Program, line: Line) -> None:
        number = program.number
        match line["do"]:
            case "demand":
                self.lending.wants(number, leases.demand_from_json(line), time.monotonic())
            case "returned":
                node, cpus = leases.text(line, "node"), leases.indices(line.get("cpus"))
                if not self.lending.returned(number, node, cpus, leases.names(line.get("gpus", []))):
                    raise Nonsense(f"it returns CPUs of {node} that it does not have")
            case "failed":
                node, cpus = leases.text(line, "node"), leases.indices(line.get("cpus"))
                logger.warning("%s cannot use %s: %s", program.name, node, leases.text(line, "why"))
                if not self.lending.cannot_use(number, node, cpus, leases.names(line.get("gpus", []))):
                    raise Nonsense(f"it has failed to use CPUs of {node} that it does not have")
                asyncio.get_running_loop().call_later(UNFIT_FOR, self.lending.may_use, number, node)
            case "released":
                node = leases.text(line, "node")
                if node in self._leaving:
                    self.lending.returned(number, node, self.lending.held_by(number).get(node, []))
                if (left := self._left.pop((number, node), None)) is not None:
                    left.set()
            case _:
                raise Nonsense(f"nobody knows what {line['do']!r} is")
        self._news.set()

    def _users(self, node: str) -> list[int]:
        return [number for number, each in self.lending.borrowers.items() if node in each.held]

    def _tell(self, number: int, do: str, **members: Any) -> None:
        program = self.programs.get(number)
        if program is None or program.stream is None or not program.greeted:
            return
        program.stream.write(do, **members)
        if program.stream.unsent() > MOST_UNSENT:
            logger.warning("program %s (process %d) does not read: it is given up", program.name, program.pid)
            program.stream.abort()

    # ---- lending ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lend, at each news and now and then, until this is cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._news.wait()
            self._news.clear()
            try:
                self._round()
            except Exception:  # a mistake of ours: the next round may go well
                logger.exception("lending has met an error, and goes on")
                await asyncio.sleep(LOOK)
            await asyncio.sleep(0.01)  # what comes meanwhile is done in one round

    def _round(self) -> None:
        self._forget_dead()
        self._settle()
        if self.waiting() or any(each.held for each in self.lending.borrowers.values()):
            self.last_wanted = time.monotonic()
        if self.waiting():
            self._on_demand()

    def _settle(self) -> None:
        moves = self.lending.settle(time.monotonic())
        if not self._is_noted or any(isinstance(move, Lend) for move in moves):
            self._note()
        for move in moves:
            match move:
                case Lend(number, name, cpus, gpus):
                    node = leases.node_to_json(self._nodes[name])
                    self._tell(number, "lend", node=node, cpus=list(cpus), gpus=list(gpus))
                case Ask(number, name, count):
                    self._tell(number, "ask", node=name, cpus=count)

    def _forget_dead(self) -> None:
        """Free what a manager before us has lent to programs that have ended since, or have left."""
        ghosts = [each for each in self.programs.values() if each.stream is None]
        if not ghosts or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK
        left = loans.have_left(self._home, [(each.pid, each.name) for each in ghosts])
        for program in ghosts:
            if (program.pid, program.name) in left or not is_alive(program.pid, program.started):
                self._detach(program)
        if left:
            loans.forget_notes(self._home)

    # ---- what outlives us ---------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Write who has what."""
        rows = [
            {
                "pid": each.pid,
                "started": each.started,
                "program": each.name,
                "held": self.lending.held_by(number),
                "gpus": self.lending.gpus_of(number),
            }
            for number, each in self.programs.items()
        ]
        self._is_noted = True
        try:
            loans.write(self._home, rows)
            self._told = False
        except (OSError, ConfigurationError) as error:
            if not self._told:
                self._told = True
                logger.warning(
                    "cannot write %s/%s: %s. Lending goes on; but if this manager is killed now, the next one may "
                    "lend CPUs that programs still have. Free space there",
                    self._home,
                    loans.FILE,
                    getattr(error, "strerror", None) or error,
                )

    def remember(self) -> None:
        """Keep what living programs have, as a manager before us has written it."""
        try:
            for row in loans.read(self._home):
                self._remember(row)
        except FileNotFoundError:
            pass
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ConfigurationError,
            Damaged,
            Nonsense,
        ) as error:
            logger.warning("what was lent before is not known (%s/%s: %s)", self._home, loans.FILE, error)
        self._forget_dead()
        loans.forget_notes(self._home)  # those of programs that nobody knows

    def _remember(self, row: dict[str, Any]) -> None:
        pid, began = int(row["pid"]), str(row["started"])
        if not is_alive(pid, began):
            return
        program = Program(self._following, pid, began, str(row["program"]), time.time())
        self._following += 1
        self.programs[program.number] = program
        self.lending.join(program.number, time.monotonic())
        for node, cpus in row["held"].items():
            gpus = leases.names(row["gpus"].get(node, []))
            self.lending.holds(program.number, str(node), leases.indices(cpus), gpus)

    # ---- the end ------------------------------------------------------------------------------------------------

    def stop(self, cause: str) -> None:
        """Lend nothing more: programs keep what they have until their evaluations there have ended."""
        if self._stopping:
            return
        self._stopping = cause
        for number in list(self.programs):
            self._tell(number, "stop", cause=cause)
        for node in list(self._nodes.values()):
            self.drain(node.name, cause)

    async def release_all(self, cause: str) -> None:
        """Have all programs leave all nodes."""
        await asyncio.gather(*(self.release(node.name, cause) for node in list(self._nodes.values())))

    def is_idle(self) -> bool:
        """Whether no program has anything."""
        return not any(self.lending.is_busy(name) for name in self.lending.nodes)
