"""How many entries per second does the results database take, all of them on the disk before they return?"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled

INSERTS = scaled(100_000)
BARE = "bare fsync, one at a time"


@hf.job
async def insert() -> Figures:
    """Insert side by side."""
    entries = hf.KeyValMap("entries", key=int, value=float)
    began = time.perf_counter()
    await hf.map_concurrently(lambda x: entries.insert(x, x / 7), range(INSERTS))
    seconds = time.perf_counter() - began
    return {"value": INSERTS / seconds}


@hf.job
async def check() -> None:
    """All are there, in a later run."""
    entries = hf.KeyValMap("entries", key=int, value=float)
    if dict(await entries.lookup_all()) != {x: x / 7 for x in range(INSERTS)}:
        raise AssertionError("entries are missing or wrong")


def inserts() -> Figures:
    """Return inserts per second."""
    with TemporaryDirectory() as place:
        program = hf.ProgramInfo.new(Path(place, "program"))
        found = hf.run_job_local(insert(), cpus=2, program=program)
        hf.run_job_local(check(), cpus=2, program=program)
    return found


def bare_fsync() -> Figures:
    """Return fsyncs per second of a growing file: how durable this disk's answers are can be guessed from it."""
    count = scaled(500)
    with TemporaryDirectory() as place, Path(place, "file").open("wb") as file:
        began = time.perf_counter()
        for _ in range(count):
            file.write(b"x" * 100)
            file.flush()
            os.fsync(file.fileno())
        return {"value": count / (time.perf_counter() - began)}


def reached(medians: Mapping[str, Figures]) -> bool:
    """So many per second."""
    return medians[OURS]["value"] >= 20_000


QUESTION = Question(
    key="memo_inserts",
    title="100,000 concurrent inserts, each on the disk before it returns",
    unit="per second",
    better="higher",
    goal="at least 20,000 per second",
    contestants={OURS: "benchmarks.memo_inserts:inserts", BARE: "benchmarks.memo_inserts:bare_fsync"},
    reached=reached,
)
