"""Processes on the nodes of an allocation: {each of a run} x {signals} x {moments}; and whole nodes.

A run reaches its other nodes by ssh or by srun: the seed chooses.
"""

import functools
import signal
import time
from collections.abc import Callable

from tests.chaos.case import Case, NotRun
from tests.chaos.cluster_run import SlurmRun, in_slurm
from tests.chaos.faults.processes import MOMENTS
from tests.chaos.promises import Promise
from tests.chaos.run import Process, Run
from tests.chaos.workload import Workload

SHORT = Workload(keys=60, seconds=0.3, world="slurm")
ALONE = Workload(keys=48, seconds=0.3, world="slurm", options={"exclusive": True})
"""What must not run twice at a time, even where a node was lost that may still be at work."""

LOST = "was lost"
RETURNED = {
    Promise.ONCE: "what was returned from a node that was lost may still run there for a moment; with `exclusive=True` "
    "it never does"
}

COSTLY = frozenset({"keeper", "launcher", "srun"})
"""Roles whose end costs a node."""


def by_chance(run: Run) -> None:
    """Reach the nodes in one of both ways."""
    run.rng.choice([by_ssh, by_srun])(run)


def by_ssh(run: Run) -> None:
    """Reach the nodes by ssh."""
    run.environment["HYPERFLOW_TRANSPORT"] = "ssh"


def by_srun(run: Run) -> None:
    """Reach the nodes by srun."""
    run.environment["HYPERFLOW_TRANSPORT"] = "srun"


def another(run: SlurmRun) -> str:
    """Choose a node that the program does not run on, and that was not attacked before."""
    host = run.rng.choice([host for host in run.other_hosts if host not in run.attacked] or run.other_hosts)
    run.attacked.add(host)
    return host


def chosen(run: Run, role: str) -> Process:
    """Choose a process of a role, on whatever host."""
    if (process := run.one(role)) is None:
        raise NotRun(f"no {role} was there at that moment")
    return process


# ------------------------------------------------------------------------------------------ processes


def send(run: Run, role: str, number: signal.Signals, moment: str) -> None:
    """Send a signal to a process of a role."""
    MOMENTS[moment](run)
    chosen(run, role).signal(number)


def pause(run: Run, role: str, moment: str) -> None:
    """Stop a process for some seconds: less or more than a node may be silent."""
    MOMENTS[moment](run)
    process = chosen(run, role)
    run.faults.callback(process.signal, signal.SIGCONT)
    process.signal(signal.SIGSTOP)
    time.sleep(run.rng.uniform(0.1, 8))
    process.signal(signal.SIGCONT)


def kill_all_on(run: Run, hosts: Callable[[SlurmRun], list[str]], number: int = signal.SIGKILL) -> None:
    """Send a signal to everything of the run on some hosts, at once."""
    run = in_slurm(run)
    run.at_work()
    doomed = hosts(run)
    for process in run.left():
        if process.host in doomed:
            process.signal(number)


def kill_all_twice(run: Run) -> None:
    """Kill everything everywhere, in the first turn and in the second."""
    for turn in range(2):
        if turn:
            run.wait()
            run.start()
        kill_all_on(run, everywhere)


def one_other(run: SlurmRun) -> list[str]:
    """Choose another node."""
    return [another(run)]


def all_others(run: SlurmRun) -> list[str]:
    """Choose all other nodes."""
    return run.other_hosts


def the_heads(run: SlurmRun) -> list[str]:
    """Choose the node that the program runs on."""
    return [run.head_host]


def everywhere(run: SlurmRun) -> list[str]:
    """Choose all nodes."""
    return list(run.cluster.nodes)


# ------------------------------------------------------------------------------------------ whole nodes


def freeze(run: Run, hosts: Callable[[SlurmRun], list[str]], least: float, most: float) -> None:
    """Stop everything on some hosts, the system's daemons included, for some seconds."""
    run = in_slurm(run)
    run.at_work()
    frozen = hosts(run)
    for host in frozen:
        run.faults.callback(run.cluster.faults.thaw, host)
        run.cluster.faults.freeze(host)
    time.sleep(run.rng.uniform(least, most))
    for host in frozen:
        run.cluster.faults.thaw(host)


def crash(run: Run, hosts: Callable[[SlurmRun], list[str]]) -> None:
    """Switch some hosts off, as a power failure does."""
    run = in_slurm(run)
    run.at_work()
    for host in hosts(run):
        run.faults.callback(run.cluster.faults.boot, host)
        run.cluster.faults.crash(host)


def may_be_killed(run: Run) -> None:
    """Let Slurm end the job when a node does not answer: without its first node it would wait for ever."""
    by_chance(run)
    del in_slurm(run).batch["no_kill"]


def remove_lock(run: Run) -> None:
    """Remove the lock of the database as the error says: nobody but the user can know that the other host is dead."""
    (run.disk / "results.sqlite.lock").unlink(missing_ok=True)


def reboot(run: Run) -> None:
    """Switch another node off, and on again while the program runs."""
    run = in_slurm(run)
    run.at_work()
    host = another(run)
    run.cluster.faults.crash(host)
    run.cluster.faults.boot(host)


def _reached(role: str) -> Callable[[Run], None]:
    return by_srun if role == "srun" else by_chance


def _sent(role: str, number: signal.Signals, moment: str) -> Case:
    return Case(
        table="nodes",
        name=f"{role} {number.name[3:]} {moment}",
        before=_reached(role),
        attack=functools.partial(send, role=role, number=number, moment=moment),
        world="slurm",
        workload=SHORT,
        survives=role in {*COSTLY, "watcher"},
        excused=RETURNED if role in COSTLY else {},
    )


def _paused(role: str, moment: str) -> Case:
    return Case(
        table="nodes",
        name=f"{role} STOP then CONT {moment}",
        before=_reached(role),
        attack=functools.partial(pause, role=role, moment=moment),
        world="slurm",
        workload=ALONE,
        survives=True,
    )


def _whole(name: str, attack: Callable[[Run], None], workload: Workload = ALONE, says: str = "") -> Case:
    """Return a case of nodes that the program does not run on: it goes on."""
    return Case(
        table="nodes",
        name=name,
        before=by_chance,
        attack=attack,
        world="slurm",
        workload=workload,
        survives=True,
        says=says,
        excused={} if workload.options else RETURNED,
    )


def _heads(name: str, attack: Callable[[Run], None]) -> Case:
    """Return a case of the node that the program runs on: it has to be started again."""
    return Case(table="nodes", name=name, before=by_chance, attack=attack, world="slurm", workload=SHORT)


def _crashed(name: str, hosts: Callable[[SlurmRun], list[str]]) -> Case:
    """Return a case of the node that the program runs on: nothing is left of it but its lock."""
    return Case(
        table="nodes",
        name=name,
        before=may_be_killed,
        attack=functools.partial(crash, hosts=hosts),
        mend=remove_lock,
        world="slurm",
        workload=SHORT,
    )


NUMBERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
ROLES = ("head", "keeper", "launcher", "worker", "watcher", "srun")

TABLE = (
    *(_sent(role, number, moment) for role in ROLES for number in NUMBERS for moment in MOMENTS),
    *(_paused(role, moment) for role in ROLES for moment in MOMENTS),
    _whole("all of another node KILL", functools.partial(kill_all_on, hosts=one_other), SHORT, LOST),
    _whole("all of all other nodes KILL", functools.partial(kill_all_on, hosts=all_others), SHORT, LOST),
    _whole("all of all other nodes KILL, exclusive", functools.partial(kill_all_on, hosts=all_others), says=LOST),
    _whole("another node is frozen for a moment", functools.partial(freeze, hosts=one_other, least=0.5, most=3)),
    _whole("another node is frozen", functools.partial(freeze, hosts=one_other, least=6, most=9), says=LOST),
    _whole("all other nodes are frozen", functools.partial(freeze, hosts=all_others, least=6, most=9), says=LOST),
    _whole("the head's node is frozen", functools.partial(freeze, hosts=the_heads, least=0.5, most=9)),
    _whole("all nodes are frozen", functools.partial(freeze, hosts=everywhere, least=0.5, most=9)),
    _whole("power failure of another node", functools.partial(crash, hosts=one_other), says=LOST),
    _whole("power failure of all other nodes", functools.partial(crash, hosts=all_others), SHORT, LOST),
    _whole("another node is booted anew", reboot, says=LOST),
    _heads("all of the head's node KILL", functools.partial(kill_all_on, hosts=the_heads)),
    _heads("all of all nodes KILL", functools.partial(kill_all_on, hosts=everywhere)),
    _heads("all of all nodes TERM", functools.partial(kill_all_on, hosts=everywhere, number=signal.SIGTERM)),
    _heads("all of all nodes KILL, twice", kill_all_twice),
    _crashed("power failure of the head's node", the_heads),
    _crashed("power failure of all nodes", everywhere),
)
