"""How long does one evaluation take that is awaited before the next one is made?"""

import statistics
import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question
from benchmarks.ours import on_two_workers
from benchmarks.peers import PEERS, opened
from benchmarks.work import identity

TRIPS = 1000
FEWER = {"Dask": 300, "Ray": 300, "Parsl": 300, "executorlib": 300, "ipyparallel": 300, "HyperQueue": 20}
LEFT_OUT = {"multiprocessing-async", "mpire-async"}
"""One call at a time is the same there as without -async."""


@hf.job
async def trips() -> Figures:
    """Make one round trip after the other."""
    times: list[float] = []
    for x in range(harness.scaled(TRIPS)):
        began = time.perf_counter()
        result = await hf.remote_eval(identity, x)
        times.append(time.perf_counter() - began)
        assert result == x
    return {"value": statistics.median(times) * 1e6}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(trips)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    times: list[float] = []
    with opened(name) as there:
        for x in range(harness.scaled(FEWER.get(name, TRIPS))):
            began = time.perf_counter()
            result = there.one(identity, x)
            times.append(time.perf_counter() - began)
            assert result == x
    return {"value": statistics.median(times) * 1e6}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest."""
    return medians["hyperflow"]["value"] < min(harness.peers(medians).values())


QUESTION = Question(
    key="round_trip",
    title="round trip of one identity evaluation at a time",
    unit="us",
    better="lower",
    goal="below every peer",
    contestants={
        "hyperflow": "benchmarks.round_trip:hyperflow",
        **{name: f"benchmarks.round_trip:peer {name}" for name in PEERS if name not in LEFT_OUT},
    },
    reached=reached,
    rounds=3,
)
