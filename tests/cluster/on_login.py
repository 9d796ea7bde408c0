"""What Cluster programs of tests share, which run on the login host: jobs that leave marks, and orders from the test.

A program says `from tests.cluster.on_login import *` and ends with `run(main)`. Its settings are in its environment.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

import hyperflow as hf
from hyperflow._cluster import ClusterEnv
from hyperflow.master.shared import Timeouts
from hyperflow.slurm.client import PollIntervals

__all__ = ["asyncio", "evaluate", "hf", "mark", "os", "place", "quick", "run", "sys", "time", "wait_for_go", "work"]

place = Path(os.environ.get("TEST_PLACE", "."))
"""The directory of the test, which all hosts see."""


def mark(what: str) -> None:
    """Leave a mark; short lines are appended whole."""
    with (place / "marks").open("a") as file:
        file.write(what + "\n")


def tell(what: str, value: Any = None) -> None:
    """Tell the test something."""
    with (place / "told").open("a") as file:
        file.write(json.dumps([time.time(), what, value]) + "\n")


def quick(x: int) -> int:
    """Square."""
    mark(f"ran {x}")
    return x * x


def wait_for_go(name: str) -> None:
    """Wait on a worker until the test lets it go."""
    mark(f"waiting {name}")
    while not (place / f"go.{name}").exists():
        time.sleep(0.02)


@hf.memoize("evaluate")
def evaluate(x: int, name: str) -> hf.Job[int]:
    """Evaluate on a worker, after the test has said go if there is a name."""

    def there() -> int:
        if name:
            wait_for_go(name)
        return quick(x)

    return hf.remote_eval(there)


@hf.job
async def work(x: int, name: str = "") -> int:
    """Two evaluations: one at once, one that waits; both are recorded."""
    return await evaluate(x, "") + await evaluate(-x, name)


class _Tell(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell("log", [record.levelname, record.getMessage()])


def run(main: Callable[[], hf.Cluster[Any]], **options: Any) -> None:
    """Run a Cluster program; what is logged is told, and at the end its result, statistics and jobs."""
    logging.getLogger().addHandler(_Tell())
    logging.getLogger().setLevel(logging.INFO)
    resume = os.environ.get("TEST_RESUME")
    where = {"resume": resume} if resume else {"program": hf.ProgramInfo.new(place / "runs")}
    timeouts = Timeouts(look=0.1, grace=3.0, rows=0.5, slurm=PollIntervals(fast=0.5, slow=2.0))

    async def whole() -> None:
        async with hf.open_cluster(**{"timeouts": timeouts, **where, **options}) as env:  # type: ignore[arg-type]
            tell("home", str(env.master.run.home))
            obeying = asyncio.create_task(_obey(env))
            try:
                tell("result", await main())
            finally:
                obeying.cancel()
                tell("statistics", attrs.asdict(env.statistics()))
                tell("jobs", [[job.number, job.name, str(job.state), job.batch_id] for job in env.master.jobs()])

    try:
        asyncio.run(whole())
    except BaseException as error:
        tell("error", [type(error).__name__, str(error)])
        raise
    finally:
        tell("end")


async def _obey(env: ClusterEnv) -> None:
    """Do what the test writes into files: `order.1`, `order.2`, ..."""
    number = 1
    while True:
        path = place / f"order.{number}"
        if path.exists():
            name, numbers, changes = json.loads(path.read_text())
            if name == "why":
                tell("why", env.master.why(numbers[0]))
            else:
                await getattr(env.master, name)(numbers, **changes)
            number += 1
        await asyncio.sleep(0.05)
