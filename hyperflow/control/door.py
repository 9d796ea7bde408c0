"""The control socket of a job's head: it listens from the start, and its server is imported at the first contact.

Importing aiohttp takes longer than a short job, and most jobs are never asked anything. So until somebody connects,
this costs a socket and a small file. The first one who connects waits for the import, which runs in a thread.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyperflow.control.place import listening
from hyperflow.errors import ConfigurationError

if TYPE_CHECKING:
    import socket

    from aiohttp import web

    Routes = Callable[[], Iterable[web.RouteDef]]

logger = logging.getLogger("hyperflow")

BACKLOG = 16


@asynccontextmanager
async def on_demand(home: Path, routes: Routes) -> AsyncIterator[None]:
    """Serve the control socket of a job's head within a scope; `routes` is called at the first contact.

    Where no socket can be made, a line in the log says so, and the job runs without.
    """
    with ExitStack() as stack:
        try:
            listener, _ = stack.enter_context(listening(home, only_there=True))
        except ConfigurationError as error:
            logger.warning("`hyperflow node` will not reach this job: %s", error)
            yield
            return
        listener.listen(BACKLOG)
        listener.setblocking(False)
        door = _Door(listener, routes)
        try:
            yield
        finally:
            await door.close()


class _Door:
    def __init__(self, listener: socket.socket, routes: Routes) -> None:
        self._listener = listener
        self._routes = routes
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None
        self._loop.add_reader(listener.fileno(), self._contacted)

    def _contacted(self) -> None:
        self._loop.remove_reader(self._listener.fileno())
        self._serving = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            server = await asyncio.to_thread(importlib.import_module, "hyperflow.control.server")
            async with server.serving(self._listener, self._routes()):
                await self._closing.wait()
        except Exception:
            logger.exception("the control socket does not answer; the job goes on")

    async def close(self) -> None:
        self._closing.set()
        if self._serving is None:
            self._loop.remove_reader(self._listener.fileno())
        else:
            await self._serving
