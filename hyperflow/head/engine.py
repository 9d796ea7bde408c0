"""The engine: carries out what the scheduler decides, over the links to the node launchers.

Guarantees:
- Every evaluation ends in a result, or in an error that names evaluation, worker, node and log.
- What is submitted in one turn of the event loop travels in one write per node; so do the answers back.
- Cancelling an evaluation's future kills its process group; its CPUs come back when that has gone.
- Closing ends all that runs on all nodes and waits until it has gone.

All of it runs in the event loop's thread. (Rejected: a thread of its own. The hand-over doubles the round trip.)

`submit` packs a call and queues it. At the end of the turn, `_flush` asks the scheduler and writes. `_on_results` sets
the future. docs/design.md has the whole way of one evaluation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import struct
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from hyperflow import environment, failures
from hyperflow.config import Settings
from hyperflow.environment import (
    Activity,
    Making,
    MapOwner,
    Options,
    Statistics,
    Try,
    in_another_loop,
    peek_making,
    peek_try,
)
from hyperflow.errors import (
    AllocationEnding,
    EnvironmentClosed,
    HyperflowError,
    ImpossibleRequest,
    NodeLost,
    SerializationError,
    TooManyNodesLost,
)
from hyperflow.events.writer import EventLog
from hyperflow.fields import frozen
from hyperflow.flow import show_call
from hyperflow.head.account import Account
from hyperflow.head.allocation_end import Drain, End
from hyperflow.head.aside import NodesAside
from hyperflow.head.broadcast import Broadcast
from hyperflow.head.bulk.bulk import Bulk, Head
from hyperflow.head.bulk.calls import Calls
from hyperflow.head.bulk.maps import BulkMap
from hyperflow.head.collector import Collector
from hyperflow.head.copies import Copies
from hyperflow.head.echo import Echo
from hyperflow.head.evaluation import Evaluation, death, read_failure
from hyperflow.head.fleet import Fleet, NodePlan
from hyperflow.head.later import Later
from hyperflow.head.link import Frame, Link
from hyperflow.head.orders import Orders
from hyperflow.head.post_mortems import PostMortems
from hyperflow.head.streams import Streams
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.program import ProgramInfo
from hyperflow.progress.tally import Counted, Snapshot, Tally
from hyperflow.saying import in_words
from hyperflow.scheduling.scheduler import REBALANCE_LOOKS, REBALANCE_PAUSE, Scheduler
from hyperflow.scheduling.state import Task, Worker, is_started
from hyperflow.shipping.packer import Kept, PackedCall, Packer
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, Outcome, ProtocolError
from hyperflow.wire.messages import CANCELLED, Printed, StreamReply, StreamWanted, WorkerEnded
from hyperflow.wire.numbers import Seq, TaskNumber, WorkerNumber
from hyperflow.wire.views import KEPT_SECONDS

logger = logging.getLogger("hyperflow")

running_loop = asyncio.get_running_loop
"""Bound once: each evaluation asks. One from another loop would never end, as nothing there sees its answer."""

peek_activity = environment.activity.get

END_GRACE = 15.0
"""Seconds after which nothing runs on a node whose launcher has seen the end of its stream; see launcher/keeper.py."""

LOSS_PAUSE = 0.5
"""Seconds after the loss of a node until its evaluations start elsewhere. A switch that fails takes many nodes away,
one stream ends after the other, and what went from one such node to the next would be charged with both."""

EVENTS_PAUSE = 0.25
"""Seconds that a line of the event log may wait."""

WORK_AT_ONCE = 1000
"""Answers, or others of a node's messages, that are dealt with in one turn of the event loop: some thirty milliseconds.
What a thousand nodes say at the same time would else keep the user's flows, and the signs of life, waiting. It is less
than a map starts in a turn (STARTS_BETWEEN_PAUSES), so that a backlog forms, from which can be prefetched."""

STARTS_AT_ONCE = 3000
"""Tasks that are given to free CPUs in one turn of the event loop; fewer where they need new workers."""

MOST_LOOKED_AT = 10_000
"""Workers that `progress` looks at: twenty milliseconds."""

RESULTS, MEASURED, VALUE, SKIPPED = int(Kind.RESULTS), int(Kind.MEASURED), int(Outcome.VALUE), int(Outcome.SKIPPED)
"""As plain numbers, because each frame or answer is compared with them."""


RETRIED = (Outcome.RAISED, Outcome.UNSENDABLE_ERROR)
"""Outcomes after which `retries` start an evaluation again. What cannot be sent or read could not be the next time, and
who calls sys.exit() means it."""


@frozen
class Loss:
    """The end of a node's stream, behind what came from there."""

    link: Link
    cause: str
    silent: bool


class Engine:
    """Evaluates calls on the workers of some nodes. Made by `open_engine`."""

    def __init__(self, program: ProgramInfo, settings: Settings, echo: bool = False) -> None:
        self.closed = False
        self.echo = Echo(program) if echo else None
        self._loop = asyncio.get_running_loop()
        self._program = program.program_id
        self.scheduler = Scheduler()
        self.account = Account()
        self._events = EventLog(program.log_dir / "events.jsonl")
        self.fleet = Fleet(program, settings, self._events, self._on_frames, self, self._on_end, self._on_lost)
        self.fleet.echo = echo
        self.locks = LockManager()
        self.streams = Streams(program.call)
        self.worker_locks = WorkerLocks(self.locks, self.scheduler, self.fleet.write, self._name)
        self.aside = NodesAside(self.scheduler, self.fleet.links, self._events)
        self.drain = Drain(self._on_drain, self._turn_away)
        self._silence_limit = settings.silence_limit
        self._packer = Packer()
        self._evaluations: dict[TaskNumber, Evaluation] = {}
        self.post_mortems = PostMortems(self.fleet.write)
        self._broadcast = Broadcast(self.fleet.links, settings.node_to_node != "off")
        self.fleet.on_peers = self._broadcast.on_message
        self._orders = Orders(
            self.fleet.links, self._broadcast, self._packer, self._evaluations, self._events, program.log_dir
        )
        # Those of this turn, each followed by its activity; by function, CPUs, the name that they were given, and
        # whether they are of a remote_map.
        self._submitted = defaultdict[tuple[str, int, str | None, bool], list[int]](list)
        self._inbox: deque[Frame | Loss] = deque()  # what has come and waits for its turn
        self._left = WORK_AT_ONCE  # of this turn
        self._begun: list[tuple[int, int]] = []  # activities that are new, with their parents
        self._next_task: TaskNumber = TaskNumber(1)
        self._copies = Copies(
            self.scheduler, self._evaluations, self._events, self.locks, self._new_number, self._flush
        )
        self._tries: dict[TaskNumber, Try] = {}  # of those that are part of a flow under `retry`
        self._makings: dict[Evaluation, Making] = {}  # of those whose result goes into one that will be recorded
        self._collector = Collector()
        self._counts: Counter[str] = Counter()
        self._tally = Tally()
        self.maps: set[Counted] = self._tally.maps
        self._last_loss: NodeLost | None = None
        self._lost_logs: dict[str, str] = {}
        self._flushing = Later(self._flush)
        self._dropping = Later(self._drop_old, KEPT_SECONDS)
        self._rebalancing = Later(self._rebalance, REBALANCE_PAUSE)
        self._losing = Later(self._all_lost, LOSS_PAUSE)
        self._writing = Later(self._events.flush, EVENTS_PAUSE)
        self._after_loss: list[asyncio.TimerHandle] = []  # for when a lost node must have ended
        self._cancelled = self._on_cancel  # bound once: each evaluation has it
        self.bulk = Bulk(self._lent())

    def _lent(self) -> Head:
        """Return what batches need of this."""
        return Head(
            evaluator=self,
            scheduler=self.scheduler,
            packer=self._packer,
            evaluations=self._evaluations,
            events=self._events,
            tally=self._tally,
            counts=self._counts,
            account=self.account,
            aside=self.aside,
            links=self.fleet.links,
            locks=self.locks,
            worker_locks=self.worker_locks,
            streams=self.streams,
            is_open=lambda: bool(self.fleet.links) and self.drain.over is None,
            counted=self._count_calls,
            turn=self._log_submitted,
            cancelled=self._cancelled,
            read_all=self._on_results,
            unreadable=self._on_unreadable,
        )

    # ---- for its user -------------------------------------------------------------------------------------------

    @property
    def cpus(self) -> int:
        """All CPUs of all nodes that are up."""
        return self.scheduler.pool.total

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        stream: tuple[int, ...] | None = None,
        packed: PackedCall | None = None,
    ) -> Evaluation:
        """Ship a call and return its future. If it is packed already, the rest is for errors only.

        Raises:
            ImpossibleRequest: No node has as many CPUs.
            SerializationError: The function or an argument cannot be sent.
            NodeLost: No node is left.
            AllocationEnding: The allocation ends.
            EnvironmentClosed: It has been closed.
            NotInFlow: This is another event loop, maybe in another thread.
        """
        if self.bulk.submit_open is not None:
            self.bulk.submit_open()
        if not self.fleet.links or self.drain.over is not None:  # a closed engine has no links
            raise self._refusal()
        if running_loop() is not self._loop:
            raise in_another_loop(show_call(fn, args, kwargs))
        if packed is None:
            packed = self._packer.pack(fn, args, kwargs)
        function = packed.function
        size = len(packed.payload)
        if packed.buffers:
            size += sum(len(buffer) for buffer in packed.buffers if not isinstance(buffer, int))
        alone = options.time_limit is not None or options.straggler_factor is not None or options.post_mortem
        number = self._next_task
        task = Task(number, function.number, options.cpus, options.fresh_process, alone, size, options.exclusive)
        if (run := peek_try()) is not None:
            self._try(task, run)
        making = peek_making()
        self._packer.hold(packed)
        try:
            self.scheduler.submit(task)
        except ImpossibleRequest:
            self._packer.release(packed)
            raise
        self._next_task += 1  # type: ignore[assignment]  # TaskNumber() would cost each evaluation a call
        evaluation = self._evaluations[number] = Evaluation(task, packed, options, self._cancelled, (fn, args, kwargs))
        if making is not None:
            self._makings[evaluation] = making
        if stream is not None:
            evaluation.stream = stream
        elif self.streams.asking:
            self.streams.submitted(evaluation)
        if options.straggler_factor is not None:
            self._copies.stragglers.watch(task, function.name, options.straggler_factor)
        if self.locks.busy:
            self.worker_locks.submitted(task)
        activity = peek_activity()
        of = 0 if activity is None else activity.number or self._begin(activity)
        self._submitted[function.name, options.cpus, options.name, stream is not None].extend((number, of))
        if not self._flushing.due:
            self._flushing.ask()
        return evaluation

    def open_map(self, owner: MapOwner) -> BulkMap:
        """Evaluate what is alike in a map in batches."""
        return BulkMap(owner, self.bulk)

    def _count_calls(self, calls: Calls) -> TaskNumber:
        """Number and log calls that are submitted together, and have the scheduler asked soon."""
        first, count = self._next_task, calls.left
        self._next_task = TaskNumber(first + count)
        activity = peek_activity()
        of = 0 if activity is None else activity.number or self._begin(activity)
        numbers = [of] * (2 * count)
        numbers[::2] = range(first, self._next_task)
        self._submitted[calls.function.function.name, calls.options.cpus, calls.options.name, False] += numbers
        self._flushing.ask()
        return first

    def keep(self, future: asyncio.Future[Any]) -> Kept | None:
        """Keep what was sent for an evaluation that has not ended."""
        return Kept(self._packer, future.packed, self.submit) if isinstance(future, Evaluation) else None

    def _try(self, task: Task, run: Try) -> None:
        """A task is part of a flow under `retry`."""
        run.evaluations += 1
        self._tries[task.number] = run
        for node in run.avoided:
            task.failed_on(node)

    def _begin(self, activity: Activity) -> int:
        """Number an activity, for the event log."""
        self._begun += activity.tell()
        return activity.number

    def _new_number(self) -> TaskNumber:
        number = self._next_task
        self._next_task = TaskNumber(number + 1)
        return number

    def _refusal(self) -> HyperflowError:
        if self.closed:
            return EnvironmentClosed("evaluations")
        if self.drain.over is not None:
            return AllocationEnding(*self.drain.over.args)
        return self._last_loss or HyperflowError("no node is up")

    def statistics(self) -> Statistics:
        """Return how many nodes, CPUs, workers and evaluations there are in each state; cheap."""
        self.scheduler.settle()
        return Statistics(
            nodes=len(self.fleet.links),
            nodes_lost=self._counts["nodes_lost"],
            cpus=self.scheduler.pool.total,
            cpus_free=self.scheduler.pool.free,
            workers={state: count for state, count in self.scheduler.states.items() if count},
            waiting=self.scheduler.waiting,
            running=self.scheduler.sent,
            done=self._counts["done"],
            failed=self._counts["failed"],
            cancelled=self._counts["cancelled"],
            retried=self._counts["retried"],
            returned=self._counts["returned"],
            late=self.scheduler.late,
            nodes_aside=len(self.scheduler.pool.aside),
            copied=self._copies.made,
        )

    def progress(self) -> Snapshot:
        """Return how evaluations stand, by function or name. Of many workers, it looks at each third, say."""
        workers = self.scheduler.workers
        step = 1 + len(workers) // MOST_LOOKED_AT
        running, busy = Counter[str](), 0
        for worker in islice(workers.values(), 0, None, step):
            if worker.queue:
                busy += step * len(worker.cpus)
                evaluation = self._evaluations.get(worker.current)
                group = evaluation.group if evaluation is not None else self.bulk.group_of(worker)
                if group is not None:
                    running[group] += step
        return self._tally.snapshot(
            running,
            cpus=self.cpus,
            busy=min(busy, self.cpus),
            nodes=len(self.fleet.links),
            nodes_lost=self._counts["nodes_lost"],
        )

    def note_nodes(self) -> None:
        """Write the event log soon: who looks wants to see the nodes, also before anything is evaluated."""
        self._writing.ask()

    def nodes(self) -> list[dict[str, str | int]]:
        """Return what is to know about each node that is up."""
        return self.aside.table()

    def node_up(self, node: str, cpus: Sequence[int]) -> None:
        """Use a node, which may come late."""
        self.scheduler.add_node(node, cpus)
        self.account.holds(self.cpus, len(self.fleet.links))
        self._flushing.ask()

    def node_late(self, node: str, cpus: int) -> None:
        """Wait for a node with what is too large for the others."""
        self.scheduler.pool.expect(node, cpus)

    def node_failed(self, node: str) -> None:
        """Refuse what only that node could have run."""
        for task in self.bulk.apart(self.scheduler.expect_no_more(node)):
            self._refuse(task, started=False)

    async def inspect(self, task: int, line: str) -> str:
        """Have pdb carry out a line in the copy of a process that has failed; raises HyperflowError."""
        return await self.post_mortems.ask(task, line)

    def put_aside(self, node: str) -> None:
        """Start nothing more on a node; raises ConfigurationError if it is not up."""
        self.aside.drain(node)
        self._flushing.ask()

    def take_back(self, node: str) -> None:
        """Use a node again that was put aside; raises ConfigurationError if it is not up."""
        self.aside.resume(node)
        self._flushing.ask()

    # ---- out ----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Carry out what the scheduler decides, with one write per node."""
        self._left = WORK_AT_ONCE
        if self._inbox:
            self._read_on()
        if self._submitted:
            self._log_submitted()
        if self.drain.begun is not None and self.drain.over is None and not self.scheduler.sent:
            self.drain.finish()
        self.fleet.follow_path()
        effects = self.scheduler.schedule(STARTS_AT_ONCE)
        if self._copies.watched:
            self._copies.sent(effects)
        self._orders.write(effects)
        if self.scheduler.unbalanced:
            self._rebalancing.ask()
        if self._events.lines and not self._writing.due:
            self._writing.ask()
        if self.locks.busy:
            self.worker_locks.check_stall()
        gone = self._orders.forget()
        if gone:
            self.scheduler.forget(gone)
            self._dropping.ask()
        if self._inbox or self.scheduler.unfinished:
            self._flushing.ask()
        self._collector.follow(len(self._evaluations) + len(self.scheduler.workers))

    def _drop_old(self) -> None:
        if self._orders.drop_old():
            self._dropping.ask()

    def _rebalance(self) -> None:
        if self.scheduler.unbalanced:
            self.scheduler.rebalance(looks=REBALANCE_LOOKS)
            self._flush()

    def _log_submitted(self) -> None:
        for (function, cpus, name, of_map), numbers in self._submitted.items():
            self._events.submitted(function, cpus, numbers[::2], name, numbers[1::2], of_map, self._begun)
            self._begun = []
            self._tally.submitted(name or function, len(numbers) // 2)
        self._submitted.clear()

    # ---- in -----------------------------------------------------------------------------------------------------

    def _on_frames(self, received: Sequence[Frame]) -> None:
        """A node has said something; what is too much for this turn of the event loop waits for the next one."""
        if self._inbox:
            self._inbox += received
            return
        for at, (kind, number, body) in enumerate(received):
            if self._left <= 0:
                self._inbox += received[at:]
                break
            self._on_frame(kind, number, body)
        if not self._flushing.due:
            self._flushing.ask()

    def _on_end(self, link: Link, cause: str, silent: bool) -> None:
        """A node has gone without being asked to. What came from there counts, so it is read first."""
        if link.node in self.scheduler.pool.nodes:
            self.scheduler.pool.put_aside(link.node)  # nothing more goes there meanwhile
        self._inbox.append(Loss(link, cause, silent))
        self._read_on()
        self._flushing.ask()

    def _read_on(self) -> None:
        """Deal with what waits, as far as this turn goes."""
        inbox = self._inbox
        while inbox and self._left > 0:
            item = inbox.popleft()
            if isinstance(item, Loss):
                self._left -= len(self.scheduler.workers_at(item.link.node))
                self.fleet.lost(item.link, item.cause, item.silent)
            else:
                self._on_frame(*item)

    def _on_frame(self, kind: int, number: WorkerNumber, body: memoryview) -> None:
        self._left -= 1
        if kind == RESULTS:
            if self.fleet.failed_starts:
                self.fleet.failed_starts.clear()
            worker = self.scheduler.workers.get(number)
            if worker is not None and worker.has_batches:
                self._left -= len(body) >> 8  # one of a batch costs an eighth, and has some thirty bytes
                self.bulk.on_results(worker, body)
            else:
                self._on_results(number, body)
        elif kind == MEASURED:  # beside each answer that has taken a while
            self._on_measured(number, body)
        elif kind == Kind.RETRACTED:
            self._on_retracted(self.scheduler.retracted(number, *frames.SEQS.unpack(body)))
        elif kind == Kind.ENDED:
            self._on_ended(number, messages.read(WorkerEnded, body))
        elif kind in (Kind.LOCK_WANTED, Kind.LOCK_RELEASED) and number in self.scheduler.workers:
            self.worker_locks.on_message(self.scheduler.workers[number], kind, body)
        elif kind == Kind.STREAM_WANTED and number in self.scheduler.workers:
            self._on_stream_wanted(self.scheduler.workers[number], body)
        elif kind == Kind.RETURNED:
            self._orders.returned(number, body)
        elif kind in (Kind.KEPT, Kind.INSPECTED):
            self._on_post_mortem(kind, number, body)
        elif kind == Kind.PRINTED and number in self.scheduler.workers:
            self._on_printed(self.scheduler.workers[number], body)

    def _on_stream_wanted(self, worker: Worker, body: memoryview) -> None:
        """An evaluation draws random numbers."""
        try:
            (task,) = messages.read(StreamWanted, body)
            evaluation = self._evaluation(worker, task)
        except (ProtocolError, TypeError):  # a function wrote to a descriptor that is not its own
            logger.warning("%s sent something that is no message about random numbers", worker.name)
            return
        words: tuple[int, ...] = ()
        if evaluation is not None:
            if not getattr(evaluation, "stream", None):
                self.bulk.single_out_all()  # they may be counted, and each has a stream of its own
            words = self.streams.wanted(evaluation, [one for _, one in sorted(self._evaluations.items())])
        self.fleet.write(worker.node, [messages.framed(StreamReply(task, words), worker.number)])

    def _on_measured(self, number: WorkerNumber, body: memoryview) -> None:
        """The CPU time and memory of an evaluation were measured."""
        worker = self.scheduler.workers.get(number)
        if worker is not None:
            try:
                self._events.measured(*frames.MEASURED.unpack(body))
            except struct.error:  # a function wrote to a descriptor that is not its own
                self._on_nonsense(worker)

    def _on_printed(self, worker: Worker, body: memoryview) -> None:
        """An evaluation has printed something."""
        try:
            if self.echo is not None:
                printed = messages.read(Printed, body)
                self.echo.printed(self._evaluation(worker, printed.task), worker.name, printed)
        except (ProtocolError, TypeError):  # a function wrote to a descriptor that is not its own
            self._on_nonsense(worker)

    def _on_nonsense(self, worker: Worker) -> None:
        logger.warning("%s sent something that is no message about an evaluation", worker.name)

    def _on_post_mortem(self, kind: int, number: WorkerNumber, body: memoryview) -> None:
        """There is a copy of a process that has failed, or not any more; or it has answered."""
        try:
            if kind == Kind.INSPECTED:
                self.post_mortems.answered(body)
            else:
                worker = self.scheduler.workers.get(number)
                self.post_mortems.note(body, "" if worker is None else worker.node)
        except (ProtocolError, TypeError, struct.error):  # the user's objects share a process with what answers
            logger.warning("the copy of a process that has failed sent something that is no answer")

    def _evaluation(self, worker: Worker, task: TaskNumber) -> Evaluation | None:
        """Return what a worker is in; None if nobody waits for it any more."""
        return self._evaluations.get(task) or self.bulk.single_out(worker, task)

    def _name(self, worker: Worker, task: TaskNumber) -> str:
        evaluation = self._evaluation(worker, task)
        return evaluation.name if evaluation is not None else f"evaluation {task}"

    def _on_results(self, number: WorkerNumber, body: memoryview) -> None:
        """A worker has answered, mostly several tasks at once."""
        scheduler, evaluations, locks = self.scheduler, self._evaluations, self.locks
        rare = self._copies.watched or self._tries or self._makings
        groups, worker = self._tally.of, scheduler.workers.get(number)
        done: dict[TaskNumber, float] = {}
        results = frames.results(body)
        self._left -= len(results)
        for task_number, outcome, seconds, payload, buffers in results:
            if outcome == SKIPPED:
                self._on_retracted(scheduler.skipped(number, task_number, *frames.SIZE.unpack(payload)))
                continue
            if locks.busy:
                self.worker_locks.answered(number, task_number)
                if outcome == VALUE:
                    self.worker_locks.ended(task_number)
            task = scheduler.answered(number, task_number, seconds)
            evaluation = evaluations.get(task_number)
            if task is None or worker is None or evaluation is None:
                if buffers and worker is not None and worker.node in self.fleet.links:  # it comes late
                    with contextlib.suppress(OSError, KeyError):
                        self.fleet.links[worker.node].found(number, buffers)
                continue
            try:
                if outcome != VALUE:
                    self.account.used += seconds * len(worker.cpus)
                    self._on_failure(evaluation, task, worker, outcome, payload)
                    continue
                if buffers:
                    value = pickle.loads(payload, buffers=self.fleet.links[worker.node].found(number, buffers))
                else:
                    value = pickle.loads(payload)
                del evaluations[task_number]
            except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read or shown)
                self._on_unreadable(evaluation, task, worker, error)
                continue
            packed = evaluation.packed
            self._packer.release(packed)
            evaluation.call = None
            done[task_number] = seconds
            groups[evaluation.options.name or packed.function.name].done += 1
            evaluation.set_result(value)
            if rare or task.past is not None:
                self._on_special(evaluation, task, worker, seconds)
        if done and worker is not None:
            self._count_done(done, worker)

    def _count_done(self, done: dict[TaskNumber, float], worker: Worker) -> None:
        self._counts["done"] += len(done)
        self.account.used += sum(done.values()) * len(worker.cpus)
        self._events.done(done, worker.name)
        if self.aside.trust.accused:
            self.aside.trust.succeeded(worker.node, len(done))

    def _on_unreadable(self, evaluation: Evaluation, task: Task, worker: Worker, error: BaseException) -> None:
        """What an evaluation has ended with cannot be read here: that is its error, and nobody else's."""
        if task.number not in self._evaluations or self._copies.gives_way(task, worker.node):
            return  # reading it has ended the evaluation, or there is a copy
        text = f"the result of {evaluation.title} cannot be unpickled here: {in_words(error)}"
        self._fail(evaluation, SerializationError(text))

    def _on_special(self, evaluation: Evaluation, task: Task, worker: Worker, seconds: float) -> None:
        """Do what few evaluations need when they have a result."""
        self._tries.pop(task.number, None)
        if (making := self._makings.pop(evaluation, None)) is not None:
            making.evaluated(task.number, worker.node, len(worker.cpus), seconds)
        if task.past is not None:
            self.aside.recovered(worker.node, task.past.failed_on)
        if evaluation.options.straggler_factor is not None:
            self._copies.answered(task, evaluation.packed.function.name, seconds)

    def _on_failure(
        self, evaluation: Evaluation, task: Task, worker: Worker, outcome: int, payload: memoryview
    ) -> None:
        if self._copies.gives_way(task, worker.node):
            return
        error, trace = read_failure(evaluation, outcome, payload)
        self._failed_on(evaluation, worker.node)
        if outcome in RETRIED and self._again(evaluation, error):
            return
        if trace:
            failures.add_note(error, f"remote {trace}")
        log_file = self._orders.log_file(worker)
        failures.add_note(error, f"(raised by {evaluation.title} on {worker.name}; log: {log_file})")
        if task.number in self.post_mortems:
            seen = f"hyperflow debug [RUN] {task.number} --attach"
            failures.add_note(error, f"(a copy of its process can be looked at, while the run goes on: {seen})")
        failures.note_tries(error, evaluation.options.retries - evaluation.retries + 1)
        self._fail(evaluation, error)

    def _on_ended(self, number: WorkerNumber, ended: WorkerEnded) -> None:
        """A worker and its process group have gone."""
        worker = self.scheduler.workers.get(number)
        self._orders.worker_gone(number)
        if self.locks.busy:
            self.worker_locks.worker_gone(number)
        if worker is None:
            return
        if worker.node in self.fleet.links:
            self.fleet.links[worker.node].drop_blocks(number)
        self.bulk.single_out_started(worker, Seq(ended.started))
        within, back = self.scheduler.ended(number, ended.started)
        log_file = self._orders.log_file(worker)
        self._events.note("ended", worker=worker.name, number=number, **ended._asdict(), log_file=log_file)
        for task in back:
            self._on_returned(task, worker.name)
        if not ended.started and ended.reason != CANCELLED:
            working = any(other.queue for other in self.scheduler.workers_at(worker.node))
            self.fleet.failed_start(worker.node, ended.reason or ended.tail or f"status {ended.status}", working)
        evaluation = self._evaluations.get(within.number) if within is not None else None
        if evaluation is None or within is None or self._copies.gives_way(within, worker.node):
            return
        error = death(evaluation, worker, ended, log_file)
        if error is None:
            self.scheduler.resubmit(evaluation.task)
            self._on_returned(evaluation.task, worker.name)
            return
        self._failed_on(evaluation, worker.node)
        if not self._again(evaluation, error):
            from hyperflow.head import capsules  # noqa: PLC0415 (only failures need it)

            capsules.leave(evaluation, worker, log_file, self._program, error)
            failures.note_tries(error, evaluation.options.retries - evaluation.retries + 1)
            self._fail(evaluation, error)

    def _on_retracted(self, tasks: list[Task]) -> None:
        if tasks:
            self._events.retracted([number for task in tasks for number in task.numbers])

    def _on_returned(self, task: Task, by: str) -> None:
        self._counts["returned"] += task.count
        for number in task.numbers:
            self._events.returned(number, by)

    # ---- how an evaluation ends ---------------------------------------------------------------------------------

    def _failed_on(self, evaluation: Evaluation, node: str) -> None:
        """Let another node have it next, by its retries or those of its flow. A node that is alone is not to blame."""
        if len(self.scheduler.pool.nodes) > 1:
            evaluation.task.failed_on(node)
        if (run := self._tries.get(evaluation.task.number)) is not None:
            run.failed_on.add(node)

    def _again(self, evaluation: Evaluation, error: Exception) -> bool:
        """Start a failed evaluation once more if it has retries left."""
        if evaluation.retries <= 0:
            return False
        evaluation.retries -= 1
        self._counts["retried"] += 1
        self._events.retried(evaluation.task.number, evaluation.shown_call, error)
        self.scheduler.resubmit(evaluation.task)
        return True

    def _fail(self, evaluation: Evaluation, error: Exception, started: bool = True) -> None:
        self._end(evaluation, "failed" if started else "cancelled")
        self._events.failed(evaluation.task.number, evaluation.shown_call, error)
        evaluation.call = None
        evaluation.set_exception(error)
        if failures.watcher is not None:
            failures.watcher(evaluation)

    def _on_cancel(self, evaluation: Evaluation) -> None:
        """Nobody waits for the evaluation any more."""
        if evaluation.task.number in self._evaluations:
            self.scheduler.cancel(evaluation.task)
            self._end(evaluation, "cancelled")
            evaluation.call = None
            self._events.cancelled(evaluation.task.number)
            self._flushing.ask()

    def _end(self, evaluation: Evaluation, state: str) -> None:
        del self._evaluations[evaluation.task.number]
        self.worker_locks.ended(evaluation.task.number)
        self._copies.end(evaluation.task)
        self._tries.pop(evaluation.task.number, None)
        self._makings.pop(evaluation, None)
        self._packer.release(evaluation.packed)
        self._counts[state] += 1
        self._log_submitted()  # it may have been submitted in this turn
        counts = self._tally.of[evaluation.group]
        if state == "failed":
            counts.failed += 1
        else:
            counts.cancelled += 1

    # ---- the end of a node, of the allocation, of the engine ----------------------------------------------------

    def _on_lost(self, link: Link, cause: str, silent: bool) -> None:
        """A node has gone without being asked to."""
        node = link.node
        self.post_mortems.lost(node)
        self.bulk.single_out_all([node])  # each of them is a suspect now
        self._counts["nodes_lost"] += 1
        self._last_loss = NodeLost(node, cause, str(link.log_file))
        self._orders.at_nodes.pop(node, None)
        self._broadcast.lost(node)
        wait = END_GRACE + (self._silence_limit if silent else 0.0)
        loop = asyncio.get_running_loop()
        self._lost_logs[node] = str(link.log_file)
        there = self.scheduler.workers_at(node)
        at_work = {number: worker for worker in there for number in worker.queue}
        started = {next(iter(worker.queue)) for worker in there if worker.queue}
        for each in there:
            self._orders.worker_gone(each.number)
            if self.locks.busy:  # it may go on for a while
                self._after_loss.append(loop.call_later(wait, self.worker_locks.worker_gone, each.number))
        for task in self.scheduler.withhold(node):
            if not self._charged(task, at_work[task.number]):
                self._events.withheld(task.number, wait)
                self._after_loss.append(loop.call_later(wait, self._release, task, node))
        self.scheduler.suspects_wait = True
        self._losing.ask()
        back, impossible = self.scheduler.lose_node(node)
        self.account.holds(self.cpus, len(self.fleet.links))
        self.aside.lost(node)
        for task in back:
            if not self._copies.gives_way(task, node) and not self._charged(task, at_work[task.number]):
                self._on_returned(task, node)
        for task in self.bulk.apart(impossible):
            worker = at_work.get(task.number)
            if not self._copies.gives_way(task, node) and (worker is None or not self._charged(task, worker)):
                self._refuse(task, task.number in started)
        self._flushing.ask()

    def _all_lost(self) -> None:
        """Nodes that were lost together are known by now: let their evaluations start elsewhere."""
        self.scheduler.suspects_wait = False
        self._flush()

    def _charged(self, task: Task, worker: Worker) -> bool:
        """End an evaluation that was on too many nodes when they were lost."""
        evaluation = self._evaluations.get(task.number)
        nodes = list(task.past.lost) if task.past is not None else []
        if evaluation is None or len(nodes) < evaluation.options.crash_limit:
            return False
        logs = [self._lost_logs[node] for node in nodes]
        log_file = self._orders.log_file(worker)
        self.scheduler.cancel(task)
        error = TooManyNodesLost(evaluation.title, worker.name, worker.node, -9, log_file, nodes=nodes, logs=logs)
        self._fail(evaluation, error)
        return True

    def _release(self, task: Task, node: str) -> None:
        """By now an exclusive task must have ended on the lost node: let it run elsewhere."""
        if task.number not in self._evaluations:
            return
        if task.cpus > self.scheduler.pool.largest:
            self._refuse(task)
        else:
            self.scheduler.resubmit(task)
            self._on_returned(task, node)
            self._flushing.ask()

    def _refuse(self, task: Task, started: bool = True) -> None:
        """No node is left that could run a task."""
        evaluation = self._evaluations.get(task.number)
        refusal: HyperflowError | None = self.scheduler.refusal(task.cpus) if self.fleet.links else None
        if refusal is None and self._last_loss is not None:
            refusal = NodeLost(*self._last_loss.args)
        if evaluation is not None and refusal is not None:
            failures.add_note(refusal, f"(it was to run {evaluation.title})")
            self._fail(evaluation, refusal, started)

    def _on_drain(self, ending: AllocationEnding) -> None:
        """Start nothing more."""
        self._events.note("ending", cause=ending.why, seconds=round(ending.seconds, 1))
        self.scheduler.paused = True
        self._flushing.ask()

    def _turn_away(self, ending: AllocationEnding) -> None:
        """End all that is left: what waits, and what still runs."""
        self.bulk.single_out_all()
        for evaluation in dict.fromkeys(self._evaluations.values()):  # once each, also those that have a copy
            started = is_started(evaluation.task)
            self.scheduler.cancel(evaluation.task)
            self._fail(evaluation, AllocationEnding(*ending.args), started)
        self._flushing.ask()

    async def close(self) -> None:
        """End everything; what still waits is cancelled."""
        self.closed = True
        self.drain.close()
        self._rebalancing.close()
        self._losing.close()
        self._copies.close()
        for timer in self._after_loss:
            timer.cancel()
        self.bulk.single_out_all()
        for evaluation in list(self._evaluations.values()):
            evaluation.cancel()
        self._flush()
        try:
            await self.fleet.close()
            await self.locks.close()
        finally:
            self._flushing.close()
            self._writing.close()
            self._dropping.close()
            self._packer.buffers.close()
            self._collector.close()
            self._events.close()
            if self.echo is not None:
                self.echo.close()


@asynccontextmanager
async def open_engine(
    nodes: Sequence[NodePlan],
    program: ProgramInfo,
    *,
    settings: Settings | None = None,
    preload: Sequence[str] = (),
    end: End | None = None,
    echo: bool = False,
) -> AsyncIterator[Engine]:
    """Start a launcher on each node; at the end of the scope, end everything.

    Each launcher imports the modules of `preload` once, before it forks workers.

    Raises:
        LauncherError: Fewer than `min_nodes` launchers could be started.
        ConfigurationError: A module of `preload` does not import.
    """
    engine = Engine(program, settings or Settings(), echo)
    try:
        await engine.fleet.start(nodes, preload)
        if end is not None:
            engine.drain.expect(end)
        engine.note_nodes()
        yield engine
    finally:
        await engine.close()
