"""How many evaluations per second go through ssh to a node, against the same number of workers on this machine?"""

import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.on_cluster import on_login

MANY = scaled(20_000)
LOCALLY = "hyperflow, locally"


def identity(x: int) -> int:
    """Cost nothing, so that what is measured is everything else."""
    return x


@hf.job
async def evaluate() -> Figures:
    """Evaluate many calls side by side, after a warm-up."""
    await hf.replicate_concurrently(100, hf.remote_eval(identity, 1))
    began = time.perf_counter(), time.process_time()
    results = await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(MANY))
    seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    if results != list(range(MANY)):
        raise AssertionError("wrong results")
    return {"value": seconds / MANY * 1e6, "head_cpu_us": busy / MANY * 1e6}


def there() -> Figures:
    """In an allocation: on its node."""
    return hf.run_job_slurm(evaluate())


def through_ssh() -> Figures:
    """Return the cost through ssh to one node."""
    return on_login("benchmarks.ssh_many:there")


def locally() -> Figures:
    """Return the cost with two workers on this machine."""
    return hf.run_job_local(evaluate(), cpus=2)


def reached(medians: Mapping[str, Figures]) -> bool:
    """At least 70% of the local throughput."""
    return medians[OURS]["value"] <= medians[LOCALLY]["value"] / 0.7


QUESTION = Question(
    key="ssh_many",
    title="20,000 single identity evaluations through ssh to one node",
    unit="us each",
    better="lower",
    goal="at least 70% of the throughput of as many workers on this machine",
    contestants={OURS: "benchmarks.ssh_many:through_ssh", LOCALLY: "benchmarks.ssh_many:locally"},
    reached=reached,
    needs="cluster",
)
