"""The inline environment: remote evaluations run in this process, so that a test of a job takes microseconds.

The same as on real workers: functions, arguments and results are pickled, so what cannot be sent fails here, too, and
nothing is shared by accident; evaluations wait for free CPUs, first come, first served, and to ask for more than there
are is an error; `retries`; a function sees no environment.

Different: nothing runs in parallel. A plain function blocks the event loop, and neither cancelling nor `time_limit`
stops it; they stop an `async def`. A function that kills its process kills the test. Every call gets a new copy of its
function, as with `fresh_process`; `worker_info()` raises. Results are kept in memory. `post_mortem` leaves no copy:
the process that has failed is this one.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from hyperflow import environment, failures, locks, plots
from hyperflow import flow as flows
from hyperflow._job import JobEnv
from hyperflow.aio import cancelling
from hyperflow.environment import Making, Options, Statistics
from hyperflow.errors import (
    ConfigurationError,
    Deadlock,
    EnvironmentClosed,
    EvaluationExited,
    HyperflowError,
    ImpossibleRequest,
    MisuseError,
    SerializationError,
    TimeLimitExceeded,
)
from hyperflow.head.streams import CalledWith, Streams, Words
from hyperflow.locking import manager
from hyperflow.locking.manager import LockManager
from hyperflow.program import ProgramInfo
from hyperflow.progress.tally import Counted
from hyperflow.saying import in_words
from hyperflow.shipping import diagnose, exceptions, pickler, rebuild
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import Kept, PackedCall, Packer
from hyperflow.wire.frames import Shape
from hyperflow.worker.outcomes import dumps_result


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
            raise Deadlock(f"{self._name} wants {', '.join(keys)}", [why])
        return number

    def release(self, number: int) -> None:
        self._locks.release(number)


@attrs.define(eq=False)
class InlineCall:
    """An evaluation that was submitted, as `Streams` knows one."""

    call: CalledWith | None
    seed: int
    stream: Words = ()
    packed: PackedCall | None = None


class InlineEvaluator:
    """Evaluates in the event loop's thread. Made by `open_inline_job`."""

    def __init__(self, cpus: int, ship: bool, log_dir: Path) -> None:
        self.cpus = cpus
        self._log_dir = log_dir
        self.closed = False
        self.locks = LockManager()
        self.streams = Streams()
        self._submitted: dict[asyncio.Task[Any], InlineCall] = {}
        self._free = cpus
        self._ship = ship
        self._packer = Packer(most_blocks=0)  # everything is in this process
        self._door = asyncio.Lock()
        self._freed = asyncio.Event()
        self._running = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._counts: Counter[str] = Counter()
        self.maps: set[Counted] = set()

    def statistics(self) -> Statistics:
        ends = [self._counts[state] for state in ("done", "failed", "cancelled", "retried", "returned", "late")]
        waiting = len(self._tasks) - self._running
        return Statistics(1, 0, self.cpus, self._free, {"busy": self._running}, waiting, self._running, *ends)

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        stream: tuple[int, ...] | None = None,
        packed: PackedCall | None = None,
    ) -> asyncio.Task[Any]:
        """Evaluate a call; raises what the real engine raises."""
        if self.closed:
            raise EnvironmentClosed("evaluations")
        if options.cpus > self.cpus:
            raise ImpossibleRequest(f"using(cpus={options.cpus}): open_inline_job was given {self.cpus} CPUs")
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
        context.run(manager.inside.set, manager.inside.get())
        submitted = InlineCall((fn, args, kwargs), options.seed, stream or (), packed)
        self.streams.submitted(submitted)
        under_way = self._submitted.values()
        context.run(environment.inline_evaluation.set, lambda: self.streams.wanted(submitted, under_way))
        shown = functools.partial(flows.show_call, fn, args, kwargs)
        running = self._run(shown, call, options, environment.peek_making())
        task = asyncio.get_running_loop().create_task(running, context=context)
        self._tasks.add(task)
        self._submitted[task] = submitted
        task.add_done_callback(functools.partial(self._ended, client))
        return task

    def keep(self, future: asyncio.Future[Any]) -> Kept | None:
        """Keep what was packed for an evaluation that has not ended."""
        submitted = self._submitted.get(future) if isinstance(future, asyncio.Task) else None
        return (
            None if submitted is None or submitted.packed is None else Kept(self._packer, submitted.packed, self.submit)
        )

    def open_map(self, owner: environment.MapOwner) -> None:
        """Evaluate nothing in batches."""

    def _ended(self, client: InlineLocks, task: asyncio.Task[Any]) -> None:
        self.locks.gone(client)
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
        self, shown: Callable[[], str], call: Callable[[], Any], options: Options, making: Making | None
    ) -> Any:
        async with self._door:  # one at a time, so that a large request does not starve
            while self._free < options.cpus:
                self._freed.clear()
                await self._freed.wait()
            self._free -= options.cpus
            self._running += 1
        error: Exception | None = None
        began = time.perf_counter()
        try:
            for _ in range(options.retries + 1):
                if error is not None:
                    self._counts["retried"] += 1
                value, error = await self._evaluate(shown, call, options.time_limit)
                if error is None:
                    if making is not None:
                        making.evaluated(0, "this process", options.cpus, time.perf_counter() - began)
                    return value
            assert error is not None
            failures.shorten(error)
            if not isinstance(error, HyperflowError):
                failures.note_call(error, f"an evaluation of {shown()}", "this process")
            failures.note_tries(error, options.retries + 1)
            raise error
        finally:
            del error  # it knows this frame by its traceback
            self._free += options.cpus
            self._running -= 1
            self._freed.set()

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


@asynccontextmanager
async def open_inline_job(
    *,
    cpus: int = 1,
    ship: bool = True,
    echo: bool = False,  # noqa: ARG001 (see below)
    progress: bool = True,  # noqa: ARG001 (see below)
) -> AsyncIterator[JobEnv]:
    """Evaluate in this process, for tests: `async with open_inline_job(cpus=2): assert await my_job() == 42`.

    Args:
        cpus: How many CPUs to simulate.
        ship: Pickle functions, arguments and results as for a worker. With False, a test can see what its functions
            change.
        echo: Taken for the sake of tests that choose the environment. What functions print is this process's own
            output in any case.
        progress: The same; there is nothing to be seen from outside while a function runs here.

    Results and work directories are deleted at the end.
    """
    if type(cpus) is not int or cpus < 1:
        raise ConfigurationError(f"cpus={cpus!r}: a whole number of at least 1 is needed")
    program = ProgramInfo.temporary_one()
    evaluator = InlineEvaluator(cpus, ship, program.log_dir)
    try:
        env = JobEnv(options=Options(), evaluator=evaluator, database=MemoryDatabase(), program=program)
        with environment.entered(env), failures.shortened():
            yield env
    finally:
        await evaluator.close()
        program.remove()
