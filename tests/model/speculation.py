"""Speculative tasks cost nobody time: each history is played twice, with them and without.

In virtual time, with workers that end at once when they are killed. Tasks take long, so that nothing is prefetched.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import ClassVar

import attrs

from hyperflow.request import Capacity, Request
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Kill, Send, Task
from tests.model.simulator import Model, promise

NO_LATER = "no wanted task starts later than it would without speculative ones"
ENDS = "speculative tasks end, too"


@attrs.frozen
class Arrival:
    """A task that comes at this time and takes so long."""

    number: int
    at: float
    seconds: float
    request: Request

    @property
    def task(self) -> Task:
        request = None if self.request == Request(self.request.cpus) else self.request
        return Task(self.number, 1, self.request.cpus, request=request)


def starts(
    nodes: Mapping[str, tuple[int, Capacity]], arrivals: list[Arrival], only_wanted: bool
) -> tuple[dict[int, float], int]:
    """Return when each task started last, and how many did not end."""
    now = 0.0
    it = Scheduler(lambda: now)
    it.set_tokens({"t": 2})
    for name, (cpus, capacity) in nodes.items():
        it.add_node(name, range(cpus), capacity)
    by_number = {arrival.number: arrival for arrival in arrivals}
    began: dict[int, float] = {}
    runs: dict[int, int] = {}
    # What happens at one time: ends first, then what comes.
    agenda = [(one.at, 1, one.number, 0) for one in arrivals if not (only_wanted and one.request.speculative)]
    heapq.heapify(agenda)
    tasks: dict[int, Task] = {}
    unended = len(agenda)
    while agenda:
        now, kind, number, run = heapq.heappop(agenda)
        if kind:
            tasks[number] = task = by_number[number].task
            if it.refusal(task.request) is not None:
                unended -= 1
                continue
            it.submit(task)
        elif runs[number] == run:
            worker = tasks[number].worker
            assert worker is not None
            it.answered(worker.number, tasks[number].number, 10.0)
            unended -= 1
        if agenda and agenda[0][:2] == (now, kind):
            continue  # what comes at the same time is looked at together
        while effects := it.schedule():
            for effect in effects:
                if isinstance(effect, Send):
                    for one in effect.tasks:
                        began[one.number] = now
                        runs[one.number] = runs.get(one.number, 0) + 1
                        done = now + by_number[one.number].seconds
                        heapq.heappush(agenda, (done, 0, one.number, runs[one.number]))
                elif isinstance(effect, Kill):
                    within = effect.worker.queue
                    for killed in within.values():
                        runs[killed.number] = runs.get(killed.number, 0) + 1
                    it.ended(effect.worker.number, effect.worker.sent)
    return began, unended


class SpeculationModel(Model):
    """Nodes, and tasks that come; all is played at the end."""

    name = "speculation"
    happenings: ClassVar[Mapping[str, int]] = {"node": 1, "wanted": 6, "guess": 5, "pause": 3}
    always = frozenset({"wanted", "guess"})
    opening = ("node", "node")
    steps = (5, 40)

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes: dict[str, tuple[int, Capacity]] = {}
        self.arrivals: list[Arrival] = []

    def on_node(self, cpus: int, has: int, *_: int) -> None:
        if len(self.nodes) < 3 and not self.arrivals:
            gpus = ((), ("0",), ("0", "1"))[has % 3]
            self.nodes[f"n{len(self.nodes)}"] = 1 + cpus % 4, Capacity(gpus, (0, 12, 60)[has // 3 % 3])

    def on_wanted(self, *numbers: int) -> None:
        self.arrive(False, *numbers)

    def on_guess(self, *numbers: int) -> None:
        self.arrive(True, *numbers)

    def on_pause(self, seconds: int, *_: int) -> None:
        self.now += seconds % 7

    def arrive(self, speculative: bool, needs: int, has: int, seconds: int) -> None:
        plain = has % 2
        request = Request(
            cpus=(1, 1, 2, 3)[needs % 4],
            gpus=0 if plain else (0, 0.5, 1, 1 / 3, 2)[needs // 4 % 5],
            memory=None if plain else (None, None, 4, 20)[needs // 20 % 4],
            resources=() if plain else ((), (), (("t", 1),), (("t", 2),))[has // 2 % 4],
            nodes=1 if plain or speculative else (1, 1, 1, 2)[needs // 80 % 4],
            priority=0 if plain else (0, 0, 1)[has // 8 % 3],
            speculative=speculative,
        )
        # No two things happen at one time by chance: ties are broken by what nobody promises.
        number = len(self.arrivals) + 1
        self.arrivals.append(Arrival(number, self.now + number / 1024, 1 + seconds % 16 + number / 65536, request))

    def finish(self) -> None:
        with_them, left = starts(self.nodes, self.arrivals, only_wanted=False)
        without, _ = starts(self.nodes, self.arrivals, only_wanted=True)
        promise(ENDS, not left, left, "did not end")
        later = {n: (at, with_them.get(n)) for n, at in without.items() if with_them.get(n, 1e9) > at}
        promise(NO_LATER, not later, later)
