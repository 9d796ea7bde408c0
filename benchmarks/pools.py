"""Elastic pools beside one fixed allocation: `python -m benchmarks.pools DIRECTORY`.

A scan whose load goes up and down runs on a cluster of small nodes on this machine: elastic, in one fixed allocation
that has as many CPUs as the elastic one may have, and both again while jobs of others have half of the nodes at the
beginning. Then: how long it takes from "work waits" to "evaluation runs", and how often Slurm is asked with 20
allocations. Leaves pools.json and pools.svg in the directory.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.imports import TOP

NODES, CPUS = 8, 2

WAVES = (*[2] * 4, 320, *[2] * 12, 320, *[2] * 6)
"""Evaluations of a second that wait at a time; between two waves the scan thinks."""

HELD_BY_OTHERS = 60
"""Seconds for which jobs of others have half of the nodes."""

PROGRAM = """
import asyncio, json, sys, time
from pathlib import Path
import hyperflow as hf
from hyperflow.slurm.client import PollIntervals

place, what, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
sbatch = hf.SbatchOptions(**options.pop("sbatch"))

def step(seconds):
    began = time.time()
    time.sleep(seconds)
    return began

async def watch(env, samples):
    while True:
        info, stands = env.evaluator.pool.info(), env.statistics()
        live = [it for it in info["allocations"] if it["state"] not in ("ended", "submitting")]
        held = sum(it["cpus"] for it in live if it["state"] != "pending")
        asked = sum(it["cpus"] for it in live)
        samples.append((time.time(), asked, held, stands.cpus - stands.cpus_free, stands.waiting))
        await asyncio.sleep(0.1)

async def scan(env):
    samples, began = [], time.time()
    watching = asyncio.create_task(watch(env, samples))
    for wave in WAVES:
        await hf.map_concurrently(lambda _: hf.remote_eval(step, 1.0), range(wave))
        await asyncio.sleep(0.2)
    took = time.time() - began
    watching.cancel()
    return {"began": began, "makespan": took, "samples": samples}

async def latency(env):
    found = []
    for _ in range(6):
        asked = time.time()
        began = await hf.remote_eval(step, 0.0)
        found.append(began - asked)
        while env.evaluator.pool.info()["wanted"] or env.statistics().nodes:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.0)
    return found

async def calls(env):
    pool = env.evaluator.pool
    counts = []
    began = time.time()
    while sum(it["state"] == "up" for it in pool.info()["allocations"]) < options["max_allocations"]:
        await asyncio.sleep(0.1)
    grown = {"seconds": time.time() - began, "calls": dict(pool.info()["calls"])}
    await asyncio.sleep(60.0)  # the pauses between two looks become long
    before = sum(pool.info()["calls"].values())
    await asyncio.sleep(60.0)
    return {"growing": grown, "steady, a minute": sum(pool.info()["calls"].values()) - before}

async def main():
    pool = hf.NodePool(sbatch=sbatch, **options)
    async with hf.open_pool_job(pool, program=hf.ProgramInfo.new(place / "runs"), progress=False) as env:
        found = await globals()[what](env)
    (place / "found").write_text(json.dumps(found))

asyncio.run(main())
"""


class Figures(NamedTuple):
    """What a scan has cost: seconds, and seconds of CPUs."""

    makespan: float
    held: float
    used: float

    @classmethod
    def of(cls, found: dict[str, Any]) -> Figures:
        held = used = 0.0
        samples = found["samples"]
        for (at, *_), (until, _, has, busy, _) in pairwise(samples):
            held += has * (until - at)
            used += busy * (until - at)
        return cls(found["makespan"], held, used)


def _run(cluster: Cluster, what: str, options: dict[str, Any], timeout: float = 400) -> Any:
    with tempfile.TemporaryDirectory(prefix="hf-bench-") as where:
        script = Path(where, "program.py")
        script.write_text(PROGRAM.replace("WAVES", repr(WAVES)))
        words = [sys.executable, str(script), where, what, json.dumps(options)]
        done = cluster.login.run(words, env={"PYTHONPATH": str(TOP)}, cwd=where, timeout=timeout, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(Path(where, "found").read_text())


def _others(cluster: Cluster) -> None:
    """Let jobs of others have half of the nodes for a while."""
    cluster.slurm.sbatch(f"#!/bin/bash\nsleep {HELD_BY_OTHERS}\n", nodes=NODES // 2, exclusive=True)


ELASTIC = {
    "sbatch": {"ntasks_per_node": CPUS, "time": 10},
    "max_allocations": NODES,
    "max_queued": 8,
    "idle_timeout": 2,
    "target_duration": 2,
}
FIXED = {
    "sbatch": {"nodes": NODES, "ntasks_per_node": CPUS, "time": 10},
    "max_allocations": 1,
    "min_allocations": 1,
    "idle_timeout": 600,
}


def _changes(samples: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return the samples at which something changes, and the last one."""
    kept = [each for before, each in pairwise(samples) if before[1:4] != each[1:4]]
    return [samples[0], *kept, samples[-1]]


def _picture(scans: dict[str, dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hyperflow", "font.family": "sans-serif"})
    figure, rows = pyplot.subplots(len(scans), 1, sharex=True, sharey=True, figsize=(9, 2.2 * len(scans)))
    for axes, (name, found) in zip(rows, scans.items(), strict=True):
        samples = _changes(found["samples"])
        times = [sample[0] - found["began"] for sample in samples]
        lines = ((1, "asked", "#999999"), (2, "held", "#3b6fb6"), (3, "busy", "#d1642b"))
        for place, label, colour in lines:
            values = [sample[place] for sample in samples]
            axes.step(times, values, where="post", label=label, color=colour, linewidth=1.2)
            if label != "asked":
                axes.fill_between(times, values, step="post", color=colour, alpha=0.25)
        cost = Figures.of(found)
        said = f"{name}: {cost.makespan:.0f} s, {cost.held:.0f} CPU seconds held, {cost.used:.0f} used"
        axes.set_title(said, loc="left", fontsize=10)
        axes.set_ylabel("CPUs")
    rows[0].legend(loc="upper right", ncols=3, fontsize=8)
    rows[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure, print, and leave the files."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    scans: dict[str, dict[str, Any]] = {}
    with held_cluster([CPUS] * NODES) as cluster:
        for name, options, busy in (
            ("elastic", ELASTIC, False),
            ("one fixed allocation", FIXED, False),
            ("elastic, others have half of the nodes at first", ELASTIC, True),
            ("one fixed allocation, others have half of the nodes at first", FIXED, True),
        ):
            if busy:
                _others(cluster)
            scans[name] = _run(cluster, "scan", options)
            cost = Figures.of(scans[name])
            idle = cost.held - cost.used
            print(
                f"{name}: makespan {cost.makespan:.1f} s; CPU seconds: {cost.held:.0f} held, {idle:.0f} idle",
                flush=True,
            )
            cluster.slurm.wait_idle(120)
        _picture(scans, directory / "pools.svg")
        latency = _run(cluster, "latency", {**ELASTIC, "idle_timeout": 1})
        print("work waits to evaluation runs:", ", ".join(f"{seconds:.2f}" for seconds in latency), "s", flush=True)
    found = {"scans": scans, "latency": latency}
    (directory / "pools.json").write_text(json.dumps(found))
    with held_cluster([CPUS] * 16) as cluster:
        many = {
            "sbatch": {"time": 30},
            "max_allocations": 20,
            "min_allocations": 20,
            "idle_timeout": 600,
            "max_queued": 20,
        }
        found["calls"] = _run(cluster, "calls", many)
        print("20 allocations:", found["calls"], flush=True)
    (directory / "pools.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
