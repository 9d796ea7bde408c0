"""Locks between Jobs on different nodes of a real cluster, and of a Job that Slurm kills."""

from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.test_master import prepare

MAIN = """
async def main():
    (place / "number").write_text("0")
    one_node = hf.SbatchOptions(nodes=1, ntasks_per_node=3)
    with hf.using(sbatch=one_node, on_error="raise"):
        staying = hf.remote_eval_job(stays()).start()
        while not (place / "marks").exists():
            await asyncio.sleep(0.05)
        waiting = hf.remote_eval_job(add(1)).start()
        env = await hf.ask()
        os.system(f"scancel {env.master.jobs()[0].batch_id}")
        try:
            await staying
        except hf.JobCancelled:
            mark("cancelled")
        await waiting
        two_nodes = hf.remote_eval_job(add(20)).using(sbatch=one_node.changed(nodes=2))
        return await hf.concurrently(two_nodes, hf.remote_eval_job(add(20)))

def locked(k):
    path = place / "number"
    with hf.with_lock("number"):
        number = int(path.read_text())
        time.sleep(0.002)
        path.write_text(str(number + 1))
        return os.uname().nodename

@hf.job
async def add(count):
    return sorted(set(await hf.map_concurrently(lambda k: hf.remote_eval(locked, k), range(count))))

@hf.job
async def stays():
    async with hf.with_lock("number"):
        mark("holds")
        await asyncio.sleep(1000)
"""


def test_jobs_on_three_nodes(cluster: Cluster) -> None:
    """A Job that Slurm ends holds its lock no more; workers on three nodes, of two Jobs, exclude each other."""
    program = prepare(cluster, MAIN)
    with program.started():
        program.wait("end", timeout=50)
    assert program.told("result"), program.seen()
    (nodes,) = program.told("result")
    assert (program.place / "number").read_text() == "41", program.seen()
    assert program.marks() == {"holds": 1, "cancelled": 1}
    assert [len(each) for each in nodes] == [2, 1]
    assert len(set(nodes[0] + nodes[1])) == 3
    assert not list(Path(program.told("home")[0]).glob("locks/*/*,*"))
