"""The engine: carries out what the scheduler decides, over the links to the node launchers.

Guarantees:
- Every submitted evaluation ends in a result or in an error that names evaluation, worker, node and log.
- What is submitted in one turn of the event loop travels in one write per node; so do the answers back.
- Cancelling an evaluation's future kills its process group; its CPUs come back when that is gone.
- Closing ends all that runs on all nodes and waits until it is gone.

All of it runs in the event loop's thread. (A thread of its own was rejected: the hand-over doubles the round trip.)

The way of one evaluation: `submit` packs the call and queues it; at the end of the turn `_flush` asks the scheduler
and writes; `_on_results` sets the future.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import pickle
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hyperflow.config import Settings
from hyperflow.environment import Options, Statistics
from hyperflow.errors import (
    AllocationEnding,
    HyperflowError,
    ImpossibleRequest,
    NodeLost,
    OutOfMemory,
    SerializationError,
    TimeLimitExceeded,
    WorkerDied,
)
from hyperflow.events.writer import EventLog
from hyperflow.head.allocation_end import End, EndWatch
from hyperflow.head.evaluation import Evaluation, read_failure
from hyperflow.head.fleet import Fleet, NodePlan
from hyperflow.head.link import Link
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.program import ProgramInfo
from hyperflow.saying import in_words
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Fork, Kill, Retire, Retract, Send, Task, Worker
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.machine import CpuChoice

logger = logging.getLogger("hyperflow")

REBALANCE_PAUSE = 0.005
"""Seconds between looks at workers that hold tasks while a CPU is free."""

FAILED_STARTS_SECONDS = 20.0
"""A node is held for lost when for so long its workers have ended, or could not be forked, before they started
anything. What waits would wait for ever."""

CUT_OFF = 10.0
"""Seconds before the end of an allocation (at most a quarter of the notice) at which what still runs is ended."""

END_GRACE = 15.0
"""Seconds after which nothing of a node runs whose launcher has heard of the end; see keeper.py and node.py."""

VALUE, SKIPPED = int(Outcome.VALUE), int(Outcome.SKIPPED)
"""Plain numbers, because they are compared with each answer."""

EVENTS_PAUSE = 0.25
"""Seconds that a line of the event log may wait."""


class Engine:
    """Evaluates calls on the workers of some nodes. Made by `open_engine`."""

    def __init__(self, program: ProgramInfo, settings: Settings) -> None:
        self.program = program
        self.settings = settings
        self.scheduler = Scheduler()
        self._loop = asyncio.get_running_loop()
        self._packer = Packer()
        self._events = EventLog(program.log_dir / "events.jsonl")
        self.fleet = Fleet(program, settings, self._events, self._on_frame, self._on_up, self._on_lost)
        self.locks = WorkerLocks(self.scheduler, self.fleet.write)
        self._requests = self.locks.requests
        self._failed_starts: dict[str, float] = {}  # since when no worker of a node has started anything
        self._pinned: dict[str, bool] = {}
        self._given: dict[int, set[int]] = {}  # which definitions a worker has
        self._evaluations: dict[int, Evaluation] = {}
        self._submitted: dict[tuple[str, int], list[int]] = {}  # in this turn: function and CPUs, and numbers of tasks
        self._next_task = 1
        self._flush_due = False
        self._rebalance_due = False
        self._events_due = False
        self._timers: list[asyncio.TimerHandle] = []
        self._end_watch: EndWatch | None = None
        self._counts: Counter[str] = Counter()
        self._last_loss: NodeLost | None = None
        self._ending: AllocationEnding | None = None
        self._over: AllocationEnding | None = None  # the same, once nothing runs any more
        self._cancelled = self._on_cancel  # bound once: each evaluation has it
        self.closed = False

    # ---- for its user -------------------------------------------------------------------------------------------

    @property
    def cpus(self) -> int:
        """All CPUs of all nodes that are up."""
        return self.scheduler.pool.total

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options
    ) -> Evaluation:
        """Ship a call and return its future.

        Raises:
            ImpossibleRequest: No node has as many CPUs.
            SerializationError: The function or an argument cannot be sent.
            NodeLost: No node is left.
            HyperflowError: The environment has been closed.
        """
        if self.closed:
            raise HyperflowError("this environment was closed; evaluations belong inside its `async with`")
        if self._over is not None:
            raise AllocationEnding(*self._over.args)
        if not self.fleet.links:
            raise self._last_loss or HyperflowError("no node is up")
        packed = self._packer.pack(fn, args, kwargs)
        size = len(packed.payload)
        if packed.buffers:
            size += sum(len(buffer) for buffer in packed.buffers if not isinstance(buffer, int))
        alone = options.time_limit is not None
        number = self._next_task
        task = Task(number, packed.function.number, options.cpus, options.fresh_process, alone, size, options.exclusive)
        self._packer.hold(packed)
        try:
            self.scheduler.submit(task)
        except ImpossibleRequest:
            self._packer.release(packed)
            raise
        self._next_task = number + 1
        evaluation = Evaluation(loop=self._loop)
        evaluation.task = task
        evaluation.packed = packed
        evaluation.on_cancel = self._cancelled
        evaluation.options = options
        evaluation.retries = options.retries
        self._evaluations[number] = evaluation
        if self._requests:
            self.locks.note(task)
        alike = (packed.function.name, options.cpus)
        if alike in self._submitted:
            self._submitted[alike].append(number)
        else:
            self._submitted[alike] = [number]
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)
        return evaluation

    def statistics(self) -> Statistics:
        """Return how things stand; cheap."""
        workers = Counter(
            "ending" if worker.ending else "busy" if worker.queue else "idle"
            for worker in self.scheduler.workers.values()
        )
        return Statistics(
            nodes=len(self.fleet.links),
            nodes_lost=self._counts["nodes_lost"],
            cpus=self.scheduler.pool.total,
            cpus_free=self.scheduler.pool.free,
            workers=dict(workers),
            waiting=self.scheduler.waiting,
            running=self.scheduler.sent,
            done=self._counts["done"],
            failed=self._counts["failed"],
            cancelled=self._counts["cancelled"],
            retried=self._counts["retried"],
            returned=self._counts["returned"],
            late=self.scheduler.late,
        )

    # ---- out ----------------------------------------------------------------------------------------------------

    def _soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Carry out what the scheduler decides, with one write per node."""
        self._flush_due = False
        self._packer.turn += 1
        self._note_submitted()
        if self._ending is not None and self._over is None and not self.scheduler.sent:
            self._turn_away(self._ending)
        out: dict[str, list[frames.Bytes]] = {}
        for effect in self.scheduler.schedule():
            worker = effect.worker
            parts = out.get(worker.node)
            if parts is None:
                parts = out[worker.node] = []
            if isinstance(effect, Send):
                self._send(effect, parts)
            else:
                self._order(effect, parts)
        for node, parts in out.items():
            self.fleet.write(node, parts)
        if self.scheduler.unbalanced and not self._rebalance_due:
            self._rebalance_due = True
            self._loop.call_later(REBALANCE_PAUSE, self._rebalance)
        if self._events.lines and not self._events_due:
            self._events_due = True
            self._loop.call_later(EVENTS_PAUSE, self._write_events)
        if self.locks.submitted:
            self.locks.check_stall()
        self._forget()

    def _send(self, effect: Send, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        given = self._given[worker.number]
        records: list[frames.Bytes] = []
        started: list[int] = []
        for task in effect.tasks:
            number = task.number
            evaluation = self._evaluations.get(number)
            if evaluation is None:  # cancelled in this very turn: its place in the sequence is kept
                frames.add_task(records, number, 0, b"")
                continue
            packed = evaluation.packed
            for need in packed.needs:
                if need.number not in given:
                    self._give(worker, need.number, parts)
            function = task.function
            if function not in given:
                self._give(worker, function, parts)
            frames.add_task(records, number, function, packed.payload, packed.buffers)
            started.append(number)
            limit = evaluation.options.time_limit
            if limit is not None:
                parts.append(frames.frame(Kind.LIMIT, worker.number, frames.SECONDS.pack(limit)))
        parts += frames.records_frame(Kind.TASKS, worker.number, records)
        if started:
            self._events.tasks("running", started, f', "worker": "{worker.name}"')

    def _give(self, worker: Worker, number: int, parts: list[frames.Bytes]) -> None:
        link = self.fleet.links[worker.node]
        if number not in link.defined:
            link.defined.add(number)
            buffer = self._packer.buffers.known.get(number)
            if buffer is not None:
                link.write_block(number, buffer.block)
            else:
                definition = self._packer.definitions[number]
                body = frames.DEFINITION.pack(number, definition.is_class) + definition.data
                parts.append(frames.frame(Kind.DEFINE, 0, body))
        self._given[worker.number].add(number)
        parts.append(frames.frame(Kind.GIVE, worker.number, frames.NUMBER.pack(number)))

    def _order(self, effect: Fork | Retract | Kill | Retire, parts: list[frames.Bytes]) -> None:
        worker = effect.worker
        if type(effect) is Fork:
            self._given[worker.number] = set()
            order = {
                "slot": worker.slot,
                "cpus": worker.cpus,
                "pinned": self._pinned[worker.node],
                "fresh": worker.fresh,
            }
            parts.append(frames.control(Kind.FORK, worker.number, order))
            self._events.note(worker=worker.name, state="started", cpus=worker.cpus, number=worker.number)
        elif type(effect) is Retract:
            parts.append(frames.frame(Kind.RETRACT, worker.number, frames.SIZE.pack(effect.below)))
        else:
            parts.append(frames.frame(Kind.KILL if type(effect) is Kill else Kind.RETIRE, worker.number))

    def _forget(self) -> None:
        gone = self._packer.evict()
        if gone:
            body = b"".join(map(frames.NUMBER.pack, gone))
            for link in self.fleet.links.values():
                link.defined.difference_update(gone)
                link.write([frames.frame(Kind.FORGET, 0, body)])
            self.scheduler.forget(gone)
            for given in self._given.values():
                given.difference_update(gone)

    def _rebalance(self) -> None:
        self._rebalance_due = False
        if not self.closed and self.scheduler.unbalanced:
            self.scheduler.rebalance()
            self._flush()

    def _write_events(self) -> None:
        self._events_due = False
        self._events.flush()

    # ---- in -----------------------------------------------------------------------------------------------------

    def _on_frame(self, kind: int, number: int, body: memoryview) -> None:
        if kind == Kind.RESULTS:
            if self._failed_starts:
                self._failed_starts.clear()
            self._on_results(number, body)
        elif kind == Kind.RETRACTED:
            self._note_retracted(self.scheduler.retracted(number, *frames.SEQS.unpack(body)))
        elif kind == Kind.ENDED:
            self._on_ended(number, json.loads(bytes(body)))
        elif kind == Kind.LOCK_REQUEST:
            self._on_lock_request(number, body)
        self._soon()

    def _on_lock_request(self, number: int, body: memoryview) -> None:
        """A worker wants a lock, or gives it back."""
        worker = self.scheduler.workers.get(number)
        if worker is None:
            return
        try:
            told = json.loads(bytes(body))
            evaluation = self._evaluations.get(told["task"])
            name = evaluation.name if evaluation is not None else f"evaluation {told['task']}"
            self.locks.on_request(worker, f"{name} on {worker.name}", told)
        except (ValueError, KeyError, TypeError):  # not ours: a function wrote to a descriptor that is not its own
            logger.warning("%s sent something that is no question for a lock", worker.name)

    def _on_results(self, number: int, body: memoryview) -> None:
        """A worker has answered, mostly several tasks at once."""
        scheduler, evaluations, requests = self.scheduler, self._evaluations, self._requests
        worker = scheduler.workers.get(number)
        done: list[int] = []
        times: list[str] = []
        for task_number, outcome, seconds, payload, buffers in frames.results(body):
            if outcome == SKIPPED:
                self._note_retracted(scheduler.skipped(number, task_number, *frames.SIZE.unpack(payload)))
                continue
            if requests:
                self.locks.gone((number, task_number))
            task = scheduler.answered(number, task_number, seconds)
            evaluation = evaluations.get(task_number)
            if task is None or worker is None or evaluation is None:
                if worker is not None:
                    self._drop(worker, buffers)
                continue
            if outcome != VALUE:
                self._on_failure(evaluation, worker, outcome, payload)
                continue
            try:
                if buffers:
                    value = pickle.loads(payload, buffers=self._found(worker, buffers))
                else:
                    value = pickle.loads(payload)
            except Exception as error:  # noqa: BLE001 (whatever a user's __setstate__ raises)
                text = f"the result of {evaluation.name} cannot be unpickled here"
                self._fail(evaluation, SerializationError(f"{text}: {type(error).__name__}: {error}"))
                continue
            del evaluations[task_number]
            self._packer.release(evaluation.packed)
            done.append(task_number)
            times.append(f"{seconds:.6f}")
            evaluation.set_result(value)
        if done and worker is not None:
            self._counts["done"] += len(done)
            more = f', "worker": "{worker.name}", "seconds": [{", ".join(times)}]'
            self._events.tasks("done", done, more)

    def _found(self, worker: Worker, buffers: list[frames.Buffer]) -> list[memoryview]:
        """Return the buffers of a result, in place of the numbers of their blocks."""
        link = self.fleet.links[worker.node]
        return [link.take_block(worker.number, each) if isinstance(each, int) else each for each in buffers]

    def _drop(self, worker: Worker, buffers: list[frames.Buffer]) -> None:
        """Let go of a result that comes late."""
        if buffers and worker.node in self.fleet.links:
            with contextlib.suppress(OSError, KeyError):
                self._found(worker, buffers)

    def _on_failure(self, evaluation: Evaluation, worker: Worker, outcome: int, payload: memoryview) -> None:
        error, trace = read_failure(evaluation.name, outcome, payload)
        if outcome in (Outcome.RAISED, Outcome.UNSENDABLE_ERROR) and self._again(evaluation, error):
            return
        with contextlib.suppress(Exception):  # an exception of the user's may refuse all attributes
            if trace:
                error.add_note(f"remote {trace}")
            error.add_note(f"(raised by {evaluation.name} on {worker.name}; log: {self._log_file(worker)})")
        self._fail(evaluation, error)

    def _on_ended(self, number: int, told: dict[str, Any]) -> None:
        """A worker and its process group have gone."""
        worker = self.scheduler.workers.get(number)
        self._given.pop(number, None)
        if self._requests:
            self.locks.worker_gone(number)
        if worker is None:
            return
        if worker.node in self.fleet.links:
            self.fleet.links[worker.node].drop_blocks(number)
        within, back = self.scheduler.ended(number, told["started"])
        self._events.note(worker=worker.name, state="ended", number=number, **told)
        for task in back:
            self._returned(task, worker.name)
        if not told["started"] and told["reason"] != "cancelled":
            self._on_failed_start(worker.node, told["reason"] or told["tail"] or f"status {told['status']}")
        evaluation = self._evaluations.get(within.number) if within is not None else None
        if evaluation is None:
            return
        place = (worker.name, worker.node)
        if told["reason"] == "time limit" and evaluation.options.time_limit is not None:
            seconds = evaluation.options.time_limit
            self._fail(evaluation, TimeLimitExceeded(evaluation.name, *place, seconds, told["log_file"]))
        elif told["reason"] == "cancelled":  # another task of that worker was meant
            self.scheduler.resubmit(evaluation.task)
            self._returned(evaluation.task, worker.name)
        else:
            kind = OutOfMemory if told["out_of_memory"] else WorkerDied
            tail = told["tail"] or told["reason"]
            error = kind(evaluation.name, *place, told["status"], told["log_file"], tail)
            if not self._again(evaluation, error):
                self._fail(evaluation, error)

    def _on_failed_start(self, node: str, cause: str) -> None:
        """A worker ended before it started anything. The next one may do better, but not for ever."""
        since = self._failed_starts.setdefault(node, self._loop.time())
        working = any(worker.queue for worker in self.scheduler.workers.values() if worker.node == node)
        if not working and self._loop.time() - since > FAILED_STARTS_SECONDS and node in self.fleet.links:
            self.fleet.links[node].give_up(f"for {FAILED_STARTS_SECONDS:g} s no worker could start: {cause}")

    def _note_retracted(self, tasks: list[Task]) -> None:
        if tasks:
            self._events.tasks("waiting", [task.number for task in tasks], ', "retracted": true')

    def _note_submitted(self) -> None:
        for (function, cpus), numbers in self._submitted.items():
            self._events.tasks("waiting", numbers, f', "function": {_quoted(function)}, "cpus": {cpus}')
        self._submitted.clear()

    def _returned(self, task: Task, worker: str) -> None:
        self._counts["returned"] += 1
        self._events.tasks("waiting", [task.number], f', "returned by": "{worker}"')

    def _again(self, evaluation: Evaluation, error: Exception) -> bool:
        """Start a failed evaluation once more if it has retries left."""
        if evaluation.retries <= 0:
            return False
        evaluation.retries -= 1
        self._counts["retried"] += 1
        self._events.tasks("waiting", [evaluation.task.number], f', "retry after": {json.dumps(in_words(error))}')
        self.scheduler.resubmit(evaluation.task)
        return True

    def _fail(self, evaluation: Evaluation, error: Exception) -> None:
        self._end(evaluation, "failed", f', "error": {json.dumps(in_words(error))}')
        evaluation.set_exception(error)

    def _end(self, evaluation: Evaluation, state: str, more: str = "") -> None:
        number = evaluation.task.number
        del self._evaluations[number]
        self._packer.release(evaluation.packed)
        self._counts[state] += 1
        self._note_submitted()  # it may be of this very turn
        self._events.tasks(state, [number], more)

    def _on_cancel(self, evaluation: Evaluation) -> None:
        """Nobody waits for the evaluation any more."""
        if evaluation.task.number in self._evaluations:
            self.scheduler.cancel(evaluation.task)
            self._end(evaluation, "cancelled")
            self._soon()

    def _on_lost(self, link: Link, cause: str, silent: bool) -> None:
        """A node has gone without being asked to."""
        self._counts["nodes_lost"] += 1
        self._last_loss = NodeLost(link.node, cause, str(link.log_file))
        wait = END_GRACE + (self.settings.silence_limit if silent else 0.0)
        if self._requests:  # what was at work over there may go on for a while
            workers = [worker.number for worker in self.scheduler.workers.values() if worker.node == link.node]
            self._timers += [self._loop.call_later(wait, self.locks.worker_gone, number) for number in workers]
        for task in self.scheduler.withhold(link.node):
            self._events.tasks("withheld", [task.number], f', "seconds": {wait}')
            self._timers.append(self._loop.call_later(wait, self._release, task, link.node))
        back, impossible = self.scheduler.lose_node(link.node)
        for task in back:
            self._returned(task, link.node)
        for task in impossible:
            self._refuse(task)
        self._soon()

    def _release(self, task: Task, node: str) -> None:
        """An exclusive task must have ended over there: it may run elsewhere."""
        if task.number not in self._evaluations:
            return
        if task.cpus > self.scheduler.pool.largest:
            self._refuse(task)
        else:
            self.scheduler.resubmit(task)
            self._returned(task, node)
            self._soon()

    # ---- the end of the allocation ------------------------------------------------------------------------------

    def expect(self, end: End) -> None:
        """Prepare for the end of the allocation."""
        self._end_watch = EndWatch(end, self.drain)

    def drain(self, why: str, seconds: float) -> None:
        """Start nothing more; what runs may go on until shortly before the end, `seconds` from now.

        Only when it has ended, the flows that await the others are told. Earlier, one that is told would cancel those
        beside it, as one that fails does, and what they had computed would be lost.
        """
        if self._ending is not None:
            return
        logger.warning("the allocation ends (%s), in %.0f s: nothing more is started", why, seconds)
        self._events.note(state="ending", cause=why, seconds=round(seconds, 1))
        self._ending = AllocationEnding(why, seconds)
        self.scheduler.paused = True
        pause = seconds - min(CUT_OFF, seconds / 4)
        self._timers.append(self._loop.call_later(pause, self._turn_away, self._ending))
        self._soon()

    def _turn_away(self, ending: AllocationEnding) -> None:
        """End all that is left: what waits, and what still runs."""
        self._over = ending
        for evaluation in list(self._evaluations.values()):
            self.scheduler.cancel(evaluation.task)
            self._fail(evaluation, AllocationEnding(*ending.args))
        self._soon()

    def _refuse(self, task: Task) -> None:
        """No node is left that could run a task."""
        evaluation = self._evaluations.get(task.number)
        if evaluation is not None and self._last_loss is not None:
            refusal = self.scheduler.refusal(task.cpus) if self.fleet.links else None
            self._fail(evaluation, refusal or NodeLost(*self._last_loss.args))

    # ---- names --------------------------------------------------------------------------------------------------

    def _log_file(self, worker: Worker) -> str:
        return str(self.program.log_dir / f"worker-{worker.node}-{worker.slot}.log")

    # ---- nodes --------------------------------------------------------------------------------------------------

    def _on_up(self, node: str, cpus: CpuChoice) -> None:
        self._pinned[node] = cpus.pinned
        self.scheduler.add_node(node, cpus.ids)

    async def close(self) -> None:
        """End everything; what still waits is cancelled."""
        self.closed = True
        if self._end_watch is not None:
            self._end_watch.close()
        for timer in self._timers:
            timer.cancel()
        for evaluation in list(self._evaluations.values()):
            evaluation.cancel()
        self._flush()
        try:
            await self.fleet.close()
            await self.locks.close()
        finally:
            self._packer.buffers.close()
            self._events.note(state="closed")
            self._events.close()


@functools.lru_cache(maxsize=1000)
def _quoted(name: str) -> str:
    """Return a function's name as JSON; it is logged in each turn of the loop."""
    return json.dumps(name)


@asynccontextmanager
async def open_engine(
    nodes: Sequence[NodePlan],
    program: ProgramInfo,
    *,
    settings: Settings | None = None,
    preload: Sequence[str] = (),
    end: End | None = None,
) -> AsyncIterator[Engine]:
    """Start a launcher on each node, and give the engine; at the end of the scope everything is ended.

    Args:
        nodes: How to reach each of them, and how many CPUs to use there.
        program: Whose log directory is used.
        settings: Limits of time, and how many nodes there have to be.
        preload: Modules that every launcher imports once, before it forks workers.
        end: When the allocation ends.

    Raises:
        LauncherError: Fewer than `min_nodes` launchers could be started.
        ConfigurationError: A module of `preload` does not import.
    """
    engine = Engine(program, settings or Settings())
    try:
        await engine.fleet.start(nodes, preload)
        if end is not None:
            engine.expect(end)
        yield engine
    finally:
        await engine.close()
