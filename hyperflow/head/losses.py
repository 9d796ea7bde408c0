"""The loss of nodes: what was there waits again or ends, and who is to be told.

Guarantees:
- What was on a lost node is a suspect. It is charged when it was on as many as its `crash_limit` when those were lost.
- Nodes that go together are lost together: nothing goes from one to the next while more may be gone.
- What is exclusive starts elsewhere only when nothing can run on the lost node any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from hyperflow import failures
from hyperflow.errors import AllocationEnding, HyperflowError, NodeLost, TooManyNodesLost
from hyperflow.head.bulk.bulk import Bulk
from hyperflow.head.endings import Endings
from hyperflow.head.head import Head
from hyperflow.head.later import Later
from hyperflow.head.link import Link
from hyperflow.scheduling.state import Task, Worker
from hyperflow.wire.numbers import TaskNumber

END_GRACE = 15.0
"""Seconds after which nothing runs on a node whose launcher has seen the end of its stream; see launcher/keeper.py."""

LOSS_PAUSE = 0.5
"""Seconds after the loss of a node until its evaluations start elsewhere. A switch that fails takes many nodes away,
one stream ends after the other, and what went from one such node to the next would be charged with both."""


class Losses:
    """The nodes that a head has lost.

    Args:
        silence_limit: Seconds for which a launcher may go on that hears nothing.
        flush: Asks the scheduler now.
    """

    def __init__(
        self, head: Head, bulk: Bulk, endings: Endings, silence_limit: float, flush: Callable[[], None]
    ) -> None:
        self.last: NodeLost | None = None
        """The last one."""
        self._head = head
        self._bulk = bulk
        self._endings = endings
        self._silence_limit = silence_limit
        self._flush = flush
        self._logs: dict[str, str] = {}
        self._losing = Later(self._all_lost, LOSS_PAUSE)
        self._after: list[asyncio.TimerHandle] = []  # for when a lost node must have ended

    def on_lost(self, link: Link, cause: str, silent: bool) -> None:
        """A node has gone without being asked to."""
        head = self._head
        node = link.node
        head.post_mortems.lost(node)
        self._bulk.single_out_all([node])  # each of them is a suspect now
        head.counts["nodes_lost"] += 1
        self.last = NodeLost(node, cause, str(link.log_file))
        head.orders.at_nodes.pop(node, None)
        head.broadcast.lost(node)
        wait = END_GRACE + (self._silence_limit if silent else 0.0)
        loop = asyncio.get_running_loop()
        self._logs[node] = str(link.log_file)
        there = head.scheduler.workers_at(node)
        at_work = head.scheduler.tasks_at(node)
        for each in there:
            head.orders.worker_gone(each.number)
            if head.locks.busy:  # it may go on for a while
                self._after.append(loop.call_later(wait, head.worker_locks.worker_gone, each.number))
        for task in head.scheduler.withhold(node):
            if not self._charged(task, at_work[task.number][0], node):
                self._try_again(task, at_work)
                head.events.withheld(task.number, wait)
                self._after.append(loop.call_later(wait, self._release, task, node))
        head.scheduler.suspects_wait = True
        self._losing.ask()
        back, impossible = head.scheduler.lose_node(node)
        head.account.holds(head.scheduler.pool.total, len(head.fleet.links))
        head.aside.lost(node)
        for task in back:
            if not head.copies.gives_way(task, node) and not self._charged(task, at_work[task.number][0], node):
                self._try_again(task, at_work)
                self._endings.returned(task, node)
        for task in self._bulk.apart(impossible):
            worker, started = at_work.get(task.number, (None, False))
            if head.copies.gives_way(task, node) or (task.number in at_work and self._charged(task, worker, node)):
                continue
            self.refuse(task, started)
        head.flush_soon()

    def _try_again(self, task: Task, at_work: Mapping[TaskNumber, tuple[Worker | None, bool]]) -> None:
        """It will be started again, perhaps for the first time."""
        if at_work[task.number][1]:
            self._head.orders.try_again(task)

    def _all_lost(self) -> None:
        """Nodes that were lost together are known by now: let their evaluations start elsewhere."""
        self._head.scheduler.suspects_wait = False
        self._flush()

    def _charged(self, task: Task, worker: Worker | None, node: str) -> bool:
        """End an evaluation that was on too many nodes when they were lost."""
        evaluation = self._head.evaluations.get(task.number)
        nodes = list(task.past.lost) if task.past is not None else []
        if evaluation is None or len(nodes) < evaluation.options.crash_limit:
            return False
        logs = [self._logs[node] for node in nodes]
        log_file = self._head.orders.log_file(worker) if worker is not None else logs[-1]
        name = worker.name if worker is not None else f"a worker@{node}"  # of a team: only its launcher knew which
        self._head.scheduler.cancel(task)
        error = TooManyNodesLost(evaluation.title, name, node, -9, log_file, nodes=nodes, logs=logs)
        self._endings.fail(evaluation, error)
        return True

    def _release(self, task: Task, node: str) -> None:
        """By now an exclusive task must have ended on the lost node: let it run elsewhere."""
        if task.number not in self._head.evaluations:
            return
        if not self._head.scheduler.is_possible(task.asks or task.cpus):
            self.refuse(task)
        else:
            self._head.scheduler.resubmit(task)
            self._endings.returned(task, node)
            self._head.flush_soon()

    def refuse(self, task: Task, started: bool = True) -> None:
        """No node is left that could run a task."""
        evaluation = self._head.evaluations.get(task.number)
        refusal: HyperflowError | None = (
            self._head.scheduler.refusal(task.asks or task.cpus) if self._head.fleet.links else None
        )
        if refusal is None and self.last is not None:
            refusal = NodeLost(*self.last.args)
        if evaluation is not None and refusal is not None:
            failures.add_note(refusal, f"(it was to run {evaluation.title})")
            self._endings.fail(evaluation, refusal, started)

    def too_late(self, task: Task) -> None:
        """Nodes had enough time left for a task when it was submitted; while it waited, that has passed.

        So it ends as what waits at the end of the allocation does, and a Job that is requeued goes on from there.
        """
        evaluation = self._head.evaluations.get(task.number)
        if evaluation is not None and task.asks is not None:
            why, left = self._head.scheduler.time_left(task.asks)
            self._endings.fail(evaluation, AllocationEnding(why, left), started=False)

    def close(self) -> None:
        """Wait for nothing more."""
        self._losing.close()
        for timer in self._after:
            timer.cancel()
