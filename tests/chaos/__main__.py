"""`python -m tests.chaos`: try faults for some time, or one case again with its seed."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import harness, kept, page
from tests.chaos.faults import TABLES


def main() -> int:
    """Try cases as the command line says; return 1 if a promise was broken."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a case has mounted is to go
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long (default: 300)")
    parser.add_argument("--seed", default=os.urandom(4).hex(), help="repeats the same choices")
    parser.add_argument("--only", default="", metavar="WORDS", help="only cases whose title has these words")
    parser.add_argument("--once", action="store_true", help="try each case once, with exactly this seed, and stop")
    parser.add_argument("--side-by-side", type=int, default=3, metavar="N")
    parser.add_argument("--keep", type=Path, default=None, metavar="DIR", help="where evidence of failures is kept")
    parser.add_argument("--remember", action="store_true", help="put what fails into kept.json, to be tried again")
    parser.add_argument("--page", action="store_true", help="write docs/promises.md")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    given = parser.parse_args()
    cases = [case for case in TABLES if given.only in case.title]
    if given.list:
        print(*(case.title for case in cases), sep="\n")
        return 0
    keep = given.keep or Path(tempfile.mkdtemp(prefix="hyperflow-chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    print(f"{len(cases)} cases, seed {given.seed}, evidence in {keep}", flush=True)

    def tell(result: harness.Result) -> None:
        print(result.line() + (f"\n{result.details()}" if result.broken else ""), flush=True)

    began = time.monotonic()
    if given.once:
        results: list[harness.Result] = []
        for case in cases:
            results.append(harness.try_one(case, given.seed, keep))
            tell(results[-1])
    else:
        results = harness.try_many(cases, given.seed, given.seconds, given.side_by_side, keep, tell)
    if given.page:
        page.write(results, given.seed, time.monotonic() - began)
    broken = sum(bool(result.broken) for result in results)
    skipped = sum(bool(result.not_run) for result in results)
    print(f"{len(results)} tried, {broken} broken, {skipped} not run; seed {given.seed}")
    for result in results:
        if result.broken:
            if given.remember:
                kept.keep(result.case, result.seed)
            print(f"again: python -m tests.chaos --only {result.case.title!r} --once --seed {result.seed}")
    return 1 if broken or skipped == len(results) else 0


if __name__ == "__main__":
    sys.exit(main())
