"""A slurmctld that is pretended: it answers the commands of the real client, or lies, or is late, or says nothing.

An answer may be lost although the command was carried out; a command may arrive after its caller has given up; squeue
may print an empty list with exit code 0, and scontrol may not know a job that is there. Ended jobs are forgotten. What
runs a job is as in `master/runner.py`: it claims its attempt, and leaves a result; where Slurm starts a job again, the
earlier start may go on.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from collections import Counter, defaultdict, deque
from typing import Any

import attrs

from hyperflow.errors import SlurmError
from hyperflow.master import runner
from hyperflow.master.batch import Order, SlurmBatch
from hyperflow.master.lifecycle import AT_REST, Epoch, State
from hyperflow.master.rundir import VALUE, JobDirectory
from hyperflow.slurm.client import PollIntervals
from hyperflow.slurm.commands import Answer, SlurmAway
from hyperflow.slurm.queue import SEPARATOR
from tests.model.disk import Disk
from tests.model.simulator import Broken, promise

ONE_TOKEN = "a Slurm job is never submitted twice under one token"
TOKEN_FIRST = "the token of a submission is safe on the disk before sbatch is called"
SIDE_BY_SIDE = "two attempts of a job never run side by side"
ONE_WORKS = "of two submissions under one token only one does the work"
NOT_WANTED = "what is done, held or cancelled is not submitted"

FAULTS = {
    "sbatch": ("away", "lost", "late", "late", "empty", "slow"),
    "squeue": ("away", "empty", "empty", "error", "slow"),
    "scontrol": ("away", "invalid", "empty"),
    "scancel": ("away", "lost", "slow"),
    "sacct": ("away", "none", "empty"),
}


@attrs.define(eq=False)
class Start:
    """One start of a job: a process on a node, which Slurm may have given up."""

    job: SlurmJob
    restarts: int
    works: bool = False
    alive: bool = True


@attrs.define(eq=False)
class SlurmJob:
    """A job as slurmctld has it."""

    number: int
    order: Order
    state: str = "PENDING"
    restarts: int = 0
    start: Start | None = None
    code: int = 0
    forgotten: bool = False
    denied: bool = False
    """Whether Slurm does not know of it just now, although it is there."""

    @property
    def living(self) -> bool:
        return self.state in ("PENDING", "RUNNING")


class Slurmctld:
    """Jobs, and what is going to be wrong with the next answers."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.jobs: dict[int, SlurmJob] = {}
        self.starts: list[Start] = []
        self.faults: defaultdict[str, deque[str]] = defaultdict(deque)
        self.orders: dict[str, Order] = {}
        self.denials: list[tuple[float, SlurmJob]] = []
        self.arrivals: list[tuple[float, str]] = []  # of submissions whose sender has given up
        self.late: set[str] = set()  # tokens
        self.looks_until = 0.0
        """Until then, a master that has just begun looks for what an earlier one had given up."""
        self.overlooked: set[str] = set()
        self.misled: Counter[str] = Counter()
        """How often a token was said not to be there, or its submission came in late."""
        self.worked: dict[str, int] = {}  # which submission has taken the attempt of a token
        self.counts: dict[tuple[int, Epoch], Epoch] = {}  # of which earlier start a start has handed on the result
        self.broken: Broken | None = None
        self.accounting = False

    # ---- commands -----------------------------------------------------------------------------------------------

    async def run(self, *argv: str, text: str | None = None) -> Answer:
        """Answer a command."""
        name = argv[0]
        self.disk.step(name)
        waiting = self.faults[name]
        fault = waiting.popleft() if waiting else ""
        await asyncio.sleep(40.0 if fault == "slow" else 0.01)
        if fault == "away":
            raise SlurmAway(f"{name}: Unable to contact slurm controller")
        if fault == "error":
            return Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
        if fault == "late":
            token = self.token_in(text or "")
            self.misled[token] += 1
            self.late.add(token)
            self.arrivals.append((asyncio.get_running_loop().time() + 50.0, token))
            raise SlurmAway(f"{name} gave no answer")
        self.disk.step(f"{name} is carried out")
        try:
            answer: Answer = getattr(self, name)(argv, text or "", fault)
        except Broken as broken:  # the master would take it for an error of its own
            self.broken = self.broken or broken
            raise
        self.disk.step(f"{name} has answered")
        await asyncio.sleep(0.01)
        if fault == "lost":
            raise SlurmAway(f"{name} gave no answer")
        return Answer(0, "", "") if fault == "empty" else answer

    def token_in(self, text: str) -> str:
        return next(token for token in sorted(self.orders, key=len, reverse=True) if token in text)

    def sbatch(self, _: tuple[str, ...], text: str, __: str) -> Answer:
        return Answer(0, f"{self.submit(self.token_in(text))}\n", "")

    def submit(self, token: str, late: bool = False) -> int:
        order = self.orders[token]
        job = order.directory.number
        same = [one for one in self.jobs.values() if one.order.token == token]
        promise(ONE_TOKEN, len(same) <= self.misled[token], token, "is with Slurm as", [one.number for one in same])
        others = [one for one in self.jobs.values() if one.order.directory.number == job and one.living]
        # Of a submission that comes in after its sender has given up nobody can know; nor of one that is missing in the
        # list by which a master that begins looks for the tokens of what was given up. (It does not trust old ids.)
        older = [one.order.token for one in others if one.order.token not in {token, *self.late, *self.overlooked}]
        promise(SIDE_BY_SIDE, late or not older, token, "is submitted while Slurm has", older)
        if not late:
            self.is_noted(job, token)
        number = len(self.jobs) + 1
        self.jobs[number] = SlurmJob(number, order)
        return number

    def is_noted(self, job: int, token: str) -> None:
        """What is submitted is safe on the disk as being submitted, under this token."""
        text = self.disk.safe("jobs", str(job), "job.json")
        record = json.loads(text) if text else {"state": "nothing", "attempts": []}
        promise(NOT_WANTED, record["state"] not in AT_REST, token, "is submitted, and the job is", record["state"])
        tokens = [attempt["token"] for attempt in record["attempts"]]
        noted = record["state"] == State.SUBMITTING and tokens[-1] == token
        promise(TOKEN_FIRST, noted, token, "is submitted, and on the disk is", record["state"], tokens)

    def squeue(self, _: tuple[str, ...], __: str, fault: str) -> Answer:
        return Answer(0, "".join(map(self.line, self.known(fault == "empty"))), "")

    def known(self, none: bool = False) -> list[SlurmJob]:
        """Return the jobs that a list has now, and note which tokens are missing in it."""
        missing = [job for job in self.jobs.values() if none or job.denied or job.forgotten]
        self.misled.update({job.order.token for job in missing})
        if asyncio.get_running_loop().time() < self.looks_until:
            self.overlooked.update(job.order.token for job in missing if not job.forgotten)
        return [job for job in self.jobs.values() if not (none or job.denied or job.forgotten)]

    def line(self, job: SlurmJob) -> str:
        node = "node1" if job.state != "PENDING" else ""
        fields = (job.number, job.state, "None", node, job.restarts, job.code << 8, job.order.token, "job")
        return SEPARATOR.join(map(str, fields)) + SEPARATOR + "\n"

    def scontrol(self, argv: tuple[str, ...], _: str, fault: str) -> Answer:
        job = self.jobs.get(int(argv[3]))
        if job is None or job.forgotten or job.denied or fault == "invalid":
            return Answer(1, "", "slurm_load_jobs error: Invalid job id specified")
        node = "node1" if job.state != "PENDING" else "(null)"
        return Answer(
            0,
            f"JobId={job.number} JobName=job JobState={job.state} Reason=None Dependency=(null) Requeue=1 "
            f"Restarts={job.restarts} BatchFlag=1 ExitCode={job.code}:0 RunTime=00:00:00 NodeList={node} NumNodes=1\n",
            "",
        )

    def scancel(self, argv: tuple[str, ...], _: str, __: str) -> Answer:
        for number in map(int, argv[1:]):
            if number in self.jobs:
                self.end(self.jobs[number], "CANCELLED")
        return Answer(0, "", "")

    def sacct(self, _: tuple[str, ...], __: str, fault: str) -> Answer:
        if not self.accounting:
            raise SlurmError("there is no sacct in PATH")
        rows = [] if fault == "none" else [job for job in self.jobs.values() if not (job.living or job.denied)]
        lines = (SEPARATOR.join((str(j.number), j.state, f"{j.code}:0", "node1", j.order.token, "job")) for j in rows)
        return Answer(0, "".join(f"{line}\n" for line in lines), "")

    # ---- what happens there -------------------------------------------------------------------------------------

    def deny(self, job: SlurmJob, until: float) -> None:
        """A job is not in what Slurm says, for a while."""
        job.denied = True
        self.denials.append((until, job))

    def arrive(self, now: float) -> None:
        """Submissions that were under way come in, and what was denied is known again."""
        for due, job in list(self.denials):
            if due <= now:
                self.denials.remove((due, job))
                job.denied = False
        for due, token in list(self.arrivals):
            if due <= now:
                self.arrivals.remove((due, token))
                self.submit(token, late=True)

    def begin(self, job: SlurmJob) -> None:
        """A job starts: it claims its attempt; if another submission has that, nothing is left to do."""
        if job.state != "PENDING":
            return
        job.state = "RUNNING"
        start = job.start = Start(job, job.restarts)
        self.starts.append(start)
        epoch = Epoch(job.order.attempt, job.restarts)
        with self.disk.by_another_machine():
            mine = runner.claim(self.directory(job), epoch, runner.Place(job.number, job.restarts))
        if not mine:
            self.end(job, "COMPLETED")
            return
        first = self.worked.setdefault(job.order.token, job.number)
        promise(ONE_WORKS, first == job.number, job.order.token, "is worked on by", first, "and", job.number)
        start.works = True
        earlier = [one for one in self.directory(job).results() if one.attempt == epoch.attempt and one < epoch]
        if earlier:  # it counts, and nothing is left to do
            self.counts[job.order.directory.number, epoch] = self.counts.get(
                (job.order.directory.number, earlier[0]), earlier[0]
            )
            self.result(start)
            self.end(job, "COMPLETED")

    def directory(self, job: SlurmJob) -> JobDirectory:
        return JobDirectory(job.order.directory.path)

    def result(self, start: Start) -> None:
        """A start leaves its result; one of an earlier start of the same attempt counts for it."""
        if not start.works or not start.alive:
            return
        directory = self.directory(start.job)
        epoch = Epoch(start.job.order.attempt, start.restarts)
        with self.disk.by_another_machine():
            whose = self.counts.get((directory.number, epoch), epoch)
            value = pickle.dumps((directory.number, whose.attempt, whose.restarts, start.job.number))
            directory.write_result(epoch, start.job.number, VALUE, value)
        start.works = False

    def requeue(self, job: SlurmJob) -> None:
        """A node is lost, and Slurm starts the job again; the earlier start may go on."""
        if job.state == "RUNNING":
            job.state, job.restarts, job.start = "PENDING", job.restarts + 1, None

    def end(self, job: SlurmJob, state: str, code: int = 0) -> None:
        if not job.living:
            return
        if job.start is not None and state != "NODE_FAIL":  # else Slurm does not know what runs on there
            job.start.alive = False
        job.state, job.code = state, code


class Commands:
    """One master's way to it, in the place of the real commands."""

    took = 0.01

    def __init__(self, slurm: Slurmctld) -> None:
        self.slurm = slurm
        self.calls: Counter[str] = Counter()
        self._turn = asyncio.Lock()

    async def run(self, *argv: str, timeout: float, text: str | None = None) -> Answer:
        """Run a command, one at a time."""
        async with self._turn:
            self.calls[argv[0]] += 1
            return await self.slurm.run(*argv, text=text)

    def has(self, name: str) -> bool:
        return True


class Batch(SlurmBatch):
    """The real client, with commands that are pretended."""

    def __init__(self, slurm: Slurmctld, pace: PollIntervals) -> None:
        super().__init__(pace)
        self._commands: Any = Commands(slurm)
        self.calls = self._commands.calls
        self._slurm = slurm

    async def submit_order(self, order: Order) -> int:
        self._slurm.orders[order.token] = order
        return await super().submit_order(order)
