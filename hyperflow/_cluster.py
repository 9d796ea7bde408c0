"""The cluster level: `@cluster`, `remote_eval_job`, and the environment of a Cluster computation.

A Cluster computation runs on the login node. It owns no CPUs; what it owns is a master, which asks Slurm for an
allocation for each job that the computation sends there, and a run directory, in which everything is that has to
survive the two of them. Run again with `resume`, the computation goes through the same steps as before, and each of
its calls is answered by what the run directory knows of it. So a Cluster function should decide by what its jobs
return, and not by the clock or by chance.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

import attrs

from hyperflow import environment
from hyperflow import flow as flows
from hyperflow._job import JobFunction, checked_async_function
from hyperflow.database.opening import open_database
from hyperflow.database.store import copy_database
from hyperflow.environment import Environment, Options
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.flow import Call, Cluster, Flow, Job, Step
from hyperflow.locking.manager import LockManager
from hyperflow.master import lockfiles, rundir
from hyperflow.master.batch import Batch, SlurmBatch
from hyperflow.master.local import LocalBatch
from hyperflow.master.mail import mailer
from hyperflow.master.master import Master
from hyperflow.master.rundir import RunDirectory
from hyperflow.master.shared import Timeouts
from hyperflow.master.view import ClusterStatistics
from hyperflow.program import ProgramInfo
from hyperflow.remote import RemoteEval
from hyperflow.slurm.script import SbatchOptions

P = ParamSpec("P")
T = TypeVar("T")

OF_EVALUATIONS = ("cpus", "fresh_process", "retries", "time_limit", "exclusive")
"""Options that go with a job into its allocation: they are for the evaluations there."""


class ClusterFunction(JobFunction):
    """What `@cluster` makes of an async function: calling it describes a Cluster computation, and runs nothing."""

    level = "cluster"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Cluster(Call(self, args, kwargs))


def cluster(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Cluster[T]]:
    """Make `async def f(...) -> T` a Cluster computation: `f(...)` is then a Cluster[T], which runs when it is awaited.

    Run it with `hyperflow.main(f)`, or in a notebook within `open_cluster`.

    Raises:
        MisuseError: fn is no async function.
    """
    return ClusterFunction(checked_async_function(fn, "cluster"))


@attrs.frozen(eq=False)
class ClusterEnv(Environment):
    """The environment of a running Cluster computation. See Environment for the other fields.

    Args:
        master: Runs the jobs.
    """

    level: ClassVar[str] = "cluster"

    master: Master

    def statistics(self) -> ClusterStatistics:  # type: ignore[override]  # it has jobs, and neither nodes nor CPUs
        """Return how the jobs stand; cheap."""
        return self.master.statistics()

    async def run(self, flow: Flow[T]) -> T:
        """Await a flow in this environment: for notebooks, where each cell has a context of its own."""
        with environment.entered(self):
            flows.check(flow, "env.run")
            return await flow


@attrs.frozen(repr=False, eq=False)
class RemoteJob(Step):
    """A job that runs in an allocation of its own."""

    job: Flow[Any]

    async def coroutine(self) -> Any:
        env = environment.current(repr(self))
        if not isinstance(env, ClusterEnv):
            raise MisuseError(
                f"{self!r} was awaited in a job, which has its CPUs already and asks Slurm for none; "
                f"write: await {self.job.step}"
            )
        return await _remote_eval_job(env.master, self.job, env.options)

    def __repr__(self) -> str:
        return f"hyperflow.remote_eval_job({self.job.step})"


async def _remote_eval_job(master: Master, job: Flow[Any], options: Options) -> Any:
    changes = {name: getattr(options, name) for name in OF_EVALUATIONS}
    plain = {name: value for name, value in changes.items() if value != getattr(Options(), name)}
    sent = job.using(**plain).used() if plain else job  # not sent if an earlier run has: that is no oversight
    wanted = _sbatch(options.sbatch)
    within = lockfiles.scope(environment.current())
    return await master.call(job, sent, wanted and wanted.over(master.defaults), options.on_error, within)


def _sbatch(options: Any) -> SbatchOptions | None:
    if options is not None and not isinstance(options, SbatchOptions):
        raise ConfigurationError(
            f"using(sbatch={options!r}): write using(sbatch=hyperflow.SbatchOptions(nodes=2, ...))"
        )
    return options


def remote_eval_job(job: Flow[T]) -> Cluster[T]:
    """Run a job in a Slurm allocation of its own: `await remote_eval_job(roots(2))`, in a Cluster computation.

    What is asked of Slurm: `using(sbatch=SbatchOptions(nodes=2, time="2:00:00"))`. What happens when the job fails:
    `using(on_error=...)`; by default it is held, and the await goes on waiting until somebody retries it. Options for
    evaluations, such as `cpus`, hold inside the job. Functions and arguments travel in a file of the run directory.

    Awaiting it gives the job's result. Cancelling it ends the job at Slurm, or takes it from its queue, a second later,
    and does not wait for that; if the program itself has ended with an error by then, the job stays. A master that is
    killed leaves the job as it is. The next one goes on with it.

    Raises:
        MisuseError: It is no job; or, when it is awaited, this is no Cluster computation.
        SerializationError: When it is awaited: a part of the call cannot travel.
    """
    flows.check(job, "remote_eval_job")
    if isinstance(job, Cluster):
        raise MisuseError(
            f"remote_eval_job takes a job, which runs in an allocation; {job.used()!r} asks for allocations itself; "
            f"write: await {job.step}"
        )
    return Cluster(RemoteJob(job.used()))


class ClusterEvaluator:
    """Plain `remote_eval` in a Cluster computation: each takes a Slurm job, with one worker."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self.locks = LockManager()

    @property
    def cpus(self) -> int:
        """There are none; remote_map asks, to divide its items among them."""
        raise MisuseError(
            "remote_map in a Cluster computation would take a Slurm job for each few items; put it into a @job, "
            "and write: await hyperflow.remote_eval_job(that_job(...))"
        )

    def statistics(self) -> Any:
        """Return how the jobs stand. (Any: others count evaluations. `ClusterEnv.statistics` has the type.)"""
        return self._master.statistics()

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options
    ) -> asyncio.Future[Any]:
        """Run a call in an allocation of its own."""
        wanted = (_sbatch(options.sbatch) or SbatchOptions()).over(self._master.defaults)
        one_worker = wanted.changed(nodes=1, ntasks_per_node=1, cpus_per_task=options.cpus)
        job: Job[Any] = Job(RemoteEval(fn, args, kwargs))
        running = _remote_eval_job(self._master, job, attrs.evolve(options, sbatch=one_worker))
        return asyncio.get_running_loop().create_task(running)


@asynccontextmanager
async def open_cluster(  # noqa: PLR0913 (each is something that a user may want to say)
    program: ProgramInfo | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    base_dir: str | os.PathLike[str] = "hyperflow-runs",
    local: bool = False,
    max_jobs: int | None = None,
    sbatch: SbatchOptions | None = None,
    on_error: Any = "hold",
    mail: str | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[ClusterEnv]:
    """Run Cluster computations: `async with open_cluster() as env: await search(10)`.

    Args:
        program: Where all is kept that this run makes, which the nodes have to see; None for a new directory in
            `base_dir`.
        resume: The id or directory of an earlier run, to go on with; in place of `program`.
        base_dir: Where runs are.
        local: Run all jobs on this machine, without Slurm.
        max_jobs: How many jobs may be with Slurm at a time; None for all.
        sbatch: What is asked of Slurm where `using(sbatch=...)` says nothing.
        on_error: What is done about failures where `using(on_error=...)` says nothing.
        mail: An address that gets a mail about each job that is held, by this machine's own mailer.
        timeouts: How long is waited, and how often is looked.

    Raises:
        RunInUse: Another master runs on that directory.
        ConfigurationError: There is no such run, others can write to it, or it cannot be written.

    When the scope is left by an error, or is cancelled, jobs stay with Slurm, so that the program can be resumed (those
    of this machine end); `await env.master.leave(cancel_jobs=True)` ends them before. When it ends regularly,
    jobs that no flow waits for any more are ended.
    """
    from hyperflow.control.server import open_control  # noqa: PLC0415 (its library is for a run only)

    if program is not None and resume is not None:
        raise ConfigurationError("open_cluster(program, resume=...): one of the two")
    post = mailer(mail) if mail is not None else None
    mine = rundir.find(resume, base_dir) if resume is not None else program or ProgramInfo.new(base_dir)
    limits = timeouts or Timeouts()
    options = Options(sbatch=_sbatch(sbatch), on_error=on_error)
    if max_jobs is not None and max_jobs < 1:
        raise ConfigurationError(f"max_jobs={max_jobs}: a whole number of at least 1 is needed, or None")
    async with AsyncExitStack() as stack:
        run = RunDirectory.open(mine, local)
        stack.callback(run.close)
        if mine.start_from is not None and isinstance(mine.database, Path) and not mine.database.exists():
            copy_database(mine.start_from, mine.database)
        database = await stack.enter_async_context(open_database(mine.database, mine.program_id))
        batch: Batch
        if local:
            batch = await stack.enter_async_context(LocalBatch())
        else:
            batch = await stack.enter_async_context(SlurmBatch(limits.slurm))
        master = await stack.enter_async_context(
            Master(run, batch, database, defaults=options.sbatch, max_jobs=max_jobs, timeouts=limits, mailer=post)
        )
        await stack.enter_async_context(open_control(master))
        evaluator = ClusterEvaluator(master)
        stack.push_async_callback(evaluator.locks.close)
        env = ClusterEnv(options, evaluator, database, mine, master)
        lockfiles.share(env, run.home, lockfiles.Holder.this_process())
        stack.enter_context(environment.entered(env))
        yield env
