"""A Cluster program: {its master, its jobs' processes} x signals x moments, and what Slurm and its nodes do to it."""

import contextlib
import functools
import shutil
import signal
import subprocess
import time
from collections.abc import Callable

import attrs

from tests.chaos import boxes
from tests.chaos.case import Case, NotRun
from tests.chaos.faults.slurm_commands import WAYS
from tests.chaos.login_run import LoginRun
from tests.chaos.promises import Promise
from tests.chaos.run import Process, Run
from tests.chaos.workload import Workload
from tests.slurm.shims import configured

WORK = Workload(keys=36, seconds=0.4, world="cluster", jobs=3)
PATIENT = attrs.evolve(WORK, words=("--on-error", "retry:3"))
"""A program whose user wants failed jobs tried again."""
STUBBORN = attrs.evolve(WORK, words=("--on-error", "retry:9"))
WIDE = attrs.evolve(PATIENT, jobs=2, nodes=2)
LONG = attrs.evolve(WORK, keys=72, seconds=0.8)
SLOW = attrs.evolve(WORK, keys=48, seconds=8.0)
"""Jobs that still run when Slurm gives a node up."""

RESUME = r"hyperflow resume|hyperflow retry"
NEWEST = frozenset({Promise.NEWEST})

JOBS = ("runner", "keeper", "launcher", "worker")
_GOES_ON = "a node that was cut off goes on until it notices, and its work is given to others meanwhile"
ISOLATED = {Promise.ONCE: _GOES_ON, Promise.DURABLE: _GOES_ON}

CANCELLED = "somebody cancelled it"
FULL = "full|[Nn]o space|free space"

# ------------------------------------------------------------------------------------------------------- moments


def at_start(run: Run) -> None:
    """The moment at which the program's process is there."""
    assert isinstance(run, LoginRun)
    run.until_master()


def submitting(run: Run) -> None:
    """The moment at which sbatch runs: its answer will not be heard."""
    assert isinstance(run, LoginRun)
    run.shims.fail("sbatch", WAYS["does it, then hangs"], 1)
    run.until_true(lambda: run.shims.failed("sbatch") and run.batch_ids(), "sbatch has submitted")


def at_work(run: Run) -> None:
    """Some moment while evaluations run."""
    run.at_work()


def at_end(run: Run) -> None:
    """The moment at which the last evaluations run, and the first jobs have ended."""
    run.until("start", run.workload.keys - 1)


MOMENTS: dict[str, Callable[[Run], None]] = {
    "at the start": at_start, "in sbatch": submitting, "at work": at_work, "at the end": at_end,
}  # fmt: skip


def chosen(run: Run, role: str, host: str = "") -> Process:
    """Return a process of a role; the program itself is the head."""
    if (process := run.one(role, host)) is None:
        raise NotRun(f"no {role} was there at that moment")
    return process


# ----------------------------------------------------------------------------------------------------- processes


def send(run: Run, role: str, number: signal.Signals, moment: str) -> None:
    """Send a signal to a process of a role."""
    MOMENTS[moment](run)
    chosen(run, role).signal(number)


def go_on(run: Run, process: Process) -> None:
    """Let a stopped process go on."""
    assert isinstance(run, LoginRun)
    process.signal(signal.SIGCONT)
    run.carry_on()


def pause(run: Run, role: str, moment: str) -> None:
    """Stop a process for some seconds."""
    MOMENTS[moment](run)
    process = chosen(run, role)
    process.signal(signal.SIGSTOP)
    time.sleep(run.rng.uniform(0.5, 8))
    go_on(run, process)


def kill_often(run: Run) -> None:
    """Kill the master three times, at moments of any kind."""
    for _ in range(3):
        at_start(run)
        time.sleep(run.rng.uniform(0, 6))
        if (master := run.one("head")) is not None:
            master.signal()
        if run.wait().code == 0:
            return
        run.start()


def kill_together(run: Run, roles: tuple[str, ...]) -> None:
    """Kill all processes of these roles at once."""
    at_work(run)
    doomed = [process for role in roles for process in run.processes().get(role, [])]
    if not doomed:
        raise NotRun("there was none")
    for process in doomed:
        process.signal()


def kill_on_node(run: Run) -> None:
    """Kill all at once that runs on one node."""
    at_work(run)
    host = chosen(run, "runner").host
    for process in run.left():
        if process.host == host:
            process.signal()


# ----------------------------------------------------------------------------------------------------- two masters


def second_master(run: Run, host: str) -> None:
    """Start a second master on the run directory while the first one is at work."""
    assert isinstance(run, LoginRun)
    at_work(run)
    with run.another(host, CHAOS_RESUME=str(run.home)) as second:
        code = second.wait(40)
    said = run.said_another()
    if code == 0 and not run.running:
        raise NotRun("the first one had ended before")
    assert code != 0, f"a second master was let in: {said}"
    assert "login" in said, f"it does not say who runs it: {said}"


def many_masters(run: Run) -> None:
    """Kill the master, and start four at once on its run directory."""
    assert isinstance(run, LoginRun)
    at_work(run)
    chosen(run, "head").signal()
    run.wait()
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(run.another(CHAOS_RESUME=str(run.home))) for _ in range(3)]
        run.start()
        codes = [run.wait().code, *(other.wait(80) for other in others)]
    assert codes.count(0) == 1, f"exit codes {codes}: {run.said_another()}"


def stopped_master(run: Run) -> None:
    """Stop the master, and start a second one: the first one lives, whatever it looks like."""
    at_work(run)
    master = chosen(run, "head")
    master.signal(signal.SIGSTOP)
    try:
        second_master(run, "login")
    finally:
        go_on(run, master)


# ----------------------------------------------------------------------------------------------------------- Slurm


def controller_away(run: Run, moment: str, number: signal.Signals) -> None:
    """End slurmctld for some seconds."""
    assert isinstance(run, LoginRun)
    MOMENTS[moment](run)
    run.cluster.faults.stop_daemon("login", "slurmctld", number)
    time.sleep(run.rng.uniform(1, 12))
    run.cluster.faults.start_daemon("login", "slurmctld")


def controller_forgets(run: Run) -> None:
    """End slurmctld, and start it again without its state."""
    assert isinstance(run, LoginRun)
    at_work(run)
    run.cluster.faults.stop_daemon("login", "slurmctld", signal.SIGKILL)
    state = run.cluster.directory / "slurm" / "state"
    shutil.rmtree(state)
    state.mkdir(mode=0o700)
    run.cluster.faults.start_daemon("login", "slurmctld")


def order(run: Run, *words: str) -> None:
    """Give an order about one of the jobs by scontrol or scancel; JOB stands for its number."""
    assert isinstance(run, LoginRun)
    at_work(run)
    if not (ids := run.batch_ids()):
        raise NotRun("no job was with Slurm any more")
    job = str(run.rng.choice(ids))
    run.cluster.login.run([word.replace("JOB", job) for word in words], check=False)  # it may have just ended


def cancel_and_retry(run: Run) -> None:
    """Cancel a job by scancel, and have it tried again as soon as the program holds it."""
    assert isinstance(run, LoginRun)
    order(run, "scancel", "JOB")
    run.until_true(lambda: any(record["state"] == "held" for record in run.records()), "the job is held")
    run.type("retry", "--all", "--run", str(run.home))


def requeue_often(run: Run) -> None:
    """Put jobs back into the queue three times."""
    for _ in range(3):
        order(run, "scontrol", "requeue", "JOB")
        time.sleep(run.rng.uniform(0, 5))


def hold_and_release(run: Run) -> None:
    """Put a job back into the queue, held, and release it."""
    assert isinstance(run, LoginRun)
    order(run, "scontrol", "requeuehold", "JOB")
    time.sleep(run.rng.uniform(1, 4))
    for job in run.batch_ids():
        run.cluster.login.run(["scontrol", "release", str(job)], check=False)


def suspend(run: Run) -> None:
    """Suspend all jobs for some seconds."""
    assert isinstance(run, LoginRun)
    at_work(run)
    jobs = run.batch_ids()
    for word in ("suspend", "resume"):
        for job in jobs:
            run.cluster.login.run(["scontrol", word, str(job)], check=False)
        time.sleep(run.rng.uniform(2, 10) if word == "suspend" else 0)


PREEMPTION = (
    "PreemptType=preempt/partition_prio",
    "PreemptMode=REQUEUE",
    "PartitionName=urgent Nodes=ALL PriorityTier=10 State=UP",
)


def allow_preemption(run: Run) -> None:
    """Give the cluster a partition whose jobs take the place of ours."""
    assert isinstance(run, LoginRun)
    run.undo.enter_context(configured(run.cluster, *PREEMPTION))


def preempt(run: Run) -> None:
    """Let a job of somebody else take all nodes for some seconds."""
    assert isinstance(run, LoginRun)
    at_work(run)
    slurm = run.cluster.slurm
    other = slurm.sbatch("sleep 3", nodes=3, exclusive=True, partition="urgent", requeue=False, output="/dev/null")
    with contextlib.suppress(TimeoutError):
        slurm.wait_for(other, "RUNNING", "COMPLETED", timeout=30)


def node_of_a_job(run: Run) -> str:
    """Return a node that runs a job, early enough."""
    run.until("ack", 1)
    return chosen(run, "runner").host


def node_down(run: Run) -> None:
    """Have the administrator set a node down for some seconds."""
    assert isinstance(run, LoginRun)
    node = node_of_a_job(run)
    run.cluster.slurm.scontrol("update", f"nodename={node}", "state=down", "reason=chaos")
    time.sleep(run.rng.uniform(0, 3))
    run.cluster.login.run(["scontrol", "update", f"nodename={node}", "state=resume"], check=False)


def power_off(run: Run) -> None:
    """Switch a node off; it comes back when the job is elsewhere."""
    assert isinstance(run, LoginRun)
    node = node_of_a_job(run)
    run.cluster.faults.crash(node)
    time.sleep(run.rng.uniform(0, 15))
    run.cluster.faults.boot(node)


def freeze(run: Run, seconds: float) -> None:
    """Freeze a node with a job: nothing on it goes on, and nothing is lost. 0: until its job runs elsewhere."""
    assert isinstance(run, LoginRun)
    node = node_of_a_job(run)
    run.cluster.faults.freeze(node)
    if seconds:
        time.sleep(seconds)
    else:
        until_elsewhere(run)
    run.cluster.faults.thaw(node)


def cut_off(run: Run, seconds: float) -> None:
    """Cut a node with a job off the network; the file system stays. 0: until its job runs elsewhere."""
    assert isinstance(run, LoginRun)
    node = node_of_a_job(run)
    run.cluster.faults.cut(node)
    if seconds:
        time.sleep(seconds)
    else:
        until_elsewhere(run)
    run.cluster.faults.mend(node)


def cut_login(run: Run) -> None:
    """Cut the login host off the network: master and slurmctld are there, and the nodes are not."""
    assert isinstance(run, LoginRun)
    at_work(run)
    run.cluster.faults.cut("login")
    time.sleep(run.rng.uniform(1, 8))
    run.cluster.faults.mend("login")


def kill_slurmd(run: Run, seconds: float) -> None:
    """Kill slurmd on a node with a job, which goes on; for so many seconds, or (0) until its job runs elsewhere."""
    assert isinstance(run, LoginRun)
    node = node_of_a_job(run)
    run.cluster.faults.stop_daemon(node, "slurmd", signal.SIGKILL)
    if seconds:
        time.sleep(seconds)
    else:
        until_elsewhere(run)
    run.cluster.faults.start_daemon(node, "slurmd")


def until_elsewhere(run: Run) -> None:
    """Wait until Slurm has given a node up, and has started a job of it on another one."""
    run.until("began", run.workload.jobs + 1, patience=80)
    if not run.running:
        raise NotRun("the jobs had ended before Slurm gave the node up")


# ----------------------------------------------------------------------------------------------------------- disks


def shared_disk(run: Run) -> None:
    """Give the run a small disk that all hosts see."""
    assert isinstance(run, LoginRun)
    image = run.place / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    boxes.command("mkfs.ext4", "-q", str(image))
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotRun(f"losetup: {done.stderr.strip()}")
    device = done.stdout.strip()
    run.undo.callback(subprocess.run, ["losetup", "--detach", device], check=False)
    boxes.command("mount", device, str(run.disk))
    run.undo.callback(subprocess.run, ["umount", "--lazy", str(run.disk)], check=False)
    for host in run.cluster.hosts.values():
        host.run(["mount", device, str(run.disk)])
        run.undo.callback(host.run, ["umount", "--lazy", str(run.disk)], check=False)


def fill_for(run: Run, seconds: float) -> None:
    """Fill it at work for some seconds."""
    at_work(run)
    boxes.fill(run.disk)
    time.sleep(seconds)
    boxes.free(run.disk)


def full_temporary(run: Run) -> None:
    """Let the program on the login host have a full TMPDIR."""
    assert isinstance(run, LoginRun)
    tmp = str(run.place / "tmp")
    run.cluster.login.run(["mount", "-t", "tmpfs", "-o", "size=4k", "chaos", tmp])
    run.undo.callback(run.cluster.login.run, ["umount", "--lazy", tmp], check=False)
    run.cluster.login.run(["dd", "if=/dev/zero", f"of={tmp}/filling", "bs=1k"], check=False)


# ----------------------------------------------------------------------------------------------------------- cases


def _case(name: str, attack: Callable[[Run], None], **more: object) -> Case:
    settings: dict[str, object] = {"workload": WORK, "world": "cluster", "tries": NEWEST, **more}
    return Case(table="master", name=name, attack=attack, **settings)  # type: ignore[arg-type]


def _signals() -> list[Case]:
    found: list[Case] = []
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSEGV)
    for moment in MOMENTS:
        for number in numbers:
            attack = functools.partial(send, role="head", number=number, moment=moment)
            polite = number in numbers[1:4] and moment in {"in sbatch", "at work"}
            found.append(_case(f"master {number.name[3:]} {moment}", attack, told=RESUME if polite else ""))
        attack = functools.partial(pause, role="head", moment=moment)
        found.append(_case(f"master STOP then CONT {moment}", attack, survives=True))
    for role in JOBS:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
            attack = functools.partial(send, role=role, number=number, moment="at work")
            found.append(_case(f"{role} of a job {number.name[3:]}", attack, workload=PATIENT, survives=True))
        attack = functools.partial(pause, role=role, moment="at work")
        found.append(_case(f"{role} of a job STOP then CONT", attack, workload=PATIENT, survives=True))
    return found


def ordered(*words: str) -> Callable[[Run], None]:
    """Return an attack that gives an order about one of the jobs."""
    return lambda run: order(run, *words)


def together(*roles: str) -> Callable[[Run], None]:
    """Return an attack that kills all processes of these roles at once."""
    return lambda run: kill_together(run, roles)


SURVIVED: dict[str, Callable[[Run], None]] = {
    "a second one on the login host": functools.partial(second_master, host="login"),
    "a second one on a node": functools.partial(second_master, host="node1"),
    "a second one while it is stopped": stopped_master,
    "job requeued": ordered("scontrol", "requeue", "JOB"),
    "jobs requeued three times": requeue_often,
    "job requeued, held and released": hold_and_release,
    "jobs suspended and resumed": suspend,
    "node set down": node_down,
    "node switched off": power_off,
    "node frozen for 4 s": functools.partial(freeze, seconds=4),
    "node cut off for 4 s": functools.partial(cut_off, seconds=4),
    "login host cut off": cut_login,
    "slurmd killed for 4 s": functools.partial(kill_slurmd, seconds=4),
}
"""Nobody's fault: the program goes on by itself."""

CONTROLLER = [
    _case(
        f"slurmctld {number.name[3:]} for some seconds {moment}",
        functools.partial(controller_away, moment=moment, number=number),
        survives=moment == "at work",
        told="" if moment == "at work" else "could not be launched",  # Slurm holds what it was just launching
    )
    for number in (signal.SIGKILL, signal.SIGTERM)
    for moment in ("in sbatch", "at work")
]

OTHERS = (
    _case("master KILL three times", kill_often),
    _case("master KILL, then four at once", many_masters, told=f"runs it|{RESUME}"),
    _case("master and runners KILL", together("head", "runner"), workload=PATIENT),
    _case("master and all processes of the jobs KILL", together("head", *JOBS), workload=PATIENT),
    _case("all processes of the jobs KILL", together(*JOBS), workload=PATIENT, survives=True),
    _case("all on a node KILL", kill_on_node, workload=PATIENT, survives=True),
    _case("all on a node of a job of two KILL", kill_on_node, workload=WIDE, survives=True),
    _case("slurmctld restarted without its state", controller_forgets, workload=PATIENT, survives=True),
    _case("job cancelled", ordered("scancel", "JOB"), told=CANCELLED),
    _case("job cancelled, held, retried by hand", cancel_and_retry, workload=PATIENT, survives=True),
    _case("job at its time limit", ordered("scontrol", "update", "JobId=JOB", "EndTime=now"), told="time limit"),
    _case("jobs preempted", preempt, before=allow_preemption, survives=True),
    _case("slurmd killed for long", functools.partial(kill_slurmd, seconds=0), survives=True, workload=SLOW),
    _case(
        "node frozen for long",
        functools.partial(freeze, seconds=0),
        survives=True,
        workload=SLOW,
        excused=ISOLATED,
    ),
    _case(
        "node cut off for long",
        functools.partial(cut_off, seconds=0),
        survives=True,
        workload=SLOW,
        excused=ISOLATED,
    ),
    _case(
        "disk full for 5 s", functools.partial(fill_for, seconds=5), before=shared_disk, workload=STUBBORN, told=FULL
    ),
    _case("TMPDIR of the login host full", at_work, before=full_temporary, survives=True),
)

TABLE = (
    *_signals(),
    *CONTROLLER,
    *(_case(name, attack, survives=True, workload=LONG) for name, attack in SURVIVED.items()),
    *OTHERS,
)
