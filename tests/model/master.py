"""The master: killed between any two writes, or with its machine, with a Slurm that is late, lies, or says nothing.

The master, its drivers, the client of Slurm and all that writes the run directory are the real ones, on a loop with
virtual time. `disk` knows what a loss of power would leave; `slurmctld` answers the commands and runs the jobs. After
a crash the next master of the run begins with what is there, and the same program calls the same jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import hyperflow as hf
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.flow import Flow
from hyperflow.master import rundir
from hyperflow.master.lifecycle import AT_REST, Epoch, State
from hyperflow.master.master import Master
from hyperflow.master.rundir import RunDirectory
from hyperflow.master.shared import Timeouts
from hyperflow.options import Resubmit
from hyperflow.slurm.client import PollIntervals
from hyperflow.testing.inline import MemoryDatabase
from tests.model.disk import Disk, watched
from tests.model.simulator import Broken, Model, pick, promise
from tests.model.slurmctld import FAULTS, Batch, Slurmctld, SlurmJob
from tests.model.virtual_time import VirtualLoop, clock_of

NEWEST = "the result of an older start is never taken"
ACKNOWLEDGED = "what the program has seen is safe on the disk, and stays the same"
SAME_END = "after a crash at any step the restart comes to the same end"
KNOWN = "no Slurm job is left that no record knows"

JOBS = 3
TIMES = (0.01, 0.5, 2.0, 15.0, 45.0, 130.0, 400.0)
"""Seconds that may pass at a time."""

PACE = PollIntervals(fast=1.0, slow=30.0, first_retry=3.0, last_retry=60.0)
TIMEOUTS = Timeouts(look=5.0, slurm=PACE)


@hf.job
async def work(x: int) -> int:
    """Stand for a job; Slurm's nodes are pretended, so it is never run."""
    return x


POLICIES: tuple[object, ...] = ("hold", "raise", Resubmit(1), Resubmit(2, then="raise"))


class MasterModel(Model):
    """A run directory, the masters that work on it one after the other, and Slurm."""

    name = "master"
    happenings: ClassVar[Mapping[str, int]] = {
        "call": 6, "pass_time": 16, "begin": 10, "end": 6, "result": 6, "beat": 2, "requeue": 2, "fault": 8, "crash": 5,
        "resume": 6, "retry": 4, "cancel": 2, "give_up": 1, "leave": 1, "abandon": 1, "forget": 2, "deny": 2,
    }  # fmt: skip
    always = frozenset({"call", "pass_time", "begin", "end", "result", "resume"})
    opening = ("setting", "resume", "call")
    steps = (5, 30)

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        fast = "/dev/shm"
        self.base = Path(tempfile.mkdtemp(prefix="model-", dir=fast if os.access(fast, os.W_OK) else None))
        self.program = hf.ProgramInfo.new(self.base)
        self.home = self.program.log_dir.parent
        self.disk = Disk.current = Disk(self.home)
        self.slurm = Slurmctld(self.disk)
        self.jobs: list[Flow[Any]] = [work(number) for number in range(JOBS)]
        self.policies: list[object] = ["hold"] * JOBS
        self.max_jobs: int | None = None
        self.wanted: set[int] = set()
        self.seen: dict[int, object] = {}  # what the program has seen
        self.calls: dict[int, asyncio.Task[None]] = {}
        self.master: Master | None = None
        self.running: asyncio.Task[None] | None = None
        self.leaving: asyncio.Event | None = None
        self.found_done: set[int] = set()
        self.power, self.kept = False, 0
        self.broken: Broken | None = None

    @classmethod
    @contextlib.contextmanager
    def surroundings(cls) -> Iterator[None]:
        logging.disable(logging.CRITICAL)
        modules = ("hyperflow.master.driver", "hyperflow.slurm.client")
        try:
            with watched(), clock_of(*modules):
                yield
        finally:
            logging.disable(logging.NOTSET)

    def close(self) -> None:
        self.disk.dead, self.disk.kill_after = True, None
        self.loop.end()
        Disk.current = None
        shutil.rmtree(self.base, ignore_errors=True)

    # ---- the program --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """A process of the program, from its start to its end."""
        run = RunDirectory.open(self.program, False)
        try:
            async with (
                Batch(self.slurm, PACE) as batch,
                Master(run, batch, MemoryDatabase(), timeouts=TIMEOUTS, max_jobs=self.max_jobs) as master,
            ):
                self.master, self.leaving = master, asyncio.Event()
                for number in sorted(self.wanted):
                    self.start_call(number)
                await self.leaving.wait()
                for call in self.calls.values():
                    call.cancel()
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0)), *self.calls.values()])
                if not master.leaving and self.wanted != self.seen.keys():
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        finally:
            self.master, self.leaving = None, None
            run.close()

    def start_call(self, number: int) -> None:
        if self.master is not None and number not in self.calls:
            self.calls[number] = self.loop.create_task(self.call(self.master, number))

    async def call(self, master: Master, number: int) -> None:
        job = self.jobs[number]
        try:
            value = await master.call(job, job, None, self.policies[number])
        except HyperflowError as error:
            value = str(error.__class__.__name__)
            self.wanted.discard(number)  # the program has got its error, and goes on
        except asyncio.CancelledError:
            if number in self.seen or self.disk.dead:
                return
            raise
        try:
            self.acknowledge(number, value)
        except Broken as broken:
            self.broken = self.broken or broken

    def acknowledge(self, number: int, value: object) -> None:
        """The program has what it waited for."""
        if isinstance(value, tuple):
            record = self.safe_record(value[0])
            assert record is not None
            done = record["state"] == State.DONE or value[0] in self.found_done
            promise(ACKNOWLEDGED, done, value, "is seen, and on the disk is", record["state"])
            newest = record["attempts"][-1]
            epoch = Epoch(newest["number"], newest["restarts"])
            epoch = self.slurm.counts.get((value[0], epoch), epoch)
            same = (epoch.attempt, epoch.restarts) == value[1:3] or value[0] in self.found_done
            promise(NEWEST, same, value, "is seen, and", newest)
            before = self.seen.get(number)
            promise(ACKNOWLEDGED, not isinstance(before, tuple) or before == value, "first", before, "then", value)
        self.seen[number] = value

    def safe_record(self, number: int) -> dict[str, Any] | None:
        """Return what job.json would say after a loss of power."""
        text = self.disk.safe("jobs", str(number), "job.json")
        return json.loads(text) if text else None

    # ---- what can happen ----------------------------------------------------------------------------------------

    def on_setting(self, policies: int, slots: int, accounting: int) -> None:
        self.policies = [POLICIES[(policies >> 2 * at) % 4] for at in range(JOBS)]
        self.max_jobs = 1 if slots % 4 == 0 else None
        self.slurm.accounting = accounting % 2 == 1

    def on_resume(self, *_: int) -> None:
        """The program is started, again maybe."""
        if self.running is None:
            # One that was killed between giving job.json its name and syncing it leaves a record that is there, and
            # would not survive a loss of power. Nothing is lost with it: the result, which is safe, is found again.
            there = rundir.job_directories(self.home) if (self.home / "jobs").exists() else []
            said = {job.number: job.read_record().state for job in there}
            self.found_done = {number for number, state in said.items() if state is State.DONE}
            if said:
                self.slurm.looks_until = self.loop.now + 60.0
            self.running = self.loop.do(self.run())
            self.settle()

    def on_call(self, which: int, *_: int) -> None:
        """The program comes to a call."""
        if which % JOBS not in self.calls:
            self.wanted.add(which % JOBS)
            self.start_call(which % JOBS)
        self.settle()

    def on_pass_time(self, which: int, *_: int) -> None:
        self.settle(TIMES[which % len(TIMES)])

    def settle(self, seconds: float = 0.0) -> None:
        """Let the process do what it can, while time passes; if it dies, it is buried."""
        self.loop.pass_time(seconds)
        self.slurm.arrive(self.loop.now)
        if self.disk.dead:
            self.bury()
        elif self.running is not None and self.running.done():
            error = None if self.running.cancelled() else self.running.exception()
            self.running = None
            self.calls.clear()
            if error is not None:
                raise error
        if broken := self.broken or self.slurm.broken:
            raise broken

    def bury(self) -> None:
        """The process is gone, or the whole machine."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.pass_time(1000.0)
        left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        assert not left, left
        self.running = self.master = None
        self.calls.clear()
        self.disk.dead, self.disk.kill_after = False, None
        if self.power:
            self.disk.lose_power(self.kept)
        self.power = False
        (self.home / "master.lock").unlink(missing_ok=True)  # of a process that is gone, which cannot be seen here

    def on_crash(self, steps: int, power: int, kept: int) -> None:
        """The process is killed a few steps later, or its machine loses power."""
        if self.running is not None:
            self.on_crash_at(steps % 64, power, kept)

    def on_crash_at(self, step: int, power: int, kept: int) -> None:
        self.disk.kill_after = step
        self.power, self.kept = power % 2 == 1, kept % 4

    def slurm_job(self, which: int, *states: str) -> SlurmJob | None:
        return pick([job for job in self.slurm.jobs.values() if job.state in states], which)

    def on_begin(self, which: int, *_: int) -> None:
        if (job := self.slurm_job(which, "PENDING")) is not None:
            self.slurm.begin(job)

    def on_result(self, which: int, *_: int) -> None:
        start = pick([start for start in self.slurm.starts if start.works and start.alive], which)
        if start is not None:
            self.slurm.result(start)

    def on_end(self, which: int, how: int, result: int) -> None:
        """A job ends for Slurm, mostly with its result."""
        job = self.slurm_job(which, "RUNNING")
        if job is not None and job.start is not None:
            if result % 4:
                self.slurm.result(job.start)
            state = ("COMPLETED", "COMPLETED", "COMPLETED", "FAILED", "NODE_FAIL", "TIMEOUT", "CANCELLED")[how % 7]
            self.slurm.end(job, state, int(state == "FAILED"))

    def on_beat(self, which: int, *_: int) -> None:
        """A start that is at work says so in status.json."""
        start = pick([start for start in self.slurm.starts if start.works and start.alive], which)
        if start is not None:
            about = {"attempt": start.job.order.attempt, "restarts": start.restarts, "batch_id": start.job.number}
            with self.disk.by_another_machine():
                text = json.dumps({**about, "time": self.loop.now}).encode()
                rundir.files.write_whole(self.slurm.directory(start.job).status, text, durable=False)

    def on_requeue(self, which: int, *_: int) -> None:
        if (job := self.slurm_job(which, "RUNNING")) is not None:
            self.slurm.requeue(job)

    def on_forget(self, which: int, *_: int) -> None:
        """Slurm forgets a job that has ended."""
        job = pick([job for job in self.slurm.jobs.values() if not job.living], which)
        if job is not None:
            job.forgotten = True

    def on_deny(self, which: int, seconds: int, *_: int) -> None:
        """Slurm says for a while that it does not know a job which is there."""
        if (job := self.slurm_job(which, "PENDING", "RUNNING")) is not None:
            self.slurm.deny(job, self.loop.now + (60.0, 200.0, 1000.0)[seconds % 3])

    def on_fault(self, command: int, kind: int, count: int) -> None:
        """The next answers are wrong."""
        name = tuple(FAULTS)[command % len(FAULTS)]
        self.slurm.faults[name].extend([FAULTS[name][kind % len(FAULTS[name])]] * (1 + count % 4))

    def on_retry(self, which: int, *_: int) -> None:
        self.ask("retry", which)

    def on_cancel(self, which: int, *_: int) -> None:
        self.ask("cancel", which)

    def on_give_up(self, which: int, *_: int) -> None:
        self.ask("give_up", which)

    def ask(self, what: str, which: int) -> None:
        """Somebody types a command, maybe twice, maybe about a job that is not in that state."""
        if self.master is not None and (views := self.master.jobs()):
            number = views[which % len(views)].number

            async def asked(master: Master) -> None:
                with contextlib.suppress(ConfigurationError):
                    for _ in range(1 + which // 8 % 2):
                        await getattr(master, what)([number])

            self.loop.do(asked(self.master))
            self.settle()

    def on_abandon(self, which: int, *_: int) -> None:
        """The program does not wait for a job any longer."""
        number = pick([number for number, call in self.calls.items() if not call.done()], which)
        if number is not None:
            self.wanted.discard(number)
            self.calls[number].cancel()
            self.settle()

    def on_leave(self, how: int, *_: int) -> None:
        """The program is left before its end; its jobs stay with Slurm, or are ended."""
        master, leaving = self.master, self.leaving
        if master is None or leaving is None:
            return

        async def leave() -> None:
            if how % 3:
                await master.leave(cancel_jobs=how % 3 == 1)
            leaving.set()

        self.loop.do(leave())
        self.settle()

    # ---- and at the end -----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Nothing goes wrong any more: the program comes to its end, whatever was before."""
        self.disk.kill_after = None
        self.slurm.faults.clear()
        for _, job in self.slurm.denials:
            job.denied = False
        for _ in range(40):
            self.on_resume()
            for number in sorted(self.wanted):
                self.start_call(number)
            self.settle(100.0)
            for job in list(self.slurm.jobs.values()):
                if job.start is not None and not job.start.works:
                    self.slurm.end(job, "COMPLETED")  # it has left its result
                if (self.safe_record(job.order.directory.number) or {}).get("state") == State.DONE:
                    self.slurm.begin(job)  # it finds that nothing is left to do
                if not self.is_under_way(job):
                    continue  # to end it is the master's business
                if job.state == "PENDING":
                    self.slurm.begin(job)
                if job.state == "RUNNING" and job.start is not None:
                    self.slurm.result(job.start)
                    self.slurm.end(job, "COMPLETED")
            if self.master is not None and (held := self.master.numbers(State.HELD)):
                self.loop.do(self.master.retry(held))
            if all(number in self.seen for number in self.wanted) and not self.slurm.arrivals:
                break
        missing = self.wanted - self.seen.keys()
        states = self.master and [(one.number, str(one.state)) for one in self.master.jobs()]
        promise(SAME_END, not missing, "jobs", missing, "never ended:", states)
        self.settle(200.0)
        self.is_known()

    def is_known(self) -> None:
        """What Slurm still has belongs to a record that says so."""
        for job in self.slurm.jobs.values():
            known = not job.living or self.is_under_way(job) or self.slurm.misled[job.order.token]
            record = self.safe_record(job.order.directory.number) or {}
            promise(KNOWN, known, job.order.token, "is with Slurm, and the job is", record.get("state"))

    def is_under_way(self, job: SlurmJob) -> bool:
        """Whether the record of a job says that this submission is with Slurm."""
        record = self.safe_record(job.order.directory.number)
        if record is None or record["state"] in AT_REST:
            return False
        return bool(record["attempts"]) and record["attempts"][-1]["token"] == job.order.token
