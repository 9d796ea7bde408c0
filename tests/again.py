"""Run pytest, and play the few tests that failed once more, one after the other: `make test-again`.

Many tests race real processes on two cores, so one of thousands may lose its race where nothing is broken. A few that
fail, and pass when they are played alone, do not fail the whole; but each is named, because a flaky test is a bug: of
the test, or of what it tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

MOST = 5
"""More tests than these do not fail by chance."""

FAILED = Path(".pytest_cache/v/cache/lastfailed")
"""Where pytest notes what has failed."""


def play(words: Iterable[str]) -> int:
    """Run pytest, and return its exit code."""
    return subprocess.run([sys.executable, "-m", "pytest", *words], check=False).returncode


def main(words: Iterable[str]) -> int:
    """Return pytest's exit code for these words; 0, too, if all that failed pass alone."""
    FAILED.unlink(missing_ok=True)
    code = play(words)
    if code != pytest.ExitCode.TESTS_FAILED:  # all passed, or some may not have been run
        return code
    failed = list(json.loads(FAILED.read_text()))
    if len(failed) > MOST:
        print(f"{len(failed)} tests have failed: only up to {MOST} are played once more")
        return code
    print(f"\n{len(failed)} tests have failed: once more, alone", flush=True)
    passed = {test: play(["-q", test]) == 0 for test in failed}
    for test, is_flaky in passed.items():
        if is_flaky:
            print(f"FLAKY: {test} failed, and passed when it was played alone. This is a bug: mend it.")
        else:
            print(f"FAILED AGAIN: {test}")
    return 0 if all(passed.values()) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
