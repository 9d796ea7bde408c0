"""Are the types of all public names complete? `python -m tests.public_types` asks `pyright --verifytypes`.

It looks at each symbol that a user can reach through the names of `hyperflow.__all__`: nothing may be unknown, and
nothing may be left to be inferred, which each type checker does in its own way. Modules that only we import count as
public for pyright, too; what is only inferred there is counted and printed, but is no error.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hyperflow

GAPS = {"hyperflow.ClusterEnv": "its attribute `master` is for our own command line; the rooms behind it are inferred"}


def symbols() -> list[dict[str, Any]]:
    """Return what pyright knows of each symbol of the package."""
    binaries = Path(sys.executable).parent
    # It finds the package through the Python that it finds first.
    environ = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    command = [str(binaries / "basedpyright"), "--verifytypes", "hyperflow", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    return found


def public() -> set[str]:
    """Return where the public names are defined."""
    found = set[str]()
    for name in hyperflow.__all__:
        value = getattr(hyperflow, name)
        found.add(f"hyperflow.{name}")
        if hasattr(value, "__qualname__"):
            found.add(f"{value.__module__}.{value.__qualname__}")
    return found


def main() -> int:
    """Print what is incomplete."""
    names = public()
    ours = [symbol for symbol in symbols() if symbol["isExported"]]
    incomplete = [symbol for symbol in ours if not symbol["isTypeKnown"]]
    errors = [s for s in incomplete if not s["isTypeAmbiguous"] or _is_in(s, names)]
    errors = [symbol for symbol in errors if symbol["name"] not in GAPS]
    for symbol in errors:
        print(symbol["name"], *(one["message"] for one in symbol["diagnostics"]), sep="\n    ")
    seen = sum(_is_in(symbol, names) for symbol in ours)
    print(f"{seen} public symbols, {len(errors)} without a complete type beside these:", *GAPS)
    print(f"{len(incomplete) - len(errors)} of the {len(ours) - seen} others are inferred")
    return 1 if errors or not seen else 0


def _is_in(symbol: dict[str, Any], names: set[str]) -> bool:
    return any(f"{symbol['name']}.".startswith(f"{name}.") for name in names)


if __name__ == "__main__":
    sys.exit(main())
