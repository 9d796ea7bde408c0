"""Questions, and the contestants that answer them in turn.

Guarantees: each turn is a process of its own with a temporary directory of its own; when it has ended, by a failure or
at its limit too, nothing of it is left, also no daemon that it started. Contestants take turns (A B C, A B C), so that
a machine that is slow for a while is slow for all of them.

Why a process for each turn: libraries leave threads, event loops and caches behind, which the next one would pay for.
"""

import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

Figures = dict[str, float]
"""What one turn found: "value" is what is compared; what else there is ("peak_memory_mb") is told beside it."""

TOP = Path(__file__).resolve().parent.parent
QUESTIONS = (
    "many",
    "ceiling",
    "nodes",
    "short_tasks",
    "round_trip",
    "ssh_many",
    "ssh_round_trip",
    "chunked_map",
    "fresh_process",
    "commands",
    "array_tasks",
    "process_cpu",
    "uneven",
    "arrays",
    "large_data",
    "large_ssh",
    "shared_argument",
    "shared_argument_local",
    "broadcast",
    "stream",
    "scheduler",
    "launchers",
    "startup",
    "first_result",
    "memo_hits",
    "memo_inserts",
    "memo_records",
    "memo_reopen",
    "lazy_map",
    "nested",
    "event_log",
)
"""In the order of the report; each is a module of this package."""

OURS = "hyperflow"
QUICK = "HYPERFLOW_BENCHMARKS_QUICK"


class Skipped(Exception):
    """A contestant cannot do this work here; the text says why."""


@attrs.frozen
class Question:
    """One thing to measure.

    Args:
        key: The name of its module in this package.
        title: The work, in a few words.
        unit: Of the value that is compared, "us each".
        better: "lower" or "higher".
        goal: What hyperflow should reach, in words.
        contestants: Name to "module:function", or "module:function argument"; the one named hyperflow is what the
            others are compared with.
        reached: Tells from the medians of all contestants whether the goal is reached.
        rounds: How many turns each contestant has, unless the command line says otherwise; None for 5.
        needs: "cluster" for a question that needs root and Slurm, else "".
        limit: Seconds after which a turn is ended.
    """

    key: str
    title: str
    unit: str
    better: str
    goal: str
    contestants: Mapping[str, str]
    reached: Callable[[Mapping[str, Figures]], bool]
    rounds: int | None = None
    needs: str = ""
    limit: float = 120.0


@attrs.frozen
class Result:
    """What was found: the figures of each turn, and who had none and why."""

    question: Question
    turns: dict[str, list[Figures]]
    skipped: dict[str, str]

    @property
    def medians(self) -> dict[str, Figures]:
        """The median of each figure, for each contestant that has figures."""
        return {
            name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
            for name, turns in self.turns.items()
        }

    @property
    def ratios(self) -> dict[str, float]:
        """How many times better hyperflow is than each contestant, by medians; below 1 where it is worse."""
        medians = self.medians
        if OURS not in medians:
            return {}
        ours = medians[OURS]["value"]
        higher = self.question.better == "higher"
        return {name: ours / each["value"] if higher else each["value"] / ours for name, each in medians.items()}

    @property
    def reached(self) -> bool:
        """Whether the goal is reached; without hyperflow's figures, or all that it is compared with, it is not."""
        try:
            return self.question.reached(self.medians)
        except (KeyError, ValueError):  # what it looks at is not there, or the minimum of nobody
            return False


def quick() -> bool:
    """Whether this run only tries whether everything works."""
    return QUICK in os.environ


def scaled(count: int) -> int:
    """Return how much of something to do: all of it, or in a quick run a tenth."""
    return max(1, count // 10) if quick() else count


def peers(medians: Mapping[str, Figures], *bare: str) -> dict[str, float]:
    """Return the values of everybody else who can do the work, without those that are no library; for `reached`."""
    return {name: figures["value"] for name, figures in medians.items() if name not in (OURS, *bare)}


def run(question: Question, rounds: int, only: Sequence[str] = ()) -> Result:
    """Let the contestants take turns; one that fails or is skipped has no more of them, and no figures."""
    result = Result(question, {}, {})
    chosen = {name: where for name, where in question.contestants.items() if not only or name in only}
    if question.needs == "cluster" and os.geteuid() != 0:
        result.skipped.update(dict.fromkeys(chosen, "it needs root, for a Slurm cluster on this machine"))
    for number in range(rounds):
        for name, where in chosen.items():
            if name in result.skipped:
                continue
            _say(f"{question.key}: round {number + 1}, {name}")
            try:
                figures = turn(where, question.limit)
            except Skipped as reason:
                result.skipped[name] = str(reason)
                result.turns.pop(name, None)
            else:
                result.turns.setdefault(name, []).append(figures)
    _say("")
    return result


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def turn(where: str, limit: float) -> Figures:
    """Run one contestant in a process of its own and return its figures; raise Skipped if it has none."""
    # Short, because Ray puts sockets there, whose paths have an end at 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hf", dir="/tmp", ignore_cleanup_errors=True) as place:
        output, log = Path(place, "output"), Path(place, "log")
        with output.open("wb") as stdout, log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.turn", where, str(limit)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=place,
                env={**os.environ, **_variables(place)},
                start_new_session=True,
            )
            try:
                code = process.wait()
            finally:
                process.terminate()  # we were interrupted: it ends what it started, and then itself
                process.wait()
        lines = output.read_text(errors="replace").splitlines()
        if code != 0 or not lines:
            raise Skipped(f"failed: {_last_line(log)}")
        said = json.loads(lines[-1])
        if "skipped" in said:
            raise Skipped(said["skipped"])
        return said


def _variables(place: str) -> dict[str, str]:
    """Return what a turn gets in its environment: places of its own, and nobody who asks the network anything."""
    return {
        "PYTHONPATH": str(TOP),  # for peers' workers, too
        "TMPDIR": place,
        "IPYTHONDIR": f"{place}/ipython",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": place,
        "DO_NOT_TRACK": "1",
        "TQDM_DISABLE": "1",
    }


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def load(where: str) -> Callable[[], Figures]:
    """Return the function that "module:function" names; words after it are arguments."""
    path, *words = where.split()
    module, _, name = path.partition(":")
    return functools.partial(getattr(importlib.import_module(module), name), *words)
