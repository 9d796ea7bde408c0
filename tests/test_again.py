"""`make test-again`: what failed by chance is told, what fails again fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import TOP

pytestmark = pytest.mark.process

TESTS = """
import pathlib, pytest

@pytest.mark.parametrize("name", {names})
def test_one(name):
    seen = pathlib.Path(name)
    first = not seen.exists()
    seen.touch()
    assert not first and "always" not in name
"""


def play(directory: Path, *names: str, text: str = TESTS) -> tuple[int, str]:
    """Play tests that fail the first time, or always; return the exit code, and what is printed."""
    (directory / "test_it.py").write_text(text.format(names=names))
    (directory / "pytest.ini").write_text("[pytest]\n")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.again", "-q", "--tb=no"],
        cwd=directory, env={**os.environ, "PYTHONPATH": str(TOP)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout


def test_a_test_that_fails_once_is_flaky(tmp_path: Path) -> None:
    """It is named, and the exit code is 0."""
    code, said = play(tmp_path, "once")
    assert (code, "FLAKY: test_it.py::test_one[once] failed, and passed" in said) == (0, True), said


def test_a_test_that_fails_twice_has_failed(tmp_path: Path) -> None:
    """It is named beside the one that was flaky, and the exit code is 1."""
    code, said = play(tmp_path, "once", "always")
    assert code == 1
    assert "FLAKY: test_it.py::test_one[once]" in said
    assert "FAILED AGAIN: test_it.py::test_one[always]" in said


def test_many_are_not_played_again(tmp_path: Path) -> None:
    """Where many tests fail, that is no chance."""
    code, said = play(tmp_path, *map(str, range(6)))
    assert code == 1
    assert "6 tests have failed: only up to 5 are played once more" in said
    assert "FLAKY" not in said


def test_a_run_that_ends_early_has_failed(tmp_path: Path) -> None:
    """Where pytest itself has failed, not all tests were run, so nothing is forgiven."""
    code, said = play(
        tmp_path,
        "once",
        "stops",
        text=TESTS.replace("    assert", "    STOP\n    assert").replace(
            "STOP", "if name == 'stops': pytest.exit('no more', 3)"
        ),
    )
    assert (code, "FLAKY" in said) == (3, False), said
