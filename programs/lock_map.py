r"""Lock map: many evaluations update one map, two entries at a time. Hyperion's second example.

The map is a directory with a file for each entry, and each entry is a number. An evaluation takes two entries, chosen
at random, and moves one unit from the first to the second: it reads both, waits a moment, as if it computed something,
and writes both. Meanwhile others do the same, in the same Job and in another one. So

- all entries together always have the same sum, and
- at the end each entry is what it was, less the units that left it, and with those that came.

        Master                         on the login node: makes the map, and checks it at the end
        |
        +-- Job 1                      an allocation of its own
        |   +-- move(entry 3 -> 7)     with_locks([3, 7]): both or none, so that nobody waits in a cycle
        |   +-- move(entry 7 -> 1)
        |   :
        +-- Job 2
            +-- move(entry 5 -> 3)
            :

With `--no-locks` the same is done without them: updates get lost, and the program ends with an error that says so.
"""

import json
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import attrs

import hyperflow as hf

START = 100
"""What each entry begins with."""

JOBS = 2

Move: TypeAlias = tuple[int, int]
"""From which entry to which."""


@attrs.frozen
class Setting:
    """What all evaluations have in common.

    Args:
        place: The directory of the map.
        moment: Seconds between reading and writing.
        locks: Whether locks are taken.
    """

    place: Path
    moment: float
    locks: bool

    def read(self, entry: int) -> int:
        """Return an entry."""
        return int(json.loads((self.place / f"{entry}.json").read_text()))

    def write(self, entry: int, value: int) -> None:
        """Replace an entry; others see the old or the new one."""
        draft = self.place / f".{entry}-{random.randbytes(6).hex()}"
        draft.write_text(json.dumps(value))
        draft.replace(self.place / f"{entry}.json")


# ---- the evaluation: runs on a worker -------------------------------------------------------------------------------


def move(setting: Setting, source: int, target: int) -> None:
    """Move a unit from one entry to another."""
    with hf.with_locks([source, target]) if setting.locks else nullcontext():
        values = setting.read(source), setting.read(target)
        time.sleep(setting.moment)
        setting.write(source, values[0] - 1)
        setting.write(target, values[1] + 1)


# ---- the Jobs: run on the head node of an allocation, or here -------------------------------------------------------


@hf.job
async def moves(setting: Setting, these: Sequence[Move]) -> int:
    """Make all these moves side by side, and return how many they were."""
    await hf.map_concurrently(lambda one: hf.remote_eval(move, setting, *one), these)
    return len(these)


# ---- the Master: runs on the login node, or here --------------------------------------------------------------------


@hf.cluster
async def work(entries: int, count: int, moment: float, locks: bool, seed: int) -> None:
    """Let the Jobs move units between the entries of a new map, and check what has become of it."""
    place = (await hf.ask()).program.data_dir / "map"
    setting = Setting(place, moment, locks)
    if not place.exists():  # else this run goes on
        place.mkdir()
        for entry in range(entries):
            setting.write(entry, START)
    chance = random.Random(seed)
    plan = [(chosen[0], chosen[1]) for chosen in (chance.sample(range(entries), 2) for _ in range(count))]
    began = time.monotonic()
    parts = [plan[number::JOBS] for number in range(JOBS)]
    done = await hf.map_concurrently(lambda part: hf.remote_eval_job(moves(setting, part)), parts)
    wall = time.monotonic() - began
    report(setting, entries, plan)
    print(f"moves      {sum(done)} in {JOBS} jobs\nwall time  {wall:.2f} s\nmap        {place}")


def report(setting: Setting, entries: int, plan: Sequence[Move]) -> None:
    """Compare the map with what the moves should have made of it; raise an error if it is wrong."""
    right = [START] * entries
    for source, target in plan:
        right[source] -= 1
        right[target] += 1
    found = [setting.read(entry) for entry in range(entries)]
    wrong = [entry for entry in range(entries) if found[entry] != right[entry]]
    print("entry  should be  is")
    for entry in wrong[:5] or range(min(entries, 5)):
        print(f"{entry:5}  {right[entry]:9}  {found[entry]}")
    print(f"... {entries - len(wrong)} of {entries} entries are right; their sum is {sum(found)} of {START * entries}")
    if wrong:
        cause = "" if setting.locks else ": without locks, updates got lost"
        raise ArithmeticError(f"{len(wrong)} entries are wrong{cause}")


def lock_map(
    *, entries: int = 10, count: int = 200, moment: float = 0.005, no_locks: bool = False, seed: int = 1
) -> hf.Cluster[None]:
    """Move units between the entries of a map, two at a time and many side by side, and check the result.

    Two Slurm jobs side by side, of one CPU where nothing else is said (--ntasks-per-node 2); with --local, on this
    machine. A job that has to be started again makes its moves once more, and then the result is wrong: locks do not
    make side effects happen exactly once.

    Args:
        entries: How many entries the map has, at least 2.
        count: How many moves are made.
        moment: Seconds that each takes between reading and writing.
        no_locks: Take no locks, to see what happens then.
        seed: Of the choice of entries.
    """
    if entries < 2 or count < 1 or moment < 0:
        raise hf.ConfigurationError(
            "--entries of at least 2, --count of at least 1 and --moment of at least 0 are needed"
        )
    return work(entries, count, moment, not no_locks, seed)


if __name__ == "__main__":
    hf.main(lock_map)
