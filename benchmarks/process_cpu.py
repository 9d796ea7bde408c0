"""What CPU time do processes cost: a fresh one for each evaluation, or an external program, beside the bare calls?"""

import os
import pickle
from collections.abc import Mapping

import hyperflow as hf
from benchmarks import harness
from benchmarks.commands import run_true, spawn_often
from benchmarks.harness import Figures, Question, Skipped
from benchmarks.ours import on_two_workers
from benchmarks.usage import tree_cpu
from benchmarks.work import small_scipy

FRESH, PROGRAMS = 200, 1000
NAMES = ("fresh process", "bare fork", "run_command", "bare posix_spawn")


def scipy_or_skip() -> None:
    """Import what the function needs."""
    try:
        small_scipy(1)
    except ImportError as error:
        raise Skipped(f"not installed: {error}") from error


@hf.job
async def fresh_processes() -> Figures:
    """Evaluate side by side, each in a process of its own."""
    count = harness.scaled(FRESH)
    with hf.using(fresh_process=True):
        await hf.replicate_concurrently(10, hf.remote_eval(small_scipy, 1))
        cpu = tree_cpu()
        results = await hf.map_concurrently(lambda x: hf.remote_eval(small_scipy, x), range(count))
    cpu = tree_cpu() - cpu
    assert results == [float(x) for x in range(count)]
    return {"value": cpu / count * 1e3}


def hyperflow_fresh() -> Figures:
    """Take hyperflow's turn."""
    scipy_or_skip()
    return on_two_workers(fresh_processes, preload=["numpy", "scipy.linalg", "benchmarks.work"])


def bare_fork() -> Figures:
    """Fork, evaluate, answer through a pipe, end."""
    scipy_or_skip()
    count, cpu = harness.scaled(FRESH), tree_cpu()
    for number in range(count):
        answers, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(end, pickle.dumps(small_scipy(number)))
            os._exit(0)
        os.close(end)
        assert pickle.loads(os.read(answers, 1000)) == number
        os.close(answers)
        os.waitpid(pid, 0)
    return {"value": (tree_cpu() - cpu) / count * 1e3}


@hf.job
async def commands() -> Figures:
    """Run a program in each evaluation."""
    count = harness.scaled(PROGRAMS)
    await hf.replicate_concurrently(20, hf.remote_eval(run_true))
    cpu = tree_cpu()
    codes = await hf.replicate_concurrently(count, hf.remote_eval(run_true))
    cpu = tree_cpu() - cpu
    assert codes == [0] * count
    return {"value": cpu / count * 1e3}


def hyperflow_commands() -> Figures:
    """Take hyperflow's turn."""
    return on_two_workers(commands)


def bare_spawn() -> Figures:
    """Start programs in a loop."""
    count, cpu = harness.scaled(PROGRAMS), tree_cpu()
    assert spawn_often(count) == 0
    return {"value": (tree_cpu() - cpu) / count * 1e3}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare each with the bare call."""
    fresh, fork, command, spawn = (medians[name]["value"] for name in NAMES)
    return fresh <= 1.5 * fork and command <= 1.25 * spawn


QUESTION = Question(
    key="process_cpu",
    title="a fresh process that uses scipy, and the program `true`: CPU time of all processes",
    unit="ms of CPU each",
    better="lower",
    goal="at most 1.5 times a bare fork, at most 1.25 times a bare posix_spawn",
    contestants=dict(
        zip(
            NAMES,
            (
                "benchmarks.process_cpu:hyperflow_fresh",
                "benchmarks.process_cpu:bare_fork",
                "benchmarks.process_cpu:hyperflow_commands",
                "benchmarks.process_cpu:bare_spawn",
            ),
            strict=True,
        )
    ),
    reached=reached,
    rounds=3,
)
