"""Concurrent calculations on a Slurm cluster, written as ordinary async Python.

These are the public names; each module's text says more. Start with `job`, `remote_eval` and `run_job_local`.

A name's module is imported when the name is first asked for: the launcher, which starts on every node, and programs
that need only a part do not wait for the rest.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperflow._cluster import ClusterEnv as ClusterEnv
    from hyperflow._cluster import cluster as cluster
    from hyperflow._cluster import open_cluster as open_cluster
    from hyperflow._cluster import remote_eval_job as remote_eval_job
    from hyperflow._job import JobEnv as JobEnv
    from hyperflow._job import job as job
    from hyperflow._job import open_local_job as open_local_job
    from hyperflow._job import open_slurm_job as open_slurm_job
    from hyperflow._job import run_job_local as run_job_local
    from hyperflow._job import run_job_slurm as run_job_slurm
    from hyperflow._main import main as main
    from hyperflow._version import __version__ as __version__
    from hyperflow.command import CommandResult as CommandResult
    from hyperflow.command import run_command as run_command
    from hyperflow.concurrent import as_completed as as_completed
    from hyperflow.concurrent import concurrently as concurrently
    from hyperflow.concurrent import map_concurrently as map_concurrently
    from hyperflow.concurrent import race as race
    from hyperflow.concurrent import replicate_concurrently as replicate_concurrently
    from hyperflow.database.keyvalmap import KeyValMap as KeyValMap
    from hyperflow.database.memo import memoize as memoize
    from hyperflow.database.workdir import new_work_dir as new_work_dir
    from hyperflow.environment import Environment as Environment
    from hyperflow.environment import Options as Options
    from hyperflow.environment import Resubmit as Resubmit
    from hyperflow.environment import Statistics as Statistics
    from hyperflow.environment import using as using
    from hyperflow.errors import AllocationEnding as AllocationEnding
    from hyperflow.errors import CommandFailed as CommandFailed
    from hyperflow.errors import ConfigurationError as ConfigurationError
    from hyperflow.errors import DatabaseError as DatabaseError
    from hyperflow.errors import Deadlock as Deadlock
    from hyperflow.errors import EvaluationExited as EvaluationExited
    from hyperflow.errors import FlowNeverAwaited as FlowNeverAwaited
    from hyperflow.errors import HyperflowError as HyperflowError
    from hyperflow.errors import ImpossibleRequest as ImpossibleRequest
    from hyperflow.errors import JobCancelled as JobCancelled
    from hyperflow.errors import JobCrashed as JobCrashed
    from hyperflow.errors import JobFailed as JobFailed
    from hyperflow.errors import JobNodeFailed as JobNodeFailed
    from hyperflow.errors import JobOutOfMemory as JobOutOfMemory
    from hyperflow.errors import JobRefused as JobRefused
    from hyperflow.errors import JobResultUnreadable as JobResultUnreadable
    from hyperflow.errors import JobTimeLimitExceeded as JobTimeLimitExceeded
    from hyperflow.errors import LauncherError as LauncherError
    from hyperflow.errors import MisuseError as MisuseError
    from hyperflow.errors import NodeLost as NodeLost
    from hyperflow.errors import NotInFlow as NotInFlow
    from hyperflow.errors import OutOfMemory as OutOfMemory
    from hyperflow.errors import RemoteError as RemoteError
    from hyperflow.errors import RunInUse as RunInUse
    from hyperflow.errors import SerializationError as SerializationError
    from hyperflow.errors import SlurmError as SlurmError
    from hyperflow.errors import TimeLimitExceeded as TimeLimitExceeded
    from hyperflow.errors import WorkerDied as WorkerDied
    from hyperflow.extvar import ExtVar as ExtVar
    from hyperflow.flow import Cluster as Cluster
    from hyperflow.flow import Flow as Flow
    from hyperflow.flow import Job as Job
    from hyperflow.flow import ask as ask
    from hyperflow.flow import pure as pure
    from hyperflow.locks import with_lock as with_lock
    from hyperflow.locks import with_locks as with_locks
    from hyperflow.program import ProgramInfo as ProgramInfo
    from hyperflow.remote import remote_eval as remote_eval
    from hyperflow.remote import remote_map as remote_map
    from hyperflow.slurm.script import SbatchOptions as SbatchOptions
    from hyperflow.worker.worker import WorkerInfo as WorkerInfo
    from hyperflow.worker.worker import worker_info as worker_info

__all__ = (
    "AllocationEnding",
    "Cluster",
    "ClusterEnv",
    "CommandFailed",
    "CommandResult",
    "ConfigurationError",
    "DatabaseError",
    "Deadlock",
    "Environment",
    "EvaluationExited",
    "ExtVar",
    "Flow",
    "FlowNeverAwaited",
    "HyperflowError",
    "ImpossibleRequest",
    "Job",
    "JobCancelled",
    "JobCrashed",
    "JobEnv",
    "JobFailed",
    "JobNodeFailed",
    "JobOutOfMemory",
    "JobRefused",
    "JobResultUnreadable",
    "JobTimeLimitExceeded",
    "KeyValMap",
    "LauncherError",
    "MisuseError",
    "NodeLost",
    "NotInFlow",
    "Options",
    "OutOfMemory",
    "ProgramInfo",
    "RemoteError",
    "Resubmit",
    "RunInUse",
    "SbatchOptions",
    "SerializationError",
    "SlurmError",
    "Statistics",
    "TimeLimitExceeded",
    "WorkerDied",
    "WorkerInfo",
    "__version__",
    "as_completed",
    "ask",
    "cluster",
    "concurrently",
    "job",
    "main",
    "map_concurrently",
    "memoize",
    "new_work_dir",
    "open_cluster",
    "open_local_job",
    "open_slurm_job",
    "pure",
    "race",
    "remote_eval",
    "remote_eval_job",
    "remote_map",
    "replicate_concurrently",
    "run_command",
    "run_job_local",
    "run_job_slurm",
    "using",
    "with_lock",
    "with_locks",
    "worker_info",
)

_MODULES = {
    "_version": ("__version__",),
    "cluster": ("ClusterEnv", "cluster", "open_cluster", "remote_eval_job"),
    "command": ("CommandResult", "run_command"),
    "concurrent": ("as_completed", "concurrently", "map_concurrently", "race", "replicate_concurrently"),
    "database.keyvalmap": ("KeyValMap",),
    "database.memo": ("memoize",),
    "database.workdir": ("new_work_dir",),
    "engine.worker": ("WorkerInfo", "worker_info"),
    "environment": ("Environment", "Options", "Resubmit", "Statistics", "using"),
    "errors": (
        "AllocationEnding",
        "CommandFailed",
        "ConfigurationError",
        "DatabaseError",
        "Deadlock",
        "EvaluationExited",
        "FlowNeverAwaited",
        "HyperflowError",
        "ImpossibleRequest",
        "JobCancelled",
        "JobCrashed",
        "JobFailed",
        "JobNodeFailed",
        "JobOutOfMemory",
        "JobRefused",
        "JobResultUnreadable",
        "JobTimeLimitExceeded",
        "LauncherError",
        "MisuseError",
        "NodeLost",
        "NotInFlow",
        "OutOfMemory",
        "RemoteError",
        "RunInUse",
        "SerializationError",
        "SlurmError",
        "TimeLimitExceeded",
        "WorkerDied",
    ),
    "extvar": ("ExtVar",),
    "flow": ("Cluster", "Flow", "Job", "ask", "pure"),
    "job": ("JobEnv", "job", "open_local_job", "open_slurm_job", "run_job_local", "run_job_slurm"),
    "main": ("main",),
    "locks": ("with_lock", "with_locks"),
    "program": ("ProgramInfo",),
    "remote": ("remote_eval", "remote_map"),
    "slurm.script": ("SbatchOptions",),
}
"""Where the names are defined; tests compare this with what type checkers are told above."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        return value
    if any(name == module.partition(".")[0] for module in _MODULES):  # `hyperflow.database`, say
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """This package: `hyperflow.job` is the decorator, also when somebody imports the module of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets each submodule as an attribute.
        if name in _MODULE_OF and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:  # users' functions refer to us, and are pickled
        return importlib.import_module, (__name__,)


sys.modules[__name__].__class__ = _Package
