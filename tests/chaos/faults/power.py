"""The loss of power: all processes end at once, and of the database there is what was synced, and nothing else.

A library that each process loads keeps a copy of each file at the moment of its fsync (`lies.c`). What it cannot show:
names that were not synced, and writes that a disk does in another order.
"""

import functools
import signal

from tests.chaos import boxes
from tests.chaos.case import Case
from tests.chaos.faults.processes import ALL_MOMENTS, NODE, members
from tests.chaos.run import Run

FILE = "results.sqlite"


def watched(run: Run) -> None:
    """Keep what is synced."""
    boxes.lying(run)
    (run.place / "durable").mkdir()
    run.environment["CHAOS_DURABLE"] = str(run.place / "durable")


def lose_power(run: Run, moment: str) -> None:
    """Kill everything, put the database back to what was on the disk, and start again."""
    ALL_MOMENTS[moment](run)
    for process in members(run, ("head", *NODE)):
        process.signal(signal.SIGKILL)
    run.wait()
    run.kill_all()
    for file in run.disk.glob(f"{FILE}*"):
        kept = run.place / "durable" / str(file.resolve()).replace("/", "%")
        if kept.exists() and not file.name.endswith("-shm"):
            file.write_bytes(kept.read_bytes())
        else:
            file.unlink()
    run.start()


TABLE = tuple(
    Case(table="power", name=f"lost {moment}", before=watched, attack=functools.partial(lose_power, moment=moment))
    for moment in ALL_MOMENTS
)
