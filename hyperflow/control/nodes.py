"""The requests to a job's head: its nodes, putting one aside by hand, how evaluations stand, copies of failed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from hyperflow.control.server import read_body
from hyperflow.errors import ConfigurationError
from hyperflow.progress.tally import Snapshot


class Nodes(Protocol):
    """Who has nodes: the engine of a job's head."""

    def progress(self) -> Snapshot: ...
    def nodes(self) -> Sequence[Mapping[str, object]]: ...
    def describe_node(self, node: str) -> Mapping[str, object]: ...
    def put_aside(self, node: str) -> None: ...
    async def give_back(self, node: str) -> None: ...
    def take_back(self, node: str) -> None: ...
    async def inspect(self, task: int, line: str) -> str: ...


def routes(owner: Nodes) -> list[web.RouteDef]:
    """Return the requests about these nodes."""

    def answer() -> web.Response:
        return web.json_response({"nodes": list(owner.nodes())})

    async def show(_: web.Request) -> web.Response:
        return answer()

    async def describe(request: web.Request) -> web.Response:
        return web.json_response(dict(owner.describe_node(request.match_info["node"])))

    async def progress(_: web.Request) -> web.Response:
        return web.json_response(owner.progress().to_json())

    async def drain(request: web.Request) -> web.Response:
        node = request.match_info["node"]
        now = (await read_body(request, "now")).get("now", False) if request.can_read_body else False
        if not isinstance(now, bool):
            raise ConfigurationError("now has to be true or false")
        if now:
            await owner.give_back(node)
        else:
            owner.put_aside(node)
        return answer()

    async def resume(request: web.Request) -> web.Response:
        owner.take_back(request.match_info["node"])
        return answer()

    async def inspect(request: web.Request) -> web.Response:
        line = (await read_body(request, "line")).get("line")
        task = request.match_info["task"]
        if not isinstance(line, str) or not task.isdecimal():
            raise ConfigurationError("the number of an evaluation and a line are needed")
        return web.json_response({"text": await owner.inspect(int(task), line)})

    return [
        web.post("/evaluations/{task}/inspect", inspect),
        web.get("/nodes", show),
        web.get("/nodes/{node}", describe),
        web.get("/progress", progress),
        web.post("/nodes/{node}/drain", drain),
        web.post("/nodes/{node}/resume", resume),
    ]
