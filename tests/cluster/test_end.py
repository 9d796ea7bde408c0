"""The end of an allocation: the job is told in time, saves itself, goes back into the queue, and finishes."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.helpers import block_until

SCRIPT = """
import os, sys, time
import hyperflow as hf

place, count, seconds, requeue = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "requeue"

def slow(n):
    with open(place + "/ran", "a") as file:
        file.write(f"{n}\\n")
    time.sleep(seconds)
    return n

@hf.memoize("slow", version=1)
def remembered(n: int) -> hf.Job[int]:
    return hf.remote_eval(slow, n)

@hf.job
async def job():
    try:
        results = await hf.map_concurrently(remembered, range(count))
    except hf.AllocationEnding as error:
        print("saving myself:", error, flush=True)
        try:
            await hf.remote_eval(slow, -1)
        except hf.AllocationEnding:
            print("nothing is started any more", flush=True)
        raise
    print("finished", results == list(range(count)), "restarts", os.environ.get("SLURM_RESTART_COUNT", 0), flush=True)

program = hf.ProgramInfo.new(place + "/runs", database=place + "/results.sqlite")
hf.run_job_slurm(job(), program=program, requeue=requeue)
"""


def command(place: Path, *words: object) -> str:
    """Write the script, and return the line that runs it."""
    script = place / "job.py"
    script.write_text(SCRIPT)
    return "exec " + shlex.join([sys.executable, str(script), str(place), *map(str, words)])


@pytest.mark.timeout(120)
def test_time_limit_and_requeue(cluster: Cluster, tmp_path: Path) -> None:
    """A job that does not fit into its time limit ends in time, is requeued, and goes on from the database."""
    line = command(tmp_path, 500, 0.25, "requeue")
    environment = {"HYPERFLOW_END_MARGIN": "51"}
    job = cluster.slurm.sbatch(
        line, nodes=3, ntasks_per_node=4, time=1, requeue=True, open_mode="append", env=environment
    )
    cluster.slurm.wait_for(job, "COMPLETED", timeout=90)
    output = cluster.slurm.output(job)
    assert "saving myself: the allocation ends (its time limit is near; 5" in output, output
    assert "nothing is started any more" in output
    # Where all is slow, the second start may not be enough either.
    assert re.search(r"^finished True restarts [1-9]$", output.rstrip().splitlines()[-1]), output
    ran = [int(line) for line in (tmp_path / "ran").read_text().split()]
    # What ran when the first run ended was given the time that was left, so nothing was computed in vain.
    assert sorted(ran) == list(range(500))
    assert not cluster.strangers()


def test_signal(cluster: Cluster, tmp_path: Path) -> None:
    """`--signal` is understood: the job is told when the signal comes."""
    line = command(tmp_path, 100_000, 0.05, "stay")
    job = cluster.slurm.sbatch(line, nodes=2, ntasks_per_node=2, time=5)
    cluster.slurm.wait_for(job, "RUNNING")
    ran = tmp_path / "ran"
    block_until(ran.exists, 15, "evaluations run")
    cluster.slurm.scancel(job, "--signal=USR1", "--batch")
    cluster.slurm.wait_for(job, "FAILED")
    output = cluster.slurm.output(job)
    assert re.search(r"saving myself: the allocation ends \(SIGUSR1 came", output), output
    assert "nothing is started any more" in output
    assert not cluster.strangers()


CLIMB = """
import os, sys, time
import hyperflow as hf

place = sys.argv[1]

def climb(summit):
    saved = hf.checkpoint_dir() / "height"
    begun = height = int(saved.read_text()) if saved.exists() else 0
    left = hf.time_left()
    while height < summit:
        if hf.ending():
            saved.write_text(str(height))
            raise hf.AllocationEnding
        if height < 1000 or begun:
            height += 1
        else:
            open(place + "/waits", "w").close()
            time.sleep(0.01)
    return begun, height, 60 < left <= 290

@hf.memoize("climb", version=1)
def remembered(summit: int) -> hf.Job[tuple[int, int, bool]]:
    return hf.remote_eval(climb, summit)

@hf.job
async def job():
    print(await remembered(2000), "restarts", os.environ.get("SLURM_RESTART_COUNT", 0), flush=True)

program = hf.ProgramInfo.new(place + "/runs", database=place + "/results.sqlite")
hf.run_job_slurm(job(), program=program, requeue=True)
"""


def test_an_evaluation_goes_on_after_a_requeue(cluster: Cluster, tmp_path: Path) -> None:
    """It is told that the allocation ends, saves its state, and goes on when Slurm has started the job again."""
    (tmp_path / "job.py").write_text(CLIMB)
    line = "exec " + shlex.join([sys.executable, str(tmp_path / "job.py"), str(tmp_path)])
    job = cluster.slurm.sbatch(line, nodes=2, ntasks_per_node=2, time=5, requeue=True, open_mode="append")
    block_until((tmp_path / "waits").exists, 30, "it has come halfway")
    cluster.slurm.scancel(job, "--signal=USR1", "--batch")
    cluster.slurm.wait_for(job, "COMPLETED", timeout=60)
    assert cluster.slurm.output(job).rstrip().splitlines()[-1] == "(1000, 2000, True) restarts 1"
    assert not list((tmp_path / "runs").glob("*/data/checkpoints/*/height"))
    assert not cluster.strangers()
