"""What scripts on the cluster share, which tests of runs submit: telling the test, being watched, what is evaluated.

A script says `from tests.cluster.on_nodes import *` and ends with `run(main)`. Its settings are in its environment.
"""

import asyncio
import collections
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import hyperflow as hf

__all__ = ["asyncio", "collections", "held", "hf", "os", "place", "quick", "run", "sys", "tell", "thousand", "time"]

place = Path(os.environ.get("TEST_PLACE", "."))
"""The directory of the test's run, which all nodes see."""


def tell(what: str, value: Any = None) -> None:
    """Tell the test something, with the time."""
    line = json.dumps([time.time(), what, value], default=repr) + "\n"
    with (place / "told").open("a") as file:
        file.write(line)


class _Tell(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell("log", [record.name, record.levelname, record.getMessage()])


def run(
    main: Callable[[], Coroutine[Any, Any, Any]], hosts: dict[str, int | None] | None = None, **settings: Any
) -> None:
    """Run a job in the allocation, or on hosts; what is logged and warned of is told, and at the end the statistics."""
    logging.getLogger().addHandler(_Tell())
    logging.getLogger().setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: tell("warning", str(message))

    @hf.job
    async def whole() -> None:
        tell("nodes", hf_nodes(await hf.ask()))
        tell("result", await main())
        tell("statistics", hf_statistics(await hf.ask()))

    try:
        program = hf.ProgramInfo.new(str(place / "runs"))
        if hosts is not None:
            hf.run_job_pool(whole(), hf.NodePool(hosts=hosts), program=program, **settings)
        else:
            hf.run_job_slurm(whole(), program=program, **settings)
    except BaseException as error:
        tell("error", [type(error).__name__, str(error)])
        if not isinstance(error, (hf.HyperflowError, KeyboardInterrupt)):
            raise
    finally:
        tell("end")


def hf_nodes(env: Any) -> int:
    """Return how many nodes there are."""
    return int(env.statistics().nodes)


def hf_statistics(env: Any) -> dict[str, Any]:
    """Return the statistics as plain data, without what there is of each function."""
    found = env.statistics()
    names = (name for name in found.__slots__ if not name.startswith("_") and name != "functions")
    return {name: getattr(found, name) for name in names}


def quick(x: int) -> tuple[int, str]:
    """Evaluate something short; the node is part of the result."""
    time.sleep(0.002)
    return x * x, hf.worker_info().node


def held(x: int) -> tuple[int, str]:
    """Like `quick`, but from the 300th on wait for the test, and leave a mark that says so."""
    if x >= 300:
        (place / f"held.{hf.worker_info().node}").touch()
        while not (place / "go").exists():
            time.sleep(0.01)
    return quick(x)


async def thousand(fn: Callable[[int], tuple[int, str]]) -> dict[str, Any]:
    """Evaluate a function a thousand times; say whether all results are right, and how many came from where."""
    started = time.perf_counter()
    found = await hf.map_concurrently(lambda x: hf.remote_eval(fn, x), range(1000))
    return {
        "right": [y for y, _ in found] == [x * x for x in range(1000)],
        "nodes": dict(collections.Counter(node for _, node in found)),
        "seconds": time.perf_counter() - started,
    }
