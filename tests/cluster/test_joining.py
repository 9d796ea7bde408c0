"""Nodes of other allocations join a Job whose head runs on the login host."""

import json
import sys
import uuid

from tests.cluster.cluster import Cluster
from tests.imports import TOP

SCRIPT = """
import asyncio, json, os, sys, time
import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.head.engine import open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.request import NodeKind
from hyperflow.transports.srun import Srun
from hyperflow.transports.ssh import Ssh
from hyperflow.transports.steps import Steps

JOB, PLACE = int(sys.argv[1]), sys.argv[2]
told = {}

def there():
    names = ("SLURMD_NODENAME", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SBATCH_X")
    return {name: os.environ.get(name) for name in names}

def plan(*ways):
    return NodePlan(ways, 2, granted=True, slurm_job=JOB)

async def main():
    os.environ |= {"SLURM_JOB_ID": "99999", "SLURM_CPUS_PER_TASK": "7", "SBATCH_X": "y"}  # of an allocation of the head
    settings = Settings(start_timeout=60.0)
    async with open_engine([], hf.ProgramInfo.new(PLACE), settings=settings) as engine:
        engine.may_come([NodeKind("main", 2, most=2)])
        waiting = [engine.submit(there, (), {}, Options()) for _ in range(2)]
        try:
            await engine.add_node(plan(Ssh("node1", settings)))
        except LauncherError as error:
            told["ssh"] = str(error)
        steps = Steps(settings, job=JOB)
        began = time.monotonic()
        await asyncio.gather(*(engine.add_node(plan(Srun(name, "", steps, job=JOB))) for name in ("node1", "node2")))
        told["joined"] = time.monotonic() - began
        told["first"] = await asyncio.gather(*waiting)
        await engine.release_node("node1", "idle")
        told["at"] = (await engine.submit(there, (), {}, Options()))["SLURMD_NODENAME"]
        await engine.add_node(plan(Srun("node1", "", job=JOB)))
        told["steps"] = os.popen(f"squeue --steps --noheader --format=%i,%N --job={JOB}").read().split()
        told["nodes"] = sorted(engine.fleet.links)
        told["lost"] = engine.statistics().nodes_lost
    told["left"] = os.popen(f"squeue --steps --noheader --format=%i,%N --job={JOB}").read().split()
    print(json.dumps(told))

asyncio.run(main())
"""


def test_nodes_of_a_holder_join(cluster: Cluster) -> None:
    """A node of a batch job that only holds it is reached by a step of that job, with nothing of the head's own job.

    By ssh it is refused, with the reason: here no control group says that the launcher is in that job.
    """
    job = cluster.slurm.sbatch("sleep 600", nodes=2, ntasks_per_node=2)
    cluster.slurm.wait_for(job, "RUNNING")
    place = cluster.home / f"run-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    (place / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(place / "script.py"), str(job), str(place / "log")]
    said = cluster.login.run(command, env={"PYTHONPATH": str(TOP)}, timeout=90).stdout
    cluster.slurm.scancel(job)
    told = json.loads(said.splitlines()[-1])

    assert "ssh starts a launcher is no Slurm job's" in told["ssh"]
    assert f"job {job} has the node" in told["ssh"]
    for there in told["first"]:
        assert there["SLURM_JOB_ID"] == str(job)
        assert there["SLURM_CPUS_PER_TASK"] is None
        assert there["SBATCH_X"] is None
    assert told["at"] == "node2"
    assert told["nodes"] == ["node1", "node2"]
    assert told["lost"] == 0
    assert {step.split(",")[1] for step in told["steps"] if ".batch" not in step} >= {"node1"}
    assert [step for step in told["left"] if ".batch" not in step and ".extern" not in step] == []
