"""Nodes that have gone, lost or released: what was there waits again or ends, and who is to be told.

Guarantees:
- What was on a node that is released waits again, uncharged: it is no suspect, and may start anywhere at once.
- What was on a lost node is a suspect. It is charged when it was on as many as its `crash_limit` when those were lost.
- Nodes that go together are lost together: nothing goes from one to the next while more may be gone.
- What is exclusive starts elsewhere only when nothing can run on the node any more.
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
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

AtWork = Mapping[TaskNumber, tuple[Worker | None, bool]]
"""Which worker has a task, if that is known, and whether it is started."""

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
        self._closed = False
        self._logs: dict[str, str] = {}
        self._losing = Later(self._all_lost, LOSS_PAUSE)
        self._after: list[asyncio.TimerHandle] = []  # for when a lost node must have ended

    def on_lost(self, link: Link, cause: str, silent: bool) -> None:
        """A node has gone without being asked to."""
        head = self._head
        node = link.node
        head.counts["nodes_lost"] += 1
        self.last = NodeLost(node, cause, str(link.log_file))
        wait = END_GRACE + (self._silence_limit if silent else 0.0)
        self._logs[node] = str(link.log_file)
        at_work = self._forget(node)
        if head.locks.busy:  # they may go on for a while
            for each in head.scheduler.workers_at(node):
                self._later(wait, head.worker_locks.worker_gone, each.number)
        for task in head.scheduler.withhold(node):
            if not self._charged(task, at_work[task.number][0], node):
                self._try_again(task, at_work)
                head.events.withheld(task.number, wait)
                self._later(wait, self._release, task, node)
        head.scheduler.suspects_wait = True
        self._losing.ask()
        back, impossible = head.scheduler.lose_node(node)
        self._has_gone(node)
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

    def on_left(self, link: Link) -> None:
        """A node is given up on purpose, and its launcher is ending what runs there."""
        head, node = self._head, link.node
        at_work = self._forget(node)
        workers = [each.number for each in head.scheduler.workers_at(node)] if head.locks.busy else []
        held = head.scheduler.withhold(node, blamed=False)
        for task in held:
            self._try_again(task, at_work)
            head.events.withheld(task.number, 0.0)
        if link.closing is not None and (held or workers):
            link.closing.add_done_callback(lambda _: self._after_left(link, at_work, held, workers))
        back, impossible = head.scheduler.lose_node(node, blamed=False)
        self._has_gone(node)
        for task in back:
            if not head.copies.gives_way(task, node, blamed=False):
                self._try_again(task, at_work)
                self._endings.returned(task, node)
        for task in self._bulk.apart(impossible):
            if not head.copies.gives_way(task, node, blamed=False):
                self.refuse(task, at_work.get(task.number, (None, False))[1])
        head.flush_soon()

    def _after_left(self, link: Link, at_work: AtWork, held: list[Task], workers: list[WorkerNumber]) -> None:
        """A node that was released has ended, as far as that is known: what is exclusive may start elsewhere."""
        if self._closed:
            return
        wait = 0.0 if link.ended_in_order else END_GRACE + self._silence_limit
        for number in workers:
            self._later(wait, self._head.worker_locks.worker_gone, number)
        for task in held:
            self._later(wait, self._release_without, task, at_work[task.number][0], link.node)

    def _release_without(self, task: Task, worker: Worker | None, node: str) -> None:
        """Let an exclusive task run elsewhere, when its worker has gone, too: of several nodes, one may have gone."""
        if worker is not None and worker.number in self._head.scheduler.workers:
            self._later(LOSS_PAUSE, self._release_without, task, worker, node)
        else:
            self._release(task, node)

    def _forget(self, node: str) -> AtWork:
        """Forget what a node has; return what it has of evaluations."""
        head = self._head
        head.post_mortems.lost(node)
        self._bulk.single_out_all([node])
        head.orders.at_nodes.pop(node, None)
        head.broadcast.lost(node)
        head.node_files.lost(node)
        head.ends.forget(node)
        for each in head.scheduler.workers_at(node):
            head.orders.worker_gone(each.number)
        return head.scheduler.tasks_at(node)

    def _has_gone(self, node: str) -> None:
        self._head.account.holds(self._head.scheduler.pool.total, len(self._head.fleet.links))
        self._head.aside.lost(node)

    def _later(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        now = asyncio.get_running_loop().time()
        self._after = [timer for timer in self._after if not timer.cancelled() and timer.when() > now]
        self._after.append(asyncio.get_running_loop().call_later(seconds, call, *args))

    def _try_again(self, task: Task, at_work: AtWork) -> None:
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
        refusal: HyperflowError | None = None
        if self._head.fleet.links or self._head.scheduler.pool.kinds or self.last is None:
            refusal = self._head.scheduler.refusal(task.asks or task.cpus)
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
        self._closed = True
        self._losing.close()
        for timer in self._after:
            timer.cancel()
