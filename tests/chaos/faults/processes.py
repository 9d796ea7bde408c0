"""{every process of a run} x {KILL, STOP then CONT, TERM, segfault} x {moments}."""

import functools
import signal
import time

from tests.chaos.case import Case, NotRun
from tests.chaos.run import Process, Run

ROLES = ("head", "keeper", "launcher", "worker")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)


def begin(run: Run) -> None:
    """The moment at which the first process of each role is there."""
    run.until_true(lambda: run.one("worker"), "a worker is there")


def middle(run: Run) -> None:
    """Some moment while evaluations run."""
    run.at_work()


def end(run: Run) -> None:
    """The moment at which the last evaluations run."""
    run.until("start", run.workload.keys - 1)


MOMENTS = {"at the start": begin, "at work": middle, "at the end": end}


def _chosen(run: Run, role: str) -> Process:
    if (process := run.one(role)) is None:
        raise NotRun(f"no {role} was there at that moment")
    return process


def send(run: Run, role: str, number: signal.Signals, moment: str) -> None:
    """Send a signal to a process of a role."""
    MOMENTS[moment](run)
    _chosen(run, role).signal(number)


def pause(run: Run, role: str, moment: str) -> None:
    """Stop a process for some seconds."""
    MOMENTS[moment](run)
    process = _chosen(run, role)
    process.signal(signal.SIGSTOP)
    time.sleep(run.rng.uniform(0.1, 4))
    process.signal(signal.SIGCONT)


def _sent(role: str, number: signal.Signals, moment: str) -> Case:
    return Case(
        table="processes",
        name=f"{role} {number.name[3:]} {moment}",
        attack=functools.partial(send, role=role, number=number, moment=moment),
    )


def _paused(role: str, moment: str) -> Case:
    return Case(
        table="processes",
        name=f"{role} STOP then CONT {moment}",
        attack=functools.partial(pause, role=role, moment=moment),
        survives=True,
    )


TABLE = (
    *(_sent(role, number, moment) for role in ROLES for number in SIGNALS for moment in MOMENTS),
    *(_paused(role, moment) for role in ROLES for moment in MOMENTS),
)
