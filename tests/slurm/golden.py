"""Golden files: what a real Slurm says inside its allocations. `python -m tests.slurm.golden` makes them anew.

For each way to get an allocation there is a file with the variables of the environment, and one with what `scontrol
show job` says. They are kept for each version of Slurm (golden/22.05/...); where another version is installed, the
command makes another directory, and the tests of the parsers take it up. What differs from run to run is replaced.
"""

import os
import pty
import re
import sys
from pathlib import Path

from tests.cluster import packages
from tests.cluster.cluster import Cluster, cluster
from tests.helpers import block_until

GOLDEN = Path(__file__).with_name("golden")
CPUS = (4, 4, 2)

BATCH = "batch"
SALLOC = "salloc"
STEP = "srun-in-salloc"
PTY = "srun-pty"
REQUEUED = "requeued"

# The name of the batch job is a trap for parsers.
NAME = "x StartTime=1 EndTime=2 Deadline Requeue=1 Restarts=7 y"
START = 1_000_000_000

RECORD = """\
[ "${SLURM_PROCID:-0}" = 0 ] || exit 0
env | LC_ALL=C grep ^SLURM | LC_ALL=C sort > $1.environment
SLURM_TIME_FORMAT=%s scontrol show job $SLURM_JOB_ID -o > $1.scontrol
touch $1.done
"""


def make(c: Cluster) -> dict[str, str]:
    """Get allocations in every way, on a cluster that has just come up, and return the files' names and texts."""
    (c.home / "record").write_text(RECORD)
    record = ["sh", "record"]
    again = c.slurm.sbatch(f'[ "$SLURM_RESTART_COUNT" ] && sh record {REQUEUED}; sleep 60', requeue=True)
    c.slurm.wait_for(again, "RUNNING")
    c.slurm.scontrol("requeuehold", str(again))  # so that it takes no node from the others
    batch = c.slurm.sbatch(f"sh record {BATCH}", nodes=3, exclusive=True, ntasks_per_node=2, time=5, job_name=NAME)
    c.slurm.wait_for(batch)
    c.slurm.wait_idle()
    c.login.run(["salloc", "-N2", "-n3", "--time=7", *record, SALLOC])
    c.slurm.wait_idle()
    c.login.run(["salloc", "-N2", "-n3", "--time=7", "srun", "-N1", "-n1", *record, STEP])
    c.slurm.wait_idle()
    ours, theirs = pty.openpty()
    try:
        argv = ["srun", "-N3", "-n5", "--pty", *record, PTY]
        with c.login.start(argv, stdin=theirs, stdout=theirs, stderr=theirs) as started:
            if started.wait(20):
                raise RuntimeError(f"srun --pty: {os.read(ours, 10000)!r}")
    finally:
        os.close(ours)
        os.close(theirs)
    c.slurm.scontrol("release", str(again))
    again_file = c.home / f"{REQUEUED}.done"
    block_until(again_file.exists, 40, "the job starts again", state=c.slurm.squeue)
    c.slurm.scancel(again)
    files = [*c.home.glob("*.environment"), *c.home.glob("*.scontrol")]
    return {path.name: plain(path.read_text(), str(c.directory)) for path in sorted(files)}


def plain(text: str, directory: str) -> str:
    """Replace what differs from run to run: places, times, ports, numbers of processes, how nice the tests run."""
    text = text.replace(directory, "/cluster")
    text = re.sub(r"^(SLURM_PRIO_PROCESS)=-?\d+$", r"\1=0", text, flags=re.MULTILINE)
    text = re.sub(r"^(SLURM_TASK_PID|SLURM_\w+_PORT)=\d+$", r"\1=12345", text, flags=re.MULTILINE)
    text = re.sub(r"( AllocNode:Sid=\w+):\d+", r"\1:12345", text)
    text = re.sub(r"( Priority)=\d+", r"\1=1", text)
    text = re.sub(r"( RunTime)=\S+", r"\1=00:00:00", text)
    if found := re.search(r" StartTime=(\d+) EndTime=(\d+) Deadline=\S+ ", text):
        length = int(found[2]) - int(found[1])
        text = text.replace(found[0], found[0].replace(found[1], str(START)).replace(found[2], str(START + length)))
    text = re.sub(r"( AccrueTime)=\S+", rf"\1={START}", text)
    return re.sub(r"( (?:Submit|Eligible|Start)Time| LastSchedEval)=\d+", rf"\1={START}", text)


def version(c: Cluster) -> str:
    """Return the version of Slurm, without its last part, in which nothing that we read changes."""
    said = c.login.run(["sinfo", "--version"]).stdout
    found = re.search(r"(\d+\.\d+)\.", said)
    if found is None:
        raise RuntimeError(f"what version is {said!r}?")
    return found[1]


def main() -> int:
    """Write the files for the Slurm that is installed."""
    packages.install()
    if reason := packages.obstacle():
        print(reason, file=sys.stderr)
        return 1
    with cluster(cpus=CPUS) as c:
        directory = GOLDEN / version(c)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in make(c).items():
            (directory / name).write_text(text)
            print(directory / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
