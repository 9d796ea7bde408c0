"""`hyperflow show --suggest`: what a run's log and record say about how to ask for less, or go faster, next time.

Only what was measured counts, and only what stands out is said.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress

from hyperflow.checked_files import Damaged
from hyperflow.cli import heads
from hyperflow.cli.records import Run
from hyperflow.database.tables import in_bytes
from hyperflow.errors import HyperflowError
from hyperflow.events.summary import Function, Summary
from hyperflow.master.rundir import JobDirectory
from hyperflow.records import record
from hyperflow.records.record import State
from hyperflow.saying import age, as_written, printable, rounded_up
from hyperflow.slurm.script import SbatchOptions

LEAST_HELD = 60.0
"""CPU seconds of a run, or seconds of a function; less than that is not worth a word."""

IDLE = 0.5
"""A run whose evaluations had less than this part of its CPU time held more than it used."""

TINY, MANY = 1e-3, 1000
"""So many evaluations that mostly take less than these seconds cost more than they compute."""

MEASURED = 0.9
"""This part of a function's evaluations has to be measured: short ones are not."""

TOO_MANY, TOO_FEW = 0.5, 1.5
"""CPU time in the CPUs that an evaluation asked for, beyond which that is the wrong number."""

LARGE = 1e9
"""Bytes that an evaluation has to take to be told."""

SPARE_TIME = 600.0
"""Seconds of a time limit; less to spare is no reason to ask for less."""


SPARE = 1.25
"""What to ask for, of the time that the run took, and of the most memory that was seen."""


def suggestions(run: Run, summary: Summary) -> list[str]:
    """Return what to do otherwise next time, in sentences; none if nothing stands out."""
    functions = (said for one in summary.functions.values() for said in _function(one))
    return [*_size(run), *_time(run), *functions, *_learned(run, summary)]


def _size(run: Run) -> Iterator[str]:
    figures = run.figures()
    if figures.held >= LEAST_HELD and figures.used < IDLE * figures.held:
        yield (
            f"evaluations had {figures.used / figures.held:.0%} of the CPU time that the run held; how long it takes "
            f"on fewer CPUs: hyperflow whatif {shlex.quote(run.name)} --cpus N"
        )


def _time(run: Run) -> Iterator[str]:
    """Compare the time limits of jobs with the time that they took."""
    longest, least = 0.0, float("inf")
    for head in heads.of(run.home) if run.cluster is not None else ():
        done = record.read(head.log_dir / record.NAME)
        if done is not None and done.ended is not None and done.outcome == State.FINISHED:
            with suppress(OSError, Damaged, HyperflowError, TypeError):
                limit = SbatchOptions(**JobDirectory(head.home).read_record().options).time_limit
                if limit is not None:
                    longest, least = max(longest, done.ended - done.began), min(least, limit)
    if longest and least - longest > max(SPARE_TIME, longest):
        yield (
            f"jobs asked for {age(least)} and took {age(longest)} at most: Slurm starts what asks for less time sooner "
            "(SbatchOptions(time=...))"
        )


def _learned(run: Run, summary: Summary) -> Iterator[str]:
    """Tell what `using(memory="auto")` has learned, and what to ask Slurm for, so that as many fit on a node."""
    figures, most = run.figures(), 0.0
    cpus = -(-figures.cpus // figures.nodes) if figures.nodes else 0
    for one in summary.learned.values():
        if not one.memory:
            continue
        exceeded = f", {_times(one.exceeded)} one needed more than it had been given" if one.exceeded else ""
        used = f", and {one.used / one.given:.0%} of what was given was used" if one.given else ""
        yield (
            f'{printable(one.name)} gets {as_written(one.memory)} by memory="auto" and {one.min_time:g} s by '
            f'min_time="auto" (learned from {one.known} evaluations{exceeded}{used}); to have it fixed: '
            f'using(memory="{rounded_up(one.memory)}")'
        )
        most = max(most, one.memory * max(cpus // one.cpus, 1))
    if most:  # functions that are not under "auto" want their place, too
        for other in summary.functions.values():
            most = max(most, SPARE * other.memory * max(cpus // other.cpus, 1))
    seconds = run.seconds(time.time())
    if most and cpus and seconds:
        minutes = math.ceil(seconds * SPARE / 60)
        yield (
            f"for the same again, ask Slurm for SbatchOptions(nodes={figures.nodes}, ntasks_per_node={cpus}, "
            f'mem="{rounded_up(most)}", time="{minutes // 60}:{minutes % 60:02}:00")'
        )


def _function(one: Function) -> Iterator[str]:
    name = printable(one.name)
    median = one.quantile(0.5)
    if one.done >= MANY and median < TINY:
        yield (
            f"{name} was evaluated {one.done} times and mostly took {median * 1e6:.0f} µs, less than to send it: "
            "hyperflow.remote_map sends many at once"
        )
    if one.memory > LARGE:
        yield f"{name} takes up to {in_bytes(one.memory)} of memory: ask for at least that for each {_cpus(one.cpus)}"
    # What failed was measured, too, and its seconds are not among the others.
    if one.failed or one.retried or one.cancelled or one.total < LEAST_HELD:
        return
    if not MEASURED * one.done <= one.measured <= one.done:
        return
    busy = one.cpu / one.total
    if busy < TOO_MANY * one.cpus and one.cpus > 1:
        yield f"{name} asks for {one.cpus} CPUs and uses {busy:.1f}: using(cpus={max(round(busy), 1)})"
    elif busy > TOO_FEW * one.cpus:
        yield (
            f"{name} asks for {one.cpus} CPU{'s' * (one.cpus > 1)} and uses {busy:.1f}: using(cpus={round(busy)}), "
            "or fewer threads of its libraries"
        )


def _times(count: int) -> str:
    return f"{count} times" if count > 1 else "once"


def _cpus(count: int) -> str:
    return f"{count} CPUs" if count > 1 else "CPU"
