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
import functools
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, NamedTuple

import attrs

from hyperflow import environment
from hyperflow.config import Settings
from hyperflow.environment import Activity, Making, MapOwner, Statistics, Try, in_another_loop, peek_making, peek_try
from hyperflow.errors import (
    AllocationEnding,
    EnvironmentClosed,
    HyperflowError,
    ImpossibleRequest,
)
from hyperflow.events.writer import EventLog
from hyperflow.flow import show_call
from hyperflow.head.account import Account
from hyperflow.head.allocation_end import Drain, End
from hyperflow.head.aside import NodesAside
from hyperflow.head.broadcast import Broadcast
from hyperflow.head.bulk.bulk import Bulk
from hyperflow.head.bulk.calls import Calls
from hyperflow.head.bulk.maps import BulkMap
from hyperflow.head.checkpoints import Checkpoints
from hyperflow.head.collector import Collector
from hyperflow.head.copies import Copies
from hyperflow.head.described import described
from hyperflow.head.echo import Echo
from hyperflow.head.endings import Endings
from hyperflow.head.ends import Ends
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.fleet import Fleet, NodePlan
from hyperflow.head.head import Head
from hyperflow.head.later import Later
from hyperflow.head.learning import Learning
from hyperflow.head.link import Frame, Link
from hyperflow.head.losses import Losses
from hyperflow.head.membership import Membership, OnReturned
from hyperflow.head.node_files import NodeFiles
from hyperflow.head.orders import Orders
from hyperflow.head.pieces import PieceTable
from hyperflow.head.post_mortems import PostMortems
from hyperflow.head.ranks import Ranks
from hyperflow.head.said import Said
from hyperflow.head.streams import Streams
from hyperflow.head.usage import Usage
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.options import Options
from hyperflow.pieces import Pieces
from hyperflow.program import ProgramInfo
from hyperflow.progress.tally import Counted, Snapshot, Tally
from hyperflow.request import CPUS_ONLY, Capacity
from hyperflow.scheduling.scheduler import REBALANCE_LOOKS, REBALANCE_PAUSE, Scheduler
from hyperflow.scheduling.state import Task, Worker, is_started
from hyperflow.shipping.packer import Kept, PackedCall, Packer
from hyperflow.staging.keeping import KEEPING
from hyperflow.steering import Steered
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import WorkerEnded
from hyperflow.wire.numbers import TaskNumber, WorkerNumber
from hyperflow.wire.views import KEPT_SECONDS

logger = logging.getLogger("hyperflow")

running_loop = asyncio.get_running_loop
"""Bound once: each evaluation asks. One from another loop would never end, as nothing there sees its answer."""

peek_activity = environment.activity.get

LATE_PAUSE = 1.0
"""Seconds between looks at what waits and needs a node for some time: whether any still has it."""

EVENTS_PAUSE = 0.25
"""Seconds that a line of the event log may wait."""

WORK_AT_ONCE = 1000
"""Answers, or others of a node's messages, that are dealt with in one turn of the event loop: some thirty milliseconds.
What a thousand nodes say at the same time would else keep the user's flows, and the signs of life, waiting. It is less
than a map starts in a turn (STARTS_BETWEEN_PAUSES), so that a backlog forms, from which can be prefetched."""

STARTS_AT_ONCE = 10_000
"""Tasks that are given to free CPUs in one turn of the event loop; fewer where they need new workers."""

MOST_LOOKED_AT = 10_000
"""Workers that `progress` looks at: twenty milliseconds."""

RESULTS, ANSWERS = int(Kind.RESULTS), int(Kind.ANSWERS)
"""As plain numbers, because each frame is compared with them."""


GIVEN_BACK = "given back by hand"


class Loss(NamedTuple):
    """The end of a node's stream, behind what came from there."""

    link: Link
    cause: str
    silent: bool
    released: asyncio.Future[None] | None = None
    """Of a node that is given up on purpose: to be set when that is done."""


def _nobody(node: str, cause: str) -> None:
    """Do nothing."""


class Engine:
    """Evaluates calls on the workers of some nodes. Made by `open_engine`."""

    def __init__(self, program: ProgramInfo, settings: Settings, echo: bool = False) -> None:  # noqa: PLR0915 (all its parts)
        self.closed = False
        self.pool: Steered | None = None
        """Where the nodes come from, if people can steer that."""
        self.echo = Echo(program) if echo else None
        self._loop = asyncio.get_running_loop()
        self._program = program.program_id
        self.scheduler = Scheduler(time.monotonic)
        self.account = Account()
        self._events = EventLog(program.log_dir / "events.jsonl")
        self.fleet = Fleet(program, settings, self._events, self._on_frames, self, self._on_end, self._on_lost)
        self.fleet.echo = echo
        self.locks = LockManager()
        self.streams = Streams(program.call)
        self.worker_locks = WorkerLocks(self.locks, self.scheduler, self.fleet.write, self._name)
        self.aside = NodesAside(self.scheduler, self.fleet.links, self._events)
        self.drain = Drain(self._on_drain, self._turn_away)
        self._ends = Ends(self.drain, self.aside.trust.drained, self.fleet.write)
        self.time_left, self.is_ending = self._ends.time_left, self._ends.is_ending
        self._packer = Packer()
        self._evaluations: dict[TaskNumber, Evaluation] = {}
        self.post_mortems = PostMortems(self.fleet.write)
        self.pieces = PieceTable(self.fleet, self._evaluations)
        self.receivers = self.pieces.receivers
        self._broadcast = Broadcast(self.fleet.links, settings.node_to_node != "off")
        self.node_files = NodeFiles(self.fleet.links, self._broadcast, self._packer.next_number)
        self.fleet.on_peers = self.node_files.on_message
        self.receivers[KEEPING] = self.node_files.kept.note
        self._orders = Orders(
            self.fleet.links, self._broadcast, self._packer, self._evaluations, self._events, self.fleet.logs
        )
        # Those of this turn, each followed by its activity; by function, CPUs, the name that they were given, and
        # whether they are of a remote_map.
        self._submitted = defaultdict[tuple[str, int, str | None, bool], list[int]](list)
        self._inbox: deque[Frame | Loss] = deque()  # what has come and waits for its turn
        self._left = WORK_AT_ONCE  # of this turn
        self._heard = False  # whether teams have answered, and their launchers were not told that it has been read
        self._begun: list[tuple[int, int]] = []  # activities that are new, with their parents
        self._next_task: TaskNumber = TaskNumber(1)
        self._copies = Copies(
            self.scheduler, self._evaluations, self._events, self.locks, self._new_number, self._flush
        )
        self._tries: dict[TaskNumber, Try] = {}  # of those that are part of a flow under `retry`
        self._makings: dict[Evaluation, Making] = {}  # of those whose result goes into one that will be recorded
        self._checkpoints = Checkpoints(program, self.fleet.write)
        self._collector = Collector()
        self._counts: Counter[str] = Counter()
        self._tally = Tally()
        self.maps: set[Counted] = self._tally.maps
        self._flushing = Later(self._flush)
        self._dropping = Later(self._drop_old, KEPT_SECONDS)
        self._rebalancing = Later(self._rebalance, REBALANCE_PAUSE)
        self._refusing = Later(self._refuse_late, LATE_PAUSE)
        self.learning = Learning(self.scheduler, self._events, self._flushing.ask)
        self._usage = Usage(self._tally, self._events, self._packer.definitions.known)
        self._writing = Later(self._write, EVENTS_PAUSE)
        head = self._shared()
        self._endings = Endings(head)
        self._cancelled = self._endings.cancelled  # bound once: each evaluation has it
        self.bulk = Bulk(head, self._endings)
        self._ranks = Ranks(
            self.fleet.links, self.fleet.write, self.fleet.logs, self._memory_limit, self._endings.on_ended
        )
        self._said = Said(head, self.bulk, self._ranks, self._usage, self.echo)
        self._losses = Losses(head, self.bulk, self._endings, settings.silence_limit, self._flush)
        self._membership = of_nodes = Membership(head, self._leave, self._refuse)
        self.add_node, self.drain_node, self.release_node = of_nodes.add, of_nodes.drain, of_nodes.release
        self.resume_node, self.may_come = of_nodes.resume, of_nodes.may_come
        self.forgive = of_nodes.forgive
        self.lend, self.reclaim = of_nodes.lend, of_nodes.reclaim
        self.demand, self.free_cpus, self.is_busy = of_nodes.demand, of_nodes.free_cpus, of_nodes.is_busy
        self.on_node_gone: Callable[[str, str], object] = _nobody
        """Gets the name of a node that was lost, and why; not of one that was released."""

    def _shared(self) -> Head:
        """Return what the parts of this share."""
        return Head(
            evaluator=self,
            program=self._program,
            scheduler=self.scheduler,
            fleet=self.fleet,
            packer=self._packer,
            orders=self._orders,
            broadcast=self._broadcast,
            node_files=self.node_files,
            events=self._events,
            tally=self._tally,
            counts=self._counts,
            account=self.account,
            aside=self.aside,
            locks=self.locks,
            worker_locks=self.worker_locks,
            streams=self.streams,
            copies=self._copies,
            learning=self.learning,
            checkpoints=self._checkpoints,
            ends=self._ends,
            post_mortems=self.post_mortems,
            pieces=self.pieces,
            evaluations=self._evaluations,
            tries=self._tries,
            makings=self._makings,
            is_open=lambda: (bool(self.fleet.links) or self._membership.may_come_any) and self.drain.over is None,
            counted=self._count_calls,
            turn=self._log_submitted,
            flush_soon=self._flushing.ask,
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
            ImpossibleRequest: No node has what it asks for.
            SerializationError: The function or an argument cannot be sent.
            NodeLost: No node is left.
            AllocationEnding: The allocation ends.
            EnvironmentClosed: It has been closed.
            NotInFlow: This is another event loop, maybe in another thread.
        """
        if self.bulk.submit_open is not None:
            self.bulk.submit_open()
        if not (self.fleet.links or self._membership.may_come_any) or self.drain.over is not None:
            raise self._refusal()
        if running_loop() is not self._loop:
            raise in_another_loop(show_call(fn, args, kwargs))
        if packed is None:
            packed = self._packer.pack(fn, args, kwargs)
        function = packed.function
        size = len(packed.payload)
        if packed.buffers:
            size += sum(len(buffer) for buffer in packed.buffers if not isinstance(buffer, int))
        number, fresh = self._next_task, options.fresh_process
        request = options.request if not options.learns else self.learning.request(fn, function.name, options)
        if request is not None and request.speculative and options.guess is not None and options.guess.is_wanted:
            request = request.wanted()
        task = Task(number, function.number, options.cpus, fresh, options.alone, size, options.exclusive, request)
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
        if options.alone:
            self._note(evaluation)
        if request is not None and request.speculative and options.guess is not None:
            options.guess.add(evaluation, functools.partial(self._want, task))
            evaluation.add_done_callback(options.guess.drop)
        if self.locks.busy:
            self.worker_locks.submitted(task)
        activity = peek_activity()
        of = 0 if activity is None else activity.number or self._begin(activity)
        self._submitted[function.name, options.cpus, options.name, stream is not None].extend((number, of))
        if not self._flushing.due:
            self._flushing.ask()
        return evaluation

    def _note(self, evaluation: Evaluation) -> None:
        """Note what is to be watched of an evaluation."""
        options = evaluation.options
        if options.learns:
            self.learning.submitted(evaluation)
        if options.straggler_factor is not None:
            self._copies.stragglers.watch(evaluation.task, evaluation.packed.function.name, options.straggler_factor)

    def _want(self, task: Task) -> None:
        """A guess is wanted now."""
        self.scheduler.want(task)
        self._flushing.ask()

    def stream(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Options,
        pieces: Pieces,
    ) -> Evaluation:
        """Do the same for a call that sends pieces while it runs. (There is no copy of it: they would come twice.)"""
        if options.straggler_factor is not None:
            options = attrs.evolve(options, straggler_factor=None)
        evaluation = self.submit(fn, args, kwargs, options)
        self.pieces.opened(evaluation, pieces)
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
        return self._losses.last or HyperflowError("no node is up, and none may come")

    def statistics(self) -> Statistics:
        """Return how many nodes, CPUs, workers and evaluations there are in each state; cheap."""
        self.scheduler.settle()
        pool = self.scheduler.pool
        (gpus, gpus_free), (memory, memory_free) = pool.gpus, pool.memory
        return Statistics(
            nodes=len(self.fleet.links),
            nodes_lost=self._counts["nodes_lost"],
            cpus=pool.total,
            cpus_free=pool.cpus_free,
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
            functions={name: counts.statistics() for name, counts in self._tally.of.items()},
            gpus=gpus,
            gpus_free=gpus_free,
            memory=memory,
            memory_free=memory_free,
            tokens={name: each.total for name, each in pool.tokens.items()},
            tokens_free={name: each.free for name, each in pool.tokens.items()},
        )

    def progress(self) -> Snapshot:
        """Return how evaluations stand, by function or name. Of many workers, it looks at each third, say."""
        workers = self.scheduler.workers
        step = 1 + len(workers) // MOST_LOOKED_AT
        running, busy = Counter[str](), 0
        for worker in islice(workers.values(), 0, None, step):
            if worker.is_busy:
                busy += step * len(worker.cpus)
                evaluation = self._evaluations.get(worker.current) if worker.queue else None
                group = evaluation.group if evaluation is not None else self.bulk.group_of(worker)
                if group is not None:
                    running[group] += step
        gpus, gpus_free = self.scheduler.pool.gpus
        return self._tally.snapshot(
            running,
            gpus=gpus,
            gpus_busy=round(gpus - gpus_free, 3),
            cpus=self.cpus,
            busy=min(busy, self.cpus),
            nodes=len(self.fleet.links),
            nodes_lost=self._counts["nodes_lost"],
            nodes_asked=self.pool.asked() if self.pool is not None else 0,
        )

    def note_nodes(self) -> None:
        """Write the event log soon: who looks wants to see the nodes, also before anything is evaluated."""
        self._writing.ask()

    def nodes(self) -> list[dict[str, str | float]]:
        """Return what is to know about each node that is up."""
        return self.aside.table()

    def describe_node(self, node: str) -> dict[str, Any]:
        """Return all that is known here of one node that is up; raises ConfigurationError if it is not."""
        self.aside.check(node)
        own = self._ends.end_of(node)
        left = self.time_left() if own is None else min(own, self.time_left())
        return described(self.fleet.links[node], self.scheduler.pool.nodes.get(node), left)

    def node_up(self, node: str, cpus: Sequence[int], capacity: Capacity = CPUS_ONLY) -> None:
        """Use a node, which may come late."""
        self._refuse(self.scheduler.add_node(node, cpus, self._membership.capacity(node, capacity)))
        self.account.holds(self.cpus, len(self.fleet.links))
        self._ends.tell_new(node)
        self._flushing.ask()

    def expect(self, end: End) -> None:
        """The allocation ends some time."""
        self.drain.expect(end)
        self._ends.tell(*self.fleet.links)

    def node_late(self, node: str, cpus: int) -> None:
        """Wait for a node with what is too large for the others."""
        self.scheduler.pool.expect(node, cpus)

    def node_failed(self, node: str) -> None:
        """Refuse what only that node could have run."""
        self._refuse(self.scheduler.expect_no_more(node))

    @property
    def on_returned(self) -> OnReturned:
        """Gets what has left the account of a node after `reclaim`."""
        return self._membership.on_returned

    @on_returned.setter
    def on_returned(self, told: OnReturned) -> None:
        self._membership.on_returned = told

    def _refuse(self, tasks: list[Task]) -> None:
        """End what waited, and cannot be had any more."""
        for task in self.bulk.apart(tasks):
            self._losses.refuse(task, started=False)

    async def inspect(self, task: int, line: str) -> str:
        """Have pdb carry out a line in the copy of a process that has failed; raises HyperflowError."""
        return await self.post_mortems.ask(task, line)

    def is_up(self, node: str) -> bool:
        """Whether a node is in use."""
        return node in self.fleet.links

    def put_aside(self, node: str) -> None:
        """Start nothing more on a node; raises ConfigurationError if it is not up."""
        self.aside.drain(node)
        self._ends.tell(node)
        self._flushing.ask()

    async def give_back(self, node: str) -> None:
        """Give a node up by hand, now; raises ConfigurationError if it is not up."""
        self.aside.check(node)
        if self.pool is not None:
            self.pool.keep_away(node)
        await self.release_node(node, GIVEN_BACK)

    def take_back(self, node: str) -> None:
        """Use a node again that was put aside, or given back by hand; raises ConfigurationError if it is neither."""
        if node not in self.fleet.links and self.pool is not None and self.pool.take_back(node):
            return
        self.aside.resume(node)
        self._ends.tell(node)
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
        if self.scheduler.waits_for_time:
            self._refusing.ask()
        if self.locks.busy:
            self.worker_locks.check_stall()
        gone = self._orders.forget()
        if gone:
            self.scheduler.forget(gone)
            self._dropping.ask()
        if self._inbox or self.scheduler.unfinished:
            self._flushing.ask()
        if self._heard and not self._inbox:
            self._heard = False
            self.fleet.tell_heard()
        self._collector.follow(len(self._evaluations) + len(self.scheduler.workers))

    def _drop_old(self) -> None:
        if self._orders.drop_old():
            self._dropping.ask()

    def _write(self) -> None:
        self._usage.write()
        self._events.flush()

    def _rebalance(self) -> None:
        if self.scheduler.unbalanced:
            self.scheduler.rebalance(looks=REBALANCE_LOOKS)
            self._flush()

    def _refuse_late(self) -> None:
        """Time has passed: end what no node can serve any more."""
        for task in self.scheduler.take_late():
            self._losses.too_late(task)
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
        if self.fleet.links.get(link.node) is link:
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
                if item.released is None:
                    self.fleet.lost(item.link, item.cause, item.silent)
                else:
                    self._released(item.link, item.cause, item.released)
            else:
                self._on_frame(*item)

    def _on_frame(self, kind: int, number: WorkerNumber, body: memoryview) -> None:
        self._left -= 1
        if kind in (RESULTS, ANSWERS):
            if self.fleet.failed_starts:
                self.fleet.failed_starts.clear()
            if kind == RESULTS:
                self._left -= self._endings.on_results(number, body)
            else:
                self._left -= len(body) >> 8  # one of a batch costs an eighth, and has some thirty bytes
                self._heard = True
                self.bulk.on_answers(number, body)
        elif kind == Kind.LEFT:
            self.scheduler.left(number, (each for (each,) in frames.NUMBER.iter_unpack(body)))
        elif kind == Kind.RECALLED:
            self._endings.retracted(self.scheduler.recalled(number, frames.RANGE.iter_unpack(body)))
        elif kind == Kind.RETRACTED:
            self._endings.retracted(self.scheduler.retracted(number, *frames.SEQS.unpack(body)))
        elif kind == Kind.ENDED:
            ended = messages.read(WorkerEnded, body)
            if self._ranks.ended(number, ended):
                return
            if ended.task and number in self.scheduler.workers:
                self.bulk.single_out(self.scheduler.workers[number], ended.task)
            self._endings.on_ended(number, ended)
        elif kind == Kind.RETURNED:
            self._orders.returned(number, body)
        elif kind in (Kind.KEPT, Kind.INSPECTED):
            self._said.of_copy(kind, number, body)
        elif number in self.scheduler.workers:
            self._said.of_worker(self.scheduler.workers[number], kind, body)

    def _memory_limit(self, task: TaskNumber) -> int | None:
        evaluation = self._evaluations.get(task)
        return evaluation.memory_limit if evaluation is not None else None

    def _name(self, worker: Worker, task: TaskNumber) -> str:
        evaluation = self.bulk.evaluation(worker, task)
        return evaluation.name if evaluation is not None else f"evaluation {task}"

    # ---- the end of a node, of the allocation, of the engine ----------------------------------------------------

    def _on_lost(self, link: Link, cause: str, silent: bool) -> None:
        self._ranks.lost(link.node)
        self._losses.on_lost(link, cause, silent)
        self.on_node_gone(link.node, cause)

    def _leave(self, link: Link, cause: str, done: asyncio.Future[None]) -> None:
        """A node is to be given up. What has come from there counts, so it is read first."""
        self._inbox.append(Loss(link, cause, False, done))
        self._read_on()
        self._flushing.ask()

    def _released(self, link: Link, cause: str, done: asyncio.Future[None]) -> None:
        if self.fleet.release(link, cause):
            self._ranks.lost(link.node, "has been given back")
            self._losses.on_left(link)
        if not done.done():  # else nobody waits for it any more
            done.set_result(None)

    def _on_drain(self, ending: AllocationEnding) -> None:
        """Start nothing more."""
        self._events.note("ending", cause=ending.why, seconds=round(ending.seconds, 1))
        self.scheduler.pause()
        self._ends.tell(*self.fleet.links)
        self._flushing.ask()

    def _turn_away(self, ending: AllocationEnding) -> None:
        """End all that is left: what waits, and what still runs."""
        self.bulk.single_out_all()
        for evaluation in dict.fromkeys(self._evaluations.values()):  # once each, also those that have a copy
            started = is_started(evaluation.task)
            self.scheduler.cancel(evaluation.task)
            self._endings.fail(evaluation, AllocationEnding(*ending.args), started)
        self._flushing.ask()

    async def close(self) -> None:
        """End everything; what still waits is cancelled."""
        self.closed = True
        self._membership.close()
        self.drain.close()
        self._rebalancing.close()
        self._refusing.close()
        self._losses.close()
        self._copies.close()
        self.bulk.single_out_all()
        for evaluation in list(self._evaluations.values()):
            evaluation.cancel()
        self._flush()
        try:
            await self.node_files.close()
            await self.fleet.close()
            await self.locks.close()
            await self._checkpoints.close()
        finally:
            self._flushing.close()
            self._writing.close()
            self._dropping.close()
            self._packer.buffers.close()
            self._collector.close()
            self.learning.close()
            self._usage.write(last=True)
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
    tokens: Sequence[tuple[str, int]] = (),
) -> AsyncIterator[Engine]:
    """Start a launcher on each node; at the end of the scope, end everything.

    Each launcher imports the modules of `preload` once, before it forks workers. `tokens` are those of the program.

    Raises:
        LauncherError: Fewer than `min_nodes` launchers could be started.
        ConfigurationError: A module of `preload` does not import.
    """
    engine = Engine(program, settings or Settings(), echo)
    engine.scheduler.set_tokens(dict(tokens))
    try:
        await engine.fleet.start(nodes, preload)
        if end is not None:
            engine.expect(end)
        engine.note_nodes()
        yield engine
    finally:
        await engine.close()
