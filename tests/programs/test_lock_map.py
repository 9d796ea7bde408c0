"""programs/lock_map.py: right with locks, wrong without, clear errors before any work."""

from pathlib import Path

import pytest

from tests.programs.runs import figures, run


def test_right_with_locks(tmp_path: Path) -> None:
    """With locks every entry is what the moves make of it, and the sum is as before."""
    output = run("lock_map.py", "--local", "--count", "80", "--entries", "4", cwd=tmp_path).stdout

    assert "4 of 4 entries are right; their sum is 400 of 400" in output
    assert figures(output)["moves"].strip() == "80 in 2 jobs"


def test_wrong_without_locks(tmp_path: Path) -> None:
    """Without them updates get lost, which the program finds."""
    words = ("--local", "--no-locks", "--count", "80", "--entries", "4", "--moment", "0.02", "--ntasks-per-node", "2")
    ended = run("lock_map.py", *words, cwd=tmp_path, code=1)

    assert "entries are wrong: without locks, updates got lost" in ended.stderr
    assert "4 of 4 entries" not in ended.stdout


@pytest.mark.parametrize("words", [("--entries", "1"), ("--count", "0"), ("--moment", "-1")])
def test_bad_input(tmp_path: Path, words: tuple[str, ...]) -> None:
    """What makes no sense is refused before any work."""
    assert "are needed" in run("lock_map.py", "--local", *words, cwd=tmp_path, code=2).stderr
