"""A Slurm that outlives the masters of a test: it runs jobs at once, or when it is told to, in this process."""

import asyncio
import contextvars
import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from hyperflow import checked_files
from hyperflow.master import calls
from hyperflow.master.batch import QUEUED, Order
from hyperflow.master.lifecycle import Epoch
from hyperflow.master.rundir import JobDirectory
from hyperflow.shipping import pickler
from hyperflow.slurm.client import Watch
from hyperflow.slurm.queue import BatchState


class Killed(BaseException):
    """The master was killed here."""


class Fate:
    """Kills a master at one of the steps after which something is different outside of it."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.steps: list[str] = []
        self.dead = asyncio.Event()

    def step(self, what: str) -> None:
        """Take note of a step; or die before it is done."""
        if self.dead.is_set():
            raise Killed
        if len(self.steps) == self.at:
            self.dead.set()
            raise Killed
        self.steps.append(what)

    def patch(self, monkeypatch: Any) -> None:
        """Make a step of every write of a file and every new name of a directory."""
        write, rename = _WRITE, _RENAME

        def write_file(path: Path, data: bytes) -> None:
            self.step(f"before writing {path.name}")
            write(path, data)
            self.step(f"after writing {path.name}")

        def renamed(old: Any, new: Any) -> None:
            self.step(f"before naming {Path(new).name}")
            rename(old, new)
            self.step(f"after naming {Path(new).name}")

        monkeypatch.setattr(checked_files, "write_file", write_file)
        monkeypatch.setattr("hyperflow.master.rundir.os.rename", renamed)


_WRITE, _RENAME = checked_files.write_file, os.rename


@attrs.define
class FakeJob:
    """A submitted job."""

    number: int
    order: Order
    watch: Watch
    started: int = 0
    cancelled: bool = False


class FakeSlurm:
    """Jobs by number; what a job returns is what its function returns when it is called here."""

    def __init__(self, run_at_once: bool = True, first: int = 1) -> None:
        self.jobs: dict[int, FakeJob] = {}
        self.run_at_once = run_at_once
        self._first = first

    def add(self, order: Order) -> int:
        """Take a job."""
        number = self._first + len(self.jobs)
        self.jobs[number] = FakeJob(number, order, Watch(number, QUEUED))
        if self.run_at_once:
            self.run(number)
        return number

    @property
    def tokens(self) -> list[str]:
        """The tokens of all submissions."""
        return [job.order.token for job in self.jobs.values()]

    def run(self, number: int, restarts: int = 0, end: str = "COMPLETED") -> None:
        """Run a job to its end, as the runner would: it claims its attempt, and leaves its result."""
        job = self.jobs[number]
        directory, attempt = job.order.directory, job.order.attempt
        job.started += 1
        _WRITE(directory.claim(attempt), b'{"batch_id": %d, "restarts": %d}' % (number, restarts))
        write_result(directory, Epoch(attempt, restarts), number)
        job.watch.set(BatchState("ended", end, restarts=restarts, exit_code=0))

    def tell(self, number: int, state: BatchState) -> None:
        """Say how a job stands."""
        self.jobs[number].watch.set(state)


def write_result(directory: JobDirectory, epoch: Epoch, batch_id: int = 1) -> None:
    """Write the result of a start, by calling its function right here."""
    job = pickler.loads(directory.read_call())
    try:
        contextvars.Context().run(lambda: job.used().step.coroutine().send(None))  # elsewhere, there is no Cluster
    except StopIteration as end:
        outcome, payload = "value", calls.pack_value(end.value, "the job")
    except Exception as error:  # noqa: BLE001 (whatever the job raises)
        outcome, payload = "error", calls.pack_error(error, "raised by the job")
    else:
        raise AssertionError("the job waits for something")
    header = {"run": directory.home.name, "job": directory.number, "attempt": epoch.attempt, "restarts": epoch.restarts}
    header |= {"outcome": outcome, "batch_id": batch_id}
    _WRITE(directory.result(epoch), checked_files.with_checksum("result", payload, header))


class FakeBatch:
    """One master's way to a FakeSlurm."""

    local = False

    def __init__(self, slurm: FakeSlurm, fate: Fate | None = None) -> None:
        self.slurm = slurm
        self.fate = fate or Fate()
        self.calls: Counter[str] = Counter()

    async def submit_order(self, order: Order) -> int:
        """Submit: the answer may be lost."""
        self.fate.step(f"before sbatch {order.token}")
        self.calls["sbatch"] += 1
        number = self.slurm.add(order)
        self.fate.step(f"after sbatch {order.token}")
        return number

    async def find(self, tokens: Collection[str]) -> Mapping[str, list[int]]:
        """Return what was submitted under each token."""
        self.fate.step("find")
        by_token: dict[str, list[int]] = {token: [] for token in tokens}
        for job in self.slurm.jobs.values():
            if job.order.token in by_token:
                by_token[job.order.token].append(job.number)
        return by_token

    def watch(self, batch_id: int) -> Watch:
        """Return what is known of a job."""
        if batch_id in self.slurm.jobs:
            return self.slurm.jobs[batch_id].watch
        return Watch(batch_id, BatchState("gone"))

    async def cancel(self, batch_ids: Collection[int]) -> None:
        """End jobs."""
        for number in batch_ids:
            self.fate.step(f"scancel {number}")
            job = self.slurm.jobs.get(number)
            if job is not None and not job.watch.state.final:
                job.cancelled = True
                job.watch.set(BatchState("ended", "CANCELLED"))
