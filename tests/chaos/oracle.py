"""What the ledger, the processes and the files say about the promises, after all turns of a case."""

import collections
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.chaos.ledger import value_of
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.helpers import block_until

GRACE = 10.0


@attrs.frozen
class Broken:
    """A promise that was broken, and how."""

    promise: Promise
    how: str


def judge_ledger(run: Run, damage: str = "") -> Iterator[Broken]:
    """What the ledger says: nothing acknowledged is computed again, no key twice at a time, no value is wrong.

    With *damage*, a case has damaged files: what was recorded may be lost, but only after a report that matches this.
    """
    acknowledged: set[int] = set()
    newest: dict[int, str] = {}
    cancelled: set[tuple[int, int]] = set()
    reported = bool(damage and re.search(damage, run.reports()))
    for entry in run.ledger.entries():
        where = f"in turn {entry.run} (process {entry.pid} on {entry.host})"
        if entry.what == "ack":
            acknowledged.add(entry.key)
            if entry.told != str(value_of(entry.key)):
                yield Broken(Promise.RIGHT, f"key {entry.key} is {entry.told}, not {value_of(entry.key)}, {where}")
        elif entry.what in ("told", "failed"):
            reported = reported or bool(damage and re.search(damage, entry.told))
        elif entry.what == "start" and entry.key in acknowledged and not reported:
            promise = Promise.DAMAGE if damage else Promise.DURABLE
            yield Broken(promise, f"key {entry.key} was acknowledged, and is computed again {where}")
        elif entry.what == "cancelled":
            cancelled.add((entry.run, entry.key))
        elif entry.what == "start" and (entry.run, entry.key) in cancelled:
            yield Broken(Promise.CANCELLED, f"key {entry.key} was cancelled, and starts again {where}")
        elif entry.what == "shared":
            yield Broken(Promise.LOCKS, f"key {entry.key} has a lock that another one holds, {where}")
        elif entry.what == "taken":
            yield Broken(Promise.ONCE, f"key {entry.key} is computed twice at the same time {where}")
        elif entry.what == "began":
            newest[entry.key] = entry.told
        elif entry.what == "received" and entry.told != newest.get(entry.key):
            yield Broken(Promise.NEWEST, f"the result of an older start of the job of key {entry.key} counts {where}")
        elif entry.what == "stranger":
            yield Broken(Promise.PRIVATE, f"what another user wrote was unpickled {where}: {entry.told}")
        elif entry.what == "crowded":
            yield Broken(Promise.CPUS, f"key {entry.key} runs where all CPUs are held {where}")


def judge_end(run: Run) -> Iterator[Broken]:
    """What the last turn has to leave, after which nothing was broken any more: an end, and all results."""
    ended = run.turns[-1]
    cancelled = {entry.key for entry in run.ledger.entries() if entry.what == "cancelled" and entry.run == run.turn}
    missing = set(range(run.workload.keys)) - run.acknowledged().keys() - cancelled
    if any(turn.code is None for turn in run.turns):
        yield Broken(Promise.SETTLED, f"the program did not end; it said: {run.turns[-1].output[-1500:]}")
    elif ended.code != 0 or missing:
        yield Broken(
            Promise.WHOLE, f"exit code {ended.code}, {len(missing)} keys without a result: {ended.output[-3000:]}"
        )


def judge_left(run: Run) -> Iterator[Broken]:
    """What is left 10 s after the end: no process."""
    try:
        block_until(lambda: not run.left(), GRACE, "no process of the run is left")
    except TimeoutError:
        for process in run.left():
            yield Broken(Promise.PROCESSES, f"{process.role} {process.pid}: {process.command[:300]}")
        run.kill_all()


def judge_files(run: Run) -> Iterator[Broken]:
    """What is left of temporary files and descriptors by a turn that ended by itself."""
    if run.turns[-1].code not in (0, 1):
        return
    for path in (run.place / "tmp").iterdir():
        yield Broken(Promise.CLEAN, f"{path.name} is left in TMPDIR")
    for path in Path("/dev/shm").glob(f"*{run.place.name}*"):
        yield Broken(Promise.CLEAN, f"{path} is left")
    counts = [
        int(entry.told) for entry in run.ledger.entries() if entry.what == "descriptors" and entry.run == run.turn
    ]
    if len(counts) == 2 and counts[1] > counts[0]:
        yield Broken(Promise.CLEAN, f"{counts[1] - counts[0]} descriptors more than before")


def judge_starts(run: Run) -> Iterator[Broken]:
    """What holds if nothing was broken: each key starts once."""
    starts = collections.Counter(entry.key for entry in run.ledger.entries() if entry.what == "start")
    for key, count in starts.items():
        if count > 1:
            yield Broken(Promise.ONCE, f"key {key} has started {count} times, and nothing was broken")


def judge(run: Run, damage: str = "", quiet: bool = False) -> list[Broken]:
    """Judge a case after all its turns; `quiet`: nothing was broken in it."""
    starts = judge_starts(run) if quiet else ()
    return [*judge_end(run), *judge_left(run), *judge_ledger(run, damage), *starts, *judge_files(run)]
