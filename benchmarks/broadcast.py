"""What does it cost the head to get one large argument to each of many nodes, against one node?"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import hyperflow as hf
from benchmarks.harness import Figures, Question, quick, scaled
from benchmarks.on_cluster import on_login

BYTES = scaled(20_000_000)
NODES = 8 if quick() else 64
MOST = 15.0
ONE, ALL = "1 node", f"{NODES} nodes"


def size(array: Any) -> tuple[str, int]:
    """Return where this is, and next to nothing of the argument."""
    return hf.worker_info().node, len(array)


async def send(nodes: int) -> Figures:
    """Evaluate on each node with the same array, when all of them have done something."""
    import numpy as np

    async with hf.open_slurm_job(min_nodes=nodes, start_timeout=100.0, preload=["numpy"], progress=False):
        await hf.replicate_concurrently(nodes, hf.remote_eval(size, np.ones(10)))
        array = np.random.default_rng(1).random(BYTES // 8)
        began, busy = time.perf_counter(), time.process_time()
        found = await hf.replicate_concurrently(nodes, hf.remote_eval(size, array))
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        if len({node for node, _ in found}) != nodes:
            raise AssertionError(f"evaluations ran on {len({node for node, _ in found})} of {nodes} nodes")
    return {"value": cpu * 1e3, "wall_ms": seconds * 1e3}


def to_one() -> Figures:
    """In an allocation of one node."""
    return asyncio.run(send(1))


def to_all() -> Figures:
    """In an allocation of all nodes."""
    return asyncio.run(send(NODES))


def one() -> Figures:
    """Return what one node takes."""
    return on_login("benchmarks.broadcast:to_one", nodes=1, cpus=1, transport="auto")


def all_of_them() -> Figures:
    """Return what all take."""
    return on_login("benchmarks.broadcast:to_all", nodes=NODES, cpus=1, limit=250, transport="auto")


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with one."""
    return medians[ALL]["value"] <= MOST * medians[ONE]["value"]


QUESTION = Question(
    key="broadcast",
    title=f"an argument of {BYTES / 1e6:g} MB to one node, and to {NODES}",
    unit="ms of the head's CPU",
    better="lower",
    goal=f"at most {MOST:g} times what one node takes",
    contestants={ALL: "benchmarks.broadcast:all_of_them", ONE: "benchmarks.broadcast:one"},
    reached=reached,
    rounds=3,
    needs="cluster",
    limit=300,
)
