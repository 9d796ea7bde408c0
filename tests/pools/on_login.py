"""What pool programs of tests share, which run on the login host.

A program says `from tests.pools.on_login import *`, defines `main(env)` and ends with `run(main, pool)`. Constants of
hyperflow that are to be other ones here are in TEST_CONSTANTS, as {"hyperflow.pools.rules:EBB": 1}; where it is to
kill itself, in TEST_KILL (see `kill_at`).
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import hyperflow as hf
from hyperflow.pools import pool as pools
from hyperflow.pools.allocations import Allocations
from hyperflow.pools.journal import Journal
from hyperflow.program import CONTINUED, ProgramInfo
from hyperflow.slurm.client import PollIntervals, SlurmClient
from tests.cluster.on_login import mark, place, quick, tell, wait_for_go

__all__ = ["asyncio", "held", "hf", "mark", "os", "place", "pool_of", "quick", "run", "sys", "tell", "time", "until"]

PACE = PollIntervals(fast=0.5, slow=2.0, first_retry=0.5, last_retry=2.0)


def held(name: str) -> str:
    """Run until the test says go; return the node."""
    mark(f"began {name} on {hf.worker_info().node}")
    wait_for_go(name)
    mark(f"ended {name}")
    return hf.worker_info().node


def pool_of(env: Any) -> pools.Pool:
    """Return the pool of an environment."""
    found: pools.Pool = env.evaluator.pool
    return found


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (it is about files and Slurm)
            await asyncio.sleep(0.05)


def kill_at(step: str) -> None:
    """Have this process killed at a step of the life of its first allocation."""

    def die() -> None:
        mark(f"killed at {step}")
        os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str) -> None:
        setattr(owner, name, lambda *_, **__: die())

    def after(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            await plain(*args, **kwargs)
            die()

        setattr(owner, name, wrapped)

    match step:
        case "before its token is written":
            before(Journal, "add")
        case "before sbatch":
            before(SlurmClient, "submit")
        case "after sbatch":
            after(SlurmClient, "submit")
        case "while it waits":
            plain = Journal.submitted

            def submitted(self: Journal, number: int, job: int) -> None:
                plain(self, number, job)
                die()

            Journal.submitted = submitted  # type: ignore[method-assign]
        case "before its nodes are used":
            before(Allocations, "_bring_up")
        case "when its nodes are used":
            after(Allocations, "_bring_up")
        case "before it is cancelled":
            before(SlurmClient, "cancel")
        case _:
            raise ValueError(step)


class _Tell(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell("log", [record.levelname, record.getMessage()])


def run(main: Callable[[Any], Awaitable[Any]], pool: hf.NodePool) -> None:
    """Run a program on a pool; what is logged is told, and at the end its result."""
    logging.getLogger().addHandler(_Tell())
    logging.getLogger().setLevel(logging.INFO)
    for name, value in json.loads(os.environ.get("TEST_CONSTANTS") or "{}").items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    if step := os.environ.get("TEST_KILL"):
        kill_at(step)
    plain = pools.Pool.__init__
    pools.Pool.__init__ = lambda self, *args, **more: plain(self, *args, **more, pace=PACE)  # type: ignore[method-assign,assignment,misc]
    program: ProgramInfo | None
    homes = sorted((place / "runs").glob("*/results.sqlite"))
    if os.environ.get(CONTINUED):
        program = None  # `hyperflow resume` has said which one
    elif homes:
        home = homes[0].parent
        program = ProgramInfo.existing(home, home.name, homes[0])
    else:
        program = ProgramInfo.new(place / "runs")

    async def whole() -> None:
        async with hf.open_pool_job(pool, program=program, progress=False) as env:
            tell("open", str(env.program.log_dir.parent))
            obeying = asyncio.create_task(_obey(env))
            try:
                tell("result", await main(env))
            finally:
                obeying.cancel()
                tell("info", pool_of(env).info())

    try:
        asyncio.run(whole())
    except BaseException as error:
        tell("error", [type(error).__name__, str(error)])
        raise
    finally:
        with contextlib.suppress(OSError):
            tell("end")


async def _obey(env: Any) -> None:
    """Do what the test writes into files: `order.1`, `order.2`, ..."""
    number = 1
    while True:
        path = place / f"order.{number}"
        if path.exists():
            name, changes = json.loads(path.read_text())
            getattr(pool_of(env), name)(**changes)
            number += 1
        tell("state", pool_of(env).info())
        await asyncio.sleep(0.2)
