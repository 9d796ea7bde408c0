"""Lending: which program has which CPUs of which node of a named pool. Pure: events in, moves out.

Guarantees:
- A CPU is lent to one program at a time. It is free again when its program says that it has returned it, or has ended.
- Who waits gets free CPUs at once. Where there are none, programs that have more than their fair share (`shares`) are
  asked to give some back; no more are asked for than are missing, and of nobody more than it has. A program returns a
  CPU when the evaluation on it ends: nothing that runs is ended.
- An evaluation of several CPUs gets them on one node. If no node has so many free ones, they are gathered: on the node
  where the program has the most to add to, or else the emptiest; what comes free there is kept for it.
- CPUs with nothing to do are asked for when others wait and they have been idle for `SOON` seconds, and in any case
  after `LATER`.
- While nobody's needs change there is an end of moving: each move brings a program nearer to its share. Only where
  there is not one evaluation for every program, they take turns of `TURN` seconds.

GPUs go with CPUs: an evaluation that needs some takes CPUs on a node that has them, and they come back with its last
CPU there. Memory is not moved by itself: a program may use what is proportional to its CPUs of a node, so an evaluation
that needs more memory counts as one of more CPUs.

(Rejected: time slices, which end what runs or move nothing; one queue of evaluations for all programs, which would make
the manager a server that runs programs. Two programs whose evaluations take an hour share an hour late.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from hyperflow.pools.named.lent import Borrower, Demand, Ground, Move
from hyperflow.pools.named.settling import Settling


class Lending:
    """Who has what. Events are told to it; `settle` says what is to be done, and counts it as done."""

    def __init__(self) -> None:
        self.nodes: dict[str, Ground] = {}
        self.borrowers: dict[int, Borrower] = {}
        self._gathering: dict[int, tuple[str, int]] = {}  # on which node CPUs are kept for a program, and how many

    # ---- events -------------------------------------------------------------------------------------------------

    def node_up(self, name: str, cpus: int, gpus: Iterable[str] = (), memory: int = 0) -> None:
        """A node can be lent; who said before that it has CPUs of it, has them."""
        ground = Ground(name, [None] * cpus, dict.fromkeys(gpus), memory)
        known = self.nodes.get(name)
        if known is not None:
            ground.holders[: len(known.holders)] = known.holders[:cpus]
            ground.gpus.update({gpu: holder for gpu, holder in known.gpus.items() if gpu in ground.gpus})
        self.nodes[name] = ground

    def close(self, name: str) -> None:
        """Lend nothing more of a node."""
        if name in self.nodes:
            self.nodes[name].open = False

    def node_gone(self, name: str) -> None:
        """A node is lost, or given back; nobody has anything of it."""
        self.nodes.pop(name, None)
        for borrower in self.borrowers.values():
            borrower.held.pop(name, None)
            borrower.asked.pop(name, None)
            borrower.unfit.discard(name)

    def join(self, number: int, now: float) -> None:
        self.borrowers[number] = Borrower(number, since=now)

    def leave(self, number: int) -> None:
        """A program has ended: all that it had is free."""
        self.borrowers.pop(number, None)
        for ground in self.nodes.values():
            ground.holders = [None if holder == number else holder for holder in ground.holders]
            ground.gpus = {gpu: None if holder == number else holder for gpu, holder in ground.gpus.items()}
        self._forget_unknown()

    def wants(self, number: int, demand: Demand, now: float) -> None:
        """A program says what it needs."""
        borrower = self.borrowers[number]
        borrower.demand = demand
        borrower.note_idle(now)

    def holds(self, number: int, node: str, cpus: Collection[int], gpus: Iterable[str] = ()) -> list[int]:
        """A program that was there before us says what it has; return which of the CPUs somebody else has."""
        ground = self.nodes.get(node)
        if ground is None:  # which comes later
            ground = self.nodes[node] = Ground(node, [], open=False, is_known=False)
        size = max(cpus, default=-1) + 1
        ground.holders += [None] * (size - len(ground.holders))
        taken = [index for index in cpus if ground.holders[index] not in (None, number)]
        for index in set(cpus).difference(taken):
            ground.holders[index] = number
        ground.gpus.update({gpu: number for gpu in gpus if ground.gpus.get(gpu) is None})
        self._count(number, node)
        return sorted(taken)

    def returned(self, number: int, node: str, cpus: Collection[int], gpus: Collection[str] = ()) -> bool:
        """A program gives CPUs back, and GPUs; False, and nothing changes, if it does not have these CPUs."""
        ground = self.nodes.get(node)
        if ground is None:
            return True  # it went meanwhile
        if not all(index < len(ground.holders) and ground.holders[index] == number for index in cpus):
            return False
        for index in cpus:
            ground.holders[index] = None
        borrower = self.borrowers[number]
        if node in borrower.asked:
            borrower.asked[node] = max(borrower.asked[node] - len(cpus), 0)
        self._count(number, node)
        self._forget_returned(borrower, node, len(cpus))
        back = ground.gpus if not borrower.held.get(node) else gpus
        for gpu in set(back).intersection(ground.gpus):
            if ground.gpus[gpu] == number:
                ground.gpus[gpu] = None
        self._forget_unknown()
        return True

    def cannot_use(self, number: int, node: str, cpus: Collection[int], gpus: Collection[str] = ()) -> bool:
        """A program cannot use a node: it gets nothing more of it, and gives these back; False as from `returned`."""
        if node in self.nodes:
            self.borrowers[number].unfit.add(node)
        return self.returned(number, node, cpus, gpus)

    def may_use(self, number: int, node: str) -> None:
        """It may try again."""
        if number in self.borrowers:
            self.borrowers[number].unfit.discard(node)

    # ---- what there is to see -----------------------------------------------------------------------------------

    def held_by(self, number: int) -> dict[str, list[int]]:
        return {name: cpus for name, ground in self.nodes.items() if (cpus := ground.of(number))}

    def gpus_of(self, number: int) -> dict[str, list[str]]:
        found = {
            name: [gpu for gpu, who in ground.gpus.items() if who == number] for name, ground in self.nodes.items()
        }
        return {name: gpus for name, gpus in found.items() if gpus}

    def is_busy(self, node: str) -> bool:
        """Whether anybody has CPUs of a node."""
        return node in self.nodes and any(holder is not None for holder in self.nodes[node].holders)

    def free_cpus(self) -> int:
        """Return how many CPUs nobody has, or nobody uses."""
        free = sum(len(ground.free()) for ground in self._open())
        return free + sum(each.idle_at(ground.name) for each in self.borrowers.values() for ground in self._open())

    # ---- moves --------------------------------------------------------------------------------------------------

    def settle(self, now: float) -> list[Move]:
        """Return what is to be done now; it counts as done."""
        state = Settling(self, now, self._gathering)
        self._gathering = state.gathering
        return state.moves

    def _open(self) -> list[Ground]:
        return [ground for ground in self.nodes.values() if ground.open]

    def _count(self, number: int, node: str) -> None:
        borrower = self.borrowers[number]
        borrower.held[node] = len(self.nodes[node].of(number))
        if not borrower.held[node]:
            del borrower.held[node]
            borrower.asked.pop(node, None)

    def _forget_unknown(self) -> None:
        """Forget nodes that have never come, and of which nobody has anything any more."""
        for name in [name for name, ground in self.nodes.items() if not ground.is_known]:
            if not self.is_busy(name):
                del self.nodes[name]

    @staticmethod
    def _forget_returned(borrower: Borrower, node: str, count: int) -> None:
        """Take what was returned out of the last demand, too: what it said of held and idle CPUs."""
        held, idle = dict(borrower.demand.held), dict(borrower.demand.idle)
        held[node] = max(held.get(node, 0) - count, 0)
        idle[node] = max(idle.get(node, 0) - count, 0)
        borrower.demand = attrs.evolve(borrower.demand, held=held, idle=idle)
