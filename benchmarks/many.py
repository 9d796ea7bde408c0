"""What does one evaluation cost when many are under way?"""

import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import PEERS, opened
from benchmarks.work import identity

MANY = 20_000
FEWER = {
    "Work-Queue": 100,
    "Dask": 5000,
    "Ray": 5000,
    "Parsl": 2000,
    "executorlib": 2000,
    "ipyparallel": 2000,
    "HyperQueue": 100,
}
"""For the slow ones; the figure is per evaluation."""


@hf.job
async def throughput() -> Figures:
    """Evaluate all of them side by side."""
    count = harness.scaled(MANY)
    began = time.perf_counter()
    results = await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(count))
    seconds = time.perf_counter() - began
    assert results == list(range(count))
    return {"value": seconds / count * 1e6, "evaluations": count}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(throughput)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    count = harness.scaled(FEWER.get(name, MANY))
    with opened(name) as there:
        began = time.perf_counter()
        results = there.each(identity, range(count))
        seconds = time.perf_counter() - began
    assert results == list(range(count))
    return {"value": seconds / count * 1e6, "evaluations": count}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest."""
    return 5 * medians["hyperflow"]["value"] <= min(harness.peers(medians).values())


QUESTION = Question(
    key="many",
    title="20,000 single identity evaluations",
    unit="us each",
    better="lower",
    goal="at least 5 times the throughput of every peer",
    contestants={"hyperflow": "benchmarks.many:hyperflow", **{name: f"benchmarks.many:peer {name}" for name in PEERS}},
    reached=reached,
    rounds=3,
)
