"""What does a process of its own for each evaluation cost, where the function needs numpy?"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import opened
from benchmarks.work import WORKERS, small_numpy

MANY = 300
FEW = 20
"""For those who start an interpreter each time."""


def timed(count: int, each: Callable[[Sequence[int]], list[float]]) -> Figures:
    """Evaluate for many numbers, and check."""
    numbers = range(harness.scaled(count))
    began = time.perf_counter()
    results = each(numbers)
    seconds = time.perf_counter() - began
    assert results == [499_500.0 + x for x in numbers]
    return {"value": seconds / len(numbers) * 1e3}


@hf.job
async def processes() -> Figures:
    """Evaluate side by side."""
    numbers = range(harness.scaled(MANY))
    began = time.perf_counter()
    with hf.using(fresh_process=True):
        results = await hf.map_concurrently(lambda x: hf.remote_eval(small_numpy, x), numbers)
    seconds = time.perf_counter() - began
    assert results == [499_500.0 + x for x in numbers]
    return {"value": seconds / len(numbers) * 1e3}


def hyperflow() -> Figures:
    """Fork from a launcher that has imported what the function needs: numpy, and the function's own module."""
    return on_two_workers(processes, preload=["numpy", "benchmarks.work"])


def hyperqueue() -> Figures:
    """Run Python tasks, each of which starts an interpreter."""
    with opened("HyperQueue") as there:
        return timed(FEW, lambda numbers: there.each(small_numpy, numbers))


def new_interpreter() -> Figures:
    """Start `python -c`, two at a time."""

    def one(number: int) -> float:
        code = f"from benchmarks.work import small_numpy; print(small_numpy({number}))"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)

    with ThreadPoolExecutor(WORKERS) as threads:
        return timed(FEW, lambda numbers: list(threads.map(one, numbers)))


def process_pool(method: str) -> Figures:
    """Let the standard library's pool replace its workers after each call."""
    import multiprocessing

    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(["numpy", "benchmarks.work"])
    with ProcessPoolExecutor(WORKERS, mp_context=context, max_tasks_per_child=1) as pool:
        assert pool.submit(small_numpy, 0).result() == 499_500
        return timed(FEW, lambda numbers: list(pool.map(small_numpy, numbers)))


def multiprocessing() -> Figures:
    """Fork from this process, which has imported numpy."""
    import multiprocessing

    import numpy as np

    assert np.arange(2).sum() == 1
    with multiprocessing.get_context("fork").Pool(WORKERS, maxtasksperchild=1) as pool:
        return timed(MANY, lambda numbers: pool.map(small_numpy, numbers, chunksize=1))


def mpire() -> Figures:
    """Likewise, by mpire's worker_lifespan."""
    import numpy as np
    from mpire import WorkerPool

    assert np.arange(2).sum() == 1
    with WorkerPool(WORKERS, start_method="fork") as pool:
        return timed(MANY, lambda numbers: pool.map(small_numpy, numbers, chunk_size=1, worker_lifespan=1))


def executorlib() -> Figures:
    """Start an interpreter for each call, which is what it does unless told otherwise."""
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_cores=WORKERS, hostname_localhost=True) as pool:
        return timed(
            FEW, lambda numbers: [future.result() for future in [pool.submit(small_numpy, x) for x in numbers]]
        )


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest."""
    return medians["hyperflow"]["value"] < min(harness.peers(medians).values())


QUESTION = Question(
    key="fresh_process",
    title="a process of its own for each evaluation, which uses numpy",
    unit="ms each",
    better="lower",
    goal="ahead of every peer",
    contestants={
        "hyperflow": "benchmarks.fresh_process:hyperflow",
        "HyperQueue": "benchmarks.fresh_process:hyperqueue",
        "python -c": "benchmarks.fresh_process:new_interpreter",
        "ProcessPoolExecutor spawn": "benchmarks.fresh_process:process_pool spawn",
        "ProcessPoolExecutor forkserver": "benchmarks.fresh_process:process_pool forkserver",
        "multiprocessing fork": "benchmarks.fresh_process:multiprocessing",
        "mpire fork": "benchmarks.fresh_process:mpire",
        "executorlib": "benchmarks.fresh_process:executorlib",
    },
    reached=reached,
    rounds=3,
    limit=60,
)
