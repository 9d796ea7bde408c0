"""The program that is attacked: `python -m tests.chaos.program PLACE`. It does what PLACE/workload.json says.

Each key is a memoized evaluation; after its await the result is acknowledged in the ledger. Started again in the same
place, it goes on with what its database has.
"""

import asyncio
import functools
import logging
import os
import sys
from array import array
from pathlib import Path
from typing import NoReturn
from unittest import mock

import uvloop

import hyperflow as hf
from hyperflow.master.shared import Timeouts
from hyperflow.slurm.client import PollIntervals, SlurmClient
from tests.chaos.ledger import Ledger, work
from tests.chaos.workload import Workload
from tests.helpers import wait_until

place = Path(os.environ.get("CHAOS_PLACE") or sys.argv[1])
workload = Workload.read(place)
ledger = Ledger(place)
payload = array("q", range(workload.payload // 8))

HURRIED = Timeouts(
    look=0.2, grace=6.0, hopeless=30.0, rows=0.5, cancelled=20.0,
    slurm=PollIntervals(fast=0.5, slow=2.0, first_retry=0.5, last_retry=2.0, give_up_after=120.0, timeout=4.0),
)  # fmt: skip
"""A master that notices in seconds what by default it notices in a minute."""


@hf.memoize("values", version=1, on_change="ignore")
def value(key: int) -> hf.Job[int]:
    """Compute one key, once for all runs of the program."""
    how, job = workload, os.environ.get("SLURM_JOB_ID", "")
    seconds = 0.0 if how.slow and key % how.slow else how.seconds
    lock = key % how.locks if how.locks else None
    return hf.remote_eval(work, str(place), key, seconds, how.cpus, payload, how.leaves, how.burns, lock, job)


@hf.job
async def one(key: int) -> None:
    """Await a result, and acknowledge it; or note the error's name."""
    try:
        if workload.cancels and key % workload.cancels == 0 and os.environ.get("CHAOS_TURN") == "0":
            await cancel(key)
        else:
            ledger.note("ack", key, str(await value(key)))
    except Exception as error:
        ledger.note("failed", key, f"{type(error).__name__}: {error}"[:2000])
        raise


async def cancel(key: int) -> None:
    """Start a key, and cancel it when it is at work."""
    task = value(key).start()

    def at_work() -> bool:
        return task.done() or any(each.what == "start" and each.key == key for each in ledger.entries())

    await wait_until(at_work, 60, f"key {key} starts")
    task.cancel()
    try:
        ledger.note("ack", key, str(await task))
    except asyncio.CancelledError:
        ledger.note("cancelled", key)


@hf.job
async def share(keys: list[int]) -> int:
    """Compute some keys. Return how many failed."""
    with hf.using(**workload.options):
        ended = await hf.map_concurrently(one, keys, workload.limit or None, errors="return")
    return sum(isinstance(place, hf.Failed) for place in ended)


@hf.job
async def part(keys: list[int]) -> str:
    """Do as share(), as a job of a Cluster program: return a name of this start of the job, or raise an error."""
    start = os.urandom(8).hex()
    ledger.note("began", keys[0], start)
    if failed := await share(keys):
        raise RuntimeError(f"{failed} of {len(keys)} evaluations have failed")
    return start


@hf.cluster
async def receive(keys: list[int]) -> None:
    """Have a share computed by a job, and note which start of it has done that."""
    ledger.note("received", keys[0], await hf.remote_eval_job(part(keys)))


@hf.cluster
async def jobs() -> None:
    """Deal the keys out to jobs."""
    shares = [list(range(number, workload.keys, workload.jobs)) for number in range(workload.jobs)]
    await hf.map_concurrently(receive, shares)


class Telling(logging.Handler):
    """Notes in the ledger what hyperflow tells of damage and the like, so that it is known what came before it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note a message."""
        ledger.note("told", told=record.getMessage()[:2000])


def main() -> None:
    """Run, and say how it ended."""
    logging.basicConfig(format="%(message)s", handlers=[logging.StreamHandler(), Telling(logging.WARNING)])
    logging.captureWarnings(True)
    try:
        end()
    except Exception as error:
        ledger.note("told", told=f"{type(error).__name__}: {error}"[:2000])
        raise


def end() -> None:
    """Run to the end, which the exit code tells."""
    if sys.stdin is not None:  # else descriptors 0 to 2 are free: hyperflow takes them, and a loop must not
        uvloop.new_event_loop().close()  # libuv keeps a pipe for each process, for good
    if workload.world == "cluster":
        cluster()
    if sys.stdin is not None:
        ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))
    disk = place / "disk"
    program = hf.ProgramInfo.new(disk / "runs", database=workload.database or disk / "results.sqlite")
    job = share(list(range(workload.keys)))
    if workload.world == "local":
        failed = hf.run_job_local(job, cpus=workload.cpus, program=program)
    else:
        failed = hf.run_job_slurm(job, program=program, **workload.settings)
    ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))
    ledger.note("ended", told=f"{failed} failed")
    sys.exit(1 if failed else 0)


def cluster() -> NoReturn:
    """Run as a Cluster program, or resume it, in a hurry."""
    resumed = os.environ.get("CHAOS_RESUME")
    where = ["--resume", resumed] if resumed else ["--base-dir", str(place / "disk" / "runs")]
    asked = ["--ntasks-per-node", str(workload.cpus), "--nodes", str(workload.nodes)]
    ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))
    try:
        with (
            mock.patch("hyperflow._cluster.Timeouts", return_value=HURRIED),
            mock.patch("hyperflow.console.line.SlurmClient", functools.partial(SlurmClient, HURRIED.slurm)),
        ):
            hf.main(jobs, [*where, *asked, *workload.words])
    finally:
        ledger.note("descriptors", told=str(len(os.listdir("/proc/self/fd"))))


if __name__ == "__main__":
    main()
