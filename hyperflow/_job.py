"""Jobs: `@job`, and the ways to run one: on this machine, or on a Slurm allocation.

What only a run needs (the engine, the database, Slurm) is imported when one begins: modules with functions under `@job`
are also imported where nothing is run.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import signal
import socket
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, Unpack

import attrs

from hyperflow import environment, failures
from hyperflow import flow as flows
from hyperflow.config import Settings, read_settings
from hyperflow.environment import Environment, ResultsDatabase
from hyperflow.errors import AllocationEnding, ConfigurationError, MisuseError
from hyperflow.files import hold_standard_streams, limit_met
from hyperflow.flow import Call, Flow, Job, MakesFlows
from hyperflow.offers import Offers
from hyperflow.options import OptionChanges, Options
from hyperflow.program import ProgramInfo
from hyperflow.shipping import captures, importable, rebuild

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from aiohttp import web

    from hyperflow.head.allocation_end import End
    from hyperflow.head.engine import Engine
    from hyperflow.head.fleet import NodePlan
    from hyperflow.records.record import Figures
    from hyperflow.records.recording import Recording
    from hyperflow.slurm import allocation
    from hyperflow.transports.process import Started, Transport

P = ParamSpec("P")
T = TypeVar("T")


class JobFunction(MakesFlows):
    """An async function under `@job`: calling it returns a Job and runs nothing."""

    level = "job"

    def __init__(self, fn: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        functools.update_wrapper(self, fn)
        self.__wrapped__ = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Job[Any]:
        return Job(Call(self, args, kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> tuple[Any, ...]:
        # By name if possible: the wrapped function's name leads to this object.
        fn = self.__wrapped__
        if captures.found_by_name(self, fn.__module__, fn.__qualname__):
            return rebuild.fetch, (fn.__module__, *fn.__qualname__.split("."))
        return type(self), (fn,)

    def __repr__(self) -> str:
        return f"<{self.level} {getattr(self, '__qualname__', self.__wrapped__)}>"


def checked_async_function(fn: Any, decorator: str) -> Any:
    """Return fn if it is an `async def`; otherwise raise MisuseError with what to write."""
    name = getattr(fn, "__name__", repr(fn))
    if asyncio.iscoroutine(fn):
        fn.close()
        raise MisuseError(f"@{decorator} takes the function, not the coroutine {name}(...)")
    if isinstance(fn, type):
        raise MisuseError(f"@{decorator} takes an async function, not the class {name}; put it above `async def`")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise MisuseError(
            f"@{decorator}: {name} is a generator (it contains `yield`); a flow has one result: collect the values in "
            "a list and return that"
        )
    if not inspect.iscoroutinefunction(fn):
        raise MisuseError(f"@{decorator}: {name} is an ordinary function; write: async def {name}(...)")
    return fn


def job(fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Job[T]]:
    """Turn `async def f(...) -> T` into a description: `f(...)` returns a Job[T], which runs when it is awaited.

    Raises:
        MisuseError: fn is not an async function.
    """
    return JobFunction(checked_async_function(fn, "job"))


@attrs.frozen(eq=False)
class OpenEnv(Environment):
    """An environment that a program has opened: what JobEnv and ClusterEnv have in common."""

    recording: Recording | None = attrs.field(default=None, kw_only=True, repr=False)
    """The run's record; None where nothing is recorded."""

    async def run(self, flow: Flow[T]) -> T:
        """Await a flow in this environment, wherever this loop runs; a coroutine, as `create_task` needs one."""
        with environment.entered(self), failures.shortened():
            flows.check(flow, "env.run")
            return await flow

    async def close(self) -> None:
        """End what `start` or `start_local` has opened: all processes end, and this waits for that.

        What still runs is cancelled. A second call does nothing.

        Raises:
            MisuseError: A scope has opened it, whose end closes it; or it belongs to another event loop.
        """
        if (closer := environment.closers.get(self)) is None:
            raise MisuseError(
                "env.close(): this environment was opened by `async with`, and the end of that scope closes it; only "
                "what `await hyperflow.start(...)` has opened is closed like this"
            )
        await closer()


@attrs.frozen(eq=False)
class JobEnv(OpenEnv):
    """The environment of a running Job. See Environment for its fields."""

    def executor(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[OptionChanges],
    ) -> Executor:
        """Return a `concurrent.futures.Executor` over this environment: for libraries that take one, and for threads.

        Args:
            max_workers: How many calls run side by side; None for as many as there are CPUs.
            initializer: Called with `initargs` once in each worker, before its first call. What it sets in the worker's
                process stays there, also for evaluations beside this executor.
            initargs: Its arguments.
            options: Those of `hyperflow.using`: env.executor(cpus=2, retries=1).

        Its `submit` may be called from any thread. `shutdown` leaves the environment open. On the event loop itself,
        wait with `await asyncio.wrap_future(future)`: `future.result()` raises MisuseError there, as it would wait for
        ever. `asyncio.get_running_loop().run_in_executor(executor, f, x)` works, too.

        Must be called on the event loop of the environment.
        """
        from hyperflow.executor import over  # noqa: PLC0415 (most programs need none)

        return over(self, max_workers, initializer, initargs, options)


@asynccontextmanager
async def open_job(  # noqa: PLR0913 (its two callers are above all of these)
    nodes: Sequence[NodePlan],
    program: ProgramInfo | None,
    *,
    settings: Settings,
    preload: Sequence[str],
    end: End | None = None,
    shrinks: int | None = None,
    listed: bool = False,
    echo: bool = False,
    progress: bool = False,
    tokens: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[JobEnv]:
    """Start launchers, open the database, and make the environment the current one for the scope.

    `shrinks` is the Slurm job that may lose nodes meanwhile; `listed`, whether the run stands in the user's index.
    """
    from hyperflow.control import door  # noqa: PLC0415 (see above)
    from hyperflow.head.engine import open_engine  # noqa: PLC0415 (see above)
    from hyperflow.progress import display  # noqa: PLC0415 (see above)
    from hyperflow.records.recording import recorded  # noqa: PLC0415 (see above)

    mine = program or ProgramInfo.temporary_one()
    async with AsyncExitStack() as stack:
        recording = stack.enter_context(recorded(mine, "job", listed=listed))
        database = await stack.enter_async_context(_database(mine, settings))
        recording.begin()  # not before: whoever has the database has the run
        _clear_capsules(mine.log_dir)
        engine = await stack.enter_async_context(
            open_engine(nodes, mine, settings=settings, preload=preload, end=end, echo=echo, tokens=tokens)
        )
        if not mine.temporary:
            engine.learning.begin(await _learned(database))
            stack.push_async_callback(_record_learned, engine, database)
        recording.figures = functools.partial(_figures, engine)
        env = JobEnv(options=Options(), evaluator=engine, database=database, program=mine, recording=recording)
        if shrinks is not None:
            from hyperflow.head import allocation_nodes  # noqa: PLC0415 (see above)

            await stack.enter_async_context(allocation_nodes.watched(shrinks, engine.fleet.keep))
        await stack.enter_async_context(door.on_demand(mine.log_dir.parent, _node_routes(engine)))
        stack.enter_context(display.showing(engine.progress, mine.program_id, progress))
        with environment.entered(env), failures.shortened():
            yield env
    mine.remove()  # only a temporary one, and only after success: errors point into its logs


def _database(program: ProgramInfo, settings: Settings) -> AbstractAsyncContextManager[ResultsDatabase]:
    """Return the scope of a run's database, which makes it; in a temporary directory not before it is used."""
    from hyperflow.database import deferred  # noqa: PLC0415 (see above)

    path = program.database
    if program.temporary and isinstance(path, Path):
        return deferred.on_demand(path, program.program_id)
    from hyperflow.database.store import copy_database, open_database  # noqa: PLC0415 (see above)

    if program.start_from is not None and isinstance(path, Path) and not path.exists():
        copy_database(program.start_from, path)
    return open_database(path, program.program_id, settings.database_timeout)


async def _learned(database: ResultsDatabase) -> dict[str, Any]:
    """Return what earlier runs have learned of functions; nothing if that cannot be read now."""
    from hyperflow.database import learned  # noqa: PLC0415 (see above)

    return await learned.recorded(database)


async def _record_learned(engine: Engine, database: ResultsDatabase) -> None:
    if new := engine.learning.learned():
        from hyperflow.database import learned  # noqa: PLC0415 (most programs learn nothing)

        await learned.record(database, new)


def _clear_capsules(log_dir: Path) -> None:
    """Remove what an earlier start of the run has left of failures."""
    if any(each.is_dir() for each in log_dir.iterdir()):
        from hyperflow.debugging import capsule  # noqa: PLC0415 (a new run needs none)

        capsule.clear(log_dir)


def _figures(engine: Engine) -> Figures:
    from hyperflow.records.record import Figures  # noqa: PLC0415 (see above)

    account, stands = engine.account, engine.statistics()
    return Figures(
        nodes=account.most_nodes,
        cpus=account.most_cpus,
        done=stands.done,
        failed=stands.failed,
        cancelled=stands.cancelled,
        retried=stands.retried,
        used=account.used,
        held=account.held,
    )


def _node_routes(engine: Engine) -> Callable[[], list[web.RouteDef]]:
    def routes() -> list[web.RouteDef]:
        from hyperflow.control import nodes, pools  # noqa: PLC0415 (its library is imported at the first contact)

        return [*nodes.routes(engine), *pools.routes(lambda: engine.pool)]

    return routes


@asynccontextmanager
async def open_local_job(  # noqa: PLR0913 (all of them are told apart by name)
    *,
    cpus: int | None = None,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    scratch: str | None = None,
    cache: int | str | None = None,
) -> AsyncIterator[JobEnv]:
    """Evaluate on this machine: `async with open_local_job(cpus=4) as env: await my_job()`.

    Args:
        cpus: How many CPUs to use; None for all that this process may use. With more, workers are not pinned, and a
            warning says so.
        gpus: The ids of this machine's GPUs, as CUDA_VISIBLE_DEVICES has them: ["0", "1"]; [] for none. None for those
            that are found: by that variable and its like, or by the driver.
        memory: How much memory evaluations may have together: "8G", or bytes. None for what a control group allows, or
            else for all that the machine has.
        resources: Tokens of the program, as {"licence": 4}: `using(resources={"licence": 1})` takes one of them.
        program: Where logs and results go; None for a temporary directory, which is kept only after an error.
        preload: Modules to import once, before workers are forked, such as "numpy".
        echo: Show on standard error what evaluations print and warn, each line with time, call and worker; a bounded
            number of lines a second. `hyperflow logs` shows all, with or without this.
        progress: Show on standard error how evaluations stand, by function or name: live on a terminal and in a
            notebook, a line each minute elsewhere, nothing in tests. HYPERFLOW_PROGRESS=0 switches it off for all
            programs.
        scratch: An existing directory for `hf.scratch` and copies of files: "/local/$USER". None for the setting of
            that name (HYPERFLOW_SCRATCH), or else $TMPDIR, or /tmp.
        cache: How much the copies of files may take there: "20G", or bytes. None for the setting (HYPERFLOW_CACHE), or
            else half of what is free.

    Raises:
        ConfigurationError: `cpus` or another value makes no sense, a directory cannot be written, a module cannot be
            imported.
        LauncherError: The launcher could not be started.

    Leaving the scope, also by an error or when cancelled, ends all processes and waits for them.
    """
    offers = Offers(cpus, gpus, memory, resources)
    async with open_here(
        offers, program=program, preload=preload, echo=echo, progress=progress, scratch=scratch, cache=cache
    ) as env:
        yield env


@asynccontextmanager
async def open_here(
    offers: Offers,
    *,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    shared: bool = False,
    echo: bool = False,
    progress: bool = False,
    scratch: str | None = None,
    cache: int | str | None = None,
) -> AsyncIterator[JobEnv]:
    """Do as open_local_job; with `shared`, beside others that use the same CPUs (see NodePlan)."""
    with _begun(program, may_fork=False, scratch=scratch, cache=cache) as begun:
        async with _opened(
            begun, offers, listed=program is None, preload=preload, shared=shared, echo=echo, progress=progress
        ) as env:
            yield env


class _Begun(NamedTuple):
    """An environment on this machine whose launcher is starting."""

    settings: Settings
    program: ProgramInfo
    launcher: Started


@contextmanager
def _begun(
    program: ProgramInfo | None, *, may_fork: bool, scratch: str | None, cache: int | str | None
) -> Iterator[_Begun]:
    """Start a launcher on this machine; with `may_fork` no event loop runs here, so it may be forked."""
    from hyperflow.transports import forked  # noqa: PLC0415 (see above)
    from hyperflow.transports.process import LAUNCHER, LAUNCHER_MODULE, Spawned, launcher_log  # noqa: PLC0415

    hold_standard_streams()
    settings = read_settings(scratch=scratch, cache=cache)
    mine = program or ProgramInfo.temporary_one()
    log_file = launcher_log(mine.log_dir, socket.gethostname())
    forks = may_fork and not importable.registered and forked.may_fork()
    launcher = forked.fork(LAUNCHER_MODULE, log_file) if forks else None
    with launcher or Spawned(LAUNCHER, log_file) as started:
        yield _Begun(settings, mine, started)


@asynccontextmanager
async def _opened(
    begun: _Begun,
    offers: Offers,
    *,
    listed: bool,
    preload: Sequence[str],
    shared: bool = False,
    echo: bool,
    progress: bool,
) -> AsyncIterator[JobEnv]:
    from hyperflow.head.capacity import Supply  # noqa: PLC0415 (imported while the launcher starts)
    from hyperflow.head.fleet import NodePlan  # noqa: PLC0415 (see above)
    from hyperflow.transports.process import Local  # noqa: PLC0415 (see above)

    said = Supply(offers.gpus, offers.memory)
    plan = NodePlan(Local(socket.gethostname(), begun.launcher), offers.cpus, shared=shared, said=said)
    opened = False
    try:
        async with open_job(
            [plan],
            begun.program,
            settings=begun.settings,
            preload=preload,
            listed=listed,
            echo=echo,
            progress=progress,
            tokens=offers.resources,
        ) as env:
            opened = True
            yield env
    except asyncio.CancelledError:
        if not opened:  # no error points into its logs
            begun.program.remove()
        raise


END_SIGNALS: dict[int, tuple[str, float | None]] = {
    signal.SIGUSR1: ("SIGUSR1 came, as `#SBATCH --signal=USR1@120` has it", None),
    # KILL follows after KillWait, whose length is unknown here: evaluations end at once, the job has what time is left.
    signal.SIGTERM: ("SIGTERM came, by scancel or at the time limit", 0.0),
}
"""Slurm's signals before it kills: what each means, and the seconds that are left then, as in `Notice`."""


@asynccontextmanager
async def open_slurm_job(
    *,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    **settings: Any,
) -> AsyncIterator[JobEnv]:
    """Evaluate on all CPUs of the Slurm allocation that this process is in; otherwise like open_local_job.

    Works in a batch script, in `srun --pty`, and in `salloc` on a login host. It contacts each other node once.

    Args:
        gpus: The ids of the GPUs of each node, where neither Slurm nor the node tells them: ["0", "1"]; [] for none.
        memory: How much memory evaluations may have on each node: "8G", or bytes. None for what Slurm grants.
        resources: Tokens of the program, as for open_local_job.
        program: Where logs and results go: a directory that all nodes see. None for one in the current directory.
        preload: As for open_local_job, on each node.
        echo: As for open_local_job.
        progress: As for open_local_job.
        settings: Fields of `hyperflow.config.Settings`, such as min_nodes=3; they override HYPERFLOW_* variables and
            the configuration file.

    Raises:
        SlurmError: There is no allocation, or its variables contradict each other.
        LauncherError: Fewer than `min_nodes` nodes could be started. If enough could, a warning names the others.
        ConfigurationError: As for open_local_job.
    """
    from hyperflow.head.allocation_end import End, Notice  # noqa: PLC0415 (see above)
    from hyperflow.head.capacity import Supply  # noqa: PLC0415 (see above)
    from hyperflow.head.fleet import NodePlan  # noqa: PLC0415 (see above)
    from hyperflow.slurm import allocation, nodelist  # noqa: PLC0415 (see above)

    hold_standard_streams()
    offers = Offers(None, gpus, memory, resources)
    said = Supply(offers.gpus, offers.memory)
    chosen = read_settings(**settings)
    excluded = nodelist.excluded(chosen.exclude_nodes)
    granted = await asyncio.to_thread(allocation.find, os.environ)
    used = [node for node in granted.nodes if node.name not in excluded]
    if not used:
        raise ConfigurationError(f"exclude_nodes = {chosen.exclude_nodes!r}: the allocation has no other node")
    ways = node_transports([node.name for node in used], granted, chosen)
    nodes = [
        NodePlan(ways[node.name], node.cpus, granted=True, said=said, grant=Supply(node.gpus, node.memory))
        for node in used
    ]
    place = program or ProgramInfo.new("hyperflow-runs")
    notices = {int(signum): Notice(*said) for signum, said in END_SIGNALS.items()}
    end = End(granted.end_time, chosen.end_margin, notices)
    # One node alone can only be taken together with the job.
    shrinks = granted.job_id if len(nodes) > 1 else None
    listed = program is None
    async with open_job(
        nodes,
        place,
        settings=chosen,
        preload=preload,
        end=end,
        shrinks=shrinks,
        listed=listed,
        echo=echo,
        progress=progress,
        tokens=offers.resources,
    ) as env:
        yield env


MANY_NODES = 32
"""With more other nodes, "auto" tries srun first: an ssh handshake takes the head 7 ms, a node of a step 1."""


def node_transports(
    names: Sequence[str], granted: allocation.Allocation, settings: Settings
) -> dict[str, tuple[Transport, ...]]:
    """Return how each node is reached, in the order in which the ways are tried."""
    from hyperflow.transports.process import Local  # noqa: PLC0415 (see above)

    ways: dict[str, tuple[Transport, ...]] = {name: (Local(name),) for name in names if name == granted.here}
    if others := [name for name in names if name != granted.here]:
        from hyperflow.transports.srun import Srun  # noqa: PLC0415 (see above)
        from hyperflow.transports.steps import Steps  # noqa: PLC0415 (see above)

        steps = Steps(settings) if settings.node_to_node != "off" else None
        if settings.transport == "srun":
            return ways | {name: (Srun(name, settings.prologue, steps),) for name in others}
        from hyperflow.transports.ssh import Ssh  # noqa: PLC0415 (asyncssh costs 0.1 s, which one node need not pay)

        for name in others:
            ways[name] = (Ssh(name, settings),)
            if settings.transport == "auto" and steps is not None and len(others) > MANY_NODES:
                # Should there be no such step, a thousand steps are not the next best.
                shared, alone = Srun(name, settings.prologue, steps, alone=False), Srun(name, settings.prologue)
                ways[name] = (shared, *ways[name], alone)
            elif settings.transport == "auto":
                ways[name] = (*ways[name], Srun(name, settings.prologue, steps))
    return ways


def run_job_slurm(  # noqa: PLR0913 (those of open_slurm_job, and two)
    job: Flow[T],
    *,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    requeue: bool = False,
    **settings: Any,
) -> T:
    """Run a job on all nodes of the Slurm allocation that this process is in, and return its result; blocks.

    Args:
        gpus: As for open_slurm_job; so are `memory` and `resources`.
        memory: See above.
        resources: See above.
        program: As for open_slurm_job. With `requeue`, its `database` must be the same file in each run.
        requeue: When the job ends with AllocationEnding, put this Slurm job back into the queue. Started again, it
            finds the recorded results in the database. Submit the Slurm job with `--requeue`.

    Other arguments are those of open_slurm_job. Raises what it and the job raise.
    """
    try:
        check_runnable(job, "run_job_slurm")
        with told():
            return run_job_in(
                job,
                lambda: open_slurm_job(
                    gpus=gpus,
                    memory=memory,
                    resources=resources,
                    program=program,
                    preload=preload,
                    echo=echo,
                    progress=progress,
                    **settings,
                ),
            )
    except AllocationEnding:
        if requeue:
            from hyperflow.slurm import allocation, scontrol  # noqa: PLC0415 (see above)

            scontrol.requeue(allocation.read(os.environ).job_id)
        raise


def run_job_local(  # noqa: PLR0913 (those of open_local_job, and the job)
    job: Flow[T],
    *,
    cpus: int | None = None,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    scratch: str | None = None,
    cache: int | str | None = None,
) -> T:
    """Run a job on this machine and return its result; blocks. For scripts and tests.

    Takes the arguments of `open_local_job`; raises its errors and what the job raises. Ctrl-C cancels the job, ends
    its processes and raises KeyboardInterrupt.
    """
    check_runnable(job, "run_job_local")
    offers = Offers(cpus, gpus, memory, resources)
    with told(), rare_collections(), _begun(program, may_fork=True, scratch=scratch, cache=cache) as begun:
        return run_job_in(
            job,
            lambda: _opened(begun, offers, listed=program is None, preload=preload, echo=echo, progress=progress),
        )


def check_runnable(job: Flow[Any], where: str, given: str = "") -> None:
    """Raise MisuseError if this is no flow, or no place for what blocks; `given`: what the opener needs to be given."""
    flows.check(job, where)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise MisuseError(
            f"{where} blocks, and an event loop is running here (a notebook, or async code); write: "
            f"async with hyperflow.{where.replace('run_job', 'open')}_job({given}) as env: "
            f"result = await {job.used().step}{_in_a_notebook()}"
        )
    _check_not_imported()


@contextmanager
def told() -> Iterator[None]:
    """Let errors leave without frames of ours, and with what this process has run into."""
    try:
        yield
    except BaseException as error:
        told = limit_met(error)  # before errors behind it are cut off
        failures.shorten_here(error)
        if told:
            error.add_note(told)
        raise


def run_job_in(job: Flow[T], open_environment: Callable[[], AbstractAsyncContextManager[JobEnv]]) -> T:
    """Run a job in its own environment and event loop."""

    async def run() -> T:
        async with open_environment() as env:
            result = await job
            if env.recording is not None:
                env.recording.result(result)
            return result

    result = run_in_new_loop(run())
    if isinstance(result, Flow):
        flow = result.used()
        raise MisuseError(f"{job!r} returned the flow {flow!r}, not its result; write: return await {flow.step}")
    return result


def _in_a_notebook() -> str:
    """Return what to type in place of `%run script.py`, where that may have been typed; else nothing."""
    if "IPython" not in sys.modules:
        return ""
    script = Path(getattr(sys.modules.get("__main__"), "__file__", None) or "script.py").name
    return f'; or, in place of %run {script}, which shares the notebook\'s event loop: !"{{sys.executable}}" {script}'


def _is_being_imported() -> bool:
    multiprocessing = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and getattr(multiprocessing.current_process(), "_inheriting", False)


PYTHONS_OWN = (700, 10, 10)
"""The default thresholds of Python's cycle collector. Others are the user's, and stay."""


def _check_not_imported() -> None:
    if _is_being_imported():
        raise MisuseError(
            "multiprocessing has started this process by spawn or forkserver, and imports the script in it once more; "
            'put what runs the program under `if __name__ == "__main__":`'
        )


def run_in_new_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed, otherwise on asyncio's own loop."""
    try:
        _check_not_imported()
    except MisuseError:
        main.close()
        raise
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise MisuseError(
            f"an event loop is running here (a notebook, or async code), and this needs one{_in_a_notebook()}"
        )
    hold_standard_streams()
    try:
        import uvloop  # noqa: PLC0415 (not on every platform)
    except ImportError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    with rare_collections(), asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python's cycle collector run less often than after each 700 new objects.

    With many evaluations under way that took a fifth of the head's time or more (most of it for 100,000 memoized calls
    side by side), and found nothing; nor does it among the modules that are imported for a run.
    """
    raised = gc.get_threshold() == PYTHONS_OWN  # not where another loop, in another thread, has done it
    if raised:
        gc.set_threshold(20_000, 20, 20)
    try:
        yield
    finally:
        if raised:
            gc.set_threshold(*PYTHONS_OWN)
