"""Play many histories: `python -m tests.model --histories 100000 --seed 7`.

The first history that breaks a promise ends it. It is made small and kept in tests/model/kept/, where a test replays
it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import secrets
import sys
import time
from collections import Counter

from tests.model.models import MODELS, split
from tests.model.simulator import Found, search

AT_A_TIME = 40
"""A process gets so many parts of a model's histories, one after the other: then all end at about the same time."""


def part(name: str, first: int, count: int) -> tuple[str, int, float, Found | None]:
    """Play some histories of a model; return how many, how much of a CPU it took, and what was found."""
    began = time.process_time()
    found = search(MODELS[name], range(first, first + count))
    return name, count, time.process_time() - began, found


def main() -> int:
    """Play what the command line asks for; return 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--histories", type=int, default=100_000, metavar="N", help="of all models (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the first one; by default another one each time")
    parser.add_argument("--only", choices=MODELS, help="one model")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="side by side (%(default)s)")
    wanted = parser.parse_args()
    # Seeds follow each other, so that a seed and a number of histories say exactly which ones were played.
    seed = secrets.randbelow(1 << 40) if wanted.seed is None else wanted.seed
    shares = split(wanted.histories, wanted.only)
    print(f"{sum(shares.values()):,} histories from seed {seed}: {shares}", flush=True)
    began = time.perf_counter()
    played, took = Counter[str](), Counter[str]()
    found: Found | None = None
    with concurrent.futures.ProcessPoolExecutor(wanted.processes) as pool:
        parts = []
        for name, count in sorted(shares.items(), key=lambda share: share[0] != "master"):  # the slowest one first
            size = max(1, count // AT_A_TIME)
            parts += [pool.submit(part, name, seed + at, min(size, count - at)) for at in range(0, count, size)]
        for done in concurrent.futures.as_completed(parts):
            name, count, seconds, found = done.result()
            played[name] += count
            took[name] += seconds
            if found is not None:
                for waiting in parts:
                    waiting.cancel()
                break
    for name, count in played.items():
        print(f"{name:10} {count:>8,} histories  {count / took[name]:>7,.0f} in a second of a CPU")
    seconds = time.perf_counter() - began
    print(f"{'all':10} {sum(played.values()):>8,} histories  {sum(played.values()) / seconds:>7,.0f} a second")
    if found is None:
        print("all promises hold")
        return 0
    path = found.keep()
    print(f"\n{found.model}, seed {found.seed}: BROKEN: {found.promise}\n  {found.detail}")
    print(f"  {len(found.events)} events: {found.events}\n  kept in {path}; once it is mended, say in it what it was")
    return 1


if __name__ == "__main__":
    sys.exit(main())
