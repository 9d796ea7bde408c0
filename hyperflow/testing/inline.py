"""The inline environment: remote evaluations run in this process, so that a test of a job takes microseconds.

The same as on real workers: functions, arguments and results are pickled, so what cannot be sent fails here, too, and
nothing is shared by accident; evaluations wait for what they ask for, by the same rules, and to ask for more than there
is is an error; `retries`; a function sees no environment.

Different: nothing runs in parallel. A plain function blocks the event loop, and neither cancelling nor `time_limit`
stops it; they stop an `async def`. Memory has no limit, and `memory="auto"` and `min_time="auto"` learn nothing. A
function that kills its process kills the test. Every call gets a new copy of its function, as with `fresh_process`.
`worker_info()` tells what an evaluation has, and names no worker and no log file. Results are kept in memory.
`post_mortem` leaves no copy: the process that has failed is this one. What functions under `per_worker` have made is
kept for all evaluations, and closed at the end. No end is known but `time_limit`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import itertools
import math
import socket
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from hyperflow import environment, failures, locks, plots
from hyperflow import flow as flows
from hyperflow._job import JobEnv
from hyperflow.aio import cancelling
from hyperflow.environment import Making, Statistics
from hyperflow.errors import (
    ConfigurationError,
    Deadlock,
    EnvironmentClosed,
    EvaluationExited,
    HyperflowError,
    MisuseError,
    SerializationError,
    TimeLimitExceeded,
)
from hyperflow.guesses import Guess
from hyperflow.head import checkpoint_directories
from hyperflow.head.streams import CalledWith, Streams, Words
from hyperflow.locking import manager
from hyperflow.locking.keys import shown as shown_key
from hyperflow.locking.manager import LockManager
from hyperflow.offers import Offers
from hyperflow.options import Options
from hyperflow.pieces import Pieces, Receiver
from hyperflow.program import ProgramInfo
from hyperflow.progress.tally import Counted, Tally
from hyperflow.request import Capacity
from hyperflow.saying import in_words
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import SENT, Send, Task
from hyperflow.shipping import diagnose, exceptions, pickler, rebuild
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import Kept, PackedCall, Packer
from hyperflow.wire.deadlines import NEAR
from hyperflow.wire.frames import Shape
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber
from hyperflow.worker import per_worker, producing
from hyperflow.worker.outcomes import dumps_result
from hyperflow.worker.worker import WorkerInfo, inline_info

HERE = "this process"
"""The name of the only node."""

LONG = 10.0
"""Seconds that an evaluation took, as the scheduler is told: of long ones none is queued behind another."""


class InlineLocks:
    """Acquires locks for one evaluation."""

    def __init__(self, locks: LockManager, name: str) -> None:
        self._locks = locks
        self._name = name

    async def take(self, keys: Collection[str]) -> int:
        return await self._locks.take_for(keys, self, self._name)

    def take_blocking(self, keys: Collection[str]) -> int:
        """Acquire some free keys; if they are held, that is a Deadlock: the holder cannot go on while this waits."""
        said: list[HyperflowError | None] = []
        number = self._locks.request(keys, self, self._name, manager.scope(), said.append)
        if not said:
            self._locks.release(number)
            why = "a plain function holds the event loop up here, and somebody else in it has that; use an async def"
            raise Deadlock(f"{self._name} wants {', '.join(map(shown_key, keys))}", [why])
        return number

    def release(self, number: int) -> None:
        self._locks.release(number)


class InlineOutlet:
    """Takes the pieces of one generator; also a plain one lets the event loop run after each."""

    blocks = False

    def __init__(self, pieces: Pieces, ship: bool) -> None:
        self._pieces = pieces
        self._ship = ship
        self._ahead = 0

    def begin(self) -> None:
        self._ahead = 0
        self._read = asyncio.Event()
        self._pieces.more = self._more

    def put(self, value: Any) -> None:
        if self._ship:
            buffers: list[memoryview] = []
            data = producing.pickled(value, buffers)
            try:
                value = pickler.loads(data, buffers=[bytearray(buffer) for buffer in buffers])
            except BaseException as error:  # noqa: BLE001 (whatever a user's __setstate__ raises)
                raise SerializationError(f"a piece cannot be unpickled here: {in_words(error)}") from None
        self._ahead += 1
        self._pieces.arrived(value, 0)

    def wait(self) -> None:
        """Never block."""

    async def until_room(self) -> None:
        await asyncio.sleep(0)
        while self._ahead - self._pieces.delivered >= producing.WINDOW:
            self._read.clear()
            await self._read.wait()

    def _more(self, read: int) -> None:
        del read
        self._read.set()


@attrs.define(eq=False)
class InlineCall:
    """An evaluation that was submitted, as `Streams` knows one."""

    call: CalledWith | None
    seed: int
    stream: Words = ()
    packed: PackedCall | None = None
    guess: Guess | None = None


class InlineAsked:
    """What an evaluation can ask for."""

    def __init__(
        self, task: Task, call: InlineCall, limit: float | None, making: Making | None, evaluator: InlineEvaluator
    ) -> None:
        self._task = task
        self._number = task.number
        self._attempt = 0
        self._call = call
        self._limit = limit
        self.making = making
        self._evaluator = evaluator
        self._began = time.monotonic()

    def begin(self) -> None:
        """Another try begins."""
        self._began = time.monotonic()
        self._attempt += 1

    def info(self) -> WorkerInfo:
        """Return where it runs, and what it has."""
        assert self._task.worker is not None
        has, asked = self._task.worker, self._task.asks
        memory = None if asked is None else asked.memory
        run = self._evaluator.program_id
        return WorkerInfo("inline", socket.gethostname(), has.cpus, False, "", run, has.gpus, self._attempt, memory)

    def draws(self) -> Words:
        """Return its random stream."""
        return self._evaluator.streams.wanted(self._call, self._evaluator.under_way)

    def time_left(self) -> float:
        """Return the seconds until its time limit."""
        return math.inf if self._limit is None else max(self._began + self._limit - time.monotonic(), 0.0)

    def is_ending(self) -> bool:
        """Tell whether that is near."""
        return self._limit is not None and self.time_left() <= min(NEAR, self._limit / 10)

    def checkpoint_dir(self) -> Path:
        """Return where it keeps its state."""
        directories, place = self._evaluator.directories, None if self.making is None else self.making.of
        if (found := directories.given.get(self._number)) is not None:
            return found
        if place is None or self._call.call is None:
            return directories.take(self._number)[0]
        database, *key = place
        text = directories.text(self._number, (key[0], key[1]), self._call.call)
        path, is_new = directories.take(self._number, text, database.peek(checkpoint_directories.MAP, text)[1])
        if is_new:
            _ = database.record(checkpoint_directories.MAP, text, checkpoint_directories.as_value(path))
        return path

    def ended(self, well: bool) -> None:
        """It has its result, or an error."""
        directories = self._evaluator.directories
        path = directories.ended(self._number)
        if path is None or not well:
            return
        if self.making is None:
            directories.remove(path)
        else:
            self.making.on_recorded(functools.partial(directories.remove, path))


class InlineEvaluator:
    """Evaluates in the event loop's thread. Made by `open_inline_job`."""

    def __init__(self, offers: Offers, ship: bool, program: ProgramInfo) -> None:
        self.cpus = offers.cpus or 1
        self.scheduler = Scheduler(time.monotonic)
        self.scheduler.set_tokens(dict(offers.resources))
        self.scheduler.add_node(HERE, range(self.cpus), Capacity(offers.gpus or (), offers.memory or 0))
        self._starts: dict[TaskNumber, asyncio.Future[None]] = {}  # of those that have not been started
        self._log_dir = program.log_dir
        self.program_id = program.program_id
        self.directories = checkpoint_directories.Directories(program)
        self.keeping = per_worker.Keeping()
        self._numbers = map(TaskNumber, itertools.count(1))
        self.closed = False
        self.locks = LockManager()
        self.streams = Streams()
        self._submitted: dict[asyncio.Task[Any], InlineCall] = {}
        self._ship = ship
        self._packer = Packer(most_blocks=0)  # everything is in this process
        self._running = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts: Counter[str] = Counter()
        self._tally = Tally()
        self.maps: set[Counted] = self._tally.maps
        self.receivers: dict[str, Receiver] = {}

    def statistics(self) -> Statistics:
        counts, pool = self._counts, self.scheduler.pool
        return Statistics(
            nodes=1,
            nodes_lost=0,
            cpus=self.cpus,
            cpus_free=pool.cpus_free,
            workers={"busy": self._running},
            waiting=len(self._tasks) - self._running,
            running=self._running,
            done=counts["done"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            retried=counts["retried"],
            returned=0,
            late=0,
            functions={name: of.statistics() for name, of in self._tally.of.items()},
            gpus=pool.gpus[0],
            gpus_free=pool.gpus[1],
            memory=pool.memory[0],
            memory_free=pool.memory[1],
            tokens={name: each.total for name, each in pool.tokens.items()},
            tokens_free={name: each.free for name, each in pool.tokens.items()},
        )

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        stream: tuple[int, ...] | None = None,
        packed: PackedCall | None = None,
        pieces: Pieces | None = None,
    ) -> asyncio.Task[Any]:
        """Evaluate a call; raises what the real engine raises."""
        if self.closed:
            raise EnvironmentClosed("evaluations")
        place = self._wait(options)
        if self._ship:
            packed = packed or self._packer.pack(fn, args, kwargs)
            call = self._shipped(packed)
        else:
            call = functools.partial(fn, *args, **kwargs)
        name = getattr(fn, "__qualname__", repr(fn))
        # Its own context: on a worker there is no environment.
        context = contextvars.Context()
        client = InlineLocks(self.locks, f"an evaluation of {name}")
        context.run(locks.inline_locks.set, client)
        context.run(plots.inline_place.set, self._log_dir)
        if pieces is not None:
            context.run(producing.inline_outlet.set, InlineOutlet(pieces, self._ship))
        context.run(producing.inline_receivers.set, self.receivers)
        context.run(manager.inside.set, manager.inside.get())
        submitted = InlineCall((fn, args, kwargs), options.seed, stream or (), packed, options.guess)
        self.streams.submitted(submitted)
        making = environment.peek_making()
        asked = InlineAsked(place, submitted, options.time_limit, making, self)
        context.run(environment.inline_evaluation.set, asked)
        context.run(inline_info.set, asked.info)
        context.run(per_worker.inside.set, self.keeping)
        shown = functools.partial(flows.show_call, fn, args, kwargs)
        if options.guess is None:
            self._queue(place)
        running = self._run(place, options.name or name, shown, call, options, asked, pieces)
        task = asyncio.get_running_loop().create_task(running, context=context)
        self._tasks.add(task)
        self._submitted[task] = submitted
        task.add_done_callback(functools.partial(self._ended, client, place))
        return task

    def stream(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        pieces: Pieces,
    ) -> asyncio.Task[Any]:
        """Evaluate a call that sends pieces while it runs."""
        task = self.submit(fn, args, kwargs, options, pieces=pieces)
        task.add_done_callback(lambda _: pieces.wake())
        return task

    @property
    def under_way(self) -> Collection[InlineCall]:
        """All evaluations, in the order of their submission."""
        return self._submitted.values()

    def time_left(self) -> float:
        """This process has no end."""
        return math.inf

    def is_ending(self) -> bool:
        """The same."""
        return False

    def _wait(self, options: Options) -> Task:
        """Return the scheduler's task for an evaluation; raises ImpossibleRequest."""
        request = options.request
        if (refusal := self.scheduler.refusal(request or options.cpus)) is not None:
            raise refusal
        if request is not None:
            request = request.wanted()  # a guess waits until nothing else is under way: nothing can be killed here
        return Task(next(self._numbers), DefinitionNumber(1), options.cpus, alone=True, request=request)

    def _queue(self, task: Task) -> None:
        self._starts[task.number] = asyncio.get_running_loop().create_future()
        self.scheduler.submit(task)

    def _look(self) -> None:
        """Start what may start now."""
        for effect in self.scheduler.schedule():
            if isinstance(effect, Send):
                for task in effect.tasks:
                    start = self._starts[task.number]
                    if not start.done():  # else it was cancelled
                        start.set_result(None)

    def _give_back(self, task: Task) -> None:
        """A task has ended, started or not: let the next ones start."""
        if self._starts.pop(task.number, None) is None:
            return  # a guess that never was to start
        if task.state is SENT and task.worker is not None:
            self.scheduler.answered(task.worker.number, task.number, LONG)
        else:
            self.scheduler.cancel(task)
        self._look()

    def keep(self, future: asyncio.Future[Any]) -> Kept | None:
        """Keep what was packed for an evaluation that has not ended."""
        submitted = self._submitted.get(future) if isinstance(future, asyncio.Task) else None
        return (
            None if submitted is None or submitted.packed is None else Kept(self._packer, submitted.packed, self.submit)
        )

    def open_map(self, owner: environment.MapOwner) -> None:
        """Evaluate nothing in batches."""

    def _ended(self, client: InlineLocks, place: Task, task: asyncio.Task[Any]) -> None:
        self.locks.gone(client)
        self._give_back(place)
        self._tasks.remove(task)
        del self._submitted[task]
        self._counts["cancelled" if task.cancelled() else "failed" if task.exception() else "done"] += 1

    def _shipped(self, packed: PackedCall) -> Callable[[], Any]:
        """Return the call as a worker gets it: unpickled, again for each attempt."""
        self._packer.evict()
        needs = (*packed.needs, *packed.function.needs)
        values = [need.data for need in needs if isinstance(need, Definition) and need.shape == Shape.VALUE]

        def call() -> Any:
            tokens = [rebuild.keep(pickler.loads(value)) for value in values]
            try:
                function = pickler.loads(packed.function.data)
                content = pickler.loads(packed.payload, buffers=[bytearray(buffer) for buffer in packed.buffers])
            except BaseException as error:  # noqa: BLE001 (whatever a user's __setstate__ raises)
                what = f"{packed.function.name}: it, or an argument, could not be unpickled: {in_words(error)}"
                raise SerializationError(what) from None
            finally:
                for token in tokens:
                    rebuild.drop(token)
            return function(*content[0], **content[1]) if type(content) is list else function(*content)

        return call

    async def _run(
        self,
        task: Task,
        group: str,
        shown: Callable[[], str],
        call: Callable[[], Any],
        options: Options,
        asked: InlineAsked,
        pieces: Pieces | None,
    ) -> Any:
        if options.guess is not None:
            await self._until_idle(options.guess)
            self._queue(task)
        self._look()
        await self._starts[task.number]
        self._running += 1
        try:
            return await self._try(group, shown, call, options, asked, pieces)
        finally:
            self._running -= 1

    async def _try(
        self,
        group: str,
        shown: Callable[[], str],
        call: Callable[[], Any],
        options: Options,
        asked: InlineAsked,
        pieces: Pieces | None,
    ) -> Any:
        error: Exception | None = None
        began = time.perf_counter()
        try:
            for _ in range(options.retries + 1):
                if error is not None:
                    if pieces is not None and not pieces.may_restart():
                        break
                    self._counts["retried"] += 1
                asked.begin()
                value, error = await self._evaluate(shown, call, options.time_limit)
                if error is None:
                    seconds = time.perf_counter() - began
                    self._tally.of[group].ended(seconds)
                    asked.ended(well=True)
                    if asked.making is not None:
                        asked.making.evaluated(0, HERE, options.cpus, seconds)
                    return value
            assert error is not None
            self._tally.of[group].failed += 1
            failures.shorten(error)
            if not isinstance(error, HyperflowError):
                failures.note_call(error, f"an evaluation of {shown()}", "this process")
            failures.note_tries(error, options.retries + 1)
            raise error
        finally:
            del error  # it knows this frame by its traceback
            asked.ended(well=False)

    async def _until_idle(self, guess: Guess) -> None:
        """Wait until it is wanted, or nothing is under way that is. (What has begun goes on: nothing can be killed.)"""
        while not guess.is_wanted:
            waits = [task for task, one in self._submitted.items() if one.guess is None or one.guess.is_wanted]
            if not waits:
                return
            await asyncio.wait([guess.until_wanted(), *waits], return_when=asyncio.FIRST_COMPLETED)

    async def _evaluate(
        self, shown: Callable[[], str], call: Callable[[], Any], time_limit: float | None
    ) -> tuple[Any, Exception | None]:
        """Return the value of a call, or its error."""
        scope = asyncio.timeout(time_limit)
        try:
            async with scope:
                value = call()
                if inspect.iscoroutine(value):
                    value = await value
        except (SystemExit, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and cancelling():
                raise
            words = exceptions.in_words(error)
            exited = EvaluationExited(*words)
            failures.add_note(exited, f"remote {words[-1]}")
            failures.note_call(exited, f"an evaluation of {shown()}", "this process")
            return None, exited
        except StopIteration as error:
            return None, exceptions.stopped(shown(), error)
        except Exception as error:  # noqa: BLE001 (it is the outcome)
            if isinstance(error, TimeoutError) and scope.expired() and time_limit is not None:
                return None, TimeLimitExceeded(f"an evaluation of {shown()}", "inline", "this process", time_limit)
            return None, error
        finally:
            del scope  # it knows the task, which will know the error
        if not self._ship:
            return value, None
        buffers: list[memoryview] = []
        try:
            data = dumps_result(value, buffers)
        except MisuseError as error:  # a flow
            return None, error
        except BaseException as error:  # noqa: BLE001 (whatever a user's __reduce__ raises)
            return None, SerializationError(str(diagnose.explain(f"the result of {shown()}", value, error)))
        try:
            return pickler.loads(data, buffers=[bytearray(buffer) for buffer in buffers]), None
        except BaseException as error:  # noqa: BLE001 (whatever a user's __setstate__ raises)
            return None, SerializationError(f"the result of {shown()} cannot be unpickled here: {in_words(error)}")

    async def close(self) -> None:
        """Cancel the evaluations that run, and wait for their end."""
        self.closed = True
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self.locks.close()
        self.directories.close()
        self.keeping.close()


class MemoryDatabase:
    """A results database in memory."""

    def __init__(self) -> None:
        self._maps: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self.flights: dict[Any, Any] = {}

    def peek(self, map_name: str, key: str) -> tuple[bool, str | None]:
        return True, self._maps[map_name].get(key)

    def ask(self, map_name: str, key: str) -> asyncio.Future[tuple[str | None, list[str]]]:
        answer: asyncio.Future[tuple[str | None, list[str]]] = asyncio.get_running_loop().create_future()
        answer.set_result((self._maps[map_name].get(key), []))
        return answer

    def record(self, map_name: str, key: str, value: str) -> asyncio.Future[None]:
        self._maps[map_name][key] = value
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def insert(self, map_name: str, key: str, value: str) -> None:
        self._maps[map_name][key] = value

    async def lookup(self, map_name: str, key: str) -> str | None:
        return self._maps[map_name].get(key)

    async def lookup_all(self, map_name: str) -> list[tuple[str, str]]:
        return list(self._maps[map_name].items())

    def record_all(self, entries: list[tuple[str, str, str]]) -> asyncio.Future[list[None]]:
        for map_name, key, value in entries:
            self._maps[map_name][key] = value
        done: asyncio.Future[list[None]] = asyncio.get_running_loop().create_future()
        done.set_result([None] * len(entries))
        return done

    async def each(self, map_name: str, take: Callable[[str, str], None]) -> None:
        for key, value in self._maps[map_name].items():
            take(key, value)


@asynccontextmanager
async def open_inline_job(
    *,
    cpus: int = 1,
    gpus: Sequence[str] = (),
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    ship: bool = True,
    echo: bool = False,  # noqa: ARG001 (see below)
    progress: bool = True,  # noqa: ARG001 (see below)
) -> AsyncIterator[JobEnv]:
    """Evaluate in this process, for tests: `async with open_inline_job(cpus=2): assert await my_job() == 42`.

    Args:
        cpus: How many CPUs to simulate.
        gpus: The ids of GPUs, which are counted only. Functions see whatever GPUs this process sees.
        memory: How much memory to simulate, such as "8G". Nothing is measured: no function exceeds what it asked for.
        resources: How many tokens of each name there are.
        ship: Pickle functions, arguments and results as for a worker. With False, a test can see what its functions
            change.
        echo: Taken for the sake of tests that choose the environment. What functions print is this process's own
            output in any case.
        progress: The same; there is nothing to be seen from outside while a function runs here.

    Results and work directories are deleted at the end.
    """
    if type(cpus) is not int or cpus < 1:
        raise ConfigurationError(f"cpus={cpus!r}: a whole number of at least 1 is needed")
    offers = Offers(cpus, gpus, memory, resources)
    program = ProgramInfo.temporary_one()
    evaluator = InlineEvaluator(offers, ship, program)
    try:
        env = JobEnv(options=Options(), evaluator=evaluator, database=MemoryDatabase(), program=program)
        with environment.entered(env), failures.shortened():
            yield env
    finally:
        await evaluator.close()
        program.remove()
