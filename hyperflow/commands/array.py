"""The Job that runs the tasks of an array: as many at a time as the nodes are kept busy by, each recorded when it ends.

Guarantees: a task that is recorded as done is not run again, whatever ended the array before. One begins when all
that it comes after are recorded as done. Memory follows what is under way, and a byte for each task. Where this ends,
nothing of it runs any more.

It is a map: what is alike goes in batches (see `environment.MapOwner`). Rejected: `map_concurrently`, which keeps all
results until its end, and `as_completed`, which evaluates one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hyperflow import environment, failures
from hyperflow._job import job
from hyperflow.commands.graph import Graph
from hyperflow.commands.keys import Digests, key_of
from hyperflow.commands.outputs import Recorder
from hyperflow.commands.records import State
from hyperflow.commands.running import run_task
from hyperflow.commands.shares import chosen_of, share_of
from hyperflow.commands.spec import ArraySpec
from hyperflow.commands.tally import Counts, Tally
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.errors import (
    DatabaseError,
    EnvironmentClosed,
    HyperflowError,
    ImpossibleRequest,
    LauncherError,
    NodeLost,
)
from hyperflow.flow import Flow
from hyperflow.remote import remote_eval

UNDER_WAY = 40_000
"""Tasks that are submitted and not recorded: enough for many nodes, few enough for little memory."""

AT_ONCE = 2_000
"""Tasks that are made together; then the loop has a turn."""


END_ALL = (NodeLost, LauncherError, EnvironmentClosed, DatabaseError)
"""Errors of one task that say that no other one can run."""


class _Ready(NamedTuple):
    """A task that can begin."""

    task: TaskSpec
    key: str


class _Ending(NamedTuple):
    """A task that has ended, and is being recorded."""

    number: int
    state: State
    said: Awaitable[object]


class ArrayRun:
    """The tasks of an array, or those of them that this Job is to run."""

    def __init__(self, spec: ArraySpec, recorder: Recorder, tally: Tally) -> None:
        self.evaluated = None  # where, it does not ask
        self._spec, self._recorder, self._tally = spec, recorder, tally
        self._graph = Graph(spec.after)
        self._digests = Digests()
        self._rest: Iterator[int] = (each for each in tally.numbers if self._graph.is_free(each))
        self._free: deque[int] = deque()  # what others have made room for
        self._next: Iterator[_Ready] = iter(())  # those that are being started
        self._begun = 0
        self._at: dict[int, _Ready] = {}  # by the place
        self._apart: dict[asyncio.Future[Any], int] = {}
        self._ending: list[_Ending] = []
        self._unrecorded = 0
        self._recording = set[asyncio.Task[None]]()
        self._failed = 0
        self._error: BaseException | None = None
        self._over = False
        self._waiter: asyncio.Future[None] | None = None
        self._alike: environment.BulkMap | None = None

    async def run(self) -> None:
        """Run them; raises what is the end of all of them, such as AllocationEnding."""
        try:
            with environment.using(**self._spec.options):  # pyright: ignore[reportArgumentType]
                self._alike = environment.open_map(self)
                await self._go_on()
            if self._over:
                await self._cancel_rest()
        finally:
            self._withdraw()
            self._alike = None  # which knows this

    async def _go_on(self) -> None:
        while not self._is_stopped():
            room = min(UNDER_WAY - self._under_way(), AT_ONCE)
            if room >= AT_ONCE or self._under_way() < AT_ONCE:
                if numbers := self._pulled(room):
                    self._start(await self._prepared(numbers))
                    await asyncio.sleep(0)
                    continue
                if not self._under_way():
                    break
            await self._news()
        if self._error is not None:
            raise self._error

    def _under_way(self) -> int:
        return len(self._at) + self._unrecorded

    def _is_stopped(self) -> bool:
        return self._over or self._error is not None

    # ---- which, and when ----------------------------------------------------------------------------------------

    def _pulled(self, most: int) -> list[int]:
        """Return the next numbers that wait for no other task."""
        found = [self._free.popleft() for _ in range(min(most, len(self._free)))]
        found += islice(self._rest, most - len(found))
        return found

    async def _prepared(self, numbers: Sequence[int]) -> list[_Ready]:
        """Return those of these tasks that have to run."""
        tasks = list(self._spec.tasks(numbers))
        if files := [each for each in tasks if each.stdin or each.inputs]:
            await self._digests.look_at(files)
        ready: list[_Ready] = []
        for task in tasks:
            try:
                key = self._key(task)
            except OSError as error:
                self._end(_Ready(task, self._plain_key(task)), error, "failed")
                continue
            if self._tally.is_done(task.number, key):
                self._free.extend(self._graph.done(task.number))
            elif self._tally.is_wanted(task.number, key, self._plain_key(task)):
                ready.append(_Ready(task, key))
        return ready

    def _key(self, task: TaskSpec) -> str:
        if not task.stdin and not task.inputs:
            return key_of(task.command, task.cwd, task.env)
        of = self._digests.of
        inputs = {name: of(path) for name, path in task.inputs.items()}
        return key_of(task.command, task.cwd, task.env, of(task.stdin) if task.stdin else "", inputs)

    def _plain_key(self, task: TaskSpec) -> str:
        """Return the key of a task that cannot run, and whose files may not be there."""
        return key_of(task.command, task.cwd, task.env, task.stdin, task.inputs)

    # ---- how they start -----------------------------------------------------------------------------------------

    def _start(self, ready: Sequence[_Ready]) -> None:
        self._next, xs, left = iter(ready), iter(ready), len(ready)
        while left and not self._is_stopped():
            if self._alike is None:
                self._start_alone(next(xs))
                left -= 1
                continue
            count, other = self._alike.start(xs, self._flow, left)
            left -= count
            if other is None:
                break
            self._start_alone(*other)
            left -= 1

    def _start_alone(self, one: _Ready, flow: Flow[Any] | None = None) -> None:
        next(self._next)
        place, self._begun = self._begun, self._begun + 1
        self._at[place] = one
        try:
            future = (self._flow(one) if flow is None else flow).start()
        except ImpossibleRequest as error:
            if self._spec.form is not None:  # so it is with all of them
                raise
            del self._at[place]
            self._end(one, error, "failed")
            return
        self.apart(place, future, None)

    def _flow(self, one: _Ready) -> Flow[Any]:
        task = one.task
        if task.is_staged:
            from hyperflow.commands.staged import staged  # noqa: PLC0415 (few have files)

            flow = staged(task)
        else:
            flow = remote_eval(run_task, task.number, task.command, task.cwd, task.env or None, task.stdin)
        return flow.using(**task.options) if task.options else flow

    # ---- as an environment.MapOwner ------------------------------------------------------------------------------

    @property
    def results(self) -> ArrayRun:
        """Takes them."""
        return self

    def __setitem__(self, place: int, done: Any) -> None:
        self._end(self._at.pop(place), done)

    def begun(self, count: int) -> int:
        """So many of those that are being started have begun; return the place of the first one."""
        first = self._begun
        self._begun += count
        self._at.update(enumerate(islice(self._next, count), first))
        return first

    def done(self, count: int) -> None:
        """It knows which."""

    def apart(self, place: int, future: asyncio.Future[Any], step: Any) -> None:  # noqa: ARG002 (as the protocol has it)
        """One of them is an evaluation by itself."""
        self._apart[future] = place
        future.add_done_callback(self._ended_apart)

    def refused(self, x: Any, error: Exception) -> bool:  # noqa: ARG002 (the same)
        """Never: its flow is no user's."""
        return False

    # ---- how they end -------------------------------------------------------------------------------------------

    def _ended_apart(self, future: asyncio.Future[Any]) -> None:
        place = self._apart.pop(future, None)
        error = None if future.cancelled() else future.exception()
        one = None if place is None else self._at.pop(place, None)
        if one is None:
            return
        if future.cancelled():
            self._stop(HyperflowError(f"{one.task.title} was cancelled from outside"))
        elif error is None:
            self._end(one, future.result())
        elif failures.may_return(error) and not isinstance(error, END_ALL):
            self._end(one, error, "failed")
        else:
            self._stop(error)

    def _end(self, one: _Ready, how: Any, state: State = "done") -> None:
        """Record how one has ended; it counts when that is done."""
        number = one.task.number
        said = self._recorder.ended(number, one.key, how, None if state in ("done", "failed") else state)
        self._unrecorded += 1
        self._ending.append(_Ending(number, state, said))
        if len(self._ending) == 1:  # all that ends in one turn of the loop is recorded together
            recording = asyncio.get_running_loop().create_task(self._record(), name="recording tasks")
            self._recording.add(recording)
            recording.add_done_callback(self._recording.discard)

    async def _record(self) -> None:
        ending, self._ending = self._ending, []
        for at, (number, state, said) in enumerate(ending):
            try:
                await said
            except Exception as error:  # noqa: BLE001 (it ends all: nothing can be recorded any more)
                self._unrecorded -= len(ending) - at
                self._stop(error)
                return
            self._unrecorded -= 1
            self._recorded(number, state)
        self._wake()

    def _recorded(self, number: int, state: State) -> None:
        self._tally.ended(number, state)
        if state == "done":
            self._free.extend(self._graph.done(number))
        elif state == "failed":
            self._failed += 1
            self._over = self._over or self._failed == self._spec.max_failed
            self._skip_after(number)

    def _skip_after(self, failed: int) -> None:
        for number, before in self._graph.failed(failed):
            task, cause = self._spec.task(number), self._spec.task(before).title
            if self._tally.is_wanted(number, key := self._plain_key(task)):
                what = "has failed" if before == failed else "was skipped"
                self._end(_Ready(task, key), HyperflowError(f"{cause} {what}"), "skipped")

    def _stop(self, error: BaseException) -> None:
        self._error = self._error or error
        self._wake()

    # ---- what ends all of them ----------------------------------------------------------------------------------

    def _withdraw(self) -> list[_Ready]:
        """End what runs, and return that."""
        if self._alike is not None:
            self._alike.cancel()
        left, self._at = list(self._at.values()), {}
        futures, self._apart = list(self._apart), {}
        for future in futures:
            future.cancel()
        return left

    async def _cancel_rest(self) -> None:
        """Record of all that has not ended that it was cancelled."""
        why = HyperflowError(f"--max-failed {self._spec.max_failed}: so many had failed")
        for one in self._withdraw():
            self._end(one, why, "cancelled")
        await self._all_recorded()
        left = self._tally.left()
        while numbers := list(islice(left, AT_ONCE)):
            for task in self._spec.tasks(numbers):
                if self._tally.is_wanted(task.number, key := self._plain_key(task)):
                    self._end(_Ready(task, key), why, "cancelled")
            await self._all_recorded()
        if self._error is not None:
            raise self._error

    async def _all_recorded(self) -> None:
        while self._recording:
            await asyncio.wait(self._recording)

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        """Go on where there is something to do."""
        if self._waiter is None or self._waiter.done():
            return
        under_way = self._under_way()
        if self._is_stopped() or self._free or under_way < AT_ONCE or under_way <= UNDER_WAY - AT_ONCE:
            self._waiter.set_result(None)


@job
async def run_array(directory: str, start: int, share: tuple[int, int], chosen: str) -> Counts:
    """Run the tasks of an array, or one of several shares of them.

    Args:
        directory: Where the array is kept.
        start: The how many-eth start of the array it is: for a master, the same Job started again is another call.
        share: Which share, from 0, and of how many.
        chosen: The numbers of the tasks that were asked for; "failed", or "" for all.

    Raises AllocationEnding, DatabaseError and the like; what becomes of a task is recorded, and counted.
    """
    del start
    spec = ArraySpec.read(Path(directory))
    recorder = Recorder()
    try:
        tally = Tally(share_of(spec, *share), await recorder.known(), chosen_of(spec, chosen))
        await ArrayRun(spec, recorder, tally).run()
    finally:
        await recorder.close()
    return tally.counts()
