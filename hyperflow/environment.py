"""The environment of a running flow: a frozen record, reached through a context variable.

Guarantees: an environment is never changed, only replaced for a scope (`using`), as with Reader's `local`; each
asyncio task sees the environment that was in force where it was created.

Why a context variable and not an argument: a flow is ordinary async Python, and the environment has to reach
through functions of the user's that know nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import attrs

from hyperflow.errors import ConfigurationError, NotInFlow

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hyperflow.program import ProgramInfo


def _positive_int(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{attribute.name}={value!r}: a whole number of at least 1 is needed")


def _natural(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigurationError(f"{attribute.name}={value!r}: a whole number of at least 0 is needed")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, (int, float)) or not value > 0):
        raise ConfigurationError(f"{attribute.name}={value!r}: a positive number of seconds is needed, or None")


@attrs.frozen
class Resubmit:
    """An answer to failures: submit the job again, up to `times` times; then hold it.

    Args:
        times: How often.
        then: What follows when that did not help: "hold" or "raise".
    """

    times: int = attrs.field(default=1, validator=_positive_int)
    then: str = attrs.field(default="hold", validator=attrs.validators.in_(("hold", "raise")))


def _on_error(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    answers = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {Exception: value}
    for kind, answer in answers.items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"{attribute.name}={value!r}: {kind!r} is not a class of errors")
        if answer not in ("hold", "raise") and not isinstance(answer, Resubmit):
            raise ConfigurationError(
                f'{attribute.name}={value!r}: "hold", "raise" or hyperflow.Resubmit(times) is needed, or a dictionary '
                "of these by class of error"
            )


@attrs.frozen
class Options:
    """What an evaluation asks for; changed for a scope with `using`.

    Args:
        cpus: CPUs set aside for each evaluation, all on one node.
        fresh_process: Run each evaluation in a process of its own, forked for it and ended after it.
        retries: How often an evaluation is started again after it raised an Exception or its worker died.
        time_limit: Seconds from its start on a worker after which an evaluation is killed.
        exclusive: When its node is lost, an evaluation is run again only when it must have ended over there. For
            functions with effects that must not overlap; it may have to wait for `silence_limit` (minutes).
        sbatch: In a Cluster: what Slurm is asked for, a `SbatchOptions`. None for one node and one CPU.
        on_error: In a Cluster: what is done about a job that fails: "hold" it until somebody retries it, "raise" the
            error in the program, `Resubmit(times)`; or a dictionary of these by class of error, the first that fits.
    """

    cpus: int = attrs.field(default=1, validator=_positive_int)
    fresh_process: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    retries: int = attrs.field(default=0, validator=_natural)
    time_limit: float | None = attrs.field(default=None, validator=_seconds)
    exclusive: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    sbatch: Any = None
    on_error: Any = attrs.field(default="hold", validator=_on_error)


@attrs.frozen
class Statistics:
    """How an evaluator stands at this moment.

    Args:
        nodes: Nodes that are up.
        nodes_lost: Nodes that were lost.
        cpus: CPUs of the nodes that are up.
        cpus_free: Those of them that nobody holds.
        workers: Worker processes by state: "busy", "idle", "ending".
        waiting: Evaluations that no worker has.
        running: Evaluations that are with a worker (queued there, some of them).
        done: Evaluations that gave a result.
        failed: Evaluations that gave an error.
        cancelled: Evaluations whose caller went away.
        retried: Evaluations that were started again after a failure, counted once each time.
        returned: Evaluations that went back, uncharged, because their worker or node went.
        late: Answers that came too late and were dropped.
    """

    nodes: int
    nodes_lost: int
    cpus: int
    cpus_free: int
    workers: dict[str, int]
    waiting: int
    running: int
    done: int
    failed: int
    cancelled: int
    retried: int
    returned: int
    late: int


class LockDesk(Protocol):
    """What hands out locks here: the lock manager of a Job in its head process, a worker's lock client on a worker."""

    async def take(self, keys: Collection[str]) -> int:
        """Wait for some keys, all or none, and return a number for `release`."""
        ...

    def take_blocking(self, keys: Collection[str]) -> int:
        """Do the same without an event loop."""
        ...

    def release(self, number: int) -> None:
        """Give back what was taken."""
        ...


class Evaluator(Protocol):
    """What runs remote evaluations: the engine, or an inline stand-in for tests."""

    @property
    def locks(self) -> LockDesk:
        """What hands out locks to flows."""
        ...

    @property
    def cpus(self) -> int:
        """All CPUs of all nodes that are up."""
        ...

    def statistics(self) -> Statistics:
        """How things stand; cheap."""
        ...

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options
    ) -> asyncio.Future[Any]:
        """Ship a call; cancelling the future that comes back ends the evaluation."""
        ...


class ResultsDatabase(Protocol):
    """The part of a results database that KeyValMap and memoize stand on."""

    async def insert(self, map_name: str, key: str, value: str) -> None: ...

    async def lookup(self, map_name: str, key: str) -> str | None: ...

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]: ...


@attrs.frozen(eq=False)
class Environment:
    """What a running flow can reach: options, evaluator, database and the directories of the program.

    Args:
        options: What evaluations ask for in this scope.
        evaluator: Runs remote evaluations.
        database: The program's results.
        program: Id and directories of this run.
    """

    level: ClassVar[str] = "job"
    """Which functions run here: those under @job, or those under @cluster."""

    options: Options
    evaluator: Evaluator
    database: ResultsDatabase
    program: ProgramInfo

    def statistics(self) -> Statistics:
        """Return how nodes, workers, CPUs and evaluations stand at this moment; cheap."""
        return self.evaluator.statistics()

    def using(self, **changes: Any) -> Environment:
        """Return this environment with changed options."""
        return attrs.evolve(self, options=changed(self.options, changes))


_current: ContextVar[Environment | None] = ContextVar("hyperflow_environment", default=None)

# Bound once, because every evaluation passes through here.
peek = _current.get
"""The environment in force, or None."""


def current(asked_by: str = "a flow") -> Environment:
    """Return the environment in force; raises NotInFlow where there is none."""
    environment = peek()
    if environment is None:
        raise NotInFlow(
            f"{asked_by} was awaited where nothing runs it. In a script: hyperflow.run_job_local(my_job()). "
            "In async code or a notebook: `async with hyperflow.open_local_job() as env:` and await it inside; "
            "in a later notebook cell: await env.run(my_job())"
        )
    return environment


@contextmanager
def entered(environment: Environment) -> Generator[Environment, None, None]:
    """Put an environment in force for a scope."""
    token = _current.set(environment)
    try:
        yield environment
    finally:
        with suppress(ValueError):  # left in another context than entered, such as another cell of a notebook
            _current.reset(token)


def changed(options: Options, changes: dict[str, Any]) -> Options:
    """Return options with some fields replaced; an unknown name is refused with the list of the known ones."""
    known = [field.name for field in attrs.fields(Options)]
    for name in changes:
        if name not in known:
            raise ConfigurationError(f"using({name}=...): no such option; there are {', '.join(known)}")
    return attrs.evolve(options, **changes)


@contextmanager
def using(**changes: Any) -> Generator[Environment, None, None]:
    """Change options for all evaluations started in the scope: `with using(cpus=4): ...`.

    The options are those of `Options`: cpus, fresh_process, retries, time_limit. Raises ConfigurationError
    for an unknown option or a value that makes no sense, NotInFlow outside of a run.
    """
    with entered(current("using(...)").using(**changes)) as environment:
        yield environment
