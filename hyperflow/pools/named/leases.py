"""The lines between a named pool's manager and a program that borrows: one connection, whose life is the lease.

JSON objects, a line each, over a Unix socket in the pool's private directory. "do" says what a line is:

    program -> manager                         manager -> program
    attach    program, pid, since, held,       welcome   pool, pid, kinds
              gpus, hyperflow (its version)
    demand    waiting, held, idle              kinds     kinds (that may come)
    returned  node, cpus, gpus                 lend      node, cpus, gpus (node: a PoolNode)
    failed    node, cpus, gpus, why            ask       node, cpus (so many)
    released  node                             drain     node, cause
                                               gone      node, cause (answered by "released")
                                               stop      cause

Nodes are called by their keys (PoolNode.key). `held` and `idle` are CPUs by node: their indices in `attach`, which of
them nobody uses counted in `demand`. What is on its way back is held until it is "returned". "failed" gives back what
it names: what was lent meanwhile, and has not been read yet, is still the program's.

Guarantees: only a process of the same user is talked to, as the kernel tells it (SO_PEERCRED). A line that is too long,
is no JSON, or has another form than it should ends that connection and nothing else. Nothing is unpickled.

(Rejected: requests to the control API. Each would be a connection of its own, and the manager would learn of a dead
program from its silence. A WebSocket there: both ends would import aiohttp, which takes a program 0.2 s.)
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias, cast

import attrs

from hyperflow import files
from hyperflow.control.place import Address, peer, shortened
from hyperflow.errors import HyperflowError
from hyperflow.head.capacity import Supply
from hyperflow.pools.named.lent import Demand, Unit
from hyperflow.pools.users import PoolNode
from hyperflow.request import Capacity, NodeKind, Request, Want

Line: TypeAlias = "dict[str, Any]"

LONGEST = 1 << 20
"""Bytes of a line."""

MOST_UNITS = 200
"""Different wants in one line: the first ones are enough to know what to lend now."""


class Nonsense(HyperflowError):
    """The other end says what it never should."""


class Stream:
    """One end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def check_peer(self) -> None:
        """Raise Nonsense if the other end is another user's."""
        found = self._writer.get_extra_info("socket")
        with socket.socket(fileno=os.dup(found.fileno())) as connection:
            user = peer(connection)
        if user != os.geteuid():
            raise Nonsense(f"the other end is user {user}'s, not yours")

    async def read(self) -> Line | None:
        """Return the next line, or None at the end; raises Nonsense."""
        try:
            data = await self._reader.readline()
        except (ValueError, asyncio.LimitOverrunError):
            raise Nonsense(f"a line of more than {LONGEST} bytes") from None
        except OSError:
            return None
        if not data.endswith(b"\n"):
            return None  # it ended within a line
        try:
            found = files.from_json(data)
        except ValueError:
            raise Nonsense("a line that is no JSON") from None
        if not isinstance(found, dict) or not isinstance(cast(Line, found).get("do"), str):
            raise Nonsense("a line that does not say what it is")
        return cast(Line, found)

    def write(self, do: str, **members: Any) -> None:
        """Send a line; never blocks. Nothing, if the connection has gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"do": do, **members}).encode() + b"\n")

    def unsent(self) -> int:
        """Return how many bytes the other end has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    def has_ended(self) -> bool:
        """Whether the other end has gone, and all that it said was read."""
        return self._reader.at_eof()

    def abort(self) -> None:
        """End the connection, and leave what was not sent."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection, after what was written. Who has closed it first waits for that."""
        if self._writer.is_closing():
            # A second one would wait for the future of the first, and be cancelled if that was.
            return
        self._writer.close()
        with suppress(OSError):  # the other end was quicker
            await self._writer.wait_closed()


async def connect(address: Address) -> Stream:
    """Connect to a manager; raises OSError, or Nonsense if another user listens there."""
    with shortened(address.path) as path:
        reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST)
    stream = Stream(reader, writer)
    try:
        stream.check_peer()
    except Nonsense:
        await stream.close()
        raise
    return stream


# ---- what lines say -------------------------------------------------------------------------------------------------


def node_to_json(node: PoolNode) -> Line:
    """Return a node as a line has it."""
    return attrs.asdict(node)


def node_from_json(data: object) -> PoolNode:
    """Read a node; raises Nonsense."""
    try:
        members = dict(cast(Mapping[str, Any], data))
        gpus, memory = members.pop("supply")
        members["supply"] = Supply(None if gpus is None else tuple(map(str, gpus)), memory)
        return PoolNode(**members)
    except (TypeError, ValueError, KeyError) as error:
        raise Nonsense(f"no node: {error!r}") from error


def kinds_to_json(kinds: Iterable[NodeKind]) -> list[Line]:
    """Return kinds as a line has them."""
    return [
        {
            "name": kind.name,
            "cpus": kind.cpus,
            "gpus": list(kind.capacity.gpus),
            "memory": kind.capacity.memory,
            "lasts": None if math.isinf(kind.capacity.ends) else kind.capacity.ends,
            "most": kind.most,
        }
        for kind in kinds
    ]


def kinds_from_json(data: object) -> list[NodeKind]:
    """Read kinds; raises Nonsense."""
    try:
        return [_kind(each) for each in cast("list[Line]", data)]
    except (TypeError, ValueError, KeyError) as error:
        raise Nonsense(f"no kinds of nodes: {error!r}") from error


def _kind(data: Line) -> NodeKind:
    lasts = math.inf if data["lasts"] is None else float(data["lasts"])
    capacity = Capacity(tuple(map(str, data["gpus"])), int(data["memory"]), lasts)
    return NodeKind(str(data["name"]), int(data["cpus"]), capacity, int(data["most"]))


def units_of(wants: Iterable[Want]) -> list[Unit]:
    """Return what waits, as the pool counts it: an evaluation of several nodes is one on each of them."""
    return [
        Unit(
            want.number * want.request.nodes,
            want.request.cpus,
            math.ceil(want.request.gpus),
            want.request.memory or 0,
            want.seconds,
        )
        for want in wants
    ][:MOST_UNITS]


def wants_of(units: Iterable[Unit]) -> list[Want]:
    """Return the same for who brings nodes."""
    return [
        Want(Request(unit.cpus, float(unit.gpus), unit.memory or None), unit.number, unit.seconds) for unit in units
    ]


def demand_to_json(demand: Demand) -> Line:
    """Return what a program needs as a line has it."""
    return {"waiting": list(demand.waiting), "held": dict(demand.held), "idle": dict(demand.idle)}


def demand_from_json(line: Line) -> Demand:
    """Read what a program needs; raises Nonsense."""
    try:
        units = [_unit(*each) for each in line["waiting"][:MOST_UNITS]]
        return Demand(units, _counts(line["held"]), _counts(line["idle"]))
    except (TypeError, ValueError, KeyError) as error:
        raise Nonsense(f"no demand: {error!r}") from error


def _unit(number: object, cpus: object, gpus: object, memory: object, seconds: object) -> Unit:
    known = None if seconds is None else float(cast(float, seconds))
    return Unit(_count(number), max(_count(cpus), 1), _count(gpus), _count(memory), known)


def _counts(data: Mapping[str, object]) -> dict[str, int]:
    return {str(node): _count(count) for node, count in data.items()}


def _count(value: object) -> int:
    if type(value) is not int or value < 0 or value >= 1 << 62:
        raise ValueError(f"{value!r} is no number of anything")
    return value


def indices(value: object) -> list[int]:
    """Read the CPUs of a node; raises Nonsense."""
    if not isinstance(value, list) or len(cast("list[object]", value)) > 1 << 16:
        raise Nonsense("no list of CPUs")
    found = [_index(each) for each in cast("list[object]", value)]
    if len(set(found)) < len(found):
        raise Nonsense("a CPU that is named twice")
    return found


def _index(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise Nonsense(f"{value!r} is no CPU")
    return value


def names(value: object) -> list[str]:
    """Read the GPUs of a node; raises Nonsense."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in cast("list[object]", value)):
        raise Nonsense("no list of GPUs")
    return cast("list[str]", value)


def text(line: Line, member: str) -> str:
    """Read a text; raises Nonsense."""
    found = line.get(member)
    if not isinstance(found, str) or len(found) > 1 << 14:
        raise Nonsense(f"{line['do']} without {member}")
    return found
