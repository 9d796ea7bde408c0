"""How deep may jobs await jobs?"""

import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question

DEEP = (100, 1000, 10_000, 100_000)


@hf.job
async def down(levels: int) -> int:
    """Await the next level."""
    return 0 if levels == 0 else 1 + await down(levels - 1)


@hf.job
async def as_deep_as_possible() -> Figures:
    """Try more and more levels."""
    figures: Figures = {"value": 0.0, "us_each": 0.0}
    for levels in DEEP:
        began = time.perf_counter()
        try:
            assert await down(levels) == levels
        except (RecursionError, hf.HyperflowError):
            break
        figures = {"value": levels, "us_each": (time.perf_counter() - began) / levels * 1e6}
    return figures


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return hf.run_job_local(as_deep_as_possible(), cpus=1)


def reached(medians: Mapping[str, Figures]) -> bool:
    """All of them."""
    return medians[OURS]["value"] >= DEEP[-1]


QUESTION = Question(
    key="nested",
    title="jobs that await jobs that await jobs",
    unit="levels, of those that were tried",
    better="higher",
    goal=f"{DEEP[-1]:,} levels",
    contestants={OURS: "benchmarks.nested:hyperflow"},
    reached=reached,
    rounds=1,
)
