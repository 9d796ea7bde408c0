"""The requests about a master's jobs, on the control socket of its run (docs/control-api.md)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import attrs
from aiohttp import web

from hyperflow.control import variables
from hyperflow.control.place import Address
from hyperflow.control.server import read_body, serve
from hyperflow.errors import ConfigurationError
from hyperflow.master.edited import edited_files
from hyperflow.master.lifecycle import AT_REST, State
from hyperflow.master.master import Master
from hyperflow.master.view import FORMAT, job_to_json
from hyperflow.slurm.script import FIELDS


def open_control(master: Master) -> AbstractAsyncContextManager[Address | None]:
    """Serve the control socket of a master's run within a scope."""
    handlers, home = _Handlers(master), master.run.home
    routes = [
        web.get("/jobs", handlers.jobs),
        web.get("/jobs/{number:[0-9]{1,18}}/why", handlers.why),
        web.get("/statistics", handlers.statistics),
        web.post("/retry", handlers.retry),
        web.post("/cancel", handlers.cancel),
        web.post("/give_up", handlers.give_up),
    ]
    return serve(home, [*routes, *variables.routes(home)])


@attrs.frozen
class _Handlers:
    master: Master

    async def jobs(self, _: web.Request) -> web.Response:
        about = {
            "format": FORMAT,
            "run": str(self.master.run.home),
            "program": self.master.run.program.program_id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": self.master.version,
            "jobs": [job_to_json(job) for job in self.master.jobs()],
            "unmatched": [job.number for job in self.master.unmatched()],
        }
        return web.json_response(about)

    async def why(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        told = {"why": self.master.why(number), "traceback": self.master.traceback(number)}
        return web.json_response({"number": number, **told})

    async def statistics(self, _: web.Request) -> web.Response:
        return web.json_response(attrs.asdict(self.master.statistics()))

    async def retry(self, request: web.Request) -> web.Response:
        body = await read_body(request, "numbers", "changes")
        changes = body.get("changes", {})
        if not isinstance(changes, Mapping) or not all(name in FIELDS for name in changes):
            raise ConfigurationError(f'"changes" has to be an object with members among {", ".join(FIELDS)}')
        numbers = self._numbers(body, {State.HELD}, "held")
        await self.master.retry(numbers, **dict(changes))
        return self._answer(numbers, edited=edited_files())

    async def cancel(self, request: web.Request) -> web.Response:
        numbers = self._numbers(await read_body(request, "numbers"), set(State) - AT_REST, "queued or running")
        await self.master.cancel(numbers)
        return self._answer(numbers)

    async def give_up(self, request: web.Request) -> web.Response:
        numbers = self._numbers(await read_body(request, "numbers"), {State.HELD}, "held")
        await self.master.give_up(numbers)
        return self._answer(numbers)

    def _numbers(self, body: Mapping[str, Any], states: set[State], words: str) -> list[int]:
        """Return the jobs that a request names; "all" stands for those in these states."""
        numbers = body.get("numbers")
        if numbers == "all":
            if not (found := self.master.numbers(*states)):
                raise ConfigurationError(f"no job is {words}")
            return found
        if not isinstance(numbers, list) or not numbers or not all(type(one) is int for one in numbers):
            raise ConfigurationError('"numbers" has to be a list of numbers of jobs, such as [3, 4], or "all"')
        return cast("list[int]", numbers)

    def _answer(self, numbers: list[int], **more: Any) -> web.Response:
        jobs = [job_to_json(job) for job in self.master.jobs() if job.number in numbers]
        return web.json_response({"jobs": jobs, **more})
