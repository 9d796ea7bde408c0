"""What the parts of an engine share: it makes this for bulk/, endings.py and losses.py, which do not know it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import attrs

from hyperflow.environment import Making, Try
from hyperflow.events.writer import EventLog
from hyperflow.head.account import Account
from hyperflow.head.aside import NodesAside
from hyperflow.head.broadcast import Broadcast
from hyperflow.head.bulk.calls import Calls
from hyperflow.head.checkpoints import Checkpoints
from hyperflow.head.copies import Copies
from hyperflow.head.ends import Ends
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.fleet import Fleet
from hyperflow.head.learning import Learning
from hyperflow.head.node_files import NodeFiles
from hyperflow.head.orders import Orders
from hyperflow.head.pieces import PieceTable
from hyperflow.head.post_mortems import PostMortems
from hyperflow.head.streams import Streams
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.progress.tally import Tally
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.shipping.packer import Packer
from hyperflow.wire.numbers import TaskNumber


@attrs.frozen(eq=False, repr=False)
class Head:
    """What there is once in an engine.

    Args:
        evaluator: The engine, as environments know it.
        program: The program's id.
        evaluations: Those by themselves that have not ended; copies of stragglers, too.
        tries: Those that are part of a flow under `retry`.
        makings: Those whose result goes into one that will be recorded.
        is_open: Whether evaluations are taken.
        counted: Counts and logs calls that are submitted together, and returns the first one's number.
        turn: Logs what was submitted in this turn.
        flush_soon: Asks the scheduler at the end of this turn.
    """

    evaluator: object
    program: str
    scheduler: Scheduler
    fleet: Fleet
    packer: Packer
    orders: Orders
    broadcast: Broadcast
    node_files: NodeFiles
    events: EventLog
    tally: Tally
    counts: Counter[str]
    account: Account
    aside: NodesAside
    locks: LockManager
    worker_locks: WorkerLocks
    streams: Streams
    copies: Copies
    learning: Learning
    checkpoints: Checkpoints
    ends: Ends
    post_mortems: PostMortems
    pieces: PieceTable
    evaluations: dict[TaskNumber, Evaluation]
    tries: dict[TaskNumber, Try]
    makings: dict[Evaluation, Making]
    is_open: Callable[[], bool]
    counted: Callable[[Calls], TaskNumber]
    turn: Callable[[], None]
    flush_soon: Callable[[], None]
