"""The requests about the nodes of a job's head: which there are, and putting one aside by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aiohttp import web


class Nodes(Protocol):
    """Who has nodes: the engine of a job's head."""

    def nodes(self) -> Sequence[Mapping[str, object]]: ...
    def put_aside(self, node: str) -> None: ...
    def take_back(self, node: str) -> None: ...


def routes(owner: Nodes) -> list[web.RouteDef]:
    """Return the requests about these nodes."""

    def answer() -> web.Response:
        return web.json_response({"nodes": list(owner.nodes())})

    async def show(_: web.Request) -> web.Response:
        return answer()

    async def drain(request: web.Request) -> web.Response:
        owner.put_aside(request.match_info["node"])
        return answer()

    async def resume(request: web.Request) -> web.Response:
        owner.take_back(request.match_info["node"])
        return answer()

    return [
        web.get("/nodes", show),
        web.post("/nodes/{node}/drain", drain),
        web.post("/nodes/{node}/resume", resume),
    ]
