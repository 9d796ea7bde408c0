"""Serves requests on a run's Unix socket, from people and programs of the same user (docs/control-api.md).

What there is to ask comes from the caller, as routes; this knows the socket, the users who may ask,
and how errors are answered.

Guarantees: only processes of the same user get an answer, as the kernel tells it (SO_PEERCRED): the directory keeps
others out, too, but the user may loosen its mode. A request that cannot be met changes nothing, and the answer has the
reason. A defect in a handler is an answer and a line in the log; the program goes on.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from hyperflow import files
from hyperflow.control.place import Address, listening, peer
from hyperflow.errors import ConfigurationError, HyperflowError

logger = logging.getLogger("hyperflow")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

GRACE = 1.0
"""Seconds in which requests under way may end when the scope is left."""


@asynccontextmanager
async def serve(home: Path, routes: Iterable[web.RouteDef]) -> AsyncIterator[Address | None]:
    """Serve a run's control socket within a scope; where no socket can be made, log a warning and go on without."""
    with ExitStack() as stack:
        try:
            listener, address = stack.enter_context(listening(home))
        except ConfigurationError as error:
            logger.warning("`hyperflow list`, `retry` and the like will not reach this program: %s", error)
            yield None
            return
        async with serving(listener, routes):
            yield address


@asynccontextmanager
async def serving(listener: socket.socket, routes: Iterable[web.RouteDef]) -> AsyncIterator[None]:
    """Answer on a bound socket within a scope."""
    application = web.Application(middlewares=[_same_user_only, _errors_as_json])
    application.add_routes(routes)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=GRACE)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()


async def read_body(request: web.Request, *members: str) -> dict[str, Any]:
    """Return the body of a request, a JSON object with some of these members.

    Raises:
        ConfigurationError: It is something else.
    """
    try:
        body = files.from_json(await request.read())
    except ValueError as error:
        raise ConfigurationError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict) or not set(body) <= set(members):
        raise ConfigurationError(f"the body has to be an object of JSON; its members: {', '.join(members)}")
    return cast("dict[str, Any]", body)


@web.middleware
async def _same_user_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    transport = request.transport
    if transport is None:
        return _error(403, "the connection has gone")
    # A descriptor of our own, because uvloop's replacement for a socket has no getsockopt.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as connection:
        user = peer(connection)
    if user != os.geteuid():
        logger.warning("user %d was refused at the control socket", user)
        return _error(403, f"this program belongs to user {os.geteuid()}, and you are user {user}")
    return await handler(request)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
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
