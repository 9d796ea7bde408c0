"""What do arrays cost, there and back, by their size? Many side by side, beside multiprocessing.Pool."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import OURS, Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import opened
from benchmarks.usage import tree_cpu
from benchmarks.work import WORKERS, add_one

Array = np.ndarray[Any, Any]

SIZES = {
    "1 kB": (1_000, 2000),
    "10 kB": (10_000, 1000),
    "50 kB": (50_000, 600),
    "100 kB": (100_000, 400),
    "200 kB": (200_000, 200),
    "300 kB": (300_000, 150),
    "1 MB": (1_000_000, 60),
    "10 MB": (10_000_000, 10),
    "100 MB": (100_000_000, 2),
}
"""Bytes, and how many are evaluated side by side."""

TURNS, LARGE = 5, 10_000_000
"""How often each size is evaluated; as large as that, twice."""

POOL = "multiprocessing"
MOST = 0.8


def arguments(size: int, count: int) -> list[Array]:
    """Make arrays, all different."""
    return [np.full(size // 8, float(number)) for number in range(count)]


def check(results: list[Array]) -> None:
    """Look at both ends of each."""
    for number, result in enumerate(results):
        assert result[0] == result[-1] == number + 1


class Meter:
    """Collects the turns of one size; the least of them counts, and the CPU time of all."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.times: list[float] = []
        self.cpu = tree_cpu()

    def figures(self, name: str) -> Figures:
        """Return microseconds for each array."""
        cpu = (tree_cpu() - self.cpu) / len(self.times) / self.count
        return {name: min(self.times) / self.count * 1e6, f"{name} cpu": cpu * 1e6}


def whole(figures: Figures) -> Figures:
    """Add what is compared: the geometric mean over all sizes."""
    return {"value": float(np.exp(np.mean([np.log(figures[name]) for name in SIZES]))), **figures}


@hf.job
async def evaluate() -> Figures:
    """Evaluate arrays of each size."""
    figures: Figures = {}
    for name, (size, count) in SIZES.items():
        arrays = arguments(size, max(WORKERS, harness.scaled(count)))
        await hf.map_concurrently(lambda array: hf.remote_eval(add_one, array), arrays[: 2 * WORKERS])
        meter = Meter(len(arrays))
        for _ in range(TURNS if size < LARGE else 2):
            began = time.perf_counter()
            results = await hf.map_concurrently(lambda array: hf.remote_eval(add_one, array), arrays)
            meter.times.append(time.perf_counter() - began)
            check(results)
            del results
        figures |= meter.figures(name)
    return whole(figures)


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(evaluate, preload=["numpy"])


def pool() -> Figures:
    """Take Pool's turn."""
    figures: Figures = {}
    with opened(POOL) as there:
        for name, (size, count) in SIZES.items():
            arrays = arguments(size, max(WORKERS, harness.scaled(count)))
            there.each(add_one, arrays[: 2 * WORKERS])
            meter = Meter(len(arrays))
            for _ in range(TURNS if size < LARGE else 2):
                began = time.perf_counter()
                results = there.each(add_one, arrays)
                meter.times.append(time.perf_counter() - began)
                check(results)
                del results
            figures |= meter.figures(name)
    return whole(figures)


def reached(medians: Mapping[str, Figures]) -> bool:
    """At each size."""
    return all(medians[OURS][name] <= MOST * medians[POOL][name] for name in SIZES)


QUESTION = Question(
    key="arrays",
    title="x + 1 for numpy arrays of 1 kB to 100 MB, side by side",
    unit="us each, geometric mean over the sizes",
    better="lower",
    goal=f"at most {MOST} times multiprocessing's at each size",
    contestants={OURS: "benchmarks.arrays:hyperflow", POOL: "benchmarks.arrays:pool"},
    reached=reached,
    rounds=3,
)
