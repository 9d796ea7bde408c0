"""The requests to a job's head: which nodes there are, putting one aside by hand, how evaluations stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web

from hyperflow.progress.tally import Snapshot


class Nodes(Protocol):
    """Who has nodes: the engine of a job's head."""

    def progress(self) -> Snapshot: ...
    def nodes(self) -> Sequence[Mapping[str, object]]: ...
    def put_aside(self, node: str) -> None: ...
    def take_back(self, node: str) -> None: ...


def routes(owner: Nodes) -> list[web.RouteDef]:
    """Return the requests about these nodes."""

    def answer() -> web.Response:
        return web.json_response({"nodes": list(owner.nodes())})

    async def show(_: web.Request) -> web.Response:
        return answer()

    async def progress(_: web.Request) -> web.Response:
        return web.json_response(owner.progress().to_json())

    async def drain(request: web.Request) -> web.Response:
        owner.put_aside(request.match_info["node"])
        return answer()

    async def resume(request: web.Request) -> web.Response:
        owner.take_back(request.match_info["node"])
        return answer()

    return [
        web.get("/nodes", show),
        web.get("/progress", progress),
        web.post("/nodes/{node}/drain", drain),
        web.post("/nodes/{node}/resume", resume),
    ]
