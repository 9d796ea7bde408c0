"""Kills of the head of a pool, at random: `python -m tests.pools.kills --seed S --times 50`.

A program computes memoized keys in waves on an elastic pool of three allocations. It is killed after a random time and
started again at once, some times; then it may come to its end. What happened is in the ledger of the attacks
(tests/chaos/ledger.py), and their oracle judges it; Slurm says what was submitted, and what is left.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tests.chaos.ledger import Ledger, value_of
from tests.chaos.oracle import judge_ledger
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.pools.program import Program

KEYS = 120
MOST = 3
KILLS = 5
"""Of one program."""

MAIN = f"""
from tests.chaos.ledger import Ledger, work
ledger = Ledger(place)

@hf.memoize("value", version=1)
def value(key: int) -> hf.Job[int]:
    return hf.remote_eval(work, str(place), key, 0.2 + key % 3 / 5, 99)

@hf.job
async def one(key: int) -> int:
    result = await value(key)
    ledger.note("ack", key, str(result))
    return result

async def main(env):
    results = []
    for wave in range(0, {KEYS}, 12):
        results += await hf.map_concurrently(one, range(wave, wave + 12))
    return results
"""
POOL = (
    "hf.NodePool(sbatch=[hf.SbatchOptions(ntasks_per_node=2, time=5), hf.SbatchOptions(ntasks_per_node=1, time=5)], "
    f"max_allocations={MOST}, idle_timeout=3, target_duration=1)"
)


class _Judged:
    """What the oracle asks of a run."""

    def __init__(self, place: Path) -> None:
        self.ledger = Ledger(place)

    def reports(self) -> str:
        return ""


def _states(program: Program) -> str:
    last = program.told("state")[-1:]
    counts = Counter(it["state"] for info in last for it in info["allocations"])
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"


def _life(cluster: Cluster, rng: random.Random, kills: int) -> Iterator[str]:
    """Run one program, and yield a row for each kill; at the end what is wrong."""
    with tempfile.TemporaryDirectory(prefix="hf-kills-") as where:
        program = Program(cluster, Path(where), MAIN, POOL)
        wrong: list[str] = []
        for turn in range(kills + 1):
            (program.place / "turn").write_text(str(turn))
            taken = len([text for _, text in program.told("log") if "taken over" in text])
            adopting = len(program.alive())
            with program.start() as command:
                until = time.monotonic() + (rng.uniform(0.3, 9.0) if turn < kills else 120)
                while command.poll() is None and time.monotonic() < until:
                    time.sleep(0.1)
                    if len(alive := program.alive()) > MOST:
                        wrong.append(f"{len(alive)} allocations at a time")
                ended = command.poll()
                states = _states(program)
                command.kill()
            if ended is not None or turn == kills:
                if ended != 0:
                    wrong.append(f"the program ended with {ended}: {program.seen()[-2000:]}")
                break
            now = len([text for _, text in program.told("log") if "taken over" in text]) - taken
            acks = len({entry.key for entry in Ledger(program.place).entries() if entry.what == "ack"})
            yield f"{states:45} {adopting:2} at Slurm before, {now} taken over; {acks} of {KEYS} known"
        wrong += _judged(program)
        yield f"= {'; '.join(sorted(set(wrong))) or 'all promises kept'}"


def _judged(program: Program) -> Iterator[str]:
    for broken in judge_ledger(cast(Any, _Judged(program.place))):
        yield f"{broken.promise}: {broken.how}"
    results = program.told("result")
    if results != [[value_of(key) for key in range(KEYS)]]:
        yield f"the result is {results}"
    names = Counter(name for _, _, name in program.jobs())
    yield from (f"{name} was submitted {count} times" for name, count in names.items() if count > 1)
    until = time.monotonic() + 15
    while time.monotonic() < until and (program.alive() or any(program.cluster.strangers().values())):
        time.sleep(0.2)
    if left := program.alive():
        yield f"{left} are left at Slurm"
    for host, processes in program.cluster.strangers().items():
        yield from (f"{host}: {process.command[:100]} is left" for process in processes)


def main() -> int:
    """Kill heads, and print a row for each kill; the exit code says whether a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--times", type=int, default=50)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    done = bad = 0
    print(f"--seed {chosen.seed}")
    with held_cluster() as cluster:
        while done < chosen.times:
            for row in _life(cluster, rng, min(KILLS, chosen.times - done)):
                if row.startswith("="):
                    bad += "all promises kept" not in row
                    print(f"    {row}", flush=True)
                else:
                    done += 1
                    print(f"{done:3} {row}", flush=True)
    print(f"{done} kills, {bad} programs with a broken promise")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
