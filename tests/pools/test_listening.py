"""A pool that listens on the login host of a cluster, and nodes that come there from Slurm jobs."""

import shlex
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.imports import TOP
from tests.pools.program import Program

MAIN = """
async def main(env):
    nodes = await asyncio.gather(*(hf.remote_eval(held, f"e{n}").start() for n in range(2)))
    return sorted(nodes)
"""


def test_nodes_of_a_slurm_job_join_by_themselves(cluster: Cluster, tmp_path: Path) -> None:
    """Those that srun starts with a copy of the access file find the head and their time limit, and end with it."""
    program = Program(cluster, tmp_path, MAIN, "hf.NodePool(listen=0)")
    words = [sys.executable, "-m", "hyperflow"]
    with program.start():
        home = program.wait("open")
        copy = tmp_path / "access"
        command = shlex.join([*words, "pool", "access", home])
        cluster.login.run(["sh", "-c", f"{command} > {shlex.quote(str(copy))}"], env={"PYTHONPATH": str(TOP)})
        assert copy.stat().st_mode & 0o777 == 0o600
        join = shlex.join([*words, "node", "join", "--access", str(copy), "--cpus", "1"])
        job = cluster.slurm.sbatch(
            f"srun {join}", nodes=2, ntasks_per_node=1, time=5, cwd=tmp_path, env={"PYTHONPATH": str(TOP)}
        )
        program.wait_marks("began", 2)
        program.go("e0", "e1")
        assert len(set(program.wait("result"))) == 2
        program.wait("end")
    cluster.slurm.wait_for(job)
    said = (tmp_path / f"slurm-{job}.out").read_text()
    assert said.count("released: the pool has ended") == 2, said
    events = (Path(home) / "log/events.jsonl").read_text()
    assert events.count('"ends"') >= 2, events
