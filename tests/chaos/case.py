"""A case: one fault, tried on one run of the program; and tables of cases."""

import re
import signal
from collections.abc import Callable, Iterator

import attrs

from tests.chaos.oracle import Broken, judge
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

BASIC = frozenset({
    *(Promise.DURABLE, Promise.RIGHT, Promise.ONCE, Promise.CPUS),
    *(Promise.SETTLED, Promise.WHOLE, Promise.PROCESSES, Promise.CLEAN),
})  # fmt: skip


DEFAULT = Workload()


class NotRun(Exception):
    """A case cannot be tried here, or its moment did not come; the text says why. It is counted as "not run"."""


def nothing(run: Run) -> None:
    """Do nothing."""


@attrs.frozen
class Case:
    """One fault.

    A case has two turns or more: the program runs, and is attacked at a moment; then what was broken is mended, and the
    program runs again in the same place, which has to end well. The last turn is left out when the attacked one ended
    well. An attack may wait for the end itself, do more, and start the program again: then that turn is attacked, too.

    Args:
        table: The family: "processes", "slurm commands", ...
        name: What is done to what: "worker KILL".
        attack: Does it, while the program runs: it waits for its moment itself. Raises NotRun if that does not come.
        before: Does something before the first start, as limits and full disks need it.
        mend: Undoes what would also break the second turn.
        workload: What the program does.
        world: Which class of runs it needs; see `harness.WORLDS`.
        survives: Whether the attacked turn has to end well all the same: the fault is nobody's fault.
        quiet: Whether nothing is broken at all; then each key has to start just once.
        says: What the output of the first turn has to say although it survives, as a regular expression.
        told: What the output of an attacked turn that did not end well has to say, as a regular expression. If the case
            tries DAMAGE, that has to be said before something that was acknowledged is computed again.
        tries: The promises that this case tries, beside the basic ones.
        excused: Promises that this fault cannot but break, each with the reason; say them in the docs.
    """

    table: str
    name: str
    attack: Callable[[Run], None] = nothing
    before: Callable[[Run], None] = nothing
    mend: Callable[[Run], None] = nothing
    workload: Workload = DEFAULT
    world: str = "local"
    survives: bool = False
    quiet: bool = False
    says: str = ""
    told: str = ""
    tries: frozenset[Promise] = frozenset()
    excused: dict[Promise, str] = attrs.field(factory=dict)

    @property
    def title(self) -> str:
        """How the case is named on the command line and in files."""
        return f"{self.table}: {self.name}"

    @property
    def promises(self) -> frozenset[Promise]:
        """All promises that it tries."""
        more = {Promise.TOLD} if self.told or self.says else set()
        if Promise.DAMAGE in self.tries:
            return (BASIC | self.tries | more) - {*self.excused, Promise.DURABLE}  # what is damaged may be lost
        return (BASIC | self.tries | more) - self.excused.keys()

    def run(self, run: Run) -> list[Broken]:
        """Try it; return the promises that were broken."""
        try:
            self.before(run)
            run.start()
            try:
                self.attack(run)
            except NotRun:
                if self.before is nothing and run.turn == 0 and run.wait().code:
                    raise AssertionError(f"the program failed before it was attacked: {_end(run, 0)}") from None
                raise
            attacked = run.wait()
            self.mend(run)
            run.faults.close()
            found = list(self._judge_attacked(run))
            if attacked.code != 0:
                run.start()
                run.wait()
            found += judge(run, self.told if Promise.DAMAGE in self.tries else "", quiet=self.quiet)
        finally:
            run.close()
        return [broken for broken in found if broken.promise not in self.excused]

    def _judge_attacked(self, run: Run) -> Iterator[Broken]:
        """Judge how attacked turns ended, which only the case can: did it have to survive, what does it have to say?"""
        if self.survives and run.turns[-1].code != 0:
            yield Broken(Promise.WHOLE, f"the attacked run ended with {run.turns[-1].code}: {_end(run, run.turn)}")
        for number, turn in enumerate(run.turns):
            silent = turn.code in (0, -signal.SIGKILL, 128 + signal.SIGKILL)  # nothing to tell, or no chance
            if self.told and not silent and not re.search(self.told, turn.output + _failures(run, number)):
                yield Broken(Promise.TOLD, f"nothing about {self.told!r} in: {_end(run, number)}")
        if not re.search(self.says, run.turns[0].output):
            yield Broken(Promise.TOLD, f"nothing about {self.says!r} in: {_end(run, 0)}")


def _failures(run: Run, turn: int) -> str:
    return "\n".join(entry.told for entry in run.ledger.entries() if entry.what == "failed" and entry.run == turn)


def _end(run: Run, turn: int) -> str:
    return f"{run.turns[turn].output[-2500:]}\n{_failures(run, turn)[-1500:]}"
