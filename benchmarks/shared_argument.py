"""What travels to a node when a thousand evaluations have the same large argument? It should go there once."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, quick, scaled
from benchmarks.large_ssh import data
from benchmarks.on_cluster import on_login

MEGABYTES = scaled(100)
EVALUATIONS = scaled(1000)
NODES = 2
ONE = "hyperflow, one evaluation for each worker"


def element(array: Any, index: int) -> float:
    """Do next to nothing with a large argument."""
    return float(array[index])


def sent() -> int:
    """Return the bytes that this host has sent."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return sum(int(line.split()[9]) for line in lines if line.strip().startswith("eth0:"))


@hf.job
async def evaluate(count: int) -> Figures:
    """Evaluate a function of one array and a number."""
    import numpy as np

    await hf.replicate_concurrently(100, hf.remote_eval(element, np.ones(10), 1))
    array = data()
    before, began = sent(), time.perf_counter()
    results = await hf.map_concurrently(lambda index: hf.remote_eval(element, array, index), range(count))
    seconds, megabytes = time.perf_counter() - began, (sent() - before) / 1e6
    if results != list(array[:count]):
        raise AssertionError("wrong results")
    return {"value": megabytes / NODES, "seconds": seconds}


def many_there() -> Figures:
    """In an allocation of two nodes: many evaluations."""
    return hf.run_job_slurm(evaluate(EVALUATIONS), preload=["numpy"])


def one_there() -> Figures:
    """In an allocation of two nodes: as many evaluations as there are workers."""
    return hf.run_job_slurm(evaluate(2 * NODES), preload=["numpy"])


def many() -> Figures:
    """Return what travels for many."""
    return on_login("benchmarks.shared_argument:many_there", nodes=NODES)


def one() -> Figures:
    """Return what travels for one per worker."""
    return on_login("benchmarks.shared_argument:one_there", nodes=NODES)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Hardly more than the array itself."""
    return medians[OURS]["value"] <= 1.1 * MEGABYTES + 1


QUESTION = Question(
    key="shared_argument",
    title=f"the same {MEGABYTES} MB argument to {EVALUATIONS:,} evaluations on two nodes, through ssh",
    unit="MB sent to each node",
    better="lower",
    goal="sent once per node: at most a tenth more than its size",
    contestants={OURS: "benchmarks.shared_argument:many", ONE: "benchmarks.shared_argument:one"},
    reached=reached,
    rounds=1 if quick() else 3,
    needs="cluster",
)
