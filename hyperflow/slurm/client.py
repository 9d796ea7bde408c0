"""The one client through which a program uses Slurm: it submits, finds, watches and cancels batch jobs.

Guarantees:

- A job is submitted once. An `sbatch` that failed may have succeeded: slurmctld may take the job, and its answer get
  lost. So after every failure that is not a plain refusal, the client looks for the job's token, its idempotency key.
  It runs sbatch again only when Slurm has answered that there is no such job. If the first job appears even later, the
  second one is cancelled.
- One squeue serves all watched jobs. It runs often while something changes, seldom otherwise; `calls` counts.
- Nothing is concluded from an error. While slurmctld is away, states stay as they were, and one warning says so. A job
  is `gone` only when two answers of squeue did not have it, scontrol says that there is no such job, and accounting, if
  there is any, does not know its end. (An squeue whose list is empty or cut, with exit code 0, has been seen.)

Rejected: one squeue or scontrol for each job (slurmctld slows down for the whole site); sacct as the source (many sites
have none, and it lags behind); reports by the jobs alone (those that never start, or are killed, send none).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, Self

import attrs

from hyperflow.aio import Changing
from hyperflow.errors import ConfigurationError, SlurmError
from hyperflow.slurm import queue, refusal
from hyperflow.slurm.commands import Commands, SlurmAway
from hyperflow.slurm.queue import BatchState

log = logging.getLogger("hyperflow.slurm")

_MOST_IDS = 500
"""Job ids in one command line."""
_MISSES = 2
"""After so many answers of squeue without a job, Slurm has forgotten it."""
_PATIENT_MISSES = 6
"""The same, if accounting does not tell its end."""
_ASKED_AT_ONCE = 5
"""So many missing jobs are asked for one by one after each answer of squeue."""
_WEEK = 7 * 24 * 3600.0
_ACCOUNTING_TRIES = 3
_TIME = "%Y-%m-%dT%H:%M:%S"
CHECK_PAUSES = (1.0, 3.0)
"""Seconds after which the first question of a program is asked again: slurmctld may just be starting."""
_QUIET = 600.0
"""Seconds between two warnings that Slurm is away."""


@attrs.frozen
class PollIntervals:
    """How often Slurm is asked, and for how long a command is tried again, in seconds.

    Args:
        fast: Between two looks while something changes; the shortest pause.
        slow: Between two looks while nothing changes.
        first_retry: The pause after the first failure; each later one is twice as long.
        last_retry: The longest such pause.
        give_up_after: How long a command is tried again while Slurm is away, or a limit on jobs is reached.
        timeout: For one answer. Slurm's commands themselves try again for a while.
    """

    fast: float = 1.0
    slow: float = 30.0
    first_retry: float = 3.0
    last_retry: float = 60.0
    give_up_after: float = 24 * 3600.0
    timeout: float = 100.0


UNKNOWN = BatchState()


class Watch(Changing[BatchState]):
    """What is known of one job: its state, and whether more news will come. `set` and `fail` are for its maker."""

    def __init__(self, job_id: int, state: BatchState = UNKNOWN) -> None:
        super().__init__(state)
        self.job_id = job_id
        self.misses = 0
        """How many answers of squeue, one after the other, did not have it. (For the client.)"""

    @property
    def state(self) -> BatchState:
        """The newest state."""
        return self.value

    async def changed(self, seen: BatchState) -> BatchState:
        """Wait until the state is another than `seen`, and return it; a final state is returned at once.

        Raises:
            SlurmError: The client was closed, or cannot look any more.
        """
        return self.state if self.state.final else await super().changed(seen)

    def fail(self, failure: Exception) -> None:
        """Say that no more changes will be noticed."""
        super().fail(SlurmError(f"job {self.job_id} is no longer watched: {failure}"))


class SlurmClient:
    """One program's way to Slurm: `async with SlurmClient() as client`.

    Args:
        pace: How often Slurm is asked, and for how long a command is tried again.
        environ: The environment of Slurm's commands, and so of jobs, in place of this process's. Variables that belong
            to another allocation or preset options (SLURM_*, SBATCH_*, PMI_*, ...) are removed from it.
    """

    def __init__(self, pace: PollIntervals | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.pace = pace or PollIntervals()
        self._commands = Commands(environ)
        self._watches: dict[int, Watch] = {}
        self._soon = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._failure: SlurmError | None = None
        self._away_since: float | None = None
        self._quiet_until = 0.0
        self._tell_away = logging.WARNING
        self._no_accounting = False
        self.calls = self._commands.calls
        """How often each command of Slurm was run."""

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_on(), name="squeue")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking

    async def check(self, patient: bool) -> None:
        """Raise ConfigurationError, in one line, where Slurm cannot be used.

        `patient`: jobs may be there already, so that a Slurm which does not answer just now is waited for later.
        """
        missing = [name for name in ("sbatch", "squeue", "scancel") if not self._commands.has(name)]
        if missing:
            raise ConfigurationError(_unusable(f"there is no {' or '.join(missing)} in PATH"))
        said = ""
        for pause in () if patient else (*CHECK_PAUSES, 0.0):
            try:
                await self._list()
            except SlurmAway as away:
                said = str(away)
                await asyncio.sleep(pause)
            else:
                return
        if said:
            raise ConfigurationError(_unusable(said.splitlines()[-1]))

    async def submit(self, script: Path, token: str, text: str | None = None) -> int:
        """Submit a script that carries a token, and return the job's id. With `text`, that is what sbatch gets, on its
        standard input; the path is then only for messages.

        Waits while Slurm is away or a limit on submitted jobs is reached. Cancelling kills sbatch; `find()` then tells
        whether there is a job.

        Raises:
            SlurmError: Slurm refuses the job, and says why; or was away for longer than `pace.give_up_after`.
        """
        retry = _Retry(self.pace, f"submit {script.name}")
        since = time.time() - 3600  # an hour for clocks that differ
        in_doubt = False
        while True:
            said, verdict = "", "temporary"
            try:
                answer = await self._commands.run(*_sbatch(script, text), timeout=self.pace.timeout, text=text)
            except SlurmAway as away:
                said = str(away)
            else:
                job_id = queue.read_submitted(answer.output)
                if answer.code == 0 and job_id is not None:
                    return await self._only_one(token, job_id) if in_doubt else job_id
                said, verdict = answer.said, refusal.verdict(answer.errors)
            if verdict == "refused":
                raise _refused(script, said)
            if verdict == "temporary":
                await retry.pause(said)  # also before the question: the job may still be on its way
            if found := (await self.find([token], since=since))[token]:
                log.warning("sbatch failed (%s), but has submitted %s as job %d", said, script.name, found[0])
                return found[0]
            if verdict == "unclear":
                raise _refused(script, said)
            in_doubt = True

    async def test(self, text: str) -> str:
        """Ask whether Slurm would take a script, and return what it says: when and where the job would start; "" where
        it does not answer now. Nothing is submitted.

        Raises:
            SlurmError: It would refuse the script, and says why.
        """
        try:
            answer = await self._commands.run("sbatch", "--test-only", timeout=self.pace.timeout, text=text)
        except SlurmAway:
            return ""
        if answer.code == 0:
            return answer.said
        verdict = refusal.verdict(answer.errors)
        if verdict == "temporary":
            return ""
        told = refusal.advice(answer.said)
        raise SlurmError(refusal.gist(answer.said).removeprefix("allocation failure: ") + (f"\n{told}" if told else ""))

    async def _only_one(self, token: str, job_id: int) -> int:
        """Keep one of the jobs that carry a token, the oldest, and return its id."""
        ids = (await self.find([token]))[token] or [job_id]
        if ids[1:]:
            log.warning("job %d was submitted again as %s, which is cancelled", ids[0], ids[1:])
            await self.cancel(ids[1:])
        return ids[0]

    async def find(self, tokens: Collection[str], *, since: float | None = None) -> dict[str, list[int]]:
        """Return the ids of the user's jobs that carry each token, oldest first; [] where there are none.

        Jobs that have ended are found as long as slurmctld remembers them, and in accounting, if there is any. `since`
        is how far to look back there, in seconds since 1970; None for a week.

        Raises:
            SlurmError: Slurm was away for longer than `pace.give_up_after`.
        """
        retry = _Retry(self.pace, "look for jobs")
        while True:
            try:
                found = queue.by_token(await self._list(), tokens)
                missing = [token for token, ids in found.items() if not ids]
                if missing:
                    found |= queue.by_token(await self._account_for(since), missing)
            except SlurmAway as away:
                await retry.pause(str(away))
            else:
                return found

    async def _account_for(self, since: float | None) -> dict[int, queue.Listed]:
        # Fewer tries than for slurmctld: accounting may be away for days, and little depends on it.
        start = time.localtime(time.time() - _WEEK if since is None else since)
        said = ""
        for _ in range(_ACCOUNTING_TRIES):
            try:
                return await self._account(f"--user={os.getuid()}", f"--starttime={time.strftime(_TIME, start)}")
            except SlurmAway as away:
                said = str(away)
                await asyncio.sleep(self.pace.first_retry)
        log.warning("accounting gives no answer; jobs that ended long ago may not be found: %s", said)
        return {}

    async def cancel(self, job_ids: Iterable[int]) -> None:
        """Cancel jobs, and return when Slurm has accepted that. Jobs that have ended or are unknown are no error.

        Raises:
            SlurmError: Slurm refuses, or was away for longer than `pace.give_up_after`.
        """
        ids = sorted(set(job_ids))
        for at in range(0, len(ids), _MOST_IDS):
            await self._cancel([str(job_id) for job_id in ids[at : at + _MOST_IDS]])
        self.wake()

    async def _cancel(self, ids: list[str]) -> None:
        retry = _Retry(self.pace, f"cancel {' '.join(ids)}")
        while True:
            try:
                answer = await self._commands.run("scancel", *ids, timeout=self.pace.timeout)
            except SlurmAway as away:
                await retry.pause(str(away))
                continue
            lines = answer.said.splitlines()
            if all(_is_done_with(line) for line in lines) and (lines or answer.code == 0):
                return
            if refusal.verdict(answer.said) != "temporary":
                if answer.code == 0:  # a remark
                    return
                raise SlurmError(f"scancel {' '.join(ids)} failed: {answer.said}")
            await retry.pause(answer.said)

    def watch(self, job_id: int) -> Watch:
        """Return what is known of a job, kept up to date from now on; the same for the same job."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch(job_id)
            if self._failure is not None:
                watch.fail(self._failure)
            self.wake()
        return watch

    def wake(self) -> None:
        """Look soon, because something has probably changed, but not more often than `pace.fast`."""
        self._soon.set()

    async def _look_on(self) -> None:
        try:
            interval = 0.0
            while True:
                if await self._pause(interval):
                    interval = 0.0
                if self._watches:
                    news = await self._look()
                    # Ten times as long as the answer took, so that a slow controller is left in peace.
                    least = max(self.pace.fast, min(10 * self._commands.took, self.pace.slow))
                    interval = least if news else min(max(1.5 * interval, least), self.pace.slow)
        except SlurmError as error:  # there is no squeue: every waiter gets the error
            self._failure = error
        finally:
            if self._failure is None:
                self._failure = SlurmError("the client of Slurm was closed")
            for watch in [*self._watches.values()]:
                watch.fail(self._failure)

    async def _pause(self, interval: float) -> bool:
        """Wait until it is time to look; return whether `wake` was called. Without watches, wait for one."""
        await asyncio.sleep(self.pace.fast if interval else 0.0)
        try:
            async with asyncio.timeout(max(interval - self.pace.fast, 0.0) if self._watches else None):
                await self._soon.wait()
        except TimeoutError:
            return False
        self._soon.clear()
        return True

    async def _look(self) -> bool:
        """Ask once about all jobs; return whether anything has changed or will soon."""
        watched = dict(self._watches)  # a job that is watched from now on may not be in the answer
        try:
            listed = await self._list()
        except SlurmAway as away:
            self._note_away(str(away))
            return False
        missing = [watch for job_id, watch in watched.items() if job_id not in listed]
        news = bool(missing)
        for job_id in watched.keys() & listed.keys():
            watched[job_id].misses = 0
            news |= self._take(watched[job_id], listed[job_id].state)
        for watch in missing:
            watch.misses += 1
        forgotten = [watch for watch in missing if watch.misses >= _MISSES]
        if forgotten:
            await self._find_ends(forgotten)
        return news

    async def _find_ends(self, forgotten: list[Watch]) -> None:
        """Find out how jobs ended that slurmctld does not know any more."""
        try:
            ended = await self._account(f"--jobs={','.join(str(watch.job_id) for watch in forgotten)}")
        except SlurmAway:
            ended = {}
        for watch in forgotten:
            known = ended.get(watch.job_id)
            if known is not None and known.state.final:
                self._take(watch, attrs.evolve(known.state, restarts=watch.state.restarts))
        for watch in [watch for watch in forgotten if not watch.state.final][:_ASKED_AT_ONCE]:
            patient = watch.misses >= _PATIENT_MISSES
            there = await self._ask_for(watch.job_id)
            if isinstance(there, BatchState):
                log.warning("squeue does not list job %d, and scontrol has it; squeue is asked again", watch.job_id)
                watch.misses = 0
                self._take(watch, there)
                break  # that list was wrong: the other jobs are asked for after the next one
            if there == "no such job" and (self._no_accounting or patient):
                self._take(watch, attrs.evolve(watch.state, kind="gone", hopeless=""))

    async def _ask_for(self, job_id: int) -> BatchState | Literal["no such job", "no answer"]:
        """Ask slurmctld for one job, which does not go through its list of jobs."""
        try:
            answer = await self._commands.run("scontrol", "show", "job", str(job_id), "-o", timeout=self.pace.timeout)
        except SlurmAway:
            return "no answer"
        if answer.code and "Invalid job id" in answer.said:
            return "no such job"
        return queue.read_record(answer.output, job_id) or "no answer"

    def _take(self, watch: Watch, state: BatchState) -> bool:
        if state.final:
            self._watches.pop(watch.job_id, None)
        return watch.set(state)

    async def _list(self) -> dict[int, queue.Listed]:
        """Return all jobs of this user that slurmctld knows.

        By user, not by `--jobs`: with a list of ids squeue fetches the jobs of the whole site.
        """
        which = ("--noheader", "--states=all", f"--user={os.getuid()}", f"--Format={queue.QUEUE_FORMAT}")
        answer = await self._commands.run("squeue", *which, timeout=self.pace.timeout)
        # Some errors come with exit code 0, and some sites' squeue prints remarks that mean nothing.
        is_list = answer.output.strip() or "error" not in answer.errors.lower()
        if answer.code or not is_list:
            raise SlurmAway(answer.said or f"squeue exited with {answer.code}")
        self._note_back()
        return queue.read_queue(answer.output)

    async def _account(self, *which: str) -> dict[int, queue.Listed]:
        """Return what accounting knows of jobs that have ended; nothing where there is none."""
        if self._no_accounting:
            return {}
        form = ("--allocations", "--noheader", "--parsable2", f"--delimiter={queue.SEPARATOR}")
        command = ("sacct", *form, *which, f"--format={queue.ACCOUNTING_FORMAT}")
        try:
            answer = await self._commands.run(*command, timeout=self.pace.timeout)
        except SlurmError:  # there is no sacct
            answer = None
        if answer is None or "accounting storage is disabled" in answer.errors:
            self._no_accounting = True
            return {}
        if answer.code:
            raise SlurmAway(answer.said or f"sacct exited with {answer.code}")
        return queue.read_accounting(answer.output)

    def _note_away(self, said: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            # A controller that comes and goes is warned of once in a while.
            self._tell_away = logging.WARNING if self._away_since > self._quiet_until else logging.INFO
            self._quiet_until = self._away_since + _QUIET
            text = "Slurm does not answer; until it does, the states of its jobs stay as they were: %s"
            log.log(self._tell_away, text, said)

    def _note_back(self) -> None:
        if self._away_since is not None:
            log.log(self._tell_away, "Slurm answers again, after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None


def _unusable(why: str) -> str:
    return (
        f"no usable Slurm here: {why}. Start the program where Slurm's commands work, mostly on a login node, or run "
        "its jobs on this machine: --local, or open_cluster(local=True)"
    )


class _Retry:
    """The pauses between the tries of one command."""

    def __init__(self, pace: PollIntervals, what: str) -> None:
        self._pace = pace
        self._what = what
        self._next = pace.first_retry
        self._until = time.monotonic() + pace.give_up_after

    async def pause(self, said: str) -> None:
        if time.monotonic() > self._until:
            raise SlurmError(f"Slurm does not {self._what}, for {self._pace.give_up_after:g} s now; it said: {said}")
        if self._next == self._pace.first_retry:
            log.warning("cannot %s now, and will try again until it works; Slurm said: %s", self._what, said)
        await asyncio.sleep(self._next)
        self._next = min(2 * self._next, self._pace.last_retry)


def _sbatch(script: Path, text: str | None) -> tuple[str, ...]:
    named = () if text is not None else (str(script.absolute()),)  # sbatch would look for a bare name in PATH
    return "sbatch", "--parsable", *named


def _refused(script: Path, said: str) -> SlurmError:
    told = refusal.advice(said)
    return SlurmError(f"sbatch refused {script}:\n  {said}" + (f"\n{told}" if told else "\nsee the script"))


def _is_done_with(line: str) -> bool:
    return "Invalid job id" in line or "already completing or completed" in line
