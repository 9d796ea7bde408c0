"""How long is one evaluation's way through ssh to a node and back, against a bare ssh channel's echo?"""

import statistics
import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.on_cluster import on_login

TRIPS = scaled(2000)
LOCALLY = "hyperflow, locally"
BARE = "bare ssh channel"


def identity(x: int) -> int:
    """Cost nothing, so that what is measured is everything else."""
    return x


@hf.job
async def evaluate() -> Figures:
    """Evaluate one call after the other, after a warm-up."""
    await hf.replicate_concurrently(100, hf.remote_eval(identity, 1))
    times: list[float] = []
    for x in range(TRIPS):
        began = time.perf_counter()
        result = await hf.remote_eval(identity, x)
        times.append(time.perf_counter() - began)
        if result != x:
            raise AssertionError("a wrong result")
    return {"value": statistics.median(times) * 1e6, "p99_us": sorted(times)[-len(times) // 100] * 1e6}


def there() -> Figures:
    """In an allocation: to its node."""
    return hf.run_job_slurm(evaluate())


def through_ssh() -> Figures:
    """Return the round trip through ssh to one node."""
    return on_login("benchmarks.ssh_round_trip:there")


def locally() -> Figures:
    """Return the round trip to a worker on this machine."""
    return hf.run_job_local(evaluate(), cpus=2)


async def echo() -> Figures:
    """Send as few bytes as an evaluation has to `cat`, and wait for them."""
    from benchmarks.bare_ssh import channel

    message = b"x" * 64
    times: list[float] = []
    async with channel("exec cat") as stream:
        for _ in range(100 + TRIPS):
            began = time.perf_counter()
            stream.channel.write(message)
            if await stream.receive(len(message)) != message:
                raise AssertionError("a wrong echo")
            times.append(time.perf_counter() - began)
    times = times[100:]
    return {"value": statistics.median(times) * 1e6, "p99_us": sorted(times)[-len(times) // 100] * 1e6}


def echo_there() -> Figures:
    """In an allocation: the echo of its node."""
    import uvloop

    return uvloop.run(echo())  # the loop that hyperflow uses, too


def bare() -> Figures:
    """Return the round trip of a bare channel."""
    return on_login("benchmarks.ssh_round_trip:echo_there")


def reached(medians: Mapping[str, Figures]) -> bool:
    """At most twice the echo."""
    return medians[OURS]["value"] <= 2 * medians[BARE]["value"]


QUESTION = Question(
    key="ssh_round_trip",
    title="one evaluation at a time through ssh, median round trip",
    unit="us",
    better="lower",
    goal="at most twice the echo of a bare ssh channel",
    contestants={
        OURS: "benchmarks.ssh_round_trip:through_ssh",
        LOCALLY: "benchmarks.ssh_round_trip:locally",
        BARE: "benchmarks.ssh_round_trip:bare",
    },
    reached=reached,
    needs="cluster",
)
