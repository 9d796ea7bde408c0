"""The programs of the gallery: each finds its answer right, and draws; if it cannot, it says so."""

from pathlib import Path

import pytest

from tests.programs.runs import run

SMALL: dict[str, tuple[str, ...]] = {
    "bisection": ("--levels", "2", "--width", "1"),
}
"""Arguments with which a program is quick."""

WRONG: dict[str, tuple[str, ...]] = {
    "bisection": ("--levels", "1", "--width", "1e-9"),  # finer than the steps of its integration are
}
"""Arguments with which its answer cannot be as good as its check wants."""


@pytest.mark.process
@pytest.mark.parametrize("name", SMALL)
def test_answer_is_right(tmp_path: Path, name: str) -> None:
    """The program checks its answer, and draws at least one picture."""
    run(f"{name}.py", "--local", *SMALL[name], cwd=tmp_path)
    assert [*tmp_path.glob("hyperflow-runs/*/data/*.png")]


@pytest.mark.process
@pytest.mark.parametrize("name", WRONG)
def test_wrong_answer_is_an_error(tmp_path: Path, name: str) -> None:
    """An answer that is not good enough ends the program with an error that says so."""
    ended = run(f"{name}.py", "--local", *WRONG[name], cwd=tmp_path, code=1)
    assert "ArithmeticError: " in ended.stderr
