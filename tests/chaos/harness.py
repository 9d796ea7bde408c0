"""Picks cases by a seed, runs them side by side, counts what was tried, and keeps what failed."""

import itertools
import random
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from tests.chaos import kept
from tests.chaos.case import Case, NotRun
from tests.chaos.cluster_run import SlurmRun
from tests.chaos.here_run import HereRun
from tests.chaos.login_run import LoginRun
from tests.chaos.oracle import Broken
from tests.chaos.postgres_run import PostgresRun
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

WORLDS: dict[str, Callable[[Path, Workload, random.Random], Run]] = {
    "local": Run,
    "postgres": PostgresRun,
    "here": HereRun,
    "slurm": SlurmRun,
    "cluster": LoginRun,
}
"""What makes a run, for each world; it may raise NotRun."""

ON_THE_CLUSTER = frozenset({"slurm", "cluster"})
"""Worlds that share one cluster."""

SHOWN = 3
"""How many details of each broken promise are shown."""


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
        """Return what was broken, the first few of each promise, and where the evidence is."""
        lines: list[str] = []
        for promise in dict.fromkeys(broken.promise for broken in self.broken):
            how = [broken.how for broken in self.broken if broken.promise is promise]
            lines += [f"{promise.name}: {each}" for each in how[:SHOWN]]
            lines += [f"{promise.name}: and {len(how) - SHOWN} more"] if len(how) > SHOWN else []
        lines += [f"evidence: {self.evidence}"] if self.evidence else []
        return "\n".join(f"    {line}" for line in lines)


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


@attrs.define
class Lane:
    """Cases that are tried one after another, by one thread or more."""

    turns: Iterator[tuple[Case, str]]
    lock: threading.Lock = attrs.field(factory=threading.Lock)

    def next(self) -> tuple[Case, str] | None:
        """Return the next case and its seed."""
        with self.lock:
            return next(self.turns, None)


def in_turn(cases: Sequence[Case], seed: str) -> Iterator[tuple[Case, str]]:
    """Yield cases with seeds: those kept, then all in an order that the seed shuffles, again and again.

    The tables take turns, so that a short run has something of each. (Of those kept, `test_kept.py` tries the others.)
    """
    yield from kept.among(case for case in cases if case.world in ON_THE_CLUSTER)
    for number in itertools.count() if cases else ():
        tables: dict[str, list[Case]] = {}
        for case in random.Random(f"{seed} {number}").sample(list(cases), len(cases)):
            tables.setdefault(case.table, []).append(case)
        for turn in itertools.zip_longest(*tables.values()):
            yield from ((case, f"{seed}.{number}") for case in turn if case is not None)


def try_many(
    cases: Sequence[Case], seed: str, seconds: float, side_by_side: int, keep: Path, tell: Callable[[Result], None]
) -> list[Result]:
    """Try cases until time is up. Those on the one cluster are tried one after another, beside the others."""
    deadline = time.monotonic() + seconds
    found: list[Result] = []

    def work(lane: Lane) -> None:
        while time.monotonic() < deadline and (turn := lane.next()):
            result = try_one(*turn, keep)
            found.append(result)
            tell(result)

    shared = [case for case in cases if case.world in ON_THE_CLUSTER]
    own = [case for case in cases if case.world not in ON_THE_CLUSTER]
    lanes = [Lane(in_turn(shared, seed)), *[Lane(in_turn(own, seed))] * side_by_side]
    with ThreadPoolExecutor(len(lanes)) as pool:
        for ended in [pool.submit(work, lane) for lane in lanes]:
            ended.result()
    return found
