"""What does it cost to start launchers on 64 nodes, and are all of them up?"""

import asyncio
import time
from collections.abc import Mapping

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, quick
from benchmarks.on_cluster import on_login

NODES = 8 if quick() else 64
MOST = 1.0
BY_SSH = "hyperflow, by ssh"


def where() -> str:
    """Return the node that this runs on."""
    return hf.worker_info().node


async def start() -> Figures:
    """Start the launchers, look how many are up, use all of them."""
    import asyncssh  # noqa: F401 (its import is no launcher's cost)

    began, busy = time.perf_counter(), time.process_time()
    async with hf.open_slurm_job(min_nodes=NODES, start_timeout=100.0) as env:
        seconds, cpu = time.perf_counter() - began, time.process_time() - busy
        up = env.statistics().nodes
        if up != NODES:
            raise AssertionError(f"{up} of {NODES} launchers are up")
        used = await hf.replicate_concurrently(NODES, hf.remote_eval(where).using(fresh_process=True))
        if len(set(used)) != NODES:
            raise AssertionError(f"evaluations ran on {len(set(used))} of {NODES} nodes")
    return {"value": cpu / NODES * 1e3, "wall_s": seconds, "up": up}


def start_there() -> Figures:
    """In an allocation of all nodes."""
    return asyncio.run(start())


def by(transport: str) -> Figures:
    """Return the head's CPU time."""
    return on_login("benchmarks.launchers:start_there", nodes=NODES, cpus=1, limit=250, transport=transport)


def reached(medians: Mapping[str, Figures]) -> bool:
    """All are up, and it costs little."""
    return medians[OURS]["up"] == NODES and medians[OURS]["value"] <= MOST


QUESTION = Question(
    key="launchers",
    title=f"{NODES} launchers on {NODES} nodes",
    unit="ms of the head's CPU for each",
    better="lower",
    goal=f"all up, for at most {MOST:g} ms each",
    contestants={OURS: "benchmarks.launchers:by auto", BY_SSH: "benchmarks.launchers:by ssh"},
    reached=reached,
    rounds=3,
    needs="cluster",
    limit=300,
)
