"""The program that is attacked: `python -m tests.chaos.program PLACE`. It does what PLACE/workload.json says.

Each key is a memoized evaluation; after its await the result is acknowledged in the ledger. Started again in the same
place, it goes on with what its database has.
"""

import os
import sys
from pathlib import Path

import uvloop

import hyperflow as hf
from tests.chaos.ledger import Ledger, work
from tests.chaos.workload import Workload

place = Path(os.environ.get("CHAOS_PLACE") or sys.argv[1])
workload = Workload.read(place)
ledger = Ledger(place)


@hf.memoize("values", version=1, on_change="ignore")
def value(key: int) -> hf.Job[int]:
    """Compute one key, once for all runs of the program."""
    return hf.remote_eval(work, str(place), key, workload.seconds, workload.cpus)


@hf.job
async def one(key: int) -> None:
    """Await a result, and acknowledge it."""
    ledger.note("ack", key, str(await value(key)))


@hf.job
async def share(keys: list[int]) -> int:
    """Compute some keys; those that fail are noted with the error's name. Return how many failed."""
    with hf.using(**workload.options):
        ended = await hf.map_concurrently(one, keys, errors="return")
    failed = {key: place for key, place in zip(keys, ended, strict=True) if isinstance(place, hf.Failed)}
    for key, failure in failed.items():
        ledger.note("failed", key, f"{type(failure.error).__name__}: {failure.error}"[:2000])
    return len(failed)


@hf.cluster
async def jobs() -> int:
    """Deal the keys out to jobs."""
    shares = [list(range(number, workload.keys, workload.jobs)) for number in range(workload.jobs)]
    return sum(await hf.concurrently(*(hf.remote_eval_job(share(keys)) for keys in shares)))


def main() -> None:
    """Run, and say how it ended."""
    if workload.world == "cluster":
        hf.main(jobs)
    uvloop.new_event_loop().close()  # libuv keeps a pipe for each process, for good
    ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))
    program = hf.ProgramInfo.new(place / "runs", database=workload.database or place / "results.sqlite")
    run = hf.run_job_local if workload.world == "local" else hf.run_job_slurm
    some = {"cpus": workload.cpus} if workload.world == "local" else workload.settings
    failed = run(share(list(range(workload.keys))), program=program, **some)
    ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))
    ledger.note("ended", told=f"{failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
