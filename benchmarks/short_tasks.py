"""What do tasks of 1 ms cost in all processes, beyond the millisecond that each of them takes?"""

import time
from collections.abc import Callable, Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import OURS, Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import opened
from benchmarks.usage import tree_cpu
from benchmarks.work import WORKERS

MANY = 3000
OWN = 0.001
POOL = "multiprocessing"
MAPPED = "hyperflow, remote_map"


def spin(_: int) -> int:
    """Compute until this process has had a millisecond of CPU time."""
    until = time.thread_time() + OWN
    while time.thread_time() < until:
        pass
    return _


class Meter:
    """What it took to evaluate them."""

    def __init__(self) -> None:
        self.cpu, self.began = tree_cpu(), time.perf_counter()

    def figures(self, results: list[int]) -> Figures:
        """Return CPU time beyond the tasks' own."""
        wall, cpu, count = time.perf_counter() - self.began, tree_cpu() - self.cpu, len(results)
        assert results == list(range(harness.scaled(MANY)))
        return {"value": (cpu / count - OWN) * 1e6, "wall_us_beyond": (wall / count - OWN / WORKERS) * 1e6}


@hf.job
async def single() -> Figures:
    """Evaluate each by itself."""
    meter = Meter()
    return meter.figures(await hf.map_concurrently(lambda x: hf.remote_eval(spin, x), range(harness.scaled(MANY))))


@hf.job
async def mapped() -> Figures:
    """Evaluate in chunks."""
    meter = Meter()
    return meter.figures(await hf.remote_map(spin, range(harness.scaled(MANY))))


WAYS: Mapping[str, Callable[[], hf.Job[Figures]]] = {"single": single, "mapped": mapped}


def hyperflow(way: str) -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(WAYS[way])


def pool(way: str) -> Figures:
    """Take Pool's turn."""
    with opened(POOL) as there:
        items, meter = range(harness.scaled(MANY)), Meter()
        return meter.figures(
            there.each(spin, items) if way == "single" else list((there.chunked or there.each)(spin, items))
        )


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare single calls."""
    return medians[OURS]["value"] <= 0.5 * medians[POOL]["value"]


QUESTION = Question(
    key="short_tasks",
    title=f"{MANY:,} tasks of 1 ms of CPU time: what is used beyond that in all processes",
    unit="us of CPU each",
    better="lower",
    goal="single calls: at most half of what multiprocessing's imap adds",
    contestants={
        OURS: "benchmarks.short_tasks:hyperflow single",
        POOL: "benchmarks.short_tasks:pool single",
        MAPPED: "benchmarks.short_tasks:hyperflow mapped",
        f"{POOL}, map": "benchmarks.short_tasks:pool mapped",
    },
    reached=reached,
    rounds=3,
)
