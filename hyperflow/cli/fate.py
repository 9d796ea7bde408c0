"""What has become of runs on other machines that are not heard of any more: Slurm's word, and that of their machines.

A head that is killed writes nothing. On its own machine its process is looked for (`records/record.py`). From elsewhere
Slurm is asked whether its job still runs: with one question for all runs, and only where one should have been heard
of. By ssh or srun the machine itself is asked, for one run that somebody looks at. Who does not answer in time, or
does not know, changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence

import attrs

from hyperflow.cli import elsewhere
from hyperflow.cli.records import Fate, Run
from hyperflow.database.ownership import Owner, started_in
from hyperflow.errors import HyperflowError, SlurmError
from hyperflow.records.record import State
from hyperflow.slurm import queue, scontrol

PATIENCE = 10.0
"""Seconds that Slurm, or each way to a machine, may take to answer."""

ASKING_OTHERS = 60.0
"""Seconds between questions to them about a run that somebody follows, and that is not heard of."""

_NUMBER = re.compile(r"[0-9]{1,12}")

THERE = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/pid; cat /proc/{pid}/stat; true"
"""What is run on the machine of a process, to see whether it is still that one."""


def with_slurms_word(found: Sequence[Run], now: float) -> list[Run]:
    """Return the runs, with Slurm's word on those that are not heard of any more."""
    jobs = {job: run for run in found if (job := _slurm_job(run, now)) is not None}
    fates = _fates(jobs) if jobs and shutil.which("squeue") else {}
    return [attrs.evolve(run, fate=fates.get(_slurm_job(run, now))) for run in found] if fates else list(found)


def _slurm_job(run: Run, now: float) -> int | None:
    """Return the Slurm job to ask about; None for a run that has ended, is heard of, or is in none."""
    told = run.record
    return int(told.slurm_job) if told is not None and _NUMBER.fullmatch(told.slurm_job) and told.is_late(now) else None


def _fates(jobs: Mapping[int, Run]) -> dict[int | None, Fate]:
    """Return how the Slurm jobs have ended that have, and that are of this Slurm."""
    try:
        # Another cluster may see the same files, and has other jobs under these numbers.
        names = _answer("sinfo", "--Node", "--format=%n").split()
        text = _answer("squeue", "--states=all", f"--user={os.getuid()}", f"--Format={queue.QUEUE_FORMAT}")
    except SlurmError:
        return {}
    hosts = {name.partition(".")[0] for name in names}
    listed = queue.read_queue(text)
    found: dict[int | None, Fate] = {}
    for job, run in jobs.items():
        state = listed[job].state if job in listed else queue.BatchState("gone")
        if state.kind in ("running", "unknown") or run.record is None or _short(run.record.owner.host) not in hosts:
            continue
        is_time = state.end is not None and state.end.kind == "time limit"
        words = f"its Slurm job {job}: {state.description}"
        found[job] = Fate(State.ALLOCATION_ENDED if is_time else State.KILLED, words)
    return found


def _short(host: str) -> str:
    return host.partition(".")[0]


def _answer(command: str, *words: str) -> str:
    return scontrol.run_command([command, "--noheader", *words], {}, PATIENCE)


def asked_for(run: Run, now: float) -> Run:
    """Return a run with all that can be found out about its fate: Slurm's word, else that of its machine."""
    (run,) = with_slurms_word([run], now)
    told = run.record
    if run.fate is not None or told is None or not told.is_late(now):
        return run
    owner = told.owner
    try:
        said = elsewhere.look(owner.host, THERE.format(pid=owner.pid), told.slurm_job, PATIENCE)
    except HyperflowError:
        return run
    words = f"its process ({owner.pid}) on {owner.host} ended without a word"
    return attrs.evolve(run, fate=Fate(State.KILLED, words)) if _has_ended(owner, said) else run


def _has_ended(owner: Owner, said: str) -> bool:
    """Tell whether a process has certainly ended, by what its machine says."""
    machine, boot, namespace, stat = (*said.split("\n", 3), "", "", "", "")[:4]
    if machine != owner.machine:
        return False
    return boot != owner.boot_id or (namespace == owner.pid_namespace and started_in(stat) != owner.started)
