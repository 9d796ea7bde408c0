"""What does a memoized result cost that is there already, and one that is not?"""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled

LOOKUPS = scaled(100_000)


def identity(x: int) -> int:
    """Cost nothing."""
    return x


@hf.memoize("remembered", version=1)
def remembered(x: int) -> hf.Job[int]:
    """Give x, from the database if it is there."""
    return hf.remote_eval(identity, x)


@hf.job
async def fill() -> float:
    """Compute everything once; return microseconds for each, which is what a miss costs."""
    began = time.perf_counter()
    await hf.map_concurrently(remembered, range(LOOKUPS))
    return (time.perf_counter() - began) / LOOKUPS * 1e6


@hf.job
async def look_up() -> Figures:
    """Look everything up: one after the other, which begins with reading the map; once more; and side by side."""
    times: list[float] = []
    began, busy = time.perf_counter(), time.process_time()
    await remembered(0)
    reading = time.perf_counter() - began
    for _ in range(2):
        for x in range(LOOKUPS):
            if await remembered(x) != x:
                raise AssertionError("a wrong result")
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    cpu = time.process_time() - busy
    began = time.perf_counter()
    if await hf.map_concurrently(remembered, range(LOOKUPS)) != list(range(LOOKUPS)):
        raise AssertionError("wrong results")
    times.append(time.perf_counter() - began)
    statistics = (await hf.ask()).evaluator.statistics()
    if statistics.done:
        raise AssertionError("something was evaluated again")
    first, again, side_by_side = (seconds / LOOKUPS * 1e6 for seconds in times)
    return {
        "value": first,
        "of_it_reading_us": reading / LOOKUPS * 1e6,
        "again_us": again,
        "cpu_us": cpu / (2 * LOOKUPS) * 1e6,
        "side_by_side_us": side_by_side,
    }


def memo() -> Figures:
    """Fill a database in one run, and look everything up in a second one, which goes on from it."""
    with TemporaryDirectory() as place:
        first = hf.ProgramInfo.new(Path(place, "first"))
        miss = hf.run_job_local(fill(), cpus=2, program=first)
        found = hf.run_job_local(look_up(), cpus=2, program=first)
    return {**found, "miss_us": miss}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Cheap, the first time too."""
    return medians[OURS]["value"] <= 15


QUESTION = Question(
    key="memo_hits",
    title="100,000 memoized lookups that hit, in a second run, one after the other",
    unit="us each",
    better="lower",
    goal="at most 15 us each",
    contestants={OURS: "benchmarks.memo_hits:memo"},
    reached=reached,
)
