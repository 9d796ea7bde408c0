"""How the tests run a program."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]

Word = str | bytes | Path


def command(program: str, *words: Word) -> list[Word]:
    """Return the command line of a program."""
    return [sys.executable, "-W", "error", TOP / "programs" / program, *words]


def surroundings(**changes: str) -> dict[str, str]:
    """Return the environment of a program: it finds hyperflow also where that is not installed."""
    return {**os.environ, "PYTHONPATH": str(TOP), **changes}


def run(
    program: str, *words: Word, cwd: Path, code: int = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which has to be this exit code."""
    ended = subprocess.run(
        command(program, *words),
        cwd=cwd,
        env=surroundings(**(env or {})),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=50,
    )
    assert ended.returncode == code, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended


def figures(output: str) -> dict[str, str]:
    """Return what a program's report says, by the words at the beginning of the lines."""
    return dict(line.split("  ", 1) for line in output.splitlines() if "  " in line)
