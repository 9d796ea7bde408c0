"""What does an item cost when many go into one message?"""

import time
from collections.abc import Callable, Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.harness import Figures, Question, Skipped
from benchmarks.ours import on_two_workers
from benchmarks.peers import PEERS, opened
from benchmarks.work import WORKERS, identity

ITEMS = 1_000_000
LEFT_OUT = {"multiprocessing-async", "mpire-async"}
"""They have no map of their own."""


def seconds_of(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def over_the_function(seconds: float, items: list[int]) -> Figures:
    """Take off what the function itself costs, shared by all workers."""
    loop = min(seconds_of(lambda: [identity(item) for item in items]) for _ in range(3))
    return {"value": (seconds - loop / WORKERS) / len(items) * 1e6, "seconds": seconds}


@hf.job
async def mapped() -> Figures:
    """Map once."""
    items = list(range(harness.scaled(ITEMS)))
    began = time.perf_counter()
    results = await hf.remote_map(identity, items)
    seconds = time.perf_counter() - began
    assert results == items
    return over_the_function(seconds, items)


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(mapped)


def peer(name: str) -> Figures:
    """Take a peer's turn."""
    items = list(range(harness.scaled(ITEMS)))
    with opened(name) as there:
        if there.chunked is None:
            raise Skipped("its tasks return nothing to the one who submits them")
        began = time.perf_counter()
        results = there.chunked(identity, items)
        seconds = time.perf_counter() - began
    assert results == items
    return over_the_function(seconds, items)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the fastest."""
    ours = medians["hyperflow"]["value"]
    return ours <= 1 and ours < min(harness.peers(medians).values())


QUESTION = Question(
    key="chunked_map",
    title="remote_map over 1,000,000 integers, without what the function itself costs",
    unit="us per item",
    better="lower",
    goal="at most 1 us per item over what the function itself costs; ahead of every peer's chunked map",
    contestants={
        "hyperflow": "benchmarks.chunked_map:hyperflow",
        **{name: f"benchmarks.chunked_map:peer {name}" for name in PEERS if name not in LEFT_OUT},
    },
    reached=reached,
    rounds=3,
)
