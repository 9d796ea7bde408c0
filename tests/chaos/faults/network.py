"""The network between the nodes of an allocation: one way, both, slow, resets, a name twice, a node that comes back.

Where a node may be at work unseen, the evaluations are exclusive: then none may run twice at a time.
"""

import functools
import time
from collections.abc import Callable

from tests.chaos.case import Case, NotRun, nothing
from tests.chaos.cluster_run import SlurmRun, in_slurm
from tests.chaos.faults.nodes import (
    ALONE,
    LOST,
    RETURNED,
    SHORT,
    all_others,
    another,
    by_chance,
    by_srun,
    by_ssh,
    one_other,
    the_heads,
)
from tests.chaos.run import Run
from tests.chaos.workload import Workload
from tests.cluster.host import CommandError
from tests.cluster.network import address

HEAVY = Workload(keys=48, seconds=0.1, payload=200_000, world="slurm")
"""What takes longer than a node may be silent, on a slow link."""

LONG = (7.0, 10.0)
"""Longer than both sides wait for a word."""

SHORTER = (0.2, 3.0)


def cut(run: Run, hosts: Callable[[SlurmRun], list[str]], seconds: tuple[float, float] | None) -> None:
    """Pull the cables of hosts, for some seconds or until the program has ended."""
    run = in_slurm(run)
    run.at_work()
    run.faults.callback(run.cluster.network.heal)
    unplugged = hosts(run)
    for host in unplugged:
        run.cluster.faults.cut(host)
    if seconds:
        time.sleep(run.rng.uniform(*seconds))
        for host in unplugged:
            run.cluster.faults.mend(host)


def cut_at_the_start(run: Run) -> None:
    """Pull another node's cable while its launcher is being started."""
    run = in_slurm(run)
    run.until_true(lambda: run.one("head"), "the program runs")
    time.sleep(run.rng.uniform(0, 2))
    run.faults.callback(run.cluster.network.heal)
    run.cluster.faults.cut(another(run))


def flap(run: Run) -> None:
    """Pull another node's cable again and again."""
    run = in_slurm(run)
    run.at_work()
    run.faults.callback(run.cluster.network.heal)
    host = another(run)
    for _ in range(run.rng.randint(3, 8)):
        run.cluster.faults.cut(host)
        time.sleep(run.rng.uniform(0.1, 1))
        run.cluster.faults.mend(host)
        time.sleep(run.rng.uniform(0.1, 1))


def one_way(run: Run, from_head: bool, seconds: tuple[float, float] | None) -> None:
    """Lose all that the head's node sends to another, or the other way."""
    run = in_slurm(run)
    run.at_work()
    source, target = run.head_host, another(run)
    if not from_head:
        source, target = target, source
    run.faults.callback(run.cluster.network.heal)
    run.cluster.faults.lose(source, target)
    if seconds:
        time.sleep(run.rng.uniform(*seconds))
        run.cluster.faults.find(source, target)


def reset(run: Run, times: int) -> None:
    """Break all connections between the head's node and another by a reset, as a firewall does."""
    run = in_slurm(run)
    run.at_work()
    host = another(run)
    for _ in range(times):
        broken = run.cluster.hosts[host].run(["ss", "-HK", "dst", address(run.head_host)], check=False).stdout
        if not broken:
            raise NotRun("there was no connection to break, or this kernel does not break them")
        time.sleep(run.rng.uniform(0, 0.2))


def hang_up(run: Run) -> None:
    """Kill the sessions of another node's sshd: the stream ends, and nobody says why."""
    run = in_slurm(run)
    run.at_work()
    if not run.cluster.faults.kill_ssh_sessions(another(run)):
        raise NotRun("there was no session")


def slow(run: Run, rate: str, heads: bool) -> None:
    """Let a host's card send slowly."""
    by_chance(run)
    run = in_slurm(run)
    host = run.cluster.nodes["node1" if heads else "node2"]
    try:
        host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *f"rate {rate} burst 32k latency 200ms".split()])
    except CommandError as error:
        raise NotRun(f"no slow links here: {error}") from None
    run.undo.callback(host.run, ["tc", "qdisc", "del", "dev", "eth0", "root"])


def same_name(run: Run) -> None:
    """Let two nodes say that they have the same name, as clones of one image do."""
    by_chance(run)
    run = in_slurm(run)
    host = run.cluster.nodes["node3"]
    host.run(["hostname", "node2"])
    run.undo.callback(host.run, ["hostname", "node3"])


def _case(
    name: str,
    attack: Callable[[Run], None] = nothing,
    *,
    before: Callable[[Run], None] = by_chance,
    workload: Workload = ALONE,
    says: str = "",
) -> Case:
    return Case(
        table="network",
        name=name,
        before=before,
        attack=attack,
        world="slurm",
        workload=workload,
        survives=True,
        says=says,
        excused={} if workload.options else RETURNED,
    )


TABLE = (
    _case("another node is cut off", functools.partial(cut, hosts=one_other, seconds=None), says=LOST),
    _case("all other nodes are cut off", functools.partial(cut, hosts=all_others, seconds=None), says=LOST),
    _case("another node is cut off for a moment", functools.partial(cut, hosts=one_other, seconds=SHORTER)),
    _case("another node is cut off and comes back", functools.partial(cut, hosts=one_other, seconds=LONG), says=LOST),
    _case("all other nodes are cut off and come back", functools.partial(cut, hosts=all_others, seconds=LONG)),
    _case("the head's node is cut off for a moment", functools.partial(cut, hosts=the_heads, seconds=SHORTER)),
    _case("the head's node is cut off and comes back", functools.partial(cut, hosts=the_heads, seconds=(6.5, 8))),
    _case("another node is cut off at the start", cut_at_the_start),
    _case("a cable that is loose", flap),
    _case("one way, from the head", functools.partial(one_way, from_head=True, seconds=None), says=LOST),
    _case("one way, to the head", functools.partial(one_way, from_head=False, seconds=None), says=LOST),
    _case("one way, from the head, and back", functools.partial(one_way, from_head=True, seconds=LONG)),
    _case("one way, to the head, and back", functools.partial(one_way, from_head=False, seconds=LONG)),
    _case("one way, to the head, for a moment", functools.partial(one_way, from_head=False, seconds=SHORTER)),
    _case("connections are reset", functools.partial(reset, times=1), before=by_ssh, says=LOST),
    _case("srun's connections are reset", functools.partial(reset, times=1), before=by_srun),
    _case("sessions of sshd end", hang_up, before=by_ssh, says=LOST),
    _case("sessions of sshd end, not exclusive", hang_up, before=by_ssh, workload=SHORT, says=LOST),
    _case("the head's node sends slowly", before=functools.partial(slow, rate="4mbit", heads=True), workload=HEAVY),
    _case("another node sends slowly", before=functools.partial(slow, rate="64kbit", heads=False), workload=HEAVY),
    _case("two nodes say the same name", before=same_name, workload=SHORT),
)
