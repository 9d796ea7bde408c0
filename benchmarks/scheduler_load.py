"""How much hyperflow asks of a scheduler and of a login node, counted on the test cluster. See docs/sites/load.md.

    python -m benchmarks.scheduler_load

Slurm's commands are counted by a script of the same name in front of them in PATH, on all hosts.
"""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hyperflow
from tests.cluster import packages
from tests.cluster.cluster import Cluster, cluster
from tests.helpers import block_until

COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol", "sinfo", "srun")
JOBS = 100
WATCHED = 120.0
"""Seconds for which nothing changes."""

SWEEP = """
    import asyncio
    import hyperflow as hf

    @hf.job
    async def wait(number: int) -> int:
        await asyncio.sleep(1000)
        return number

    @hf.cluster
    async def sweep(jobs: int) -> int:
        return len(await hf.map_concurrently(lambda n: hf.remote_eval_job(wait(n)), range(jobs)))

    hf.main(sweep)
"""

LONG = """
    import time
    import hyperflow as hf

    @hf.job
    async def long() -> int:
        return len(await hf.map_concurrently(lambda n: hf.remote_eval(time.sleep, 70), range(12)))

    print(hf.run_job_slurm(long()))
"""


@contextmanager
def counted(on: Cluster) -> Iterator[dict[str, str]]:
    """Count Slurm's commands; gives the environment for that."""
    place = on.home / "counting"
    place.mkdir()
    for name in COMMANDS:
        script = place / name
        script.write_text(
            f"#!/bin/bash\necho {name} $(hostname) >>{on.home}/calls\n"
            f'exec $(PATH=${{PATH#*:}} command -v {name}) "$@"\n'
        )
        script.chmod(0o755)
    yield {"PATH": f"{place}:{packages.PATH}", "PYTHONPATH": str(Path(hyperflow.__file__).parents[1])}


def calls(on: Cluster) -> Counter[str]:
    """Return how often each command was typed on each host, and forget it."""
    file = on.home / "calls"
    found = Counter(file.read_text().splitlines()) if file.exists() else Counter[str]()
    file.unlink(missing_ok=True)
    return found


def processes(on: Cluster, host: str) -> list[str]:
    """Return memory, CPU time, threads and command of all Python processes of a host."""
    text = on.hosts[host].run(["ps", "-eo", "rss,cputimes,nlwp,args", "--no-headers"]).stdout
    return [
        line.strip()[:110] for line in text.splitlines() if re.search(r"python|hyperflow", line) and " ps " not in line
    ]


def many_jobs(on: Cluster) -> None:
    """Count for a master with many jobs, most of which wait."""
    (on.home / "sweep.py").write_text(textwrap.dedent(SWEEP))
    with counted(on) as env:
        calls(on)
        began = time.monotonic()
        words = [sys.executable, "sweep.py", "--jobs", str(JOBS), "--time", "60", "--ntasks-per-node", "1"]
        with on.login.start(words, env=env) as master:
            block_until(lambda: len(on.slurm.squeue()) == JOBS, 120, "all are submitted")
            print(f"{JOBS} jobs submitted in {time.monotonic() - began:.0f} s:", dict(calls(on)))
            print("\n".join(processes(on, "login")))
            time.sleep(60)
            print("the next 60 s:", dict(calls(on)))
            time.sleep(WATCHED)
            print(f"the {WATCHED:.0f} s after those:", dict(calls(on)))
            print("\n".join(processes(on, "login")))
            master.signal(9)
            master.communicate(timeout=30)
        on.login.run(["scancel", "--user=root"], check=False)
        on.slurm.wait_idle()


def one_job(on: Cluster) -> None:
    """Count for a Job that has three nodes, for a good minute."""
    (on.home / "long.py").write_text(textwrap.dedent(LONG))
    for transport in ("ssh", "srun"):
        before = {node: on.connections(node) for node in on.nodes}
        with counted(on) as env:
            calls(on)
            script = f"exec {sys.executable} long.py"
            job = on.slurm.sbatch(script, env={**env, "HYPERFLOW_TRANSPORT": transport}, nodes=3, exclusive=True)
            on.slurm.wait_for(job, "RUNNING")
            time.sleep(20)
            for node in on.nodes:
                found = processes(on, node)
                print(node, len(found), "processes", *found[:4], sep="\n  ")
            print(on.slurm.wait_for(job, timeout=200)["JobState"], transport, dict(calls(on)))
            print("connections by ssh:", {node: on.connections(node) - before[node] for node in on.nodes})
        (on.home / "counting").rename(on.home / f"counted-{transport}")


if __name__ == "__main__":
    with cluster() as held:
        one_job(held)
        many_jobs(held)
