"""The coverage of the pure modules by their own unit tests may not fall. `make coverage` measures and compares.

The floors are in `coverage_floor.json`: for each module, how many of its lines and branches may be missed. One that
moves takes its line with it; one that got better gets a lower number, by `make coverage ARGUMENTS=--write`.
"""

import json
import sys
from pathlib import Path

import coverage

FLOORS = Path(__file__).with_suffix(".json")


def measured() -> dict[str, int]:
    """Return how many lines and branches of each module the last run has missed."""
    report = Path(".coverage", "report.json")
    run = coverage.Coverage()
    run.load()
    run.json_report(outfile=str(report))
    files = json.loads(report.read_text())["files"]
    counts = {path: found["summary"] for path, found in files.items()}
    return {path: found["missing_lines"] + found["missing_branches"] for path, found in sorted(counts.items())}


def complaints(missed: dict[str, int], floors: dict[str, int]) -> list[str]:
    """Return what is worse than it was, or unknown."""
    found = [f"{path}: {count} lines and branches are missed" for path, count in missed.items() if path not in floors]
    found += [f"{path} is in {FLOORS.name}, and was not measured" for path in floors if path not in missed]
    worse = {path: count for path, count in missed.items() if count > floors.get(path, count)}
    return found + [f"{path}: {count} are missed, {floors[path]} may be" for path, count in worse.items()]


def main() -> int:
    """Compare, or write."""
    missed = measured()
    if "--write" in sys.argv:
        FLOORS.write_text(json.dumps(missed, indent=4) + "\n")
    found = complaints(missed, json.loads(FLOORS.read_text()))
    if found:
        print(
            "The unit tests cover less than before (`python -m coverage report -m` shows the lines):", *found, sep="\n"
        )
        return 1
    print(f"{len(missed)} pure modules, {sum(missed.values())} lines and branches missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
