"""`using(memory="auto")` and `using(min_time="auto")`: what evaluations ask for follows what those before have needed.

What waits asks for what is known now: when that changes, it is asked for anew. One that was killed at its limit runs
again with more, and is not charged; it never gets less than that again. The numbers are in scheduling/learning.py.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from hyperflow.events.writer import EventLog
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.later import Later
from hyperflow.options import Options
from hyperflow.request import Request
from hyperflow.saying import as_written
from hyperflow.scheduling.learning import Learned
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import WAITING, Task
from hyperflow.wire import frames
from hyperflow.wire.messages import MEMORY_LIMIT, WorkerEnded

logger = logging.getLogger("hyperflow")

UNMEASURED = 100_000_000
"""Bytes that an evaluation is taken to have had that was too short to be measured: it had no time to touch more."""

RECORDED = 50
"""So many of the last values of a function are recorded for later runs."""


class _Function:
    """What is known of a function, and those of its evaluations that are under way."""

    def __init__(self, name: str, cpus: int, learned: Learned) -> None:
        self.name = name
        self.cpus = cpus
        self.learned = learned
        self.alive: set[Evaluation] = set()
        self.new = False  # whether anything was learned in this run
        self.told: tuple[int, float] | None = None


class Learning:
    """What is learned in a run."""

    def __init__(self, scheduler: Scheduler, events: EventLog, flush_soon: Callable[[], None]) -> None:
        self.alive: dict[Evaluation, _Function] = {}
        """The evaluations that ask for "auto", and have not ended. (Not by number: a copy may take one's place.)"""
        self._floors: dict[Evaluation, int] = {}  # what those get at least that were killed
        self._asked: _Function | None = None  # whose request was made last
        self._functions: dict[str, _Function] = {}
        self._recorded: Mapping[str, Any] = {}
        self._scheduler = scheduler
        self._events = events
        self._flush_soon = flush_soon
        self._stale: set[str] = set()
        self._following = Later(self._follow)

    # ---- for the engine -----------------------------------------------------------------------------------------

    def request(self, fn: object, name: str, options: Options) -> Request:
        """Return what a new evaluation asks for."""
        key = f"{getattr(fn, '__module__', None) or ''}:{name}" + (f" ({options.name})" if options.name else "")
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = _Function(key, options.cpus, self._known(key))
        self._asked = function
        asks = self._asks(function, options, options.request or Request(options.cpus))
        self._tell(function, asks, options)
        return asks

    def submitted(self, evaluation: Evaluation) -> None:
        """That request was taken."""
        assert self._asked is not None
        self.alive[evaluation] = self._asked
        self._asked.alive.add(evaluation)

    def ended(self, evaluation: Evaluation, seconds: float, used: frames.Measured | None) -> None:
        """An evaluation has a result."""
        function = self.alive.get(evaluation)
        if function is None:
            return
        self.dropped(evaluation)
        function.learned.ended(UNMEASURED if used is None else used[1], seconds, evaluation.memory_limit)
        self._changed(function)

    def exceeds(self, evaluation: Evaluation, ended: WorkerEnded) -> bool:
        """Whether an evaluation whose worker has ended gets more memory, and is to run again."""
        given, function = evaluation.memory_limit, self.alive.get(evaluation)
        if function is None or given is None or evaluation.options.memory != "auto":
            return False
        if ended.reason != MEMORY_LIMIT and not ended.out_of_memory:
            return False
        seconds, sizes = time.monotonic() - evaluation.began, self._sizes(evaluation.options.cpus)
        more = function.learned.more(given, ended.peak_memory, seconds, *sizes)
        self._changed(function)
        if more is None:
            return False
        self._floors[evaluation] = more
        asks = evaluation.task.asks or Request(evaluation.options.cpus)
        evaluation.task.ask(asks._replace(memory=more))
        logger.info("%s had more than %s, and runs again with %s", evaluation.name, as_written(given), as_written(more))
        return True

    def dropped(self, evaluation: Evaluation) -> None:
        """An evaluation has ended, however that was."""
        function = self.alive.pop(evaluation, None)
        if function is not None:
            function.alive.discard(evaluation)
            self._floors.pop(evaluation, None)

    # ---- for who records it -------------------------------------------------------------------------------------

    def begin(self, recorded: Mapping[str, Any]) -> None:
        """This was learned in earlier runs."""
        self._recorded = recorded

    def learned(self) -> dict[str, dict[str, list[float]]]:
        """Return what is to be recorded: of each function of which something is new."""
        return {
            name: {
                "memory": [int(one) for one in function.learned.peaks.last(RECORDED)],
                "seconds": [round(one, 3) for one in function.learned.seconds.last(RECORDED)],
            }
            for name, function in self._functions.items()
            if function.new
        }

    def close(self) -> None:
        """Ask for nothing any more, and tell what is known."""
        self._following.close()
        for function in self._functions.values():
            self._note(function)

    # ---- what is asked for --------------------------------------------------------------------------------------

    def _known(self, key: str) -> Learned:
        found = self._recorded.get(key)
        try:
            return Learned(map(float, found["memory"]), map(float, found["seconds"])) if found else Learned()
        except (TypeError, ValueError, LookupError):  # somebody else has written it
            return Learned()

    def _sizes(self, cpus: int) -> tuple[int, int]:
        """Return the share of a node for so many CPUs, and all of the largest node; 0 where nobody knows."""
        nodes = [node for node in self._scheduler.pool.nodes.values() if node.capacity.memory]
        shares = [node.capacity.memory * min(cpus, len(node.ids)) // len(node.ids) for node in nodes]
        return min(shares, default=0), max((node.capacity.memory for node in nodes), default=0)

    def _asks(self, function: _Function, options: Options, asks: Request, least: int = 0) -> Request:
        share, whole = self._sizes(options.cpus)
        if options.memory == "auto" and whole:
            asks = asks._replace(memory=max(function.learned.memory(share, whole), min(least, whole)))
        if options.min_time == "auto":
            asks = asks._replace(min_time=function.learned.min_time())
        return asks

    def _changed(self, function: _Function) -> None:
        function.new = True
        self._stale.add(function.name)
        self._following.ask()

    def _follow(self) -> None:
        """Let what waits ask for what is known now."""
        stale, self._stale = self._stale, set()
        for function in map(self._functions.__getitem__, stale):
            changed = defaultdict[Request, list[Task]](list)
            for evaluation in function.alive:
                task = evaluation.task
                if task.state is not WAITING:
                    continue
                before = task.asks or Request(task.cpus)
                asks = self._asks(function, evaluation.options, before, self._floors.get(evaluation, 0))
                if asks != task.asks:
                    changed[asks].append(task)
            for asks, tasks in changed.items():
                self._scheduler.ask_again(tasks, asks)
                self._flush_soon()
            self._note(function)

    # ---- what is said of it -------------------------------------------------------------------------------------

    def _tell(self, function: _Function, asks: Request, options: Options) -> None:
        """Say at the first use what is asked for, and why."""
        if function.told is not None:
            return
        count = len(function.learned.peaks)
        why = f"learned from {count} earlier evaluations" if count else "nothing is known yet"
        memory = "unlimited" if asks.memory is None else as_written(asks.memory)
        if options.memory == "auto":
            share = "" if count or asks.memory is None else ", a share of a node by its CPUs"
            logger.info('memory="auto" of %s: %s%s (%s)', function.name, memory, share, why)
        if options.min_time == "auto":
            logger.info('min_time="auto" of %s: %g s (%s)', function.name, asks.min_time, why)
        self._note(function)

    def _note(self, function: _Function) -> None:
        """Write to the event log what the next evaluations need, when that has changed."""
        learned = function.learned
        most = learned.peaks.most()
        needs = learned.memory(0, 1 << 62) if most is not None else 0, learned.min_time()
        if function.told == needs and self._following.due is False:
            return
        function.told = needs
        self._events.note(
            "learned",
            function=function.name,
            cpus=function.cpus,
            memory=needs[0],
            min_time=needs[1],
            known=len(learned.peaks),
            exceeded=learned.exceeded,
            given=round(learned.given),
            used=round(learned.used),
        )
