"""The nodes of a pool that come by themselves: the head listens, they join, work, and leave.

Guarantees:
- Nothing listens unless the user says `listen=`. Whoever is let in has the key of this pool (door.py, access.py).
- Each node that joins gets a name that no other one that has joined has or had. Then it is a node like others.
- One whose user wants it back, whose time limit comes near, or that was idle for as long as it said, is drained: what
  runs there may go on for GRACE seconds, or until the limit; then it is released, and its evaluations go back.
- At the end all are released and told so; the access file is removed, and the port closed.

The head watches the idle time of a node, not the node itself: only the head knows what is on its way there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.pools.joining import access, join_request, port
from hyperflow.pools.joining.access import Access
from hyperflow.pools.joining.door import Door
from hyperflow.pools.joining.join_request import JoinRequest
from hyperflow.pools.joining.joined import Joined, Member
from hyperflow.pools.users import NodeUser, PoolNode

logger = logging.getLogger("hyperflow")

GRACE = 25.0
"""Seconds that evaluations may go on at a node that wants to leave: Kubernetes kills after 30."""

LOOK = 0.25
"""Seconds between looks whether a node is idle; with an idle timeout of minutes they are longer."""

LONGEST_LOOK = 5.0

TOLD_WITHIN = 1.0
"""Seconds in which its user knows why a node has gone."""

SHORTEST_MARGIN = 25.0
"""Seconds before its time limit from which on nothing is started on a node, if no more were asked for."""

LAST_MOMENT = 1.0
"""Seconds before its time limit at which a node is given up, whatever runs there."""

TIME_LIMIT = "its time limit comes"
AT_THE_END = "the pool has ended"


class Listening:
    """A pool's port, and the nodes that have joined there: `async with Listening(...)`.

    Entering the scope raises ConfigurationError where the port cannot be had, or the access file not be written.

    Args:
        where: As `NodePool(listen=...)` has it.
        directory: A private one, which gets the access file.
        log_dir: The directory of the run's logs.
        user: Who uses the nodes.
        margin: Seconds before the end of a node's time limit from which on nothing is started there; at most a quarter.
    """

    def __init__(
        self,
        where: int | str,
        directory: Path,
        log_dir: Path,
        user: NodeUser,
        margin: float = 0.0,
    ) -> None:
        self._address = port.parse(where)
        self._directory = directory
        self._log_dir = log_dir
        self._user = user
        self._margin = max(margin, SHORTEST_MARGIN)
        self._names: set[str] = set()  # also of those that have left: their logs are there
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._ending = asyncio.Event()
        self._door: Door | None = None
        self._access: Access | None = None

    @property
    def access(self) -> Access:
        """What a node needs to join."""
        assert self._access is not None, "it does not listen"
        return self._access

    @property
    def access_file(self) -> Path:
        return self._directory.absolute() / access.NAME

    @property
    def nodes(self) -> list[str]:
        """The nodes that are there, or on their way out."""
        return list(self._nodes)

    async def __aenter__(self) -> Self:
        host_key, client_key = access.new_key(), access.new_key()
        sock = port.bind(self._address)
        try:
            self._access = Access(
                hosts=port.names(self._address.host),
                port=sock.getsockname()[1],
                host_key=access.public_text(host_key),
                client_key=access.as_text(client_key),
                file=str(self.access_file),
                log_dir=str(self._log_dir.absolute()),
            )
            access.write(self._access)
            self._door = Door(host_key, client_key.convert_to_public(), self._joins)
            self._door.open(sock)
        except BaseException:
            sock.close()
            raise
        logger.info("nodes may join at %s; what they need is in %s", self._access.where, self.access_file)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        await self.close()

    async def close(self) -> None:
        """Let nobody in any more, and release all nodes."""
        door, self._door = self._door, None
        if door is not None:
            with suppress(OSError):
                self.access_file.unlink()
            await door.close()
        self._ending.set()
        while self._nodes:
            await asyncio.gather(*self._nodes.values(), return_exceptions=True)

    # ---- a node -------------------------------------------------------------------------------------------------

    def _joins(self, member: Member, request: JoinRequest) -> None:
        name = join_request.unused_name(request.name, self._names)
        self._names.add(name)
        task = asyncio.get_running_loop().create_task(self._attend(name, member, request))
        self._nodes[name] = task
        task.add_done_callback(lambda _: self._nodes.pop(name))

    async def _attend(self, name: str, member: Member, request: JoinRequest) -> None:
        """Use a node from its coming to its leaving."""
        code, why = 1, "the head has failed"
        gone: asyncio.Task[str] | None = None
        try:
            ends = None if request.seconds_left is None else time.time() + request.seconds_left
            node = PoolNode(
                _key(name), cpus=request.cpus, ends=ends, transport=Joined(name, member), logs=request.log_dir
            )
            try:
                await self._user.use(node)
            except HyperflowError as error:
                logger.warning("node %s has come, and cannot be used: %s", name, error)
                why = str(error)
                return
            logger.info("node %s has joined", name)
            gone = asyncio.get_running_loop().create_task(self._user.gone(_key(name)))
            cause = await self._stays(name, member, request)
            if cause:
                await self._let_finish(name, member, cause, request)
                await self._user.release(_key(name), cause)
                code, why = 0, cause
            else:
                code, why = (0, AT_THE_END) if member.in_order else (1, "the head has lost its launcher")
                await asyncio.wait([gone], timeout=TOLD_WITHIN)
                why = (gone.result() if gone.done() else "") or why
        except Exception:
            logger.exception("node %s cannot be used any more", name)
        finally:
            if gone is not None:
                gone.cancel()
            await member.dismiss(code, why)

    async def _stays(self, name: str, member: Member, request: JoinRequest) -> str:
        """Wait until a node is to leave, and return why; "" if it has gone."""
        loop = asyncio.get_running_loop()
        limit = request.seconds_left
        due = None if limit is None else loop.time() + limit - min(self._margin, limit / 4)
        since = loop.time()  # it has nothing to do
        while not member.gone.is_set():
            now = loop.time()
            if self._ending.is_set():
                return AT_THE_END
            if member.wants_to_leave.is_set():
                return "its user wants it back"
            if due is not None and now >= due:
                return TIME_LIMIT
            if self._user.is_busy(_key(name)):
                since = now
            elif request.idle_timeout is not None and now - since >= request.idle_timeout:
                return f"it had nothing to do for {request.idle_timeout:g} s"
            waits = [LONGEST_LOOK if request.idle_timeout is None else min(max(request.idle_timeout / 20, LOOK), 5.0)]
            if due is not None:
                waits.append(due - now)
            await _first(max(min(waits), 0.01), member.gone, member.wants_to_leave, self._ending)
        return ""

    async def _let_finish(self, name: str, member: Member, cause: str, request: JoinRequest) -> None:
        """Let what runs on a node end, as long as there is time."""
        if self._ending.is_set():
            return
        self._user.drain(_key(name), cause)
        limit = request.seconds_left
        grace = GRACE if limit is None or cause != TIME_LIMIT else min(self._margin, limit / 4) - LAST_MOMENT
        with suppress(TimeoutError):
            async with asyncio.timeout(max(grace, 0.0)):
                while self._user.is_busy(_key(name)) and not member.gone.is_set() and not self._ending.is_set():
                    await _first(LOOK, member.gone, self._ending)


def _key(name: str) -> str:
    """Return what the pool calls it: an allocation, or a host, may have a node of the same machine, with that name."""
    return f"{name} (joined)"


async def _first(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of the events comes, or for so long."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def expected_access(home: Path) -> Path:
    """Return the access file of a run that listens; raises ConfigurationError."""
    path = home / "pool" / access.NAME
    if not path.is_file():
        raise ConfigurationError(
            f"no pool of {home} listens for nodes that join: it does while the program runs, with "
            "NodePool(..., listen=0), or with a port of your choice"
        )
    return path
