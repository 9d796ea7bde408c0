"""The requests about a pool of nodes: how it stands, its limits, pausing it and going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from aiohttp import web

from hyperflow.control.server import read_body
from hyperflow.errors import ConfigurationError
from hyperflow.slurm.script import SbatchOptions
from hyperflow.steering import LIMITS, Steered

FORMAT = 1


def routes(pool: Callable[[], Steered | None]) -> list[web.RouteDef]:
    """Return the requests about the pool that this gives; None where the run has none."""

    def steered() -> Steered:
        found = pool()
        if found is None:
            raise ConfigurationError("this run has no pool: its nodes are those of one allocation, or this machine")
        return found

    def answer(found: Steered) -> web.Response:
        return web.json_response({"format": FORMAT, **found.info()})

    async def show(_: web.Request) -> web.Response:
        return answer(steered())

    async def change(request: web.Request) -> web.Response:
        found, body = steered(), await read_body(request, *LIMITS)
        if not body:
            raise ConfigurationError(f"nothing is to be changed; limits are: {', '.join(LIMITS)}")
        found.set(**body)
        return answer(found)

    async def pause(_: web.Request) -> web.Response:
        found = steered()
        found.pause()
        return answer(found)

    async def resume(request: web.Request) -> web.Response:
        found, changes = steered(), dict[str, Any]()
        if request.can_read_body:
            changes = (await read_body(request, "changes")).get("changes", {})
        if not isinstance(changes, dict):
            raise ConfigurationError("changes have to be an object: options of sbatch")
        SbatchOptions(**_known(changes))  # raises for values that make no sense
        found.resume(**changes)
        return answer(found)

    return [
        web.get("/pool", show),
        web.post("/pool/set", change),
        web.post("/pool/pause", pause),
        web.post("/pool/resume", resume),
    ]


def _known(changes: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in attrs.fields(SbatchOptions)]
    if unknown := [name for name in changes if name not in names]:
        raise ConfigurationError(
            f"{unknown[0]} is no option of sbatch that hyperflow knows; it knows {', '.join(names)}"
        )
    return changes
