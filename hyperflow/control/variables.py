"""The requests about a run's variables (ExtVar): their names, one's value, and setting it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from hyperflow import extvar
from hyperflow.control.server import read_body
from hyperflow.errors import ConfigurationError
from hyperflow.extvar import ExtVar, RunVar


def routes(home: Path) -> list[web.RouteDef]:
    """Return the requests about the variables of the run in this directory."""
    handlers = _Handlers(home)
    return [
        web.get("/vars", handlers.names),
        web.get("/vars/{name}", handlers.get),
        web.put("/vars/{name}", handlers.set),
    ]


@attrs.frozen
class _Handlers:
    home: Path

    async def names(self, _: web.Request) -> web.Response:
        return web.json_response({"names": await asyncio.to_thread(extvar.names, self.home)})

    async def get(self, request: web.Request) -> web.Response:
        variable = self._variable(request)
        return web.json_response({"name": variable.name, "value": await asyncio.to_thread(variable.get)})

    async def set(self, request: web.Request) -> web.Response:
        body = await read_body(request, "value")
        if "value" not in body:
            raise ConfigurationError('the body has to have the member "value"')
        variable = self._variable(request)
        await asyncio.to_thread(variable.set, body["value"])
        return web.json_response({"name": variable.name, "value": body["value"]})

    def _variable(self, request: web.Request) -> RunVar[Any]:
        return ExtVar[Any](request.match_info["name"]).of(self.home)
