"""What Slurm and its administrators do to an allocation while a program runs in it."""

import functools
import re
import signal
import time
from collections.abc import Callable, Sequence

import attrs

from tests.chaos.case import Case, NotRun, nothing
from tests.chaos.cluster_run import SlurmRun, in_slurm
from tests.chaos.faults.nodes import ALONE, LOST, RETURNED, SHORT, another, by_chance, by_srun, by_ssh
from tests.chaos.run import Run
from tests.chaos.workload import Workload
from tests.cluster.network import LOGIN

SAVING = Workload(keys=240, seconds=0.3, world="slurm")
"""Longer than there is time."""

LASTING = Workload(keys=180, seconds=1.0, world="slurm")
"""Longer than it takes until a run looks which nodes it has."""

PREEMPTION = """\
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=UNLIMITED State=UP
"""


def may_be_requeued(run: Run) -> None:
    """Let Slurm put the job back into the queue."""
    by_chance(run)
    run = in_slurm(run)
    del run.batch["no_requeue"]
    run.batch["requeue"] = True


def scontrol(run: Run, words: Sequence[str]) -> None:
    """Let an administrator do something to the job at work; {job} in the words is its number."""
    run = in_slurm(run)
    run.at_work()
    run.cluster.slurm.scontrol(*(word.format(job=run.job) for word in words))


def take_away(run: Run, where: Callable[[SlurmRun], str], state: str) -> None:
    """Let an administrator set a node down, or drain it."""
    run = in_slurm(run)
    run.at_work()
    name = f"nodename={where(run)}"
    # One that was set down may be back by itself, and then cannot be resumed.
    run.faults.callback(run.cluster.login.run, ["scontrol", "update", name, "state=resume"], check=False)
    run.cluster.slurm.scontrol("update", name, f"state={state}", "reason=chaos")


def cancel(run: Run, words: Sequence[str] = ()) -> None:
    """Cancel the job, or send it a signal."""
    run = in_slurm(run)
    run.at_work()
    run.cluster.slurm.scancel(run.job, *words)


def cancel_step(run: Run) -> None:
    """Cancel the step in which a launcher runs."""
    run = in_slurm(run)
    run.at_work()
    said = run.cluster.login.run(["squeue", "--steps", "--noheader", "--format=%i"]).stdout
    steps = [step for step in said.split() if re.fullmatch(rf"{run.job}\.\d+", step)]
    if not steps:
        raise NotRun(f"there was no step: {said!r}")
    run.cluster.login.run(["scancel", run.rng.choice(steps)])


def suspend(run: Run, least: float, most: float) -> None:
    """Suspend the job for some seconds: its processes on all nodes that Slurm knows of."""
    run = in_slurm(run)
    run.at_work()
    run.cluster.slurm.scontrol("suspend", str(run.job))
    time.sleep(run.rng.uniform(least, most))
    run.cluster.slurm.scontrol("resume", str(run.job))


def with_urgent_partition(run: Run) -> None:
    """Have a partition whose jobs put others back into the queue."""
    may_be_requeued(run)
    run = in_slurm(run)
    conf = run.cluster.directory / "slurm" / "slurm.conf"
    before = conf.read_text()

    def restart(text: str) -> None:
        conf.write_text(text)
        run.cluster.faults.stop_daemon(LOGIN, "slurmctld", signal.SIGTERM)
        run.cluster.faults.start_daemon(LOGIN, "slurmctld")
        run.cluster.slurm.wait_idle()

    run.undo.callback(restart, before)
    restart(before + PREEMPTION)


def preempt(run: Run) -> None:
    """Submit a job that needs the nodes at once."""
    run = in_slurm(run)
    run.at_work()
    nodes = len(run.cluster.nodes)
    urgent = run.cluster.slurm.sbatch("sleep 1", partition="urgent", nodes=nodes, ntasks_per_node=4)
    run.cluster.slurm.wait_for(urgent, timeout=60)
    if int(run.cluster.slurm.job(run.job)["Restarts"]) == 0:
        raise NotRun("it was not preempted")


def stop_daemon(run: Run, name: str, where: Callable[[SlurmRun], str], seconds: float | None = None) -> None:
    """Kill a daemon of Slurm, and start it again after some seconds, or after the program's end."""
    run = in_slurm(run)
    run.at_work()
    host = where(run)
    run.faults.callback(run.cluster.faults.start_daemon, host, name)
    run.cluster.faults.stop_daemon(host, name)
    if seconds is not None:
        time.sleep(seconds)
        run.cluster.faults.start_daemon(host, name)


def kill_shepherds(run: Run, where: Callable[[SlurmRun], str]) -> None:
    """Kill the slurmstepds of a node, under which Slurm has our processes there."""
    run = in_slurm(run)
    run.at_work()
    host = where(run)
    shepherds = [process for process in run.cluster.hosts[host].processes() if process.name == "slurmstepd"]
    if not shepherds:
        raise NotRun("there was no step")
    for process in shepherds:
        process.kill()
    if host == run.head_host:
        run.until("ended", 1)
        run.cluster.slurm.scancel(run.job)  # Slurm itself takes a minute to see that


def short_of_time(run: Run) -> None:
    """Give the job a minute, of which the last 50 s are for its end."""
    by_chance(run)
    run = in_slurm(run)
    run.environment["HYPERFLOW_END_MARGIN"] = "50"
    run.batch["time"] = 1


def more_time(run: Run) -> None:
    """Let the next turn have time."""
    run = in_slurm(run)
    run.batch.pop("time")
    run.environment.pop("HYPERFLOW_END_MARGIN")


def short_of_time_with_requeue(run: Run) -> None:
    """Give the job a minute, after which it puts itself back into the queue."""
    short_of_time(run)
    may_be_requeued(run)


def login(run: SlurmRun) -> str:
    """The login host."""
    return LOGIN


def heads(run: SlurmRun) -> str:
    """The node that the program runs on."""
    return run.head_host


def _goes_on(
    name: str,
    attack: Callable[[Run], None] = nothing,
    *,
    before: Callable[[Run], None] = by_chance,
    workload: Workload = ALONE,
    says: str = "",
) -> Case:
    return Case(
        table="allocation",
        name=name,
        before=before,
        attack=attack,
        world="slurm",
        workload=workload,
        survives=True,
        says=says,
        excused=RETURNED if says == LOST and not workload.options else {},
    )


def _ends(
    name: str,
    attack: Callable[[Run], None] = nothing,
    *,
    before: Callable[[Run], None] = by_chance,
    mend: Callable[[Run], None] = nothing,
    workload: Workload = SHORT,
    told: str = "",
) -> Case:
    return Case(
        table="allocation",
        name=name,
        before=before,
        attack=attack,
        mend=mend,
        world="slurm",
        workload=workload,
        told=told,
    )


ENDING = r"the allocation ends"

SHRINK = functools.partial(scontrol, words=("update", "JobId={job}", "NumNodes=2"))

TABLE = (
    _goes_on(
        "requeue", functools.partial(scontrol, words=("requeue", "{job}")), before=may_be_requeued, workload=SHORT
    ),
    _goes_on("preemption", preempt, before=with_urgent_partition, workload=SHORT),
    _goes_on("suspended for a moment", functools.partial(suspend, least=0.5, most=3)),
    _goes_on("suspended", functools.partial(suspend, least=7, most=10)),
    _goes_on("it shrinks", SHRINK, before=by_ssh, workload=LASTING, says=LOST),
    _goes_on("it shrinks, srun", SHRINK, before=by_srun, says=LOST),
    _goes_on("a step is cancelled", cancel_step, before=by_srun, says=LOST),
    _goes_on("another node is set down", functools.partial(take_away, where=another, state="down")),
    _goes_on("another node is drained", functools.partial(take_away, where=another, state="drain")),
    _goes_on("slurmd of another node dies", functools.partial(stop_daemon, name="slurmd", where=another)),
    _goes_on(
        "slurmd of another node is restarted", functools.partial(stop_daemon, name="slurmd", where=another, seconds=1)
    ),
    _goes_on(
        "slurmd of the head's node is restarted", functools.partial(stop_daemon, name="slurmd", where=heads, seconds=1)
    ),
    _goes_on("slurmstepd of another node dies", functools.partial(kill_shepherds, where=another), before=by_srun),
    _ends("slurmstepd of the head's node dies", functools.partial(kill_shepherds, where=heads)),
    _goes_on("slurmctld dies", functools.partial(stop_daemon, name="slurmctld", where=login, seconds=8)),
    _goes_on(
        "its time ends, requeue",
        before=short_of_time_with_requeue,
        workload=attrs.evolve(SAVING, settings={"requeue": True}),
        says=ENDING,
    ),
    _ends("its time ends", before=short_of_time, mend=more_time, workload=SAVING, told=ENDING),
    _ends("scancel", cancel),
    _ends("scancel INT", functools.partial(cancel, words=("--signal=INT", "--full"))),
    _ends("scancel USR1", functools.partial(cancel, words=("--signal=USR1", "--batch")), told=ENDING),
    _ends("scancel KILL", functools.partial(cancel, words=("--signal=KILL", "--full"))),
    _ends("the head's node is set down", functools.partial(take_away, where=heads, state="down")),
    _ends("slurmd of the head's node dies", functools.partial(stop_daemon, name="slurmd", where=heads)),
)
