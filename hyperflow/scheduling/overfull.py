"""Workers in no team that have more than one task, and what is taken back from them; for teams, see teams.py."""

from __future__ import annotations

from collections import deque

from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.prefetch import PATIENCE, Estimates
from hyperflow.scheduling.state import Effect, Retract, Worker
from hyperflow.wire.numbers import Seq


class Overfull:
    """Those that have, or had lately, more than one task. `effects` are the scheduler's orders."""

    def __init__(self, pool: Ledger, estimates: Estimates, effects: list[Effect]) -> None:
        self.workers: deque[Worker] = deque()
        self._pool = pool
        self._estimates = estimates
        self._effects = effects

    def add(self, worker: Worker) -> None:
        """A worker has more than one task now."""
        worker.overfull = True
        self.workers.append(worker)

    def retract(self, worker: Worker) -> None:
        """Take back what a worker has not started."""
        worker.retracting = True
        self._effects.append(Retract(worker, Seq(worker.sent + 1)))

    def take_from_slow(self, looks: int, active: int, answers: int) -> None:
        """Retract from those that have not answered while others, of so many at work, did; so many answers had come."""
        behind = PATIENCE * active
        for _ in range(min(looks, len(self.workers))):
            worker = self.workers.popleft()
            if worker.held < 2:
                worker.overfull = False
                continue
            self.workers.append(worker)
            is_behind = answers - worker.heard > behind * worker.held
            if is_behind and not worker.ending and not worker.retracting:
                worker.slow = True
                self.retract(worker)

    def rebalance(self, free: int, worth: float, looks: int | None) -> None:
        """Retract what so many free CPUs can take.

        Only from workers with at least `worth` seconds of prefetched work, after at most so many `looks` at workers.
        """
        room: dict[int, bool] = {}
        looked_at: list[Worker] = []
        for _ in range(len(self.workers) if looks is None else min(looks, len(self.workers))):
            if free <= 0:
                break
            worker = self.workers.popleft()
            cpus = len(worker.cpus)
            prefetched = worker.held - 1
            if prefetched < 1:
                worker.overfull = False
                continue
            looked_at.append(worker)
            if worker.ending:
                continue
            if not worker.retracting:
                if cpus not in room:
                    room[cpus] = self._pool.roomiest(cpus) is not None
                if not room[cpus] or not self._estimates.is_worth_retracting(worker, worth):
                    continue
                self.retract(worker)
            free -= prefetched * cpus
        if looks is not None and free > 0:
            self.workers.extend(looked_at)  # the next look is at others
        else:
            self.workers.extendleft(reversed(looked_at))
