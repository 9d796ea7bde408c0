"""{every process of a run} x {KILL, STOP then CONT, TERM, segfault} x {moments}; and several of them at once.

The processes are those of a run on this machine. Tasks leave processes behind, which have to go with the run.
"""

import functools
import os
import signal
import time
from collections.abc import Iterable

import attrs

from tests.chaos.case import Case, NotRun
from tests.chaos.run import Process, Run
from tests.chaos.workload import Workload
from tests.helpers import alive

ROLES = ("head", "keeper", "launcher", "worker")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)

NODE = ("keeper", "launcher", "worker")
GROUPS = {
    "keeper and launcher": ("keeper", "launcher"),
    "launcher and workers": ("launcher", "worker"),
    "keeper and workers": ("keeper", "worker"),
    "keeper, launcher and workers": NODE,
    "head and launcher": ("head", "launcher"),
    "head and keeper": ("head", "keeper"),
    "head, keeper, launcher and workers": ("head", *NODE),
}
"""What is hit at once. The watcher is not among them: who kills that, too, leaves nobody who could clean up."""

LEAVING = Workload(keys=40, seconds=0.1, leaves=True)


def starting(run: Run) -> None:
    """Some moment while Python, head, launcher or workers start."""
    time.sleep(run.rng.uniform(0, 0.9))


def begin(run: Run) -> None:
    """The moment at which the first worker is there."""
    run.until_true(lambda: run.one("worker"), "a worker is there")


def middle(run: Run) -> None:
    """Some moment while evaluations run."""
    run.at_work()
    time.sleep(run.rng.uniform(0, 0.06))  # between two acknowledgements


def end(run: Run) -> None:
    """The moment at which the last evaluations run."""
    run.until("start", run.workload.keys - 1)


def closing(run: Run) -> None:
    """Some moment after the last result, while all is being closed."""
    run.until("ack", run.workload.keys)
    time.sleep(run.rng.uniform(0, 0.1))


MOMENTS = {"at the start": begin, "at work": middle, "at the end": end}
MORE_MOMENTS = {"while it starts": starting, "while it closes": closing}
ALL_MOMENTS = {**MOMENTS, **MORE_MOMENTS}


def chosen(run: Run, role: str) -> Process:
    """Return a process of this role, or say that the moment did not come."""
    if (process := run.one(role)) is None:
        raise NotRun(f"no {role} was there at that moment")
    return process


def members(run: Run, roles: Iterable[str]) -> list[Process]:
    """Return all processes of these roles, in an order chosen at random."""
    found = run.processes()
    return run.rng.sample(together := [each for role in roles for each in found.get(role, [])], len(together))


def hit(run: Run, roles: tuple[str, ...], moment: str) -> list[Process]:
    """Wait for a moment, and return all processes of these roles, in an order chosen at random."""
    found: list[Process] = []
    if late := ALL_MOMENTS[moment] in (end, closing):  # to look for them takes longer than what is left then
        run.until("ack", 1)
        found = members(run, roles)
    ALL_MOMENTS[moment](run)
    found = [process for process in found if alive(process.pid)] if late else members(run, roles)
    if missing := set(roles) - {process.role for process in found}:
        raise NotRun(f"no {' and no '.join(sorted(missing))} was there at that moment")
    return found


def send(run: Run, role: str, number: signal.Signals, moment: str) -> None:
    """Send a signal to a process of a role."""
    hit(run, (role,), moment)[0].signal(number)


def send_all(run: Run, roles: tuple[str, ...], number: signal.Signals, moment: str) -> None:
    """Send a signal to all processes of some roles, one right after the other."""
    for process in hit(run, roles, moment):
        process.signal(number)


def pause(run: Run, roles: tuple[str, ...], moment: str) -> None:
    """Stop all processes of some roles for some seconds, as a suspended allocation or a laptop's lid does."""
    found = hit(run, roles, moment)
    for process in found:
        process.signal(signal.SIGSTOP)
    time.sleep(run.rng.uniform(0.1, 5))
    for process in found:
        process.signal(signal.SIGCONT)


def again(run: Run, roles: tuple[str, ...]) -> None:
    """Kill all of some roles in one turn, and in the next, and in the one after that: each goes on where it was."""
    for _ in range(2):
        ALL_MOMENTS[run.rng.choice(sorted(ALL_MOMENTS))](run)
        for process in members(run, roles):
            process.signal(signal.SIGKILL)
        run.wait()
        run.start()
    starting(run)
    for process in members(run, roles):
        process.signal(signal.SIGKILL)


def one_after_the_other(run: Run) -> None:
    """Kill a process of any role but the head's, every now and then."""
    run.at_work()
    for _ in range(5):
        for process in members(run, (run.rng.choice(NODE),))[:1]:
            process.signal(signal.SIGKILL)
        time.sleep(run.rng.uniform(0, 0.3))


def interrupt(run: Run, number: signal.Signals, times: int, moment: str) -> None:
    """Send a signal to the whole session, as a terminal does for Ctrl-C, Ctrl-\\ and when it is closed."""
    ALL_MOMENTS[moment](run)
    head = chosen(run, "head")
    for _ in range(times):
        for process in [head, *members(run, ("child",))]:
            if process.pid == head.pid or os.getpgid(process.pid) == os.getpgid(head.pid):
                process.signal(number)
        time.sleep(run.rng.uniform(0, 0.2))


_case = functools.partial(Case, table="processes")


def _sent(role: str, number: signal.Signals, moment: str) -> Case:
    attack = functools.partial(send, role=role, number=number, moment=moment)
    return _case(name=f"{role} {number.name[3:]} {moment}", attack=attack)


def _paused(role: str, moment: str) -> Case:
    attack = functools.partial(pause, roles=(role,), moment=moment)
    return _case(name=f"{role} STOP then CONT {moment}", attack=attack, survives=True)


def _all_sent(name: str, number: signal.Signals, moment: str) -> Case:
    attack = functools.partial(send_all, roles=GROUPS[name], number=number, moment=moment)
    return _case(name=f"{name} at once {number.name[3:]} {moment}", attack=attack, workload=LEAVING)


TABLE = (
    *(attrs.evolve(_sent("watcher", number, moment), survives=True) for number in SIGNALS for moment in MOMENTS),
    *(_paused("watcher", moment) for moment in MOMENTS),
    *(_sent(role, number, moment) for role in ROLES for number in SIGNALS for moment in MOMENTS),
    *(_sent("head", number, moment) for number in SIGNALS for moment in MORE_MOMENTS),
    *(_paused(role, moment) for role in ROLES for moment in MOMENTS),
    *(_all_sent(name, signal.SIGKILL, moment) for name in GROUPS for moment in MOMENTS),
    *(_all_sent(name, signal.SIGTERM, "at work") for name in GROUPS),
    *(
        _case(
            name=f"{name} STOP then CONT",
            attack=functools.partial(pause, roles=roles, moment="at work"),
            survives=True,
        )
        for name, roles in {"all of the node": NODE, "head and all": ("head", *NODE)}.items()
    ),
    *(
        _case(
            name=f"{name} KILL in every turn",
            attack=functools.partial(again, roles=roles),
            workload=Workload(keys=90, leaves=True),
        )
        for name, roles in {"head": ("head",), "head and all": ("head", *NODE), "all of the node": NODE}.items()
    ),
    _case(name="now one, now another KILL", attack=one_after_the_other, workload=Workload(keys=120, leaves=True)),
    *(
        _case(
            name=f"terminal {number.name[3:]} x {times} {moment}",
            attack=functools.partial(interrupt, number=number, times=times, moment=moment),
            workload=LEAVING,
        )
        for number, times in ((signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGHUP, 1), (signal.SIGQUIT, 1))
        for moment in ("at work", "while it starts")
    ),
)
