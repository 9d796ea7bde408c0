"""The cluster level: `@cluster`, `remote_eval_job`, and the environment of a Cluster computation.

A Cluster computation runs on the login node. It owns no CPUs. It has a master, which asks Slurm for an allocation for
each job of the computation, and a run directory, which holds everything that must survive both. Run again with
`resume`, the computation takes the same steps as before, and the run directory answers the calls that it knows. So a
Cluster function should decide by what its jobs return, and not by the clock or by random numbers.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

import attrs

from hyperflow import environment, failures
from hyperflow import flow as flows
from hyperflow._job import JobFunction, OpenEnv, checked_async_function
from hyperflow.config import read_settings
from hyperflow.database.store import copy_database, open_database
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.files import hold_standard_streams
from hyperflow.flow import Call, Cluster, Flow, Job, Step, show_call
from hyperflow.head.streams import Streams
from hyperflow.locking.manager import LockManager
from hyperflow.master import lockfiles, rundir
from hyperflow.master.batch import Batch, LocalBatch, SlurmBatch
from hyperflow.master.echo import echoing
from hyperflow.master.mail import mailer
from hyperflow.master.master import Master
from hyperflow.master.rundir import RunDirectory
from hyperflow.master.shared import Timeouts
from hyperflow.master.view import ClusterStatistics, stands
from hyperflow.offers import Offers
from hyperflow.options import FailurePolicy, JobOptions, Options
from hyperflow.pieces import Pieces, Receiver
from hyperflow.program import ProgramInfo
from hyperflow.progress import display
from hyperflow.progress.tally import Counted, Snapshot, courses
from hyperflow.records.recording import recorded
from hyperflow.remote import RemoteEval
from hyperflow.slurm.script import SbatchOptions

P = ParamSpec("P")
T = TypeVar("T")


class ClusterFunction(JobFunction):
    """An async function under `@cluster`: calling it returns a Cluster computation and runs nothing."""

    level = "cluster"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Cluster(Call(self, args, kwargs))


def cluster(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Cluster[T]]:
    """Turn `async def f(...) -> T` into a Cluster computation: `f(...)` returns a Cluster[T], which runs when awaited.

    Run it with `hyperflow.main(f)`, or in a notebook within `open_cluster`.

    Raises:
        MisuseError: fn is not an async function.
    """
    return ClusterFunction(checked_async_function(fn, "cluster"))


@attrs.frozen(eq=False)
class ClusterEnv(OpenEnv):
    """The environment of a running Cluster computation; its master runs the jobs."""

    level: ClassVar[str] = "cluster"

    master: Master

    if TYPE_CHECKING:  # the same method; its record is about jobs, and so another one than the base class promises

        def statistics(self) -> ClusterStatistics: ...  # type: ignore[override]


@attrs.frozen(repr=False, eq=False)
class RemoteJob(Step):
    """A job to be run in its own Slurm allocation."""

    job: Flow[Any]

    async def coroutine(self) -> Any:
        env = environment.current(repr(self))
        if not isinstance(env, ClusterEnv):
            raise MisuseError(
                f"{self!r} was awaited in a job, which has its CPUs already and asks Slurm for none; "
                f"write: await {self.job.step}"
            )
        return await _remote_eval_job(env.master, self.job, env.options, env.job_options)

    def call(self) -> str:
        return self.job.step.call()

    def __repr__(self) -> str:
        return f"hyperflow.remote_eval_job({self.job.step})"


async def _remote_eval_job(master: Master, job: Flow[Any], options: Options, job_options: JobOptions) -> Any:
    plain = attrs.asdict(options, filter=lambda field, value: value != field.default)
    sent = job.using(**plain).used() if plain else job  # used() because it is not awaited if an earlier run has sent it
    wanted = job_options.sbatch and job_options.sbatch.over(master.defaults)
    within = lockfiles.scope(environment.current())
    return await master.call(job, sent, wanted, job_options.on_error, within)


def remote_eval_job(job: Flow[T]) -> Cluster[T]:
    """Run a job in a Slurm allocation of its own: `await remote_eval_job(roots(2))`, in a Cluster computation.

    `using(sbatch=SbatchOptions(nodes=2, time="2:00:00"))` says what to ask Slurm for, `using(on_error=...)` what to do
    when the job fails; by default it is held, and the await waits until you retry it. Options for evaluations,
    such as `cpus`, apply inside the job. Functions and arguments travel in a file of the run directory.

    Awaiting it returns the job's result. Cancelling it ends the job at Slurm, or removes it from the queue, a second
    later, and does not wait for that; if the program itself has ended with an error by then, the job stays. When the
    master is killed, the job goes on, and the next master takes it over.

    Raises:
        MisuseError: It is not a job; or, when it is awaited, this is not a Cluster computation.
        SerializationError: When it is awaited: a part of the call cannot be pickled.
    """
    flows.check(job, "remote_eval_job")
    if isinstance(job, Cluster):
        raise MisuseError(
            f"remote_eval_job takes a job, which runs in an allocation; {job.used()!r} asks for allocations itself; "
            f"write: await {job.step}"
        )
    return Cluster(RemoteJob(job.used()))


@attrs.define(eq=False)
class ClusterEvaluator:
    """Plain `remote_eval` in a Cluster computation: refused; with `using(sbatch=...)`, a Slurm job with one worker."""

    _master: Master
    _unasked: SbatchOptions | None = None
    """The `sbatch` of the whole computation: where it is in force, nobody has asked for a job of this call's own."""
    cpus: int = 0
    locks: LockManager = attrs.field(factory=LockManager)
    streams: Streams = attrs.field(factory=Streams)
    maps: set[Counted] = attrs.field(factory=set[Counted])
    receivers: dict[str, Receiver] = attrs.field(factory=dict[str, Receiver])

    def statistics(self) -> ClusterStatistics:
        """Count the jobs by state."""
        return self._master.statistics()

    def keep(self, future: asyncio.Future[Any]) -> None:
        """Keep nothing."""

    def time_left(self) -> float:
        """The login node has no end."""
        return math.inf

    def is_ending(self) -> bool:
        """The same."""
        return False

    def open_map(self, owner: environment.MapOwner) -> None:
        """Evaluate nothing in batches."""

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        stream: tuple[int, ...] | None = None,  # noqa: ARG002 (a job counts its own)
    ) -> asyncio.Future[Any]:
        """Run a call as a Slurm job; raises MisuseError if that is not asked for."""
        job_options = environment.current().job_options
        if job_options.sbatch is None or job_options.sbatch is self._unasked:
            call = RemoteEval(fn, args, kwargs)
            raise MisuseError(
                f"{call!r} in a Cluster computation would be a Slurm job of its own. Put it, and all evaluations that "
                "belong together, into a job:\n"
                "    @hyperflow.job\n"
                f"    async def my_job(...): return await {call!r}\n"
                "and write: await hyperflow.remote_eval_job(my_job(...)). If this one call is to be a Slurm job, "
                f"write: await {call!r}.using(sbatch=hyperflow.SbatchOptions(time='1:00:00'))"
            )
        wanted = job_options.sbatch.over(self._master.defaults)
        one_worker = wanted.changed(nodes=1, ntasks_per_node=1, cpus_per_task=options.cpus)
        job: Job[Any] = Job(RemoteEval(fn, args, kwargs))
        running = _remote_eval_job(self._master, job, options, attrs.evolve(job_options, sbatch=one_worker))
        return asyncio.get_running_loop().create_task(running)

    def stream(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,  # noqa: ARG002 (see below)
        pieces: Pieces,  # noqa: ARG002 (the same)
    ) -> asyncio.Future[Any]:
        """Refuse: pieces come from workers of a Job only."""
        shown = show_call(fn, args, kwargs)
        raise MisuseError(
            f"remote_stream of {shown} belongs in a Job, which has workers: put it into a @job, and write: "
            "await hyperflow.remote_eval_job(that_job(...))"
        )


def _stands(evaluator: ClusterEvaluator, master: Master) -> Snapshot:
    return stands(master.jobs())._replace(courses=courses(evaluator.maps))


@asynccontextmanager
async def open_cluster(  # noqa: PLR0913 (users may want to set each of them)
    program: ProgramInfo | None = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    base_dir: str | os.PathLike[str] = "hyperflow-runs",
    local: bool = False,
    max_jobs: int | None = None,
    sbatch: SbatchOptions | None = None,
    on_error: FailurePolicy = "hold",
    mail: str | None = None,
    timeouts: Timeouts | None = None,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    echo: bool = False,
    progress: bool = True,
) -> AsyncIterator[ClusterEnv]:
    """Run Cluster computations: `async with open_cluster() as env: await search(10)`.

    Args:
        program: The directories of this run, which the nodes have to see; None for new ones in `base_dir`.
        resume: The id or directory of an earlier run to continue; in place of `program`.
        base_dir: The directory of the runs.
        local: Run all jobs on this machine, without Slurm.
        max_jobs: How many jobs may be with Slurm at a time; None for no limit.
        sbatch: What to ask Slurm for where `using(sbatch=...)` says nothing.
        on_error: What to do about failures where `using(on_error=...)` says nothing.
        mail: An address that gets a mail about each held job, from this machine's own mailer.
        timeouts: Timeouts and polling intervals, in seconds.
        gpus: The ids of the GPUs of each node of a job, where neither Slurm nor the node tells them; [] for none. With
            `local`, those of this machine, of which each job gets as many as its SbatchOptions ask for in `gres`.
        memory: How much memory evaluations may have on each node: "8G", or bytes. None for what Slurm grants; with
            `local`, each job has a share of this machine's by its CPUs.
        resources: Tokens, as {"licence": 4}, for the evaluations of each job: each job has so many of its own. What all
            jobs of the program share is a `hyperflow.Semaphore`.
        echo: Show on standard error what evaluations print and warn, each line with time, job, call and worker.
        progress: Show on standard error how jobs and their evaluations stand; see open_local_job.

    Raises:
        RunInUse: Another master runs on that directory.
        ConfigurationError: There is no such run, others can write to it, or it cannot be written.

    When an error or a cancel ends the scope, jobs stay with Slurm, so that the program can be resumed (jobs on this
    machine end); `await env.master.leave(cancel_jobs=True)` ends them before. When the scope ends normally, it ends the
    jobs that no flow awaits any more.
    """
    from hyperflow.master.api import open_control  # noqa: PLC0415 (its library is for a run only)

    hold_standard_streams()

    if program is not None and resume is not None:
        raise ConfigurationError("open_cluster(program, resume=...): one of the two")
    settings = read_settings()
    exclude_nodes = settings.exclude_nodes
    offers = Offers(None, gpus, memory, resources)
    post = mailer(mail) if mail is not None else None
    limits = timeouts or Timeouts()
    if not local:
        await SlurmBatch(limits.slurm).check(
            patient=resume is not None or (program is not None and rundir.begun(program))
        )
    mine = rundir.find(resume, base_dir) if resume is not None else program or ProgramInfo.new(base_dir)
    # A copy: where the program names the same options for one call, they are asked for.
    job_options = JobOptions(sbatch=sbatch and attrs.evolve(sbatch), on_error=on_error)
    if max_jobs is not None and max_jobs < 1:
        raise ConfigurationError(f"max_jobs={max_jobs}: a whole number of at least 1 is needed, or None")
    async with AsyncExitStack() as stack:
        listed = program is None and resume is None
        recording = stack.enter_context(recorded(mine, "cluster", listed=listed))
        run = RunDirectory.open(mine, local, echo, offers)
        stack.callback(run.close)
        recording.begin()  # not before: whoever has the lock has the run
        if mine.start_from is not None and isinstance(mine.database, Path) and not mine.database.exists():
            copy_database(mine.start_from, mine.database)
        database = await stack.enter_async_context(
            open_database(mine.database, mine.program_id, settings.database_timeout)
        )
        if echo:
            await stack.enter_async_context(echoing(run.home))
        batch: Batch = await stack.enter_async_context(
            LocalBatch(offers) if local else SlurmBatch(limits.slurm, exclude_nodes=exclude_nodes)
        )
        master = await stack.enter_async_context(
            Master(run, batch, database, defaults=job_options.sbatch, max_jobs=max_jobs, timeouts=limits, mailer=post)
        )
        await stack.enter_async_context(open_control(master))
        evaluator = ClusterEvaluator(master, job_options.sbatch)
        stack.push_async_callback(evaluator.locks.close)
        stack.enter_context(display.showing(functools.partial(_stands, evaluator, master), mine.program_id, progress))
        env = ClusterEnv(Options(), evaluator, database, mine, master, job_options=job_options, recording=recording)
        lockfiles.share(env, run.home, lockfiles.Holder.this_process())
        stack.enter_context(environment.entered(env))
        stack.enter_context(failures.shortened())
        yield env
        if master.leaving:
            recording.leave()
