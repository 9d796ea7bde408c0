"""What hyperflow has to reach, in one table: `python -m benchmarks goals`, or some rows of it by name.

Each row takes its figures from a question (see harness.py), from those contestants only that it compares, in turn.
What is measured in microseconds needs a quiet machine; what is compared with a peer needs it less.
"""

import functools
import importlib
import os
import sys
import time
from collections.abc import Iterable, Sequence

import attrs
from rich.console import Console

from benchmarks import arrays, broadcast, first_result, harness, memo_records, nodes, short_tasks
from benchmarks.harness import OURS, Figures, Question, Result

POOL = "multiprocessing"


@attrs.frozen
class Goal:
    """A row.

    Args:
        key: What it is called on the command line; several rows may have one.
        what: What is measured, in a few words.
        question: The module that measures it.
        ours: The contestant that is meant.
        most: What it may be at most.
        least: What it has to be at least.
        figure: Of the contestant, and of its peer.
        peer: The contestant that it is divided by.
        beyond: It is not divided by the peer, but taken off.
        unit: Of the figure, where that is shown.
    """

    key: str
    what: str
    question: str
    ours: str = OURS
    most: float | None = None
    least: float | None = None
    figure: str = "value"
    peer: str | None = None
    beyond: bool = False
    unit: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Who takes turns."""
        return (self.ours,) if self.peer is None else (self.ours, self.peer)

    @property
    def goal(self) -> str:
        """The goal, in words."""
        sign, limit = ("at least", self.least) if self.most is None else ("at most", self.most)
        if self.peer is None:
            return f"{sign} {limit:,g} {self.unit}".strip()
        return f"{sign} {self.peer} + {limit:g} {self.unit}" if self.beyond else f"{sign} {limit:g} x {self.peer}"

    def value(self, medians: dict[str, Figures]) -> float:
        """Return what is compared with the limit; raises KeyError if somebody has no figures."""
        ours = medians[self.ours][self.figure]
        if self.peer is None:
            return ours
        theirs = medians[self.peer][self.figure]
        return ours - theirs if self.beyond else ours / theirs

    def reached(self, value: float) -> bool:
        """Whether that is enough."""
        return value <= self.most if self.most is not None else value >= (self.least or 0)

    def measured(self, medians: dict[str, Figures]) -> str:
        """Tell the value, and what it is made of."""
        value, ours = self.value(medians), medians[self.ours][self.figure]
        if self.peer is None:
            return f"{number(value)} {self.unit}".strip()
        told = f"+ {number(value)} {self.unit}" if self.beyond else f"{number(value)} x"
        return f"{told} ({number(ours)} : {number(medians[self.peer][self.figure])})"


def number(value: float) -> str:
    """Write a number with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


LARGE = nodes.name(1000), nodes.name(4000)
CEILING = functools.partial(Goal, "ceiling", question="ceiling", unit="us of the head's CPU")
GOALS: Sequence[Goal] = (
    CEILING("map_concurrently, answers at once, 1 node x 2", ours="1 x 2", most=2.0),
    CEILING("map_concurrently, answers at once, 1 x 64", ours="1 x 64", most=2.0),
    CEILING("map_concurrently, answers at once, 16 x 64", ours="16 x 64", most=3.33),
    Goal("many", "map_concurrently, two real workers", "many", peer=POOL, most=0.2),
    Goal("nodes", "1,000 x 128, tasks of 1 s: CPUs busy", "nodes", LARGE[0], least=0.9, figure="efficiency"),
    Goal("nodes", "1,000 x 128: head's CPU each", "nodes", LARGE[0], most=7.0, unit="us"),
    Goal(
        "nodes", "1,000 up, without ssh: head's CPU each", "nodes", LARGE[0], most=1.0, figure="up_ms_each", unit="ms"
    ),
    Goal("most_nodes", "4,000 x 128, tasks of 10 s: CPUs busy", "nodes", LARGE[1], least=0.9, figure="efficiency"),
    Goal("most_nodes", "4,000 x 128: loop late, filling", "nodes", LARGE[1], most=0.2, figure="fill_lag_s", unit="s"),
    Goal("short_tasks", "tasks of 1 ms: CPU beyond their own", "short_tasks", peer=short_tasks.POOL, most=0.5),
    Goal("round_trip", "round trip", "round_trip", peer="bare relay", most=3.0),
    *(
        Goal("arrays", f"arrays of {size}", "arrays", peer=arrays.POOL, figure=size, most=arrays.MOST)
        for size in arrays.SIZES
    ),
    Goal("large_data", "an array of 100 MB, there and back", "large_data", peer="kept blocks", most=1.3),
    *(
        Goal(
            "first_result",
            f"first result of a script{libraries}",
            "first_result",
            OURS + libraries,
            peer=first_result.POOL + libraries,
            beyond=True,
            most=first_result.BEYOND,
            unit="ms",
        )
        for libraries in ("", first_result.LIBRARIES)
    ),
    Goal("startup", "run_job_local(pure(1)), above a bare Python", "startup", most=90.0, unit="ms"),
    Goal("process_cpu", "fresh_process with scipy, CPU", "process_cpu", "fresh process", peer="bare fork", most=1.5),
    Goal("process_cpu", "run_command(true), CPU", "process_cpu", "run_command", peer="bare posix_spawn", most=1.25),
    Goal("memo_records", "memoized results recorded, CPU", "memo_records", peer=memo_records.BARE, most=3.0),
    Goal("memo_reopen", "first lookup among 10^6 entries", "memo_reopen", most=50.0, unit="ms"),
    Goal("memo_reopen", "first lookup among 10^6 entries: memory", "memo_reopen", most=30.0, figure="mb", unit="MB"),
    Goal("lazy_map", "map_concurrently(limit=4) over 100 MB", "lazy_map", most=10.0, unit="MB"),
    Goal("lazy_map", "what an ended map leaves", "lazy_map", most=0.1, figure="garbage_each", unit="objects each"),
    Goal("nested", "jobs that await jobs", "nested", least=100_000, unit="levels"),
    Goal(
        "broadcast",
        f"an argument to {broadcast.NODES} nodes, head's CPU",
        "broadcast",
        broadcast.ALL,
        peer=broadcast.ONE,
        most=broadcast.MOST,
    ),
    Goal("launchers", "nodes up, head's CPU each, on a cluster", "launchers", most=1.0, unit="ms"),
    Goal("event_log", "event log, one by one", "event_log", most=40.0, unit="bytes each"),
)

ROUNDS = {"nodes": 1, "memo_reopen": 1, "nested": 1, "event_log": 1, "broadcast": 1, "launchers": 1, "many": 3}
"""Turns of each contestant, where not 2."""


LONGEST = 120.0
"""Seconds that a run of many nodes may take. A head that needs longer misses its goals by far."""


def question_of(module: str) -> Question:
    """Return a question; that of many nodes for a shorter life than in the report."""
    question: Question = importlib.import_module(f"benchmarks.{module}").QUESTION
    if module != "nodes":
        return question
    shorter = {
        nodes.name(count): nodes.where(harness.scaled(count), nodes.CPUS, nodes.duration_of(count), rounds, "map")
        for count, rounds in ((1000, 3), (4000, 1))
    }
    return attrs.evolve(question, contestants=shorter, limit=LONGEST)


def groups(goals: Iterable[Goal]) -> dict[tuple[str, str], list[Goal]]:
    """Put rows together that are measured together."""
    found: dict[tuple[str, str], list[Goal]] = {}
    for goal in goals:
        found.setdefault((goal.key, goal.question), []).append(goal)
    return found


def main(*rows: str, rounds: int | None = None, quick: bool = False) -> int:
    """Measure what has a goal, and print one line for each: what, measured, goal.

    Args:
        rows: Which; all if none is named.
        rounds: How many turns each contestant has.
        quick: A tenth of the work: to see that everything works. Its figures mean nothing.
    """
    if quick:
        os.environ[harness.QUICK] = "1"
    known = list(dict.fromkeys(goal.key for goal in GOALS))
    if wrong := [row for row in rows if row not in known]:
        print(f"There is no row {wrong[0]!r}; there are {', '.join(known)}.")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(f"{'':46}{'measured (ours : theirs)':36}{'goal':36}", style="bold")
    missed = 0
    began = time.monotonic()
    for (_, module), goals in groups(goal for goal in GOALS if not rows or goal.key in rows).items():
        names = list(dict.fromkeys(name for goal in goals for name in goal.names))
        turns = 1 if quick else rounds or ROUNDS.get(module, 2)
        result = harness.run(question_of(module), turns, names)
        for goal in goals:
            missed += not shown(console, goal, result)
    console.print(f"{missed} missed; {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
    return 0


def shown(console: Console, goal: Goal, result: Result) -> bool:
    """Print a row; return whether its goal is reached."""
    try:
        medians = result.medians
        reached = goal.reached(goal.value(medians))
        said = goal.measured(medians)
    except KeyError:
        reached, said = False, "; ".join(f"{name}: {why}" for name, why in result.skipped.items()) or "no such figure"
    mark = "[green]reached[/]" if reached else "[red]missed[/]"
    console.print(f"{goal.what:46}{said:36}{goal.goal:36}{mark}", soft_wrap=True)
    return reached
