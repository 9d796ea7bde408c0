"""Who has which CPUs of a named pool: single cases, and random histories of programs that do as they are asked."""

import random
from collections import Counter

import attrs
import pytest

from hyperflow.pools.named.lending import Lending
from hyperflow.pools.named.lent import LATER, SOON, Ask, Demand, Lend, Move, Unit


@attrs.define(eq=False)
class Program:
    """A program: it uses what it has for what waits, and returns what it is asked for as evaluations end."""

    number: int
    waiting: list[list[int]] = attrs.field(factory=list[list[int]])
    """CPUs of an evaluation, and how many of those."""
    endless: bool = False
    """What has ended waits again."""
    free: dict[str, set[int]] = attrs.field(factory=dict[str, set[int]])
    running: list[tuple[str, frozenset[int]]] = attrs.field(factory=list[tuple[str, frozenset[int]]])
    owed: Counter[str] = attrs.field(factory=Counter[str])

    def held(self, node: str) -> set[int]:
        return self.free.get(node, set()).union(*(cpus for where, cpus in self.running if where == node))

    def cpus(self) -> int:
        return sum(len(self.held(node)) for node in self.free)

    def start(self) -> None:
        """Start what fits."""
        for entry in self.waiting:
            for node, cpus in self.free.items():
                while entry[1] and len(cpus) - self.owed[node] >= entry[0]:
                    self.running.append((node, frozenset(cpus.pop() for _ in range(entry[0]))))
                    entry[1] -= 1
        self.waiting = [entry for entry in self.waiting if entry[1]]

    def end(self, place: int) -> None:
        """An evaluation ends."""
        node, cpus = self.running.pop(place % len(self.running))
        self.free[node] |= cpus
        if self.endless:
            self.waiting.append([len(cpus), 1])

    def demand(self) -> Demand:
        return Demand(
            [Unit(number, cpus) for cpus, number in self.waiting],
            {node: len(self.held(node)) for node in self.free},
            {node: max(len(cpus) - self.owed[node], 0) for node, cpus in self.free.items()},
        )


class World:
    """A pool, and programs that use it."""

    def __init__(self, *sizes: int) -> None:
        self.lending = Lending()
        self.programs: dict[int, Program] = {}
        self.now = 0.0
        self.joined = 0
        for place, size in enumerate(sizes):
            self.lending.node_up(f"n{place}", size)

    def join(self, *waiting: tuple[int, int], endless: bool = False) -> Program:
        self.joined += 1
        program = Program(self.joined, [list(each) for each in waiting], endless)
        self.programs[program.number] = program
        self.lending.join(program.number, self.now)
        return program

    def kill(self, program: Program) -> None:
        del self.programs[program.number]
        self.lending.leave(program.number)

    def turn(self) -> list[Move]:
        """Programs say what they need, and what is decided is carried out; return it."""
        for program in self.programs.values():
            self._give_back(program)
            program.start()
            self.lending.wants(program.number, program.demand(), self.now)
        moves = self.lending.settle(self.now)
        for move in moves:
            program = self.programs[move.borrower]
            match move:
                case Lend(_, node, cpus):
                    program.free.setdefault(node, set()).update(cpus)
                case Ask(_, node, count):
                    assert 0 < count <= len(program.held(node)) - program.owed[node], (
                        "nobody is asked for more than it has"
                    )
                    program.owed[node] += count
        for program in self.programs.values():
            program.start()
        self.check()
        return moves

    def _give_back(self, program: Program) -> None:
        for node, owed in program.owed.items():
            if back := sorted(program.free[node])[:owed]:
                program.free[node].difference_update(back)
                program.owed[node] -= len(back)
                assert self.lending.returned(program.number, node, back)

    def check(self) -> None:
        """No CPU is with two programs, and the books are right."""
        for name in self.lending.nodes:
            seen = Counter(index for program in self.programs.values() for index in program.held(name))
            assert all(count == 1 for count in seen.values()), f"lent twice on {name}: {seen}"
        for program in self.programs.values():
            said = {node: set(cpus) for node, cpus in self.lending.held_by(program.number).items()}
            assert said == {node: program.held(node) for node in program.free if program.held(node)}
        holders = {holder for ground in self.lending.nodes.values() for holder in ground.holders}
        assert holders <= {None, *self.programs}, "a program that has ended has nothing"

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


def test_who_waits_gets_what_is_free() -> None:
    """A program alone gets all that it can use at once, and no more."""
    world = World(4, 4)
    alone = world.join((1, 6))
    world.turn()
    assert alone.cpus() == 6


def test_two_share_as_evaluations_end() -> None:
    """The second program is given half: nothing that runs is ended, and each CPU comes as an evaluation ends."""
    world = World(4, 4)
    first = world.join((1, 100), endless=True)
    world.turn()
    second = world.join((1, 100), endless=True)
    asks = [move for move in world.turn() if isinstance(move, Ask)]
    assert (first.cpus(), second.cpus()) == (8, 0)
    assert sum(ask.cpus for ask in asks) == 4
    for ended in range(1, 5):  # those on nodes that owe some
        first.end(next(place for place, (node, _) in enumerate(first.running) if first.owed[node]))
        world.turn()
        assert (first.cpus(), second.cpus()) == (8 - ended, ended)
    assert not world.turn()


def test_all_of_a_dead_program_comes_back() -> None:
    """What a dead program had goes to who waits, at once."""
    world = World(4)
    first, second = world.join((1, 9)), world.join((1, 9))
    world.turn()
    assert (first.cpus(), second.cpus()) == (2, 2)
    world.kill(first)
    world.turn()
    assert second.cpus() == 4


def test_several_cpus_are_gathered_on_one_node() -> None:
    """An evaluation of four CPUs gets them on one node, though each node has one that others let go."""
    world = World(4, 4)
    small = world.join((1, 8))
    world.turn()
    large = world.join((4, 1))
    world.turn()
    for _ in range(2):  # one of each node ends, and nothing is behind it
        small.end(next(place for place, (node, _) in enumerate(small.running) if small.owed[node]))
        world.turn()
    assert large.cpus() == 0
    while not large.running:
        small.end(next(place for place, (node, _) in enumerate(small.running) if small.owed[node]))
        world.turn()
    assert (small.cpus(), large.cpus()) == (4, 4)
    assert len({node for node, _ in large.running}) == 1


def test_what_is_idle_comes_back() -> None:
    """Idle CPUs are asked for soon when others wait, and later in any case."""
    world = World(4)
    idle = world.join((1, 3))
    world.turn()
    while idle.running:
        idle.end(0)
    assert not world.turn()
    other = world.join((1, 4))
    world.turn()
    assert other.cpus() == 1
    world.pass_time(SOON)
    world.turn()
    world.turn()
    assert (idle.cpus(), other.cpus()) == (0, 4)
    while other.running:
        other.end(0)
    world.turn()
    world.pass_time(LATER)
    world.turn()
    world.turn()
    assert other.cpus() == 0


def test_gpus_go_with_cpus() -> None:
    """An evaluation with a GPU goes where one is free; it is free again when the program has no CPU there."""
    lending = Lending()
    lending.node_up("plain", 4)
    lending.node_up("gpus", 4, ["0", "1"])
    for number in (1, 2):
        lending.join(number, 0)
        lending.wants(number, Demand([Unit(1, gpus=1)]), 0)
    assert lending.settle(0) == [Lend(1, "gpus", (0,), ("0",)), Lend(2, "gpus", (1,), ("1",))]
    lending.join(3, 0)
    for number in (1, 2):
        lending.wants(number, Demand(held={"gpus": 1}), 0)
    lending.wants(3, Demand([Unit(1, gpus=1)]), 0)
    assert lending.settle(0) == [Ask(1, "gpus", 1), Ask(2, "gpus", 1)]
    assert lending.returned(1, "gpus", [0])
    assert lending.settle(0) == [Lend(3, "gpus", (0,), ("0",))]


def test_memory_counts_as_cpus() -> None:
    """An evaluation that needs half of a node's memory gets half of its CPUs."""
    lending = Lending()
    lending.node_up("n", 4, memory=400)
    lending.join(1, 0)
    lending.wants(1, Demand([Unit(1, memory=200)]), 0)
    assert lending.settle(0) == [Lend(1, "n", (0, 1))]


def test_after_a_new_start() -> None:
    """What programs say that they have is theirs, whether they come before the node or after; nobody has it twice."""
    lending = Lending()
    lending.join(1, 0)
    assert lending.holds(1, "n", [1, 2]) == []
    lending.node_up("n", 4)
    lending.join(2, 0)
    assert lending.holds(2, "n", [2, 3]) == [2]
    lending.join(3, 0)
    lending.wants(3, Demand([Unit(9)]), 0)
    assert lending.settle(0) == [Lend(3, "n", (0,)), Ask(1, "n", 1)] or lending.held_by(3) == {"n": [0]}


def test_gpus_after_a_new_start() -> None:
    """A GPU that a program says that it has is lent to nobody else."""
    lending = Lending()
    lending.join(1, 0)
    assert lending.holds(1, "n", [0], ["0"]) == []
    lending.node_up("n", 4, ["0", "1"])
    for number in (2, 3):
        lending.join(number, 0)
        lending.wants(number, Demand([Unit(1, gpus=1)]), 0)
    lending.wants(1, Demand([Unit(1, gpus=1)], {"n": 1}), 0)
    lent = [move for move in lending.settle(0) if isinstance(move, Lend)]
    assert [(move.borrower, move.gpus) for move in lent] == [(2, ("1",))]
    assert lending.gpus_of(1) == {"n": ["0"]}


def test_what_is_not_its_own_cannot_be_returned() -> None:
    """A program that returns what it does not have changes nothing."""
    lending = Lending()
    lending.node_up("n", 2)
    lending.join(1, 0)
    assert not lending.returned(1, "n", [0])
    assert not lending.returned(1, "n", [7])
    assert lending.returned(1, "gone", [0])


def test_a_node_that_a_program_cannot_use() -> None:
    """It gets CPUs of another one, and others may use the node."""
    world = World(2, 2)
    program = world.join((1, 9))
    lending = world.lending
    lending.wants(1, Demand([Unit(9)]), 0)
    lending.settle(0)
    assert lending.cannot_use(1, "n0", [0, 1])
    assert lending.settle(0) == []
    assert lending.held_by(1) == {"n1": [0, 1]}
    lending.join(2, 0)
    lending.wants(2, Demand([Unit(2)]), 0)
    assert lending.settle(0) == [Lend(2, "n0", (0, 1))]
    assert program.number == 1


@pytest.mark.parametrize("leaves", [True, False])
def test_a_node_that_never_comes(leaves: bool) -> None:
    """What a program has of a node that only a killed manager knew is forgotten when the program gives it back."""
    lending = Lending()
    lending.join(1, 0)
    lending.node_up("n", 1)
    assert lending.holds(1, "gone", [0, 5]) == []
    assert lending.is_busy("gone")
    if leaves:
        lending.leave(1)
    else:
        assert lending.returned(1, "gone", [0])
        assert lending.is_busy("gone")
        assert lending.returned(1, "gone", [5])
    assert lending.nodes.keys() == {"n"}


def test_what_is_lent_while_a_node_fails() -> None:
    """A program gives back what it knew of; CPUs that it has not heard of yet are its own, and not lent to others."""
    lending = Lending()
    lending.node_up("n", 3)
    lending.join(1, 0)
    lending.wants(1, Demand([Unit(3)]), 0)
    assert lending.settle(0) == [Lend(1, "n", (0, 1, 2))]
    assert lending.cannot_use(1, "n", [0, 1])
    assert lending.held_by(1) == {"n": [2]}
    assert not lending.cannot_use(1, "n", [0, 2])
    assert lending.held_by(1) == {"n": [2]}


def test_a_node_that_is_given_back() -> None:
    """Nothing more is lent of a node that is closed; when it has gone, nobody has anything of it."""
    world = World(2, 2)
    program = world.join((1, 2))
    world.turn()
    world.lending.close("n1")
    (node,) = world.lending.held_by(program.number)
    other = world.join((1, 9))
    world.turn()
    assert "n1" not in world.lending.held_by(other.number)
    world.lending.node_gone(node)
    assert world.lending.held_by(program.number) == {}


@pytest.mark.parametrize("seed", range(12))
def test_random_histories(seed: int) -> None:
    """Whatever happens, no CPU is lent twice; and when needs stay, moving ends, with fair shares."""
    chance = random.Random(seed)
    sizes = [chance.randint(1, 6) for _ in range(chance.randint(1, 4))]
    large = [size for size in (2, 3, 4) if size <= max(sizes)] if seed % 2 else []
    world = World(*sizes)
    for _ in range(chance.randint(5, 60)):
        world.pass_time(chance.choice([0.1, 1.0, 3.0]))
        programs = list(world.programs.values())
        match chance.randrange(6):
            case 0 if len(programs) < 4:
                world.join((chance.choice([1, 1, *large]), chance.randint(1, 12)), endless=chance.random() < 0.5)
            case 1 if programs and chance.random() < 0.3:
                world.kill(chance.choice(programs))
            case 2 | 3 if programs and (busy := [each for each in programs if each.running]):
                chance.choice(busy).end(chance.getrandbits(8))
            case 4 if programs:
                chance.choice(programs).waiting.append([chance.choice([1, *large]), chance.randint(1, 5)])
            case _:
                pass
        world.turn()
    for program in world.programs.values():
        program.endless = True
    enough = not large and len(world.programs) <= sum(sizes)
    served = _until_settled(world, 400 if enough else 500)
    wanting = [program for program in world.programs.values() if program.waiting]
    if enough and wanting:
        shares = [program.cpus() for program in wanting]
        assert max(shares) - min(shares) <= 1
        assert sum(program.cpus() for program in world.programs.values()) == sum(sizes)
    assert served >= {program.number for program in wanting}, "nobody waits for ever"


def _until_settled(world: World, seconds: int) -> set[int]:
    """Let evaluations end and others begin until nothing moves any more; return who has had any CPU."""
    served: set[int] = set()
    quiet = 0
    for _ in range(seconds):
        world.pass_time(1.0)
        for program in world.programs.values():
            if program.running:
                program.end(0)
                served.add(program.number)
        quiet = 0 if world.turn() else quiet + 1
        if quiet > LATER and seconds == 400:
            return served
    assert seconds > 400, "it never settles"
    return served
