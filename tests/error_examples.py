"""An example of each public error, as its page shows it: one that was really raised, or one that its class formats."""

from __future__ import annotations

import gc
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hyperflow as hf
from hyperflow import config, plots
from hyperflow.testing import open_inline_job

RUN = "/home/anna/hyperflow-runs/20261120-080913-e68b7a"
LOG = f"{RUN}/log/worker-node1-0.log"
WHERE = ("worker-0@node1", "node1")
JOB = "job 3, roots(2)"
FILES = f"{RUN}/jobs/3"

FORMATTED: tuple[BaseException, ...] = (
    hf.EnvironmentClosed("evaluations"),
    hf.RemoteError("solver.NoConvergence", "residual is 0.3 after 100 steps"),
    hf.EvaluationExited("builtins.SystemExit", "3"),
    hf.WorkerDied("evaluation 7 of simulate(1.5)", *WHERE, -11, LOG, "lapack: bad pivot in column 3"),
    hf.OutOfMemory("evaluation 7 of simulate(1.5)", *WHERE, -9, LOG),
    hf.MemoryLimitExceeded("evaluation 7 of fit('all.csv')", *WHERE, -9, LOG, "", 2469606195, 2147483648),
    hf.TooManyNodesLost(
        "evaluation 7 of simulate(1.5)",
        *("worker-0@node2", "node2", -9, f"{RUN}/log/worker-node2-0.log"),
        nodes=["node1", "node2"],
        logs=[f"{RUN}/log/launcher-node1.log", f"{RUN}/log/launcher-node2.log"],
    ),
    hf.StreamBroken("evaluation 3 of steps(2.0)", "worker-0@node1", 12),
    hf.TimeLimitExceeded("evaluation 7 of simulate(1.5)", *WHERE, 600.0, LOG),
    hf.LauncherError("cannot reach node2 by ssh: no sshd answers there (connection refused)"),
    hf.NodeLost("node2", "nothing was heard of it for 31.2 s", f"{RUN}/log/launcher-node2.log"),
    hf.AllocationEnding("its time limit", 60.0),
    hf.CommandFailed(["./solve", "mesh.dat"], 2, "solve: cannot open mesh.dat", ""),
    hf.OutputFailed(["./solve"], "energy.dat", "it was never made; the command has made log.txt", "node1", LOG),
    hf.ScratchFull("node1", "/tmp", "mesh.dat (3G) does not fit", 1 << 30),
    hf.Deadlock(
        "evaluation 8 of move('b', 'a') wants 'a'",
        [
            "evaluation 7 of move('a', 'b') holds 'a' and waits for 'b'",
            "evaluation 8 of move('b', 'a') holds 'b' and waits for 'a'",
        ],
    ),
    hf.FileLost("mesh.dat", "node1", "the node is not part of the run any more"),
    hf.SlurmError("`scontrol show job --oneliner 4711` gave no answer within 30 s; does Slurm's controller run?"),
    hf.JobFailed(JOB, "its function raised an exception that cannot be sent", "", FILES),
    hf.JobCrashed(JOB, "its process was killed by signal 11", "FAILED, exit code 0:11", FILES),
    hf.JobOutOfMemory(JOB, "it needed more memory than it had asked for", "OUT_OF_MEMORY", FILES),
    hf.JobTimeLimitExceeded(JOB, "its time limit was reached", "TIMEOUT", FILES),
    hf.JobNodeFailed(JOB, "a node failed", "NODE_FAIL", FILES),
    hf.JobCancelled(JOB, "it was cancelled", "CANCELLED", FILES),
    hf.JobRefused(
        JOB, "it could not be submitted: invalid partition specified: fast", "sbatch refused script.sh", FILES
    ),
    hf.JobResultUnreadable(JOB, "its result is damaged", "", FILES),
    hf.RunInUse(RUN, "login1", 4711, "wait until it ends, or end it"),
)
"""Errors whose text is made by their class, of values as runs have them."""


def double(x: float) -> float:
    """Return twice a number."""
    return 2 * x


def biggest(a: float, b: float) -> float:
    """Return the larger of two numbers."""
    return max(a, b)


@hf.job
async def measure(x: int) -> int:
    """Do nothing; for flows that nobody awaits."""
    return x


def _misused(_: Path) -> Any:
    return hf.run_job_local(measure)  # type: ignore[arg-type]


def _misspelt(_: Path) -> Any:
    return config.read_settings({"HYPERFLOW_CONFIG": "/dev/null", "HYPERFLOW_TRANSPORT": "rsh"})


def _no_database(place: Path) -> Any:
    (place / "results.sqlite").write_text("these are no results\n")
    return hf.open_results(place / "results.sqlite").maps()


def _no_file(place: Path) -> Any:
    (place / "mesh.dat").touch()
    return hf.File(place / "mehs.dat")


def _device(_: Path) -> Any:
    return hf.File("/dev/null")


def _no_picture(place: Path) -> Any:
    (place / "energy.png").write_text("no picture")
    return plots.read_picture(place / "energy.png")


def _changed(place: Path) -> Any:
    (place / "mesh.dat").write_text("old")
    mesh = hf.File(place / "mesh.dat")
    assert mesh.digest
    (place / "mesh.dat").write_text("another")
    return mesh.path()


async def _alone(_: Path) -> Any:
    return await hf.remote_eval(double, 1.5)


async def _too_much(_: Path) -> Any:
    async with open_inline_job(cpus=16):
        return await hf.remote_eval(double, 1.5).using(cpus=64)


async def _nothing(_: Path) -> Any:
    async with open_inline_job():
        return await hf.tree_reduce(biggest, [])


async def _unsendable(_: Path) -> Any:
    async with open_inline_job():
        return await hf.remote_eval(abs, threading.Lock())  # type: ignore[arg-type]


async def _forgotten(_: Path) -> Any:
    @hf.job
    async def scan() -> None:
        measure(1)

    async with open_inline_job():
        await scan()
    gc.collect()


async def _other_function(_: Path) -> Any:
    def energy_with(factor: int) -> Any:
        @hf.memoize("energy")
        def energy(x: int) -> Any:
            return hf.pure(factor * x)

        return energy

    async with open_inline_job():
        for factor in (1, 2):
            await energy_with(factor)(3)


RAISED: dict[str, Callable[[Path], Any] | Callable[[Path], Awaitable[Any]]] = {
    "HyperflowError": _no_picture,
    "MisuseError": _misused,
    "NotInFlow": _alone,
    "ConfigurationError": _misspelt,
    "ImpossibleRequest": _too_much,
    "NothingToReduce": _nothing,
    "SerializationError": _unsendable,
    "FileUnavailable": _device,
    "FileMissing": _no_file,
    "FileChanged": _changed,
    "DatabaseError": _no_database,
    "FlowNeverAwaited": _forgotten,
    "FunctionChanged": _other_function,
}
"""What raises the others, or warns of them, in an empty directory."""


async def example(name: str, place: Path) -> str:
    """Return what Python prints of an error, without its traceback; a warning as an error that is raised."""
    if name not in RAISED:
        return _shown(next(one for one in FORMATTED if type(one).__name__ == name))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = RAISED[name](place)
            if isinstance(found, Awaitable):
                await found
        except hf.HyperflowError as error:
            return _shown(error).replace(str(place), "/home/anna")
    return _shown(next(one.message for one in told if isinstance(one.message, Warning)))


def _shown(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).rstrip()
