"""Two faults of an allocation in one run: the seed chooses which, and how long the second waits for the first."""

import functools
import signal
import time
from collections.abc import Callable, Sequence

from tests.chaos.case import Case
from tests.chaos.faults import network, nodes
from tests.chaos.faults.nodes import ALONE, all_others, by_chance, everywhere, one_other, the_heads
from tests.chaos.promises import Promise
from tests.chaos.run import Run

Attack = Callable[[Run], None]

SURVIVED: Sequence[Attack] = (
    functools.partial(nodes.kill_all_on, hosts=one_other),
    functools.partial(nodes.pause, role="launcher", moment="at work"),
    functools.partial(nodes.pause, role="head", moment="at work"),
    functools.partial(nodes.freeze, hosts=one_other, least=0.5, most=9),
    functools.partial(nodes.crash, hosts=one_other),
    functools.partial(network.cut, hosts=one_other, seconds=None),
    functools.partial(network.cut, hosts=all_others, seconds=network.SHORTER),
    functools.partial(network.one_way, from_head=True, seconds=network.LONG),
    functools.partial(network.one_way, from_head=False, seconds=network.LONG),
    network.flap,
)
ENDED: Sequence[Attack] = (
    functools.partial(nodes.send, role="head", number=signal.SIGKILL, moment="at work"),
    functools.partial(nodes.send, role="head", number=signal.SIGTERM, moment="at work"),
    functools.partial(nodes.kill_all_on, hosts=the_heads),
    functools.partial(nodes.kill_all_on, hosts=everywhere),
)


def two(run: Run, first: Sequence[Attack], second: Sequence[Attack]) -> None:
    """Attack twice in one turn."""
    run.rng.choice(first)(run)
    time.sleep(run.rng.uniform(0, 3))
    run.rng.choice(second)(run)


def one_in_each_turn(run: Run) -> None:
    """End the first turn, and attack the second."""
    run.rng.choice(ENDED)(run)
    if run.wait().code:
        run.start()
        run.rng.choice(SURVIVED)(run)


UNHEARD = "a node that is cut off when the program is killed goes on for silence_limit, beside the next program"


def _case(name: str, attack: Attack, *excused: Promise) -> Case:
    return Case(
        table="pairs",
        name=name,
        before=by_chance,
        attack=attack,
        world="slurm",
        workload=ALONE,
        survives=not excused,
        excused=dict.fromkeys(excused, UNHEARD),
    )


TABLE = (
    _case("both are survived", functools.partial(two, first=SURVIVED, second=SURVIVED)),
    _case(
        "the second ends the program",
        functools.partial(two, first=SURVIVED, second=ENDED),
        *(Promise.ONCE, Promise.CPUS),
    ),
    _case("one in each turn", one_in_each_turn),
)
