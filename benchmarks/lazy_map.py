"""What memory does a map over a generator take, of which a few are under way at a time, and what does it leave?"""

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.usage import peak_mb, uncollected
from benchmarks.work import identity

ARRAYS, SIZE, LIMIT = scaled(1000), 100_000, 4
MOST_MB = 10.0
SMALL = scaled(20_000)


def length(array: "np.ndarray[Any, Any]") -> int:
    """Return next to nothing."""
    return len(array)


def arrays() -> Iterator["np.ndarray[Any, Any]"]:
    """Make arrays when they are asked for."""
    for number in range(ARRAYS):
        yield np.full(SIZE // 8, float(number))


@hf.job
async def mapped() -> Figures:
    """Map over arrays, and over numbers."""
    await hf.map_concurrently(lambda array: hf.remote_eval(length, array), [np.ones(SIZE // 8)] * 10, limit=LIMIT)
    gc.collect()
    before = peak_mb()
    results = await hf.map_concurrently(lambda array: hf.remote_eval(length, array), arrays(), limit=LIMIT)
    figures = {"value": peak_mb() - before, "of_mb": ARRAYS * SIZE / 1e6}
    assert results == [SIZE // 8] * ARRAYS
    with uncollected():
        await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(SMALL))
        figures["garbage_each"] = gc.collect() / SMALL
    return figures


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return hf.run_job_local(mapped(), cpus=2, preload=["numpy"])


def reached(medians: Mapping[str, Figures]) -> bool:
    """No more than what is under way, and no cycles."""
    return medians[OURS]["value"] <= MOST_MB and medians[OURS]["garbage_each"] < 0.1


QUESTION = Question(
    key="lazy_map",
    title=f"map_concurrently(limit={LIMIT}) over a generator of {ARRAYS:,} arrays of 100 kB",
    unit="MB that the head grew by at most",
    better="lower",
    goal=f"at most {MOST_MB:g} MB; an ended map leaves nothing for the cycle collector",
    contestants={OURS: "benchmarks.lazy_map:hyperflow"},
    reached=reached,
    rounds=3,
)
