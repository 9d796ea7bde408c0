"""What does a task of `hyperflow array` cost, beside GNU parallel, xargs, HyperQueue and a bare loop of posix_spawn?

Each contestant runs `true` often, two at a time, once with few and once with many tasks. What a further task costs is
the difference, so that nobody is charged for how long it takes to start; that is told beside it. CPU time is that of
all processes that were started, those included that went away from their parents.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs

from benchmarks import harness
from benchmarks.harness import Figures, Question, Skipped
from benchmarks.peers import hyperqueue_client, hyperqueue_run
from benchmarks.usage import tree_cpu
from benchmarks.work import WORKERS
from hyperflow.wire import processes

FEW, MANY = 100, 10_000
MOST = 1.3
"""Times what posix_spawn costs."""

Run = Callable[[int], None]
"""Runs so many tasks, to the end of the last one."""


@attrs.frozen
class Used:
    """Seconds that passed, and seconds of CPU time."""

    wall: float
    cpu: float


def used(run: Run, count: int, cpu: Callable[[], float]) -> Used:
    """Run so many tasks, and say what that took."""
    began, before = time.perf_counter(), cpu()
    run(count)
    return Used(time.perf_counter() - began, cpu() - before)


def further(run: Run, cpu: Callable[[], float]) -> Figures:
    """Return the microseconds of a further task, beside what few tasks take."""
    many = harness.scaled(MANY)
    small = used(run, FEW, cpu)
    large = used(run, many, cpu)
    rest = many - FEW
    return {
        "value": (large.wall - small.wall) / rest * 1e6,
        "cpu": (large.cpu - small.cpu) / rest * 1e6,
        f"s for {FEW}": small.wall,
        f"s for {many}": large.wall,
    }


def buried_cpu() -> float:
    """Wait for all that we have started or adopted, and return the CPU seconds of all that have ended."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def called(argv: Sequence[str], **more: Any) -> None:
    """Run a program to its end; what it prints is not looked at."""
    done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        raise Skipped(f"failed: {argv[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")


def needed(name: str) -> str:
    """Return where a program is."""
    if (path := shutil.which(name)) is None:
        raise Skipped(f"there is no program {name}")
    return path


def array(count: int, *words: str) -> list[str]:
    """Return the command line of an array of `true`."""
    runs = tempfile.mkdtemp(prefix="runs")
    options = ["--range", f"1-{count}", "--local", "--base-dir", runs, *words]
    return [sys.executable, "-m", "hyperflow", "array", *options, "--", needed("true")]


def hyperflow() -> Figures:
    """Type `hyperflow array`."""
    processes.adopt_orphans()
    return further(lambda count: called(array(count)), buried_cpu)


def spawn_and_wait(count: int) -> None:
    """Start the program again and again, so many at a time, and do nothing else."""
    path, running, failed = needed("true"), 0, 0
    for _ in range(count):
        if running == WORKERS:
            failed += os.wait4(-1, 0)[1] != 0
            running -= 1
        os.posix_spawn(path, ["true"], os.environ)
        running += 1
    for _ in range(running):
        failed += os.wait4(-1, 0)[1] != 0
    assert failed == 0


def own_cpu() -> float:
    """Return the CPU seconds of this process, and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def posix_spawn() -> Figures:
    """Be the bare loop: posix_spawn and wait4, in one process."""
    return further(spawn_and_wait, own_cpu)


def fed(*argv: str) -> Figures:
    """Run a program that reads a number for each task from its standard input."""
    needed(argv[0])
    processes.adopt_orphans()

    def run(count: int) -> None:
        called([*argv, needed("true")], input="".join(f"{number}\n" for number in range(count)))

    return further(run, buried_cpu)


def parallel() -> Figures:
    """GNU parallel, whose nagging about citations is switched off as its manual says."""
    os.environ["HOME"] = tempfile.mkdtemp()
    Path(os.environ["HOME"], ".parallel").mkdir()
    Path(os.environ["HOME"], ".parallel", "will-cite").touch()
    return fed("parallel", f"-j{WORKERS}")


def xargs() -> Figures:
    """xargs, one argument for each process; it keeps nothing of what became of them."""
    return fed("xargs", f"-P{WORKERS}", "-n1")


def hyperqueue(files: str = "") -> Figures:
    """HyperQueue's server and one worker, in this process, without files for output unless told."""
    try:
        from hyperqueue import Job
    except ImportError as error:
        raise Skipped(f"not installed: {error}") from error
    streams: dict[str, Any] = {} if files else {"stdout": None, "stderr": None}
    with ExitStack() as stack:
        client = stack.enter_context(hyperqueue_client())
        where = stack.enter_context(tempfile.TemporaryDirectory())

        def run(count: int) -> None:
            job = Job(default_workdir=where, max_fails=None)
            for _ in range(count):
                job.program([needed("true")], **streams)
            hyperqueue_run(client, job)

        run(WORKERS)
        return further(run, tree_cpu)


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the bare loop, and with HyperQueue."""
    ours = medians["hyperflow"]["value"]
    return ours <= MOST * medians["posix_spawn"]["value"] and ours < medians["HyperQueue"]["value"]


QUESTION = Question(
    key="array_tasks",
    title=f"a task of an array of {MANY:,} that run `true`",
    unit="us each",
    better="lower",
    goal="at most 1.3 times a loop of posix_spawn, and less than HyperQueue",
    contestants={
        "hyperflow": "benchmarks.array_tasks:hyperflow",
        "posix_spawn": "benchmarks.array_tasks:posix_spawn",
        "xargs": "benchmarks.array_tasks:xargs",
        "GNU parallel": "benchmarks.array_tasks:parallel",
        "HyperQueue": "benchmarks.array_tasks:hyperqueue",
        "HyperQueue with files": "benchmarks.array_tasks:hyperqueue files",
    },
    reached=reached,
    rounds=5,
    limit=600,
)
