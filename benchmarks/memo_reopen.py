"""What does the first lookup cost in a map of a million entries that an earlier run has recorded?"""

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.usage import peak_mb
from hyperflow.database.file import DatabaseFile

ENTRIES = scaled(1_000_000)
BATCH = 20_000
LATEST_MS, MOST_MB = 50.0, 30.0


def entries() -> hf.KeyValMap[int, float]:
    """Return the map."""
    return hf.KeyValMap("entries", key=int, value=float)


@hf.job
async def make_map() -> None:
    """Record one entry."""
    await entries().insert(ENTRIES, ENTRIES / 7)


def fill(program: hf.ProgramInfo) -> None:
    """Record all, in the form of the first one; by the store itself, as what is measured is the reading."""
    hf.run_job_local(make_map(), cpus=1, program=program)
    assert isinstance(program.database, Path)
    file = DatabaseFile.open(program.database, program.program_id)
    file.know()  # what is there, so that the index of all can be written
    for start in range(0, ENTRIES, BATCH):
        file.insert([("entries", str(x), repr(x / 7)) for x in range(start, min(start + BATCH, ENTRIES))])
    file.close()


@hf.job
async def look_up() -> Figures:
    """Look one up, and then others."""
    there, memory, began = entries(), peak_mb(), time.perf_counter()
    assert await there.lookup(ENTRIES // 2) == ENTRIES // 2 / 7
    first = time.perf_counter() - began
    figures = {"value": first * 1e3, "mb": peak_mb() - memory}
    began = time.perf_counter()
    for x in range(100):
        assert await there.lookup(x) == x / 7
    return figures | {"next_us": (time.perf_counter() - began) / 100 * 1e6}


def hyperflow() -> Figures:
    """Fill a database in one run, and look into it in a second one, in a process of its own."""
    import multiprocessing

    with TemporaryDirectory() as place:
        program = hf.ProgramInfo.new(Path(place, "program"))
        context = multiprocessing.get_context("spawn")
        filling = context.Process(target=fill, args=(program,))
        filling.start()
        filling.join()
        assert filling.exitcode == 0
        return hf.run_job_local(look_up(), cpus=1, program=program)


def reached(medians: Mapping[str, Figures]) -> bool:
    """At once, and next to nothing in memory."""
    return medians[OURS]["value"] <= LATEST_MS and medians[OURS]["mb"] <= MOST_MB


QUESTION = Question(
    key="memo_reopen",
    title=f"the first lookup in a map of {ENTRIES:,} entries, in a later run",
    unit="ms",
    better="lower",
    goal=f"at most {LATEST_MS:g} ms and {MOST_MB:g} MB",
    contestants={OURS: "benchmarks.memo_reopen:hyperflow"},
    reached=reached,
    rounds=1,
    limit=300,
)
