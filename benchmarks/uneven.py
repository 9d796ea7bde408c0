"""Does a task wait behind another one while a CPU idles?"""

import heapq
import random
import time
from collections.abc import Callable, Mapping, Sequence

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import hyperqueue_client, hyperqueue_run, opened
from benchmarks.work import WORKERS

TASKS = 100
ROUNDS = 2
"""Sleeping takes the same time in each."""


def nap(seconds: float) -> float:
    """Sleep, so that other load on the machine does not matter."""
    time.sleep(seconds)
    return seconds


def durations() -> list[float]:
    """Return the seconds of each task: 1 ms to 1 s, each size as likely as any other, in random order."""
    dice = random.Random(1)
    return [10 ** dice.uniform(-3, 0) for _ in range(harness.scaled(TASKS))]


def best_makespan(tasks: Sequence[float]) -> float:
    """Simulate workers that take the next task of the list whenever they are free."""
    free_at = [0.0] * WORKERS
    for seconds in tasks:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


def both_orders(each: Callable[[list[float]], object]) -> Figures:
    """Run the tasks in random order, and the shortest first; compare with the best that is possible in that order."""
    figures: Figures = {}
    for name, tasks in (("random", durations()), ("ascending", sorted(durations()))):
        began = time.perf_counter()
        results = each(tasks)
        figures[name] = (time.perf_counter() - began) / best_makespan(tasks)
        assert results == tasks
    return {"value": max(figures.values()), **figures}


@hf.job
async def uneven() -> Figures:
    """Run both orders."""
    figures: Figures = {}
    for name, tasks in (("random", durations()), ("ascending", sorted(durations()))):
        began = time.perf_counter()
        results = await hf.map_concurrently(lambda seconds: hf.remote_eval(nap, seconds), tasks)
        figures[name] = (time.perf_counter() - began) / best_makespan(tasks)
        assert results == tasks
    return {"value": max(figures.values()), **figures}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(uneven)


def hyperqueue() -> Figures:
    """Run the program `sleep`: a Python task would first start an interpreter."""
    from hyperqueue import Job

    def each(tasks: list[float]) -> list[float]:
        job = Job()
        for seconds in tasks:
            job.program(["sleep", str(seconds)], stdout=None, stderr=None)
        hyperqueue_run(client, job)
        return tasks

    with hyperqueue_client() as client:
        return both_orders(each)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    with opened(name) as there:
        return both_orders(lambda tasks: there.each(nap, tasks))


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with what is possible."""
    return medians["hyperflow"]["value"] <= 1.05


QUESTION = Question(
    key="uneven",
    title="tasks of 1 ms to 1 s, in random order and the shortest first; the worse of the two",
    unit="makespans of the best possible list schedule",
    better="lower",
    goal="makespan within 5% of the best possible list schedule",
    contestants={
        "hyperflow": "benchmarks.uneven:hyperflow",
        "HyperQueue": "benchmarks.uneven:hyperqueue",
        **{
            name: f"benchmarks.uneven:peer {name}"
            for name in ("ProcessPoolExecutor", "multiprocessing", "loky", "mpire", "Dask", "Ray")
        },
    },
    reached=reached,
    rounds=ROUNDS,
)
