"""How long do a thousand evaluations with the same large argument take on this machine, against one for each worker?"""

import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question
from benchmarks.large_ssh import data
from benchmarks.shared_argument import EVALUATIONS, MEGABYTES, element

CPUS = 2
ONE = "hyperflow, one evaluation for each worker"


@hf.job
async def evaluate(count: int) -> Figures:
    """Evaluate a function of one array and a number."""
    import numpy as np

    await hf.replicate_concurrently(100, hf.remote_eval(element, np.ones(10), 1))
    array = data()
    began = time.perf_counter()
    results = await hf.map_concurrently(lambda index: hf.remote_eval(element, array, index), range(count))
    seconds = time.perf_counter() - began
    if results != list(array[:count]):
        raise AssertionError("wrong results")
    return {"value": seconds}


def many() -> Figures:
    """Return the time for many."""
    return hf.run_job_local(evaluate(EVALUATIONS), cpus=CPUS, preload=["numpy"])


def one() -> Figures:
    """Return the time for one per worker."""
    return hf.run_job_local(evaluate(CPUS), cpus=CPUS, preload=["numpy"])


def reached(medians: Mapping[str, Figures]) -> bool:
    """No more than sending it twice, and 0.2 ms for each evaluation."""
    return medians[OURS]["value"] <= 2 * medians[ONE]["value"] + EVALUATIONS * 0.0002


QUESTION = Question(
    key="shared_argument_local",
    title=f"the same {MEGABYTES} MB argument to {EVALUATIONS:,} evaluations on this machine",
    unit="s",
    better="lower",
    goal="at most twice the time of one evaluation for each worker, and 0.2 ms for each evaluation",
    contestants={OURS: "benchmarks.shared_argument_local:many", ONE: "benchmarks.shared_argument_local:one"},
    reached=reached,
)
