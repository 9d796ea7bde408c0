"""Which of what waits starts next, and where: in order, each where it fits; what does not fit keeps what it needs most.

Reservations has what is kept, Order who goes first.
"""

from __future__ import annotations

from collections.abc import Callable

from hyperflow.request import Request
from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.order import Order, priority_of
from hyperflow.scheduling.reservations import Reservations
from hyperflow.scheduling.state import Key, Worker
from hyperflow.scheduling.suspects import Suspects
from hyperflow.scheduling.waiting import Waiting
from hyperflow.wire.numbers import TaskNumber, WorkerNumber


class Choice:
    """A look at what waits; `begin`, and then `next` until nothing fits any more."""

    def __init__(
        self, ledger: Ledger, waiting: Waiting, suspects: Suspects, workers: dict[WorkerNumber, Worker],
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.content = set[Key]()
        """Of what waits: those for whom CPUs are free, and who wait for something else."""
        self._ledger = ledger
        self._waiting = waiting
        self._suspects = suspects
        self._workers = workers
        self._clock = clock
        self._order = Order()
        self._kept = Reservations(ledger, clock)
        self._blocked: set[Key] = set()
        self._keys: list[Key] = []

    def begin(self) -> None:
        """Look at all."""
        self._kept.clear()
        self._blocked.clear()
        self._keys = []
        self.content.clear()
        for key in self._waiting.queues:
            if type(key) is Request and key.speculative:
                self.content.add(key)

    def next(self) -> tuple[Key, list[str]] | None:
        """Return what can start now, and on which nodes; None if nothing can."""
        waiting = self._waiting
        while True:
            if len(self._keys) != 1 or waiting.oldest(self._keys[0]) is None:  # else it is the only one still
                self._keys = [key for key in waiting.requests() if key not in self._blocked and key not in self.content]
            if not self._keys:
                return None
            first = self._first(self._keys) if len(self._keys) > 1 else self._keys[0]
            if type(first) is Request:
                nodes = self._find(first)
                if nodes:
                    self._keys = []  # queues of such requests are many, and go when they are empty
            else:
                node = self._kept.find_cpus(first)
                nodes = [node] if node is not None else []
            if nodes:
                return first, nodes
            self.block(first)
            if type(first) is not Request:
                self._kept.keep_cpus(first)

    def room(self, node: str) -> int:
        """Return how many CPUs of a node may be given out now."""
        return self._kept.room(node)

    @property
    def usable(self) -> int:
        """How many free CPUs are not kept for what waits."""
        free = self._ledger.free
        return free - self._kept.spared if free and self._waiting.count else free

    def block(self, key: Key) -> None:
        """Nothing more of this queue can start now."""
        self._blocked.add(key)
        self._keys = []

    def guesses(self) -> list[Request]:
        """Return what speculative tasks ask for, in order."""
        if not self.content:
            return []
        found = [key for key in self._waiting.requests() if type(key) is Request and key.speculative]
        now = self._clock()
        return sorted(found, key=lambda key: self._rank(key, now))

    def _first(self, keys: list[Key]) -> Key:
        """Return whose oldest goes first."""
        queues = self._waiting.queues
        if any(type(key) is Request and key.priority for key in keys):
            now = self._clock()
            return min(keys, key=lambda key: self._rank(key, now))
        return min(keys, key=lambda key: queues[key][0].number)

    def _rank(self, key: Key, now: float) -> tuple[int, TaskNumber]:
        """Return a key by which the oldest of a queue is sorted: what goes first is less."""
        number = self._waiting.queues[key][0].number
        return -self._order.level(key, number, now), number

    def _find(self, request: Request) -> list[str]:
        """Return the nodes for a request; if it does not fit, keep what it needs."""
        if self.is_held(request):
            return []
        kept = self._kept
        if request.resources and not self._ledger.tokens.has(request, kept.tokens):
            kept.tokens = kept.tokens or dict(request.resources)
            self.content.add(request)
            return []
        avoided = self.closed_to(request)
        nodes = kept.find(request, avoided)
        if not nodes:
            kept.tokens = kept.tokens or dict(request.resources)
            if not kept.keep(request, avoided):
                self.content.add(request)
        return nodes

    def is_held(self, request: Request) -> bool:
        """Whether the oldest is a suspect that must not start now.

        More nodes may be lost; or its worker, of whose task one of the other nodes was lost, has not ended yet.
        """
        if not request.suspect:
            return False
        past = self._waiting.queues[request][0].past
        there = past is not None and past.worker is not None and past.worker.number in self._workers
        return there or self._suspects.wait

    def closed_to(self, request: Request) -> set[str]:
        """Return the nodes that a task with a past must not have now."""
        closed = set(request.avoided)
        if closed:
            able = {node.name for node in self._ledger.able(request, self._clock())} - self._ledger.aside
            if len(able - closed) < request.nodes:
                closed.clear()  # there are no other nodes
        if request.suspect:
            closed.update(self._suspects.on)
        return closed

    def bound(self, cpus: int) -> tuple[bool, TaskNumber | None]:
        """Return whether what asks for so many CPUs may be queued at workers, and the youngest that may, if not all.

        Nothing may that waits behind another one who waits for CPUs.
        """
        queues = self._waiting.queues
        others = [key for key in self._waiting.requests() if key != cpus and key not in self.content]
        if any(map(priority_of, others)):
            now = self._clock()
            level = {key: -self._rank(key, now)[0] for key in (cpus, *others)}
            if any(level[key] > level[cpus] for key in others):
                return False, None
            others = [key for key in others if level[key] >= 0]  # the others wait behind all that is plain
        return True, min((queues[key][0].number for key in others), default=None)

    def note_times(self) -> None:
        """Note now and then what waits."""
        now = self._clock()
        if self._order.is_due(now):
            queues = [queue for queue in self._waiting.queues.values() if queue]
            self._order.forget(min(queue[0].number for queue in queues))
            self._order.note(now, (queue[-1].numbers[-1] for queue in queues))
