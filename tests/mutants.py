"""The changes of code that the tests did not notice, after `mutmut run`. `make mutants` compares them with mutants.txt.

A mutant is a small change of a function, such as `<` for `<=`. One that survives is a gap in the tests, or changes
nothing that anybody can see. The latter are in `mutants.txt`, each with its reason; any other is an error.
"""

import subprocess
import sys
from pathlib import Path

EXPLAINED = Path(__file__).with_suffix(".txt")
ALIVE = {"survived", "no tests", "suspicious"}


def mutmut(*arguments: str) -> str:
    """Run a command of mutmut."""
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def change(mutant: str) -> str:
    """Return what a mutant is, in one line: module.function: old -> new."""
    place = mutant.removeprefix("hyperflow.").rpartition("__mutmut_")[0].replace("x\u01c1", "").replace("\u01c1", ".")
    lines = [line for line in mutmut("show", mutant).splitlines() if not line.startswith(("---", "+++"))]
    old, new = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return f"{place.replace('.x_', '.')}: {old} -> {new}"


def main() -> int:
    """Print the mutants that nobody has explained."""
    results = [line.strip().partition(": ") for line in mutmut("results").splitlines() if ": " in line]
    alive = sorted(change(mutant) for mutant, _, result in results if result in ALIVE)
    explained = {line.strip() for line in EXPLAINED.read_text().splitlines() if " -> " in line}
    new = [one for one in alive if one not in explained]
    print(f"{len(alive)} mutants live, {len(new)} of them unexplained", *new, sep="\n")
    gone = explained - set(alive)
    if gone:
        print(f"no longer alive, so take them out of {EXPLAINED.name}:", *sorted(gone), sep="\n")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
