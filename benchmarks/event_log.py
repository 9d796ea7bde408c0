"""How many bytes does the event log take for each task?"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import hyperflow as hf
from benchmarks.harness import OURS, Figures, Question, scaled
from benchmarks.work import identity

TASKS = scaled(5000)
MOST = 40.0
TOGETHER = "hyperflow, side by side"


@hf.job
async def one_by_one(count: int) -> None:
    """Await each before the next is made."""
    for number in range(count):
        await hf.remote_eval(identity, number)


@hf.job
async def side_by_side(count: int) -> None:
    """Evaluate all at once."""
    await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(count))


def size_of(job: hf.Job[None]) -> int:
    """Run a job and return the bytes of its event log on the disk."""
    with TemporaryDirectory() as place:
        program = hf.ProgramInfo.new(Path(place, "program"))
        hf.run_job_local(job, cpus=2, program=program)
        return sum(path.stat().st_size for path in program.log_dir.rglob("events*") if path.is_file())


def of(name: str) -> Figures:
    """Divide the whole log by the tasks: what is there once is less than what differs from run to run."""
    job = one_by_one if name == "one_by_one" else side_by_side
    return {"value": size_of(job(2 * TASKS)) / (2 * TASKS)}


def reached(medians: Mapping[str, Figures]) -> bool:
    """Both."""
    return max(medians[OURS]["value"], medians[TOGETHER]["value"]) <= MOST


QUESTION = Question(
    key="event_log",
    title="the event log of tasks that are evaluated one by one",
    unit="bytes on the disk for each task",
    better="lower",
    goal=f"at most {MOST:g}",
    contestants={OURS: "benchmarks.event_log:of one_by_one", TOGETHER: "benchmarks.event_log:of side_by_side"},
    reached=reached,
    rounds=1,
)
