"""Picks cases by a seed, runs them side by side, counts what was tried, and keeps what failed."""

import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from tests.chaos.case import Case, NotRun
from tests.chaos.oracle import Broken
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

WORLDS: dict[str, Callable[[Path, Workload, random.Random], Run]] = {"local": Run}
"""What makes a run, for each world; it may raise NotRun."""


@attrs.frozen
class Result:
    """What came of one case."""

    case: Case
    seed: str
    seconds: float
    broken: Sequence[Broken] = ()
    not_run: str = ""
    evidence: Path | None = None

    def line(self) -> str:
        """Return it as a line for a person."""
        told = f"not run: {self.not_run}" if self.not_run else "BROKEN" if self.broken else "held"
        return f"{told:<8} {self.seconds:5.1f} s  {self.case.title}  --seed {self.seed}"

    def details(self) -> str:
        """Return what was broken."""
        return "\n".join(f"    {broken.promise.name}: {broken.how}" for broken in self.broken) + (
            f"\n    evidence: {self.evidence}" if self.evidence else ""
        )


def try_one(case: Case, seed: str, keep: Path | None = None) -> Result:
    """Try one case; its random choices follow from the seed and its title. Evidence of a failure is kept in *keep*."""
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="chaos-", dir=keep))
    try:
        run = WORLDS[case.world](place / "run", case.workload, random.Random(f"{seed} {case.title}"))
        broken = case.run(run)
    except NotRun as reason:
        shutil.rmtree(place, ignore_errors=True)
        return Result(case, seed, time.monotonic() - began, not_run=str(reason))
    except Exception:  # noqa: BLE001 - the harness itself: as bad as a broken promise, for nothing was tried
        broken = [Broken(Promise.SETTLED, f"the harness failed: {traceback.format_exc()}")]
    if not broken or keep is None:
        shutil.rmtree(place, ignore_errors=True)
    return Result(case, seed, time.monotonic() - began, broken, evidence=place if broken and keep else None)


def try_many(
    cases: Sequence[Case], seed: str, seconds: float, side_by_side: int, keep: Path, tell: Callable[[Result], None]
) -> list[Result]:
    """Try cases in an order that the seed shuffles, again and again with new seeds, until time is up."""
    deadline = time.monotonic() + seconds
    found: list[Result] = []

    def one(case: Case, number: int) -> None:
        if time.monotonic() < deadline:
            found.append(try_one(case, f"{seed}.{number}", keep))
            tell(found[-1])

    number = 0
    while cases and time.monotonic() < deadline:
        order = random.Random(f"{seed} {number}").sample(list(cases), len(cases))
        with ThreadPoolExecutor(side_by_side) as pool:
            for ended in [pool.submit(one, case, number) for case in order]:
                ended.result()
        number += 1
    return found
