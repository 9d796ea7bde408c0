"""Entries of the database that were changed while nobody looked, in pages that are sound: {what} x {after a kill}."""

import functools
import signal
import sqlite3
import sys
from contextlib import closing

from tests.chaos import boxes
from tests.chaos.case import Case, NotRun
from tests.chaos.faults.processes import NODE, members
from tests.chaos.promises import Promise
from tests.chaos.run import Run

ONE = "WHERE id = (SELECT id FROM entries ORDER BY (id * 7919 + :salt) % 1000003 LIMIT 1)"
"""An entry chosen at random."""

CHANGES = {
    "a digit of a value": f"UPDATE entries SET value = replace(value, :old, :new) {ONE}",
    "the key": f"UPDATE entries SET key = '\"another\"' {ONE}",
    "the value and its size": f"UPDATE entries SET value = value || '1', size = size + 1 {ONE}",
    "the checksum": f"UPDATE entries SET checksum = zeroblob(16) {ONE}",
    "the name of the map": f"UPDATE entries SET map = 'others' {ONE}",
    "a value in the place of another": f"UPDATE entries SET value = (SELECT value FROM entries LIMIT 1 OFFSET 1) {ONE}",
    "the whole entry": f"DELETE FROM entries {ONE}",
}


def change(run: Run, statement: str) -> None:
    """Kill all at work, change an entry, and start again."""
    run.until("ack", 5)
    run.at_work()
    for process in members(run, ("head", *NODE)):
        process.signal(signal.SIGKILL)
    run.wait()
    run.kill_all()
    salt = run.rng.randrange(1000003)
    with closing(sqlite3.connect(run.disk / "results.sqlite", isolation_level=None)) as opened:
        (value,) = opened.execute(f"SELECT value FROM entries {ONE}", {"salt": salt}).fetchone()
        digit = next(digit for digit in value if digit.isdigit())
        done = opened.execute(statement, {"salt": salt, "old": digit, "new": str((int(digit) + 1) % 10)})
        if done.rowcount != 1:
            raise NotRun("nothing was changed")
    run.start()


def repaired(run: Run) -> None:
    """Type what the message says, where there was one."""
    if run.turns[-1].code != 0:
        boxes.command(sys.executable, "-m", "hyperflow", "repair", str(run.disk / "results.sqlite"))


TABLE = tuple(
    Case(
        table="entries",
        name=f"{name} changed",
        attack=functools.partial(change, statement=statement),
        tries=frozenset({Promise.DAMAGE}),
        mend=repaired,
        told="damage|missing",
    )
    for name, statement in CHANGES.items()
)
