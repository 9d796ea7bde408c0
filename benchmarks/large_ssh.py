"""How fast does a large array travel to a node and back, against the same bytes through a bare ssh channel?"""

import resource
import statistics
import sys
import time
from collections.abc import Mapping
from typing import Any

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.on_cluster import on_login

SIZE = scaled(100_000_000)
TIMES = 3
BARE = "bare asyncssh, all there and all back"
CAT = "bare asyncssh, cat"


def data() -> Any:
    """Return an array of SIZE bytes that do not repeat, should anybody compress."""
    import numpy as np

    return np.random.default_rng(1).random(SIZE // 8)


def same(x: Any) -> Any:
    """Give the argument back."""
    return x


def figures(seconds: list[float]) -> Figures:
    """Return MB/s, both ways together; the median of several times."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"value": 2 * SIZE / statistics.median(seconds) / 1e6, "peak_memory_mb": peak}


@hf.job
async def evaluate() -> Figures:
    """Send an array and get it back, several times."""
    import numpy as np

    await hf.replicate_concurrently(10, hf.remote_eval(same, np.ones(3)))
    seconds: list[float] = []
    for number in range(TIMES):
        argument = data() + number
        began = time.perf_counter()
        result = await hf.remote_eval(same, argument)
        seconds.append(time.perf_counter() - began)
        if not np.array_equal(argument, result):
            raise AssertionError("a wrong result")
        del argument, result
    return figures(seconds)


def there() -> Figures:
    """In an allocation: to its node."""
    return hf.run_job_slurm(evaluate(), preload=["numpy"])


def through_ssh() -> Figures:
    """Return hyperflow's throughput."""
    return on_login("benchmarks.large_ssh:there")


ALL_BACK = (
    "import os, sys\n"
    "take, size = sys.stdin.buffer.read, int(sys.argv[1])\n"
    "while data := take(size): sys.stdout.buffer.write(data); sys.stdout.buffer.flush()\n"
)


async def transfer(command: str) -> Figures:
    """Send the bytes through a bare channel, and get them back."""
    from benchmarks.bare_ssh import channel

    seconds: list[float] = []
    async with channel(command) as stream:
        for number in range(TIMES):
            argument = (data() + number).data.cast("B")
            began = time.perf_counter()
            await stream.send(argument)
            result = await stream.receive(SIZE)
            seconds.append(time.perf_counter() - began)
            if result != argument:
                raise AssertionError("wrong bytes")
    return figures(seconds)


def transfer_there() -> Figures:
    """In an allocation: to a process that has all before it begins to answer, as a function has."""
    import shlex

    import uvloop

    return uvloop.run(transfer(shlex.join([sys.executable, "-c", ALL_BACK, str(SIZE)])))


def cat_there() -> Figures:
    """In an allocation: to `cat`, which answers meanwhile: both directions at the same time."""
    import uvloop

    return uvloop.run(transfer("exec cat"))


def bare() -> Figures:
    """Return the throughput of a bare channel."""
    return on_login("benchmarks.large_ssh:transfer_there")


def cat() -> Figures:
    """Return the throughput of a bare channel in both directions at the same time."""
    return on_login("benchmarks.large_ssh:cat_there")


def reached(medians: Mapping[str, Figures]) -> bool:
    """At least 80% of the bare channel."""
    return medians[OURS]["value"] >= 0.8 * medians[BARE]["value"]


QUESTION = Question(
    key="large_ssh",
    title="100 MB numpy argument and result through ssh to one node",
    unit="MB/s",
    better="higher",
    goal="at least 80% of a bare asyncssh channel, to a process that also has all before it answers",
    contestants={
        OURS: "benchmarks.large_ssh:through_ssh",
        BARE: "benchmarks.large_ssh:bare",
        CAT: "benchmarks.large_ssh:cat",
    },
    reached=reached,
    needs="cluster",
)
