"""What does it cost to record a memoized result, beside bare SQLite?"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.usage import tree_cpu

RECORDS = scaled(50_000)
AT_ONCE = 1000
BARE = "bare SQLite"
EVALUATED = "hyperflow, each evaluated by a worker"
MOST = 3.0


@hf.memoize("remembered", version=1)
def remembered(x: int) -> hf.Flow[float]:
    """Compute nothing, so that what is measured is the recording."""
    return hf.pure(x / 7)


def seventh(x: int) -> float:
    """Take no time."""
    return x / 7


@hf.memoize("evaluated", version=1)
def evaluated(x: int) -> hf.Flow[float]:
    """Have a worker compute nothing: what most memoized functions look like."""
    return hf.remote_eval(seventh, x)


@hf.job
async def record(fn: Callable[[int], hf.Flow[float]]) -> Figures:
    """Record all."""
    cpu = tree_cpu()
    await hf.map_concurrently(fn, range(RECORDS), limit=10 * AT_ONCE)
    return {"value": (tree_cpu() - cpu) / RECORDS * 1e6}


def hyperflow() -> Figures:
    """Take hyperflow's turn."""
    with TemporaryDirectory() as place:
        return hf.run_job_local(record(remembered), cpus=2, program=hf.ProgramInfo.new(Path(place, "program")))


def hyperflow_evaluated() -> Figures:
    """The same with evaluations, whose CPU time counts."""
    with TemporaryDirectory() as place:
        return hf.run_job_local(record(evaluated), cpus=1, program=hf.ProgramInfo.new(Path(place, "program")))


def bare() -> Figures:
    """Insert keys and values as text."""
    with TemporaryDirectory() as place:
        base = sqlite3.connect(Path(place, "base"))
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        cpu = tree_cpu()
        for start in range(0, RECORDS, AT_ONCE):
            rows = [(json.dumps([x]), json.dumps(x / 7)) for x in range(start, min(start + AT_ONCE, RECORDS))]
            with base:
                base.executemany("INSERT INTO entries VALUES (?, ?)", rows)
        cpu = tree_cpu() - cpu
        assert base.execute("SELECT count(*) FROM entries").fetchone() == (RECORDS,)
        base.close()
    return {"value": cpu / RECORDS * 1e6}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Compare with the library underneath."""
    return medians[OURS]["value"] <= MOST * medians[BARE]["value"]


QUESTION = Question(
    key="memo_records",
    title=f"{RECORDS:,} memoized results recorded",
    unit="us of CPU each",
    better="lower",
    goal=f"at most {MOST:g} times bare SQLite with keys and values in JSON, 1,000 in a transaction",
    contestants={
        OURS: "benchmarks.memo_records:hyperflow",
        EVALUATED: "benchmarks.memo_records:hyperflow_evaluated",
        BARE: "benchmarks.memo_records:bare",
    },
    reached=reached,
    rounds=3,
)
