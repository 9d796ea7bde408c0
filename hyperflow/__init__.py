"""Concurrent calculations on a Slurm cluster, written as ordinary async Python.

These are the public names; each module's text says more. Start with `job`, `remote_eval` and `run_job_local`.
"""

from hyperflow._version import __version__ as __version__
from hyperflow.command import CommandResult as CommandResult
from hyperflow.command import run_command as run_command
from hyperflow.concurrent import as_completed as as_completed
from hyperflow.concurrent import concurrently as concurrently
from hyperflow.concurrent import map_concurrently as map_concurrently
from hyperflow.concurrent import race as race
from hyperflow.concurrent import replicate_concurrently as replicate_concurrently
from hyperflow.database import KeyValMap as KeyValMap
from hyperflow.database import memoize as memoize
from hyperflow.database import new_work_dir as new_work_dir
from hyperflow.engine.worker import WorkerInfo as WorkerInfo
from hyperflow.engine.worker import worker_info as worker_info
from hyperflow.environment import Environment as Environment
from hyperflow.environment import Options as Options
from hyperflow.environment import Statistics as Statistics
from hyperflow.environment import using as using
from hyperflow.errors import AllocationEnding as AllocationEnding
from hyperflow.errors import CommandFailed as CommandFailed
from hyperflow.errors import ConfigurationError as ConfigurationError
from hyperflow.errors import DatabaseError as DatabaseError
from hyperflow.errors import EvaluationExited as EvaluationExited
from hyperflow.errors import FlowNeverAwaited as FlowNeverAwaited
from hyperflow.errors import HyperflowError as HyperflowError
from hyperflow.errors import ImpossibleRequest as ImpossibleRequest
from hyperflow.errors import LauncherError as LauncherError
from hyperflow.errors import MisuseError as MisuseError
from hyperflow.errors import NodeLost as NodeLost
from hyperflow.errors import NotInFlow as NotInFlow
from hyperflow.errors import OutOfMemory as OutOfMemory
from hyperflow.errors import RemoteError as RemoteError
from hyperflow.errors import SerializationError as SerializationError
from hyperflow.errors import SlurmError as SlurmError
from hyperflow.errors import TimeLimitExceeded as TimeLimitExceeded
from hyperflow.errors import WorkerDied as WorkerDied
from hyperflow.flow import Flow as Flow
from hyperflow.flow import Job as Job
from hyperflow.flow import ask as ask
from hyperflow.flow import pure as pure
from hyperflow.job import JobEnv as JobEnv
from hyperflow.job import job as job
from hyperflow.job import open_local_job as open_local_job
from hyperflow.job import open_slurm_job as open_slurm_job
from hyperflow.job import run_job_local as run_job_local
from hyperflow.job import run_job_slurm as run_job_slurm
from hyperflow.program import ProgramInfo as ProgramInfo
from hyperflow.remote import remote_eval as remote_eval
from hyperflow.remote import remote_map as remote_map

__all__ = (
    "AllocationEnding",
    "CommandFailed",
    "CommandResult",
    "ConfigurationError",
    "DatabaseError",
    "Environment",
    "EvaluationExited",
    "Flow",
    "FlowNeverAwaited",
    "HyperflowError",
    "ImpossibleRequest",
    "Job",
    "JobEnv",
    "KeyValMap",
    "LauncherError",
    "MisuseError",
    "NodeLost",
    "NotInFlow",
    "Options",
    "OutOfMemory",
    "ProgramInfo",
    "RemoteError",
    "SerializationError",
    "SlurmError",
    "Statistics",
    "TimeLimitExceeded",
    "WorkerDied",
    "WorkerInfo",
    "__version__",
    "as_completed",
    "ask",
    "concurrently",
    "job",
    "map_concurrently",
    "memoize",
    "new_work_dir",
    "open_local_job",
    "open_slurm_job",
    "pure",
    "race",
    "remote_eval",
    "remote_map",
    "replicate_concurrently",
    "run_command",
    "run_job_local",
    "run_job_slurm",
    "using",
    "worker_info",
)
