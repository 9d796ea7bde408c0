"""The requests about a run's variables (ExtVar): their names, one's value, and setting it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from hyperflow import extvar
from hyperflow.control.server import read_body
from hyperflow.errors import ConfigurationError
from hyperflow.extvar import ExtVar


def routes(home: Path) -> list[web.RouteDef]:
    """Return the requests about the variables of the run in this directory."""

    async def names(_: web.Request) -> web.Response:
        return web.json_response({"names": await asyncio.to_thread(extvar.names, home)})

    async def get(request: web.Request) -> web.Response:
        variable = ExtVar[Any](request.match_info["name"]).of(home)
        return web.json_response({"name": variable.name, "value": await asyncio.to_thread(variable.get)})

    async def put(request: web.Request) -> web.Response:
        body = await read_body(request, "value")
        if "value" not in body:
            raise ConfigurationError('the body has to have the member "value"')
        variable = ExtVar[Any](request.match_info["name"]).of(home)
        await asyncio.to_thread(variable.set, body["value"])
        return web.json_response({"name": variable.name, "value": body["value"]})

    return [web.get("/vars", names), web.get("/vars/{name}", get), web.put("/vars/{name}", put)]
