"""What does one evaluation cost? Throughput, round trip, fresh processes, start-up; medians of several runs."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import hyperflow as hf

RUNS = 5
MANY = 20_000


def identity(x: int) -> int:
    """Cost nothing, so that what is measured is everything else."""
    return x


@hf.memoize("identity", version=1)
def remembered(x: int) -> hf.Job[int]:
    """Give x, from the database if it is there."""
    return hf.remote_eval(identity, x)


@hf.job
async def throughput() -> float:
    """Return microseconds per evaluation, 20,000 side by side."""
    began = time.perf_counter()
    results = await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(MANY))
    seconds = time.perf_counter() - began
    assert results == list(range(MANY))
    return seconds / MANY * 1e6


@hf.job
async def round_trip() -> float:
    """Return the median of microseconds for one evaluation at a time."""
    times: list[float] = []
    for x in range(1000):
        began = time.perf_counter()
        await hf.remote_eval(identity, x)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


@hf.job
async def fresh_processes() -> float:
    """Return fresh processes per second."""
    began = time.perf_counter()
    pids = await hf.replicate_concurrently(300, hf.remote_eval(os.getpid).using(fresh_process=True))
    seconds = time.perf_counter() - began
    assert len(set(pids)) > 200, "the kernel may use a number again, but not so often"
    return 300 / seconds


@hf.job
async def mapped() -> float:
    """Return milliseconds of remote_map over a million integers."""
    began = time.perf_counter()
    results = await hf.remote_map(identity, range(1_000_000))
    seconds = time.perf_counter() - began
    assert results[-1] == 999_999
    return seconds * 1e3


@hf.job
async def memoized_hits() -> float:
    """Return microseconds per memoized result that is there."""
    await hf.map_concurrently(remembered, range(MANY))
    began = time.perf_counter()
    for x in range(MANY):
        await remembered(x)
    return (time.perf_counter() - began) / MANY * 1e6


def start_up() -> float:
    """Return milliseconds of a whole process with run_job_local(pure(1)), over those of a bare Python."""

    def milliseconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - began) * 1e3

    return milliseconds("import hyperflow as hf; hf.run_job_local(hf.pure(1), cpus=2)") - milliseconds("pass")


def report(what: str, unit: str, measure: Callable[[], float]) -> None:
    """Print the median of several runs, and the range."""
    figures = sorted(measure() for _ in range(RUNS))
    print(f"{what:<58} {figures[RUNS // 2]:>9.1f} {unit:<4} ({figures[0]:.1f} to {figures[-1]:.1f})")


def on_two_workers(job: Callable[[], hf.Job[float]]) -> Callable[[], float]:
    """Return a measurement that warms up, and then runs the job."""

    @hf.job
    async def warm() -> float:
        await hf.replicate_concurrently(100, hf.remote_eval(identity, 1))
        return await job()

    return lambda: hf.run_job_local(warm(), cpus=2)


report(f"{MANY:,} identity evaluations, map_concurrently, each", "us", on_two_workers(throughput))
report("one evaluation at a time, round trip", "us", on_two_workers(round_trip))
report("fresh processes, per second", "/s", on_two_workers(fresh_processes))
report("remote_map over 1,000,000 integers, all", "ms", on_two_workers(mapped))
report("memoized result that is there", "us", on_two_workers(memoized_hits))
report("run_job_local(pure(1)), whole process, over bare Python", "ms", start_up)
