"""What a machine refuses: space, inodes, descriptors, processes, memory, CPU time, writing; and clocks that jump."""

import contextlib
import errno
import functools
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos import boxes
from tests.chaos.case import Case, NotRun
from tests.chaos.faults.processes import begin, chosen, members, middle
from tests.chaos.run import Run
from tests.chaos.workload import Workload
from tests.helpers import alive, block_until

FULL = r"full|No space|free space"
DAY = 24 * 3600
BLOCKS = Workload(payload=1 << 20)
RETRIED = Workload(options={"retries": 2})

# --------------------------------------------------------------------------------------------------------- disks


def noexec_tmp(run: Run) -> None:
    """Let nothing in /tmp be executed, as many sites have it."""
    if Path("/tmp") in Path(sys.prefix).resolve().parents:
        raise NotRun("this Python is in /tmp, and could not run then")
    boxes.prepared(run, script="mount --bind /tmp /tmp && mount -o remount,bind,noexec /tmp")


def small_disk(run: Run, options: str = "size=3m", full: Callable[[Path], None] | None = None) -> None:
    """Give the run a small disk, full from the start or not."""
    boxes.mount(run, run.disk, options)
    if full:
        full(run.disk)


def small_tmp(run: Run, options: str = "size=4k") -> None:
    """Give the run a full TMPDIR."""
    boxes.mount(run, run.place / "tmp", options)
    boxes.fill(run.place / "tmp")


def free_tmp(run: Run) -> None:
    """Free TMPDIR, in which nothing may be left."""
    boxes.free(run.place / "tmp")


def fill(run: Run) -> None:
    """Fill the disk at work."""
    middle(run)
    boxes.fill(run.disk)


def fill_names(run: Run) -> None:
    """Use up the disk's inodes at work; then a worker is replaced, which needs a log."""
    middle(run)
    boxes.fill_names(run.disk)
    chosen(run, "worker").signal(signal.SIGKILL)


def fill_for_a_while(run: Run) -> None:
    """Fill the disk, and free it as soon as somebody has noticed."""
    fill(run)
    run.until("failed", 1)
    boxes.free(run.disk)


def full_after_a_kill(run: Run) -> None:
    """Kill the head, and start it again on a full disk."""
    middle(run)
    chosen(run, "head").signal(signal.SIGKILL)
    run.wait()
    boxes.fill(run.disk)
    run.start()


def read_only_after_a_kill(run: Run) -> None:
    """Kill all, and start again on a disk that has become read-only."""
    middle(run)
    for process in members(run, ("head", "keeper", "launcher", "worker")):
        process.signal(signal.SIGKILL)
    run.wait()
    block_until(lambda: not run.left(), 10, "all have ended")
    boxes.remount(run.disk, "ro")
    run.start()


def failing_disk(run: Run) -> None:
    """Let the file system give up at work, as after an error of the disk: nothing can be written any more."""
    middle(run)
    boxes.remount(run.disk, "abort")


def give_space(run: Run) -> None:
    """Free the disk, and make it writable."""
    boxes.remount(run.disk, "rw")
    boxes.free(run.disk)


# ------------------------------------------------------------------------------------------- limits of a process


def limited(run: Run, limits: str) -> None:
    """Give the program limits from the start, as `ulimit` does."""
    run.within += ["prlimit", limits]


def limit_workers(run: Run, limits: str) -> None:
    """Give limits to processes that run."""
    begin(run)
    for process in members(run, ("worker",)):
        boxes.command("prlimit", f"--pid={process.pid}", limits)


def unlimited(run: Run) -> None:
    """Start the next turn without limits."""
    run.within.clear()


# ------------------------------------------------------------------------------------- processes and memory


def in_group(run: Run, controller: str, file: str = "", value: str = "") -> None:
    """Put the program into a control group with a limit."""
    boxes.group(run, controller)
    if file:
        (run.groups[controller] / file).write_text(value)


def no_more_processes(run: Run) -> None:
    """Let nothing be forked for a while, and kill a worker, which has to be replaced."""
    middle(run)
    limit = run.groups["pids"] / "pids.max"
    limit.write_text("1")
    chosen(run, "worker").signal(signal.SIGKILL)
    time.sleep(run.rng.uniform(0.2, 2))
    limit.write_text("max")


EATER = """
import sys
open("/proc/self/oom_score_adj", "w").write("500")  # killed next, after the victim
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
eaten = []
while True:
    eaten.append(bytearray(b"x") * (1 << 20))
"""


def eat_memory(run: Run, role: str) -> None:
    """Use up the memory of the control group, until the kernel kills a process of this role."""
    middle(run)
    place = run.groups["memory"]
    victim = chosen(run, role)
    with contextlib.suppress(OSError):  # it has just ended
        Path(f"/proc/{victim.pid}/oom_score_adj").write_text("1000")
    used = int((place / "memory.usage_in_bytes").read_text())
    (place / "memory.limit_in_bytes").write_text(str(used + (16 << 20)))
    with subprocess.Popen([sys.executable, "-c", EATER, str(place)], stderr=subprocess.DEVNULL) as eater:
        try:
            block_until(
                lambda: "oom_kill 0" not in (place / "memory.oom_control").read_text(), 20, "a process is killed"
            )
        finally:
            eater.kill()
    (place / "memory.limit_in_bytes").write_text("-1")
    if alive(victim.pid):
        raise NotRun("the kernel has killed another process")


def freeze(run: Run) -> None:
    """Freeze all of the run for some seconds, as a suspended virtual machine is."""
    middle(run)
    state = run.groups["freezer"] / "freezer.state"
    state.write_text("FROZEN")
    time.sleep(run.rng.uniform(0.5, 6))
    state.write_text("THAWED")


def started_by(run: Run, script: str) -> None:
    """Let a shell start the program."""
    run.within += ["sh", "-c", script, "sh"]


# ------------------------------------------------------------------------------------------------ clocks, fsync


def jump(run: Run, seconds: tuple[int, ...]) -> None:
    """Let the wall clock jump at work."""
    middle(run)
    for each in seconds:
        boxes.lie(run, wall_clock=each)
        time.sleep(run.rng.uniform(0, 0.5))


def jump_between(run: Run, seconds: int) -> None:
    """Kill all at work, and start again when the wall clock shows another day."""
    middle(run)
    for process in members(run, ("head", "keeper", "launcher", "worker")):
        process.signal(signal.SIGKILL)
    run.wait()
    boxes.lie(run, wall_clock=seconds)
    run.start()


def failing_sync(run: Run) -> None:
    """Let fsync fail at work, as on a disk that dies."""
    middle(run)
    boxes.lie(run, fsync=errno.EIO)


# -------------------------------------------------------------------------------------------------------- table

_case = functools.partial(Case, table="limits")
_part = functools.partial

TABLE = (
    _case(name="disk full at work", before=small_disk, attack=fill, mend=give_space, told=FULL),
    _case(name="disk full for a while", before=small_disk, attack=fill_for_a_while, told=FULL),
    _case(name="disk full at the start", before=_part(small_disk, full=boxes.fill), mend=give_space, told=FULL),
    _case(name="disk full after a kill", before=small_disk, attack=full_after_a_kill, mend=give_space, told=FULL),
    _case(
        name="no inodes at work",
        before=_part(small_disk, options="nr_inodes=300"),
        attack=fill_names,
        mend=give_space,
        workload=RETRIED,
        survives=True,
    ),
    _case(
        name="no inodes at the start",
        before=_part(small_disk, options="nr_inodes=300", full=boxes.fill_names),
        mend=give_space,
        told=FULL,
    ),
    _case(name="read-only at the start", before=_part(small_disk, options="ro"), mend=give_space, told="Read-only"),
    _case(
        name="read-only after a kill",
        before=small_disk,
        attack=read_only_after_a_kill,
        mend=give_space,
        told="Read-only|cannot be written",
    ),
    _case(
        name="disk fails at work",
        before=boxes.mount_image,
        attack=failing_disk,
        mend=boxes.mount_copy,
        told="[Rr]ead-only|failed to write|disk I/O",
    ),
    _case(name="TMPDIR full", before=small_tmp, mend=free_tmp, workload=BLOCKS, survives=True),
    *(
        _case(
            name=f"{number} descriptors",
            before=_part(limited, limits=f"--nofile={number}:{number}"),
            mend=unlimited,
            workload=BLOCKS,
            told=r"ulimit -n",
            survives=number >= 64,
        )
        for number in (64, 32, 20, 12)
    ),
    _case(
        name="file size limit",
        before=_part(limited, limits="--fsize=200000:200000"),
        mend=unlimited,
        told=r"ulimit -f",
    ),
    _case(
        name="CPU limit of the workers",
        attack=_part(limit_workers, limits="--cpu=1:1"),
        workload=Workload(keys=12, seconds=0.4, burns=True),
        told="CPU time",
    ),
    _case(
        name="CPU limit of all",
        before=_part(limited, limits="--cpu=1:1"),
        mend=unlimited,
        workload=Workload(burns=True),
    ),
    _case(
        name="few processes at the start",
        before=_part(in_group, controller="pids", file="pids.max", value="5"),
        mend=unlimited,
        told=r"ulimit -u|fork|thread|temporarily",
    ),
    _case(
        name="no more processes",
        before=_part(in_group, controller="pids"),
        attack=no_more_processes,
        workload=RETRIED,
        survives=True,
    ),
    _case(name="all frozen", before=_part(in_group, controller="freezer"), attack=freeze, survives=True),
    _case(
        name="a third of a CPU",
        before=_part(in_group, controller="cpu", file="cpu.cfs_quota_us", value="33000"),
        survives=True,
    ),
    *(
        _case(name=f"standard streams {name}", before=_part(started_by, script=f'exec "$@" {how}'), survives=True)
        for name, how in {"on a full disk": ">/dev/full 2>&1", "closed": "<&- >&- 2>&-"}.items()
    ),
    *(
        _case(
            name=f"memory limit, {role} is killed",
            before=_part(in_group, controller="memory"),
            attack=_part(eat_memory, role=role),
            told="memory" if role == "worker" else "",
        )
        for role in ("worker", "launcher", "keeper", "head")
    ),
    *(
        _case(name=f"clock jumps {name}", before=boxes.lying, attack=attack, survives=True)
        for name, attack in {
            "a day forward": _part(jump, seconds=(DAY,)),
            "a day back": _part(jump, seconds=(-DAY,)),
            "both ways": _part(jump, seconds=(3600, -3600, 10 * 365 * DAY, 0, -7, 7)),
            "a day forward between turns": _part(jump_between, seconds=DAY),
            "a day back between turns": _part(jump_between, seconds=-DAY),
        }.items()
    ),
    _case(name="fsync fails", before=boxes.lying, attack=failing_sync, mend=boxes.lie, told="failed to write|disk I/O"),
    *(
        _case(
            name=f"{place} {name}",
            before=_part(boxes.prepared, script=f"mount -t tmpfs -o {options} chaos {place}"),
            workload=BLOCKS,
            survives=True,
        )
        for place, name, options in (
            ("/dev/shm", "tiny", "size=4k"),
            ("/dev/shm", "read-only", "ro"),
            ("/dev/shm", "noexec", "noexec,nosuid"),
        )
    ),
    _case(
        name="/tmp noexec",
        before=noexec_tmp,
        workload=BLOCKS,
        survives=True,
    ),
    _case(name="no rights of root", before=boxes.without_rights, survives=True),
)
