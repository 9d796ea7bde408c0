"""One round of lending: who should have how much, what is lent now, and who is asked to give some back."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

from hyperflow.pools.named.lent import LATER, SOON, TURN, Ask, Borrower, Ground, Lend, Move, Unit
from hyperflow.pools.named.shares import Claim, fair


class Books(Protocol):
    """Who has what."""

    nodes: dict[str, Ground]
    borrowers: dict[int, Borrower]


class Settling:
    """One round; it changes the books, and `moves` says how."""

    def __init__(self, lending: Books, now: float, gathering: Mapping[int, tuple[str, int]]) -> None:
        self.moves: list[Move] = []
        self.gathering: dict[int, tuple[str, int]] = {}
        self._now = now
        self._nodes = {ground.name: ground for ground in lending.nodes.values() if ground.open}
        self._borrowers = lending.borrowers
        self._before = gathering
        self._lent: dict[tuple[int, str], tuple[list[int], list[str]]] = defaultdict(lambda: ([], []))
        self._count = {name: len(ground.free()) for name, ground in self._nodes.items()}  # of free CPUs
        self._idle = {  # what each has to serve what waits, by node
            number: {name: idle for name in self._nodes if (idle := each.idle_at(name))}
            for number, each in lending.borrowers.items()
        }
        for borrower in lending.borrowers.values():
            borrower.note_held(now)
        self._claims = {number: self._claim(each) for number, each in lending.borrowers.items()}
        self._needs = {number: self._unserved(each) for number, each in lending.borrowers.items()}
        self._shares = fair(self._claims, sum(len(ground.holders) for ground in self._nodes.values()))
        self._keep_gathering()
        self._lend(up_to_share=True)
        self._lend(up_to_share=False)
        self.moves += [Lend(*key, tuple(cpus), tuple(gpus)) for key, (cpus, gpus) in self._lent.items()]
        self._ask()

    # ---- who needs what -----------------------------------------------------------------------------------------

    def _held(self, borrower: Borrower) -> int:
        """Return how many CPUs it has and keeps for now."""
        return sum(borrower.staying(name) for name in borrower.held if name in self._nodes)

    def _servable(self, borrower: Borrower) -> list[Unit]:
        return [
            unit
            for unit in borrower.demand.waiting
            if any(ground.could_serve(unit) and name not in borrower.unfit for name, ground in self._nodes.items())
        ]

    def _claim(self, borrower: Borrower) -> Claim:
        held = self._held(borrower)
        busy = held - sum(self._idle[borrower.number].values())
        wanted = [(unit.cpus, unit.number) for unit in self._servable(borrower)]
        return Claim([(1, busy), *wanted], held, borrower.turn(self._now))

    def _unserved(self, borrower: Borrower) -> list[Unit]:
        """Return what waits, without what the idle CPUs that it has will serve."""
        idle, left = self._idle[borrower.number], []
        spare = dict(idle)
        for unit in self._servable(borrower):
            number = unit.number
            for name, there in list(spare.items()):
                size = self._nodes[name].size_of(unit)
                has_gpus = not unit.gpus or borrower.number in self._nodes[name].gpus.values()
                served = min(there // size, number) if has_gpus else 0
                spare[name] -= served * size
                number -= served
            if number:
                left.append(unit._replace(number=number))
        self._idle[borrower.number] = spare
        return left

    # ---- lending ------------------------------------------------------------------------------------------------

    def _keep_gathering(self) -> None:
        """Keep what comes free for who waits for several CPUs of a node."""
        for number, (name, _) in self._before.items():
            if number in self._borrowers and name in self._nodes and self._needs[number]:
                size = self._missing(number, self._needs[number][0], name)
                if size > 0 and self._below(number):
                    self.gathering[number] = (name, size)

    def _below(self, number: int) -> bool:
        return self._held(self._borrowers[number]) < self._shares[number]

    def _missing(self, number: int, unit: Unit, name: str) -> int:
        """Return how many more CPUs of a node one evaluation needs."""
        return self._nodes[name].size_of(unit) - self._idle[number].get(name, 0)

    def _lend(self, up_to_share: bool) -> None:
        """Give free CPUs, one evaluation at a time, each time to who has the fewest."""
        candidates = {number for number, needs in self._needs.items() if needs}
        while candidates:
            number = min(candidates, key=lambda each: (self._held(self._borrowers[each]), each))
            room = self._shares[number] - self._held(self._borrowers[number]) if up_to_share else 1
            # Half of what is missing at a time, so that what there is comes to all in few steps.
            if room <= 0 or not self._lend_some(number, max(room // 2, 1)) or not self._needs[number]:
                candidates.discard(number)

    def _lend_some(self, number: int, portion: int) -> bool:
        """Give CPUs for one evaluation of a program, or several that take so many; False if no node has them."""
        needs, unfit = self._needs[number], self._borrowers[number].unfit
        for place, unit in enumerate(needs):
            fitting = [
                (self._idle[number].get(name, 0), self._borrowers[number].held.get(name, 0) > 0, free, name)
                for name, ground in self._nodes.items()
                if name not in unfit
                and ground.could_serve(unit)
                and (free := self._free(number, name)) >= self._missing(number, unit, name)
                and self._has_gpus(ground, unit, number)
            ]
            if fitting:
                name = max(fitting)[-1]
                served = 0
                while served < unit.number:
                    self._give(number, unit, name)
                    served += 1
                    portion -= self._nodes[name].size_of(unit)
                    if portion <= 0 or unit.gpus or self._free(number, name) < self._missing(number, unit, name):
                        break
                needs[place : place + 1] = [unit._replace(number=unit.number - served)][: unit.number - served]
                return True
            if place == 0 and number in self.gathering:
                return False  # smaller ones behind it wait until that is done
        return False

    def _has_gpus(self, ground: Ground, unit: Unit, number: int) -> bool:
        return not unit.gpus or len(self._gpus(ground, number)) >= unit.gpus

    def _gpus(self, ground: Ground, number: int) -> list[str]:
        return ground.spare_gpus(number, self._idle[number].get(ground.name, 0))

    def _free(self, number: int, name: str) -> int:
        """Return how many CPUs of a node a program may have, beside those that are kept for others."""
        kept = sum(size for other, (where, size) in self.gathering.items() if where == name and other != number)
        return self._count[name] - kept

    def _give(self, number: int, unit: Unit, name: str) -> None:
        ground, borrower = self._nodes[name], self._borrowers[number]
        taken = ground.free()[: max(self._missing(number, unit, name), 0)]
        for index in taken:
            ground.holders[index] = number
        self._count[name] -= len(taken)
        cpus, gpus = self._lent[number, name]
        cpus += taken
        for gpu in self._gpus(ground, number)[: unit.gpus]:
            if ground.gpus[gpu] is None:
                ground.gpus[gpu] = number
                gpus.append(gpu)
        borrower.held[name] = borrower.held.get(name, 0) + len(taken)
        self._idle[number][name] = self._idle[number].get(name, 0) + len(taken) - ground.size_of(unit)
        if self.gathering.get(number, ("",))[0] == name:
            del self.gathering[number]

    # ---- asking -------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        missing = 0
        for number, needs in self._needs.items():
            room = self._shares[number] - self._held(self._borrowers[number])
            if not needs or room <= 0:
                continue
            if self._is_small(needs[0]):
                missing += min(sum(unit.number for unit in needs if self._is_small(unit)), room)
            else:
                self._gather(number, needs[0])
        self._ask_anywhere(missing - self._coming())
        for borrower in self._borrowers.values():
            if forgotten := borrower.idle_for(LATER, self._now):
                self._ask_one(borrower, min(forgotten, sum(self._idle[borrower.number].values())))

    def _is_small(self, unit: Unit) -> bool:
        """Whether any free CPU of an open node would do."""
        return not unit.gpus and all(ground.size_of(unit) == 1 for ground in self._nodes.values())

    def _coming(self) -> int:
        """Return how many CPUs are on their way back, and are kept for nobody."""
        coming = 0
        for name in self._nodes:
            asked = sum(each.asked.get(name, 0) for each in self._borrowers.values())
            kept = sum(size for where, size in self.gathering.values() if where == name)
            coming += max(asked - max(kept - self._count[name], 0), 0)
        return coming

    def _spare(self, borrower: Borrower) -> int:
        """Return how many CPUs it can be asked for."""
        held, share = self._held(borrower), self._shares[borrower.number]
        if share < sum(size * count for size, count in self._claims[borrower.number].units):  # it would use more
            return max(held - share, 0)
        return max(min(held - share, borrower.idle_for(SOON, self._now)), 0)

    def _spare_for(self, number: int, other: Borrower) -> int:
        """Return how many CPUs one can be asked for, for the sake of another one that needs several of one node."""
        asks = self._borrowers[number]
        if not asks.held and self._now >= max(asks.since, other.since) + TURN:
            return self._held(other)  # shares that are right in sum would leave it without any node
        return self._spare(other)

    def _ask_anywhere(self, missing: int) -> None:
        while missing > 0:
            richest = max(self._borrowers.values(), key=self._spare, default=None)
            if richest is None or not (spare := self._spare(richest)):
                return
            missing -= self._ask_one(richest, min(spare, missing))

    def _ask_one(self, borrower: Borrower, count: int) -> int:
        """Ask a program for CPUs, where it has the most with nothing to do; return for how many."""
        idle, asked = self._idle[borrower.number], 0
        for name in sorted(borrower.held, key=lambda name: (-idle.get(name, 0), borrower.staying(name))):
            if name in self._nodes and asked < count:
                asked += self._ask_for(borrower, name, count - asked)
        return asked

    def _ask_for(self, borrower: Borrower, name: str, count: int) -> int:
        count = min(count, borrower.staying(name))
        if count > 0:
            borrower.asked[name] = borrower.asked.get(name, 0) + count
            self._idle[borrower.number][name] = max(self._idle[borrower.number].get(name, 0) - count, 0)
            self.moves.append(Ask(borrower.number, name, count))
        return max(count, 0)

    def _gather(self, number: int, unit: Unit) -> None:
        """Ask for CPUs of one node, until an evaluation fits there."""
        options = [
            (number in self.gathering and self.gathering[number][0] == name, there, name)
            for name, ground in self._nodes.items()
            if name not in self._borrowers[number].unfit and ground.could_serve(unit)
            if (there := self._there(number, unit, name)) is not None
        ]
        self.gathering.pop(number, None)
        if not options:
            return
        name = max(options)[-1]
        missing = self._missing(number, unit, name)
        self.gathering[number] = (name, missing)
        asked = sum(each.asked.get(name, 0) for each in self._borrowers.values() if each.number != number)
        missing -= self._free(number, name) + asked
        others = [each for each in self._borrowers.values() if each.number != number]
        if unit.gpus and not self._has_gpus(self._nodes[name], unit, number):
            for other in others:  # a GPU comes back with the last CPU
                if other.number in self._nodes[name].gpus.values():
                    missing -= self._ask_for(other, name, other.staying(name))
        for other in sorted(others, key=lambda each: -self._idle[each.number].get(name, 0)):
            if missing > 0 and (spare := self._spare_for(number, other)):
                missing -= self._ask_for(other, name, min(spare, missing))

    def _there(self, number: int, unit: Unit, name: str) -> int | None:
        """Return how many CPUs of a node are there for an evaluation, or on their way; None if it cannot fit there."""
        others = [each for each in self._borrowers.values() if each.number != number]
        soon = self._free(number, name) + sum(each.asked.get(name, 0) for each in others)
        possible = soon + sum(min(each.staying(name), self._spare_for(number, each)) for each in others)
        if unit.gpus and not self._could_have_gpus(number, unit, name):
            return None
        return soon + self._idle[number].get(name, 0) if possible >= self._missing(number, unit, name) else None

    def _could_have_gpus(self, number: int, unit: Unit, name: str) -> bool:
        """Whether GPUs of a node are free for a program, or with one that has more of them than it needs."""
        ground = self._nodes[name]
        if self._has_gpus(ground, unit, number):
            return True
        holders = Counter(holder for each in self._nodes.values() for holder in each.gpus.values())
        return any(
            holders[other] > holders[number] + unit.gpus or not self._waits_for_gpus(other)
            for other in ground.gpus.values()
            if other not in (None, number)
        )

    def _waits_for_gpus(self, number: int | None) -> bool:
        return number in self._borrowers and any(unit.gpus for unit in self._borrowers[number].demand.waiting)
