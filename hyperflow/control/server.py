"""The server of a master: answers on a Unix socket what people and programs ask of it (docs/control-api.md).

Guarantees: only processes of the same user are answered, as the kernel tells it (SO_PEERCRED): the directory keeps
others out, too, but somebody may loosen its mode. What cannot be done is refused as a whole, with the reason. What
goes wrong in here never disturbs the program.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast

import attrs
from aiohttp import web

from hyperflow import extvar
from hyperflow.control.messages import FORMAT, job_to_json
from hyperflow.control.place import Address, listening
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.extvar import ExtVar, RunVar
from hyperflow.master.lifecycle import AT_REST, State
from hyperflow.master.master import Master
from hyperflow.slurm.script import FIELDS

logger = logging.getLogger("hyperflow")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GRACE = 1.0
"""Seconds that an answer under way has when the master ends."""


@asynccontextmanager
async def open_control(master: Master) -> AsyncIterator[Address | None]:
    """Answer for a master within a scope; without a place for a socket there is a warning, and nothing else."""
    with ExitStack() as stack:
        try:
            listener, address = stack.enter_context(listening(master.run.home))
        except ConfigurationError as error:
            logger.warning("`hyperflow list`, `retry` and the like will not reach this program: %s", error)
            yield None
            return
        runner = web.AppRunner(application(master), access_log=None, handle_signals=False, shutdown_timeout=GRACE)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield address
        finally:
            await runner.cleanup()


def application(master: Master) -> web.Application:
    """Return what answers for a master."""
    desk = _Desk(master)
    made = web.Application(middlewares=[_answer_this_user_only, _tell_errors])
    made.add_routes(
        [
            web.get("/jobs", desk.jobs),
            web.get("/jobs/{number:[0-9]+}/why", desk.why),
            web.get("/statistics", desk.statistics),
            web.post("/retry", desk.retry),
            web.post("/cancel", desk.cancel),
            web.post("/give_up", desk.give_up),
            web.get("/vars", desk.variables),
            web.get("/vars/{name}", desk.variable),
            web.put("/vars/{name}", desk.set_variable),
        ]
    )
    return made


def peer(connection: socket.socket) -> int:
    """Return the user at the other end of a Unix socket, as it was when that connected."""
    _, user, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    )
    return int(user)


@web.middleware
async def _answer_this_user_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    transport = request.transport
    if transport is None:
        return _error(403, "the connection has gone")
    # A descriptor of our own, because uvloop's stand-in for a socket has no getsockopt.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
        user = peer(connection)
    if user != os.geteuid():
        logger.warning("user %d was refused at the control socket", user)
        return _error(403, f"this program belongs to user {os.geteuid()}, and you are user {user}")
    return await handler(request)


@web.middleware
async def _tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(error.status, f"{request.method} {request.path}: {error.reason}")
    except HyperflowError as error:
        return _error(400, str(error))
    except Exception as error:  # a defect here must not look like a dead master
        logger.exception("%s %s at the control socket", request.method, request.path)
        return _error(500, f"{type(error).__name__}: {error}; the program's log has more")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


class _Desk:
    """Answers for one master."""

    def __init__(self, master: Master) -> None:
        self._master = master

    async def jobs(self, _: web.Request) -> web.Response:
        about = {
            "format": FORMAT,
            "run": str(self._master.run.home),
            "program": self._master.run.program.program_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": self._master.version,
            "jobs": [job_to_json(job) for job in self._master.jobs()],
            "unmatched": [job.number for job in self._master.unmatched()],
        }
        return web.json_response(about)

    async def why(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        return web.json_response({"number": number, "why": self._master.why(number)})

    async def statistics(self, _: web.Request) -> web.Response:
        return web.json_response(attrs.asdict(self._master.statistics()))

    async def retry(self, request: web.Request) -> web.Response:
        body = await _body(request, "numbers", "changes")
        changes = body.get("changes", {})
        if not isinstance(changes, Mapping) or not all(name in FIELDS for name in changes):
            raise ConfigurationError(f'"changes" has to be an object with members among {", ".join(FIELDS)}')
        numbers = self._numbers(body, {State.HELD}, "held")
        await self._master.retry(numbers, **dict(changes))
        return self._answer(numbers)

    async def cancel(self, request: web.Request) -> web.Response:
        numbers = self._numbers(await _body(request, "numbers"), set(State) - AT_REST, "queued or running")
        await self._master.cancel(numbers)
        return self._answer(numbers)

    async def give_up(self, request: web.Request) -> web.Response:
        numbers = self._numbers(await _body(request, "numbers"), {State.HELD}, "held")
        await self._master.give_up(numbers)
        return self._answer(numbers)

    async def variables(self, _: web.Request) -> web.Response:
        return web.json_response({"names": await asyncio.to_thread(extvar.names, self._master.run.home)})

    async def variable(self, request: web.Request) -> web.Response:
        variable = self._variable(request)
        return web.json_response({"name": variable.name, "value": await asyncio.to_thread(variable.get)})

    async def set_variable(self, request: web.Request) -> web.Response:
        body = await _body(request, "value")
        if "value" not in body:
            raise ConfigurationError('the body has to have the member "value"')
        variable = self._variable(request)
        await asyncio.to_thread(variable.set, body["value"])
        return web.json_response({"name": variable.name, "value": body["value"]})

    def _variable(self, request: web.Request) -> RunVar[Any]:
        return ExtVar[Any](request.match_info["name"]).of(self._master.run.home)

    def _numbers(self, body: Mapping[str, Any], states: set[State], words: str) -> list[int]:
        """Return the jobs that are meant; "all" are those in these states."""
        numbers = body.get("numbers")
        if numbers == "all":
            if not (found := self._master.numbers(*states)):
                raise ConfigurationError(f"no job is {words}")
            return found
        if not isinstance(numbers, list) or not numbers or not all(type(one) is int for one in numbers):
            raise ConfigurationError('"numbers" has to be a list of numbers of jobs, such as [3, 4], or "all"')
        return cast("list[int]", numbers)

    def _answer(self, numbers: list[int]) -> web.Response:
        jobs = [job_to_json(job) for job in self._master.jobs() if job.number in numbers]
        return web.json_response({"jobs": jobs})


async def _body(request: web.Request, *members: str) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise ConfigurationError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict) or not set(body) <= set(members):
        raise ConfigurationError(f"the body has to be an object of JSON; its members: {', '.join(members)}")
    return cast("dict[str, Any]", body)
