"""The environment of a running flow: a frozen record, reached through a context variable.

Guarantees: nobody changes an environment; `using` replaces it for a scope, as Reader's `local` does. An asyncio task
sees the environment that was current where it was created.

Why a context variable and not an argument: between a flow and those that it awaits are functions of the user, which
cannot hand it on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, Unpack, cast
from weakref import WeakKeyDictionary

import attrs

from hyperflow.errors import ConfigurationError, NotInFlow
from hyperflow.options import JobOptions, OptionChanges, Options
from hyperflow.saying import as_written

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from hyperflow.guesses import Guess
    from hyperflow.pieces import Pieces, Receiver
    from hyperflow.program import ProgramInfo
    from hyperflow.progress.tally import Counted, FunctionStatistics


@attrs.frozen
class Statistics:
    """Nodes, CPUs, workers and evaluations at one moment.

    Args:
        nodes: Those that are up; `nodes_lost`: those that were lost.
        cpus: CPUs of the nodes that are up; `cpus_free`: those of them that no evaluation holds.
        workers: Worker processes by state: "busy", "idle", "ending".
        waiting: Evaluations that no worker has yet.
        running: Evaluations that a worker has; some of them are queued there (prefetched).
        done: Evaluations that ended with a result; `failed`: with an error; `cancelled`: whose caller was cancelled,
            or which were never started, because the allocation ended or no node was left.
        retried: How often evaluations were started again after a failure.
        returned: How often evaluations went back to the queue, uncharged, because a worker or node was lost.
        late: Answers that came too late and were dropped.
        nodes_aside: Nodes that are up and put aside: nothing more is started there, and their CPUs do not count here.
        copied: How often an evaluation that took very long got a copy (`straggler_factor`).
        functions: What the evaluations of each function, or of each name that they were given, have used.
        gpus: GPUs of the nodes that are up; `gpus_free`: how many of them nobody holds, of fractions as well.
        memory: Bytes that evaluations may have on these nodes, 0 where nobody knows; `memory_free`: those that none has
            asked for, or has as the share of its CPUs.
        tokens: Those of the program, by name; `tokens_free`: those that no evaluation holds.
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
    nodes_aside: int = 0
    copied: int = 0
    functions: Mapping[str, FunctionStatistics] = attrs.field(factory=dict, repr=False)
    gpus: int = attrs.field(default=0, repr=False)
    gpus_free: float = attrs.field(default=0, repr=False)
    memory: int = attrs.field(default=0, repr=False)
    memory_free: int = attrs.field(default=0, repr=False)
    tokens: dict[str, int] = attrs.field(factory=dict[str, int], repr=False)
    tokens_free: dict[str, int] = attrs.field(factory=dict[str, int], repr=False)

    def in_words(self) -> dict[str, str]:
        """Return what there is to tell, by what it concerns: nodes, CPUs, workers, evaluations."""
        rare = {"lost": self.nodes_lost, "aside": self.nodes_aside}
        happened = {"retried": self.retried, "returned": self.returned, "copied": self.copied, "late": self.late}
        states = ("waiting", "running", "done", "failed", "cancelled")
        special: dict[str, str] = {}
        if self.gpus:
            special["GPUs"] = f"{self.gpus}, {self.gpus_free:g} free"
            special["memory"] = f"{as_written(self.memory)}, {as_written(self.memory_free)} free"
        if self.tokens:
            tokens = (f"{name}: {count}, {self.tokens_free[name]} free" for name, count in self.tokens.items())
            special["tokens"] = "; ".join(tokens)
        return {
            "nodes": _counts({"up": self.nodes}, rare),
            "CPUs": f"{self.cpus}, {self.cpus_free} free",
            **special,
            "workers": _counts({}, self.workers) or "none yet",
            "evaluations": _counts({state: getattr(self, state) for state in states}, happened),
        }

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        return displays.facts("", self.in_words())


def _counts(always: Mapping[str, int], if_any: Mapping[str, int]) -> str:
    """Return counts in words: `3 up, 1 lost`."""
    return ", ".join(f"{count} {name}" for name, count in (*always.items(), *if_any.items()) if count or name in always)


class Locks(Protocol):
    """Acquires keys, all or none, for a number by which they are released.

    It is the lock manager in a Job's head process, the lock client on a worker.
    """

    async def take(self, keys: Collection[str]) -> int: ...
    def take_blocking(self, keys: Collection[str]) -> int: ...
    def release(self, number: int) -> None: ...


class Streams(Protocol):
    """Gives random streams to the job itself."""

    def next_of_job(self, seed: int) -> tuple[int, ...]: ...
    def of_map(self, fn: Any, seed: int) -> tuple[int, ...]: ...


class Evaluator(Protocol):
    """Runs remote evaluations: the engine, its inline replacement for tests, or a Cluster's one job for each."""

    @property
    def locks(self) -> Locks: ...
    @property
    def cpus(self) -> int:
        """All CPUs of all nodes that are up; none in a Cluster computation."""
        ...

    @property
    def streams(self) -> Streams:
        """Random numbers for the job itself."""
        ...

    @property
    def maps(self) -> set[Counted]:
        """The maps that run, which put themselves in here."""
        ...

    @property
    def receivers(self) -> dict[str, Receiver]:
        """Who takes what evaluations post (`worker.post`), by name."""
        ...

    def statistics(self) -> Any: ...  # a Statistics; in a Cluster computation its own record

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        stream: tuple[int, ...] | None = None,
    ) -> asyncio.Future[Any]:
        """Send a call to a worker; cancelling the returned future ends the evaluation."""
        ...

    def stream(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        pieces: Pieces,
    ) -> asyncio.Future[Any]:
        """Do the same for a call that sends pieces while it runs."""
        ...

    def time_left(self) -> float:
        """Return for how many seconds evaluations can run; inf where no end is known."""
        ...

    def is_ending(self) -> bool:
        """Tell whether the end is near."""
        ...

    def open_map(self, owner: MapOwner) -> BulkMap | None:
        """Evaluate what is alike in a map together; None if that is no gain here."""
        ...

    def keep(self, future: asyncio.Future[Any]) -> Kept | None:
        """Keep what has just been submitted, for another try with a part of it; None if it was not packed."""
        ...


class Results(Protocol):
    """Results in their places."""

    def __setitem__(self, place: int, value: Any, /) -> None: ...


Evaluated: TypeAlias = "Callable[[int, Sequence[int], Sequence[float], str, int], None]"


class MapOwner(Protocol):
    """A map, as what evaluates in batches knows it; its results have the places in which they are wanted."""

    @property
    def results(self) -> Results: ...
    @property
    def evaluated(self) -> Evaluated | None:
        """Is told before `done` what was evaluated where: how much higher the places are than the numbers, and the
        numbers, seconds, node and CPUs of each; None where nobody asks."""
        ...

    def begun(self, count: int) -> int:
        """Make place for so many more, and return the first place."""
        ...

    def done(self, count: int) -> None:
        """So many have ended, and their results are in their places."""
        ...

    def apart(self, place: int, future: asyncio.Future[Any], step: Any) -> Making | None:
        """One that was begun goes on by itself; the step is what starts such a one. Return what it is part of."""
        ...

    def refused(self, x: Any, error: Exception) -> bool:
        """The user's function made no flow of x: return whether that is noted at the next place; else raise it."""
        ...


class BulkMap(Protocol):
    """The evaluations of one map that go together."""

    def start(
        self, xs: Iterator[Any], make: Callable[[Any], Any] | None, most: int
    ) -> tuple[int, tuple[Any, Any] | None]:
        """Start the flows of at most so many xs that are like the one before.

        Return how many were started, and the x, with the flow that was made of it, that has to be started by itself.
        If there is none, and fewer were started, there are no more xs.
        """
        ...

    def cancel(self, apart: bool = False) -> None:
        """Nobody wants what is left; with `apart`, its owner knows of which that is true, and each goes by itself."""
        ...


class Kept(Protocol):
    """A call as it was packed; `users` counts who may still want to evaluate from it."""

    users: int

    @property
    def size(self) -> int:
        """The bytes that each evaluation from it carries."""
        ...

    def submit(
        self,
        fn: Callable[..., Any],
        numbers: tuple[int, int],
        shown: tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]],
        options: Options,
        stream: tuple[int, ...],
    ) -> asyncio.Future[Any]:
        """Evaluate `fn((arguments,), *numbers)`; errors show the call `shown`."""
        ...

    def drop(self) -> None:
        """Count one user who has ended."""
        ...


class ResultsDatabase(Protocol):
    """The part of a results database that KeyValMap and memoize use."""

    flights: dict[Any, Any]
    """Computations that are under way, by the map and key of what they will record; see `database.single_flight`."""

    def peek(self, map_name: str, key: str) -> tuple[bool, str | None]:
        """Return whether it is known at once what a key has, and that."""
        ...

    def ask(self, map_name: str, key: str) -> asyncio.Future[tuple[str | None, list[str]]]:
        """Return the future of what a key has, and of the damage that was met with."""
        ...

    def record(self, map_name: str, key: str, value: str) -> asyncio.Future[None]:
        """Return a future that is done when a value is recorded."""
        ...

    async def insert(self, map_name: str, key: str, value: str) -> None: ...
    async def lookup(self, map_name: str, key: str) -> str | None: ...
    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]: ...
    def record_all(self, entries: list[tuple[str, str, str]]) -> asyncio.Future[list[None]]:
        """Return a future that is done when entries are recorded: map, key and value of each."""
        ...

    async def each(self, map_name: str, take: Callable[[str, str], None]) -> None:
        """Give keys and values of a map to somebody, the oldest first, maybe in a thread; the newest of a key last."""
        ...


@attrs.frozen(eq=False)
class Environment:
    """What a running flow can use.

    Args:
        options: What each evaluation asks for in this scope.
        evaluator: Runs remote evaluations.
        database: The program's results.
        program: Id and directories of this run.
        job_options: What each Slurm job asks for in this scope; only a Cluster computation has jobs.
    """

    level: ClassVar[str] = "job"
    """Which functions may run here: "job" for those under @job, "cluster" for those under @cluster."""

    options: Options
    evaluator: Evaluator
    database: ResultsDatabase
    program: ProgramInfo
    job_options: JobOptions = attrs.field(factory=JobOptions, kw_only=True)

    def statistics(self) -> Statistics:
        """Return the figures of nodes, workers, CPUs and evaluations at this moment; cheap."""
        return cast("Statistics", self.evaluator.statistics())

    def using(self, **changes: Unpack[OptionChanges]) -> Self:
        """Return this environment with changed options; the module's `using` says which there are."""
        options, job_options = changed(self.options, self.job_options, changes)
        return attrs.evolve(self, options=options, job_options=job_options)

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        in_force = " (in force in every cell)" if started() is self else " (closed)" if self in closers else ""
        known: dict[str, str] = self.evaluator.statistics().in_words()
        if self.options != Options():
            changes = attrs.asdict(self.options, filter=lambda field, value: field.init and value != field.default)
            known |= {"options": ", ".join(f"{name}={value!r}" for name, value in changes.items())}
        known |= {"results": str(self.program.database), "logs": str(self.program.log_dir)}
        return displays.facts(f"{type(self).__name__}{in_force}", known)


class Try:
    """One run of a flow under `retry`: from it, the evaluator knows where the next one is not to go."""

    __slots__ = ("avoided", "evaluations", "failed_on")

    def __init__(self, avoided: frozenset[str] = frozenset()) -> None:
        self.avoided = avoided
        """Nodes on which earlier runs failed."""
        self.evaluations = 0
        """How many were submitted."""
        self.failed_on: set[str] = set()

    def next(self) -> Try:
        """Return the next run. Of many evaluations nobody knows whether they failed for the node's sake."""
        return Try(self.avoided | self.failed_on if self.evaluations == 1 else frozenset())


_try: ContextVar[Try | None] = ContextVar("hyperflow_try", default=None)

peek_try = _try.get
"""The run of a flow under `retry` that this is part of, or None."""


@contextmanager
def trying(run: Try) -> Generator[None, None, None]:
    """Submit what is submitted in the scope as part of this run."""
    token = _try.set(run)
    try:
        yield
    finally:
        _try.reset(token)


LONGEST_UNTOLD = 100
"""So many flows in a row that have evaluated nothing are remembered."""


class Activity:
    """One run of a flow beside others: whatever it awaits in turn is part of it. It gets a number when it evaluates.

    The event log says which evaluation is of which activity; by that, `hyperflow whatif` knows what waited for what.
    """

    __slots__ = ("depth", "number", "parent")

    def __init__(self, parent: Activity | None) -> None:
        self.depth: int = 0 if parent is None or parent.number else parent.depth + 1
        if self.depth > LONGEST_UNTOLD:  # else a chain in which each starts the next would never be forgotten
            parent, self.depth = None, 0
        self.parent: Activity | None = parent
        """The one that has started it, until that is told."""
        self.number: int = 0

    def tell(self) -> list[tuple[int, int]]:
        """Give out numbers; return each that is new, with that of its parent, the parents first. 0 is the job itself.

        The numbers are the process's: several environments may be open in it, and share activities.
        """
        untold: list[Activity] = []
        one: Activity | None = self
        while one is not None and not one.number:
            untold.append(one)
            one = one.parent
        told: list[tuple[int, int]] = []
        for one in reversed(untold):
            one.number = next(_activities)
            told.append((one.number, one.parent.number if one.parent is not None else 0))
            one.parent = None
        return told


_activities = itertools.count(1)

activity: ContextVar[Activity | None] = ContextVar("hyperflow_activity", default=None)
"""The activity that this is part of; None for the job itself."""


class Making(Protocol):
    """A computation whose result will be recorded."""

    def evaluated(self, number: int, node: str, cpus: int, seconds: float) -> None:
        """Note an evaluation that was part of it."""
        ...

    def read(self, map_name: str, key: str) -> None:
        """Note a recorded value that it has read."""
        ...

    @property
    def of(self) -> tuple[ResultsDatabase, str, str] | None:
        """The database where the result will be recorded, the map and the key; None where that is not known."""
        ...

    def on_recorded(self, then: Callable[[], object]) -> None:
        """Have something done when it is recorded."""
        ...


_making: ContextVar[Making | None] = ContextVar("hyperflow_making", default=None)

peek_making = _making.get
"""The innermost computation that this is part of and whose result will be recorded, or None."""


set_making = _making.set
"""Have what begins from here on be part of a computation; returns what `end_making` takes."""

end_making = _making.reset


_current: ContextVar[Environment | None] = ContextVar("hyperflow_environment", default=None)

# Bound once: every evaluation calls it.
peek = _current.get
"""The current environment, or None."""


_started: WeakKeyDictionary[asyncio.AbstractEventLoop, Environment] = WeakKeyDictionary()
"""The environment that was started on an event loop, for all that runs there in no other: the cells of a notebook."""


closers: WeakKeyDictionary[Environment, Callable[[], Coroutine[Any, Any, None]]] = WeakKeyDictionary()
"""How each environment is closed that was started."""


def started() -> Environment | None:
    """Return the environment that was started on the running loop, or None."""
    from asyncio import get_running_loop  # noqa: PLC0415 (workers import this module, and most need no asyncio)

    try:
        return _started.get(get_running_loop())
    except RuntimeError:
        return None


def set_started(loop: asyncio.AbstractEventLoop, environment: Environment | None) -> None:
    """Make an environment the one that is in force on a loop where no other is; None for no longer."""
    if environment is None:
        _started.pop(loop, None)
    else:
        _started[loop] = environment


def current(asked_by: str = "a flow") -> Environment:
    """Return the current environment, or the one that was started on this loop; raises NotInFlow where none is."""
    environment = peek() or started()
    if environment is None:
        raise not_in_flow(asked_by)
    return environment


def peek_guess() -> Guess | None:
    """Return the guess that this is part of, if nobody wants that yet."""
    environment = peek()
    guess = None if environment is None else environment.options.guess
    return None if guess is None or guess.is_wanted else guess


@contextmanager
def guessing(env: Environment, guess: Guess) -> Generator[None, None, None]:
    """Have what begins in the scope be part of a guess."""
    with entered(attrs.evolve(env, options=env.options.guessed(guess))):
        yield


def maps() -> tuple[set[Counted], str | None]:
    """Return where a map that runs here puts itself, to be seen in progress, and the name that is in force."""
    environment = peek() or started()
    return (set(), None) if environment is None else (environment.evaluator.maps, environment.options.name)


def open_map(owner: MapOwner) -> BulkMap | None:
    """Return what evaluates in batches what is alike in a map that runs here, if that is a gain."""
    environment = peek() or started()
    return None if environment is None else environment.evaluator.open_map(owner)


def not_in_flow(asked_by: str) -> NotInFlow:
    """Return the error for what needs a running flow and has none."""
    if on_worker():
        return NotInFlow(f"{asked_by} was awaited in a function that runs on a worker, {not_on_workers('awaits it')}")
    return NotInFlow(
        f"{asked_by} was awaited where nothing runs it. In a script: hyperflow.run_job_local(my_job()). "
        "In a notebook: `env = await hyperflow.start_local()` in one cell, and await it in the next. "
        "In async code: `async with hyperflow.open_local_job() as env:` and await it inside"
    )


def not_on_workers(what: str) -> str:
    """Return why a function on a worker cannot have the result of a flow, and what to write; `what` it did with it."""
    return (
        f"and a worker starts no evaluations. Make the function that {what} a job: put @hyperflow.job above its "
        "`async def`, await the flow in it, and write await f(...) where you wrote hyperflow.remote_eval(f, ...); or "
        "let it call the plain function itself"
    )


def in_another_loop(asked_by: str) -> NotInFlow:
    """Return the error for what is awaited in another event loop than that of its environment."""
    return NotInFlow(
        f"{asked_by} was awaited in an event loop (maybe of another thread) that is not the one where its environment "
        "runs. There, write `await flow` or `flow.start()`; from another thread, with `env` and `loop` of the job: "
        "asyncio.run_coroutine_threadsafe(env.run(flow), loop).result()"
    )


class Deadlines(Protocol):
    """Knows how long what runs here can go on."""

    def time_left(self) -> float:
        """Return for how many seconds; inf where no end is known."""
        ...

    def is_ending(self) -> bool:
        """Tell whether the end is near."""
        ...


class InlineEvaluation(Deadlines, Protocol):
    """What an evaluation of `open_inline_job` can ask for."""

    def draws(self) -> tuple[int, ...]:
        """Return its random stream."""
        ...

    def checkpoint_dir(self) -> Path:
        """Return where it keeps its state."""
        ...


inline_evaluation: ContextVar[InlineEvaluation | None] = ContextVar("inline_evaluation", default=None)
"""The evaluation of `open_inline_job` that runs here."""


map_item: ContextVar[list[int] | None] = ContextVar("map_item", default=None)
"""In an item of a remote_map: what its random stream is made of, its place in the end."""


def on_worker() -> bool:
    """Whether this is a function that an evaluation runs, on a worker or inline."""
    return inline_evaluation.get() is not None or "HYPERFLOW_SERVICE_ID" in os.environ


@contextmanager
def entered(environment: Environment) -> Generator[Environment, None, None]:
    """Make an environment the current one for a scope."""
    token = _current.set(environment)
    try:
        yield environment
    finally:
        with suppress(ValueError):  # left in another context than entered, such as another cell of a notebook
            _current.reset(token)


def changed(options: Options, job_options: JobOptions, changes: OptionChanges) -> tuple[Options, JobOptions]:
    """Return both records with some fields replaced; raises ConfigurationError as `using` does."""
    values: dict[str, Any] = {**changes}
    for_jobs = {field.name: values.pop(field.name) for field in attrs.fields(JobOptions) if field.name in values}
    ours = [field.name for field in attrs.fields(Options) if field.init]
    for name in values:
        if name not in ours:
            raise ConfigurationError(_no_such_option(name, [*ours, *attrs.fields_dict(JobOptions)]))
    made = attrs.evolve(options, **values)
    return made if options.guess is None else made.guessed(options.guess), attrs.evolve(job_options, **for_jobs)


def _no_such_option(name: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 (few need it, and every start would wait for it)

    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? There" if near else "there"
    return f"using({name}=...): no such option; {meant} are {', '.join(known)}"


@contextmanager
def using(**changes: Unpack[OptionChanges]) -> Generator[Environment, None, None]:
    """Change options for everything started in the scope: `with using(cpus=4): ...`; see also `Flow.using`.

    For each evaluation:

    Args:
        cpus: How many CPUs it holds, all on one node; 1 by default. More than any node has raises ImpossibleRequest.
        fresh_process: Run it in a process of its own, which is forked for it and ends after it.
        retries: How often it is started again after it has failed: with an Exception, a crash (WorkerDied), for lack of
            memory, or at its time limit; 0 by default. Another node gets the next try, while there is one. The last
            error is raised. The loss of a node uses none of them, and what cannot be sent, or calls sys.exit(), is not
            tried again. `flow.retry(n)` is something else: it runs a whole flow again, with all its evaluations, in the
            job; it looks at classes of errors and can pause. Take `retries` for evaluations that fail by chance, and
            `.retry` for a sequence of steps that belong together. If both are there, they multiply.
        time_limit: Seconds from its start on a worker, or "10m". Then it is killed and raises TimeLimitExceeded, unless
            it has `retries` left. None for no limit, the default.
        exclusive: After its node was lost, run it again only when it must have ended there, which may take
            `silence_limit` (minutes). For functions with effects that must not overlap.
        seed: The program's seed, of which `seed_sequence` makes the random numbers of each evaluation; 0 by default, so
            that each run draws the same. It holds inside Slurm jobs, too.
        crash_limit: When so many nodes were lost while it ran there, it is not started again and raises
            TooManyNodesLost; 2 by default. The loss of a node uses no retries. After the first loss, what ran there is
            started again one evaluation per node, so that the second loss tells which one ends its nodes.
        straggler_factor: When it takes this many times what 95 of 100 evaluations of its function do not exceed (of
            the last 200 with this option, at least 10; and at least 0.25 s), a copy is started on a CPU that is idle,
            on another node if possible. The first result counts, and the other one is killed. None for no copies, the
            default; not together with `exclusive`.
        gpus: How many GPUs it holds, all on its node: a whole number, or a fraction of one that it shares with others
            (0.5); 0 by default, and then it sees none. CUDA_VISIBLE_DEVICES and its like name those that it has, and
            so does worker_info().gpus.
        memory: How much memory it may use, with the processes that it starts: "16G", or bytes. With more, it is killed
            and raises MemoryLimitExceeded. None by default: it counts as a share of its node by its CPUs, and nothing
            is enforced. "auto" learns it for each function.
        resources: Tokens of the program that it holds while it runs, as {"licence": 1}; how many there are says
            `resources=` of run_job_local and its like.
        min_time: Start it only on a node that is there for so much longer: seconds, or "10m". "auto" learns it.
        priority: Larger ones start sooner; 0 by default. An hour of waiting counts as much as one more.
        nodes: On how many nodes it holds all this: all at the same time, or none; 1 by default. The function runs on
            the first; worker_info().nodes has all.
        name: What the evaluations are called where they are shown together: in progress, the event log, `hyperflow
            show`, lists of failures and echoed lines. None for the name of their function, the default.
        post_mortem: When its function raises, its worker leaves a copy of its process with all variables, and goes on.
            `hyperflow debug EVALUATION --attach` looks at it with pdb while the run goes on: only to look, in one
            thread. Each node keeps 4 at a time, each for an hour after it was last asked; none of a process that
            uses a GPU, or might not fit into memory. Such an evaluation is not sent ahead, so quick ones take longer.

    For each Slurm job of a Cluster computation (without effect in a job):

        sbatch: What Slurm is asked for, a SbatchOptions; by default one node with one CPU.
        on_error: What to do when it fails: "hold" it until you retry it (the default), "raise" the error in
            the program (a JobFailed, or the job's own exception), `Resubmit(times)`; or a dictionary of these by class
            of error, where the first that fits counts.

    Raises:
        ConfigurationError: There is no such option, or a value makes no sense.
        NotInFlow: No flow runs here.
    """
    from hyperflow import failures  # noqa: PLC0415 (it needs asyncio, and workers import this module)

    with entered(current("using(...)").using(**changes)) as environment, failures.shortened():
        yield environment
