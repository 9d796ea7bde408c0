"""Twelve bugs on purpose, one after the other: the harness has to turn red for each, and name the right promise.

`python -m tests.chaos.controls`; `make controls`. What the bugs are: `bugs.py`.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from tests.chaos import page
from tests.chaos.bugs import BUGS, VARIABLE
from tests.chaos.case import Case
from tests.chaos.faults import TABLES
from tests.chaos.harness import ON_THE_CLUSTER, Result, try_one
from tests.chaos.promises import Promise
from tests.chaos.run import Run

INSTALLED = Path(__file__).with_name("installed")


@attrs.frozen
class Control:
    """A bug, the case that has to turn red for it, and the promise that has to be named.

    Args:
        bug: Its name.
        case: The title of the case.
        promise: What is broken.
        seeds: How often the case is tried at most: at a moment chosen at random, the bug may do no harm.
        patience: Seconds for the program's end, where it is the bug that the program does not end.
    """

    bug: str
    case: str
    promise: Promise
    seeds: int = 3
    patience: float = Run.patience


CONTROLS = (
    Control("acknowledge before commit", "processes: head KILL at work", Promise.DURABLE),
    Control("lock freed early", "uses: locks, nothing breaks", Promise.LOCKS),
    Control("private checks off", "programs: result of another user's", Promise.PRIVATE),
    Control("no clean-up", "uses: programs left, nothing breaks", Promise.PROCESSES),
    Control("no checksum", "entries: a digit of a value changed", Promise.RIGHT),
    Control("stale recall", "uses: many short, nothing breaks", Promise.ONCE, seeds=5),
    Control("CPUs returned early", "uses: plain, nothing breaks", Promise.CPUS),
    Control("result of an older start taken", "programs: a late result of an older start", Promise.NEWEST),
    Control("rows dropped in a merge", "programs: master KILL at work", Promise.DURABLE),
    Control("retry of a cancelled", "uses: cancels, nothing breaks", Promise.CANCELLED, patience=10),
    Control("fsync left out", "power: lost at work", Promise.DURABLE),
    Control("heartbeat ignored", "silence: launcher STOP for good at work", Promise.SETTLED, patience=12),
)


@attrs.frozen
class Judged:
    """What came of a control."""

    control: Control
    results: Sequence[Result]

    @property
    def found(self) -> bool:
        """Whether the right promise was named."""
        return any(broken.promise is self.control.promise for one in self.results for broken in one.broken)

    @property
    def named(self) -> str:
        """All promises that were named."""
        return ", ".join(sorted({broken.promise.name for one in self.results for broken in one.broken}))

    def line(self) -> str:
        """Return it as a line for a person."""
        seconds = sum(one.seconds for one in self.results)
        told = "red" if self.found else f"NOT SEEN ({self.named or self.reasons() or 'all held'})"
        return f"{told:<4} {seconds:5.1f} s  {self.control.bug}: {self.control.promise.name} by {self.control.case}"

    def reasons(self) -> str:
        """Why cases were not run."""
        return "; ".join(one.not_run for one in self.results if one.not_run)


def with_bug(case: Case, control: Control) -> Case:
    """Return the case, tried on a program that has the bug in all its processes."""

    def before(run: Run) -> None:
        run.environment |= {VARIABLE: control.bug, "PYTHONPATH": str(INSTALLED)}
        run.patience = control.patience
        case.before(run)

    return attrs.evolve(case, before=before)


def judge(control: Control, seed: str) -> Judged:
    """Try a control's case until it turns red for the right reason."""
    (case,) = [case for case in TABLES if case.title == control.case]

    def tries() -> Iterator[Result]:
        for number in range(control.seeds):
            yield (result := try_one(with_bug(case, control), f"{seed}.{number}"))
            if any(broken.promise is control.promise for broken in result.broken):
                return

    return Judged(control, list(tries()))


def on_cluster(control: Control) -> bool:
    """Whether a control needs the one cluster."""
    return any(case.title == control.case and case.world in ON_THE_CLUSTER for case in TABLES)


def main() -> int:
    """Judge all controls; return 1 if a bug was not seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.controls", description=__doc__)
    parser.add_argument("--seed", default=os.urandom(4).hex())
    parser.add_argument("--only", default="", metavar="WORDS", help="only bugs whose name has these words")
    parser.add_argument("--side-by-side", type=int, default=3, metavar="N")
    parser.add_argument("--page", action="store_true", help="write their section of docs/promises.md")
    given = parser.parse_args()
    began = time.monotonic()

    def tell(control: Control) -> Judged:
        judged = judge(control, given.seed)
        print(judged.line(), flush=True)
        return judged

    chosen = [control for control in CONTROLS if given.only in control.bug]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(given.side_by_side) as some:
        judged = [end.result() for end in [(one if on_cluster(each) else some).submit(tell, each) for each in chosen]]
    if given.page:
        page.put(page.CONTROLS, section(judged))
    seen = sum(each.found for each in judged)
    print(f"{seen} of {len(judged)} bugs seen in {time.monotonic() - began:.0f} s; seed {given.seed}")
    return 0 if judged and seen == len(judged) else 1


def section(judged: Sequence[Judged]) -> str:
    """Return what the page says of them."""
    rows = [
        (
            each.control.bug, BUGS[each.control.bug].make.__doc__, each.control.case, each.control.promise.value,
            f"red, {sum(one.seconds for one in each.results):.0f} s" if each.found else "**not seen**",
        )
        for each in judged
    ]  # fmt: skip
    words = "Each of these is put into all processes of a run; the case beside it has to turn red and name the promise."
    return f"{words}\n\n{page.table(('bug', 'what is wrong', 'case', 'promise', 'result'), rows)}"


if __name__ == "__main__":
    sys.exit(main())
