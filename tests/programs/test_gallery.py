"""The programs of the gallery: each finds its answer right, and draws; if it cannot, it says so."""

import bz2
import gzip
import lzma
import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import block_until
from tests.programs.runs import command, figures, run, surroundings

SMALL: dict[str, tuple[str, ...]] = {
    "bisection": ("--levels", "1", "--width", "10"),
    "adaptive_scan": ("--coarse", "8", "--rounds", "2"),
    "ring_of_ions": ("--ions", "6", "--tolerance", "2e-2"),
    "monte_carlo": ("--temperatures", "2", "--tolerance", "3e-2"),
    "nested_optimiser": ("--tolerance", "0.5"),
    "live_scan": ("--points", "13"),
    "bootstrap": ("7", "--rays", "4"),
    "bayesian": ("--evaluations", "20", "--within", "5"),
    "parameter_sweep": ("--points", "3"),
    "ensemble": ("--precision", "0.1"),
    "hyperparameters": ("--candidates", "1", "--rungs", "2", "--needed", "0.3"),
    "file_conversion": (),
}
"""Arguments with which a program is quick."""

WRONG: dict[str, tuple[str, ...]] = {
    "bisection": ("--levels", "1", "--width", "1e-9"),  # finer than the steps of its integration are
    "bayesian": ("--evaluations", "9", "--within", "1e-6"),
    "parameter_sweep": ("--points", "2", "--within", "1e-6"),  # its oscillators are not infinitely many
}
"""Arguments with which its answer cannot be as good as its check wants."""

WHOLE = 314
"""How many evaluations the bisection of eight levels to a width of 1 takes."""


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


def newest_run(directory: Path) -> Path:
    """Return the directory of the newest run."""
    return max((directory / "hyperflow-runs").iterdir())


@pytest.mark.process
def test_database_is_gone_on_with(tmp_path: Path) -> None:
    """A run with an earlier one's database evaluates only what is new."""
    small = ("--levels", "2", "--width", "100")
    first = figures(run("bisection.py", "--local", *small, cwd=tmp_path).stdout)
    words = ("--database", newest_run(tmp_path) / "results.sqlite")
    again = figures(run("bisection.py", "--local", *small, *words, cwd=tmp_path).stdout)
    assert int(first["evaluations"]) > 0
    assert int(again["evaluations"]) == 0
    assert again["HCl"] == first["HCl"]


@pytest.mark.process
def test_killed_run_goes_on(tmp_path: Path) -> None:
    """What was recorded when the program was killed is not computed again."""

    def recorded() -> int:
        return sum(file.stat().st_size for file in tmp_path.glob("hyperflow-runs/*/jobs/*/results.*.sqlite*"))

    with subprocess.Popen(
        command("bisection.py", "--local", "--width", "1"),
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        block_until(lambda: recorded() > 60_000, 30, "results on the disk", state=recorded)
        process.kill()
    words = ("--local", "--width", "1", "--resume", newest_run(tmp_path).name)
    assert 0 < int(figures(run("bisection.py", *words, cwd=tmp_path).stdout)["evaluations"]) < WHOLE


@pytest.mark.process
def test_packer_that_spoils_files(tmp_path: Path) -> None:
    """A packer whose result is small, but cannot be unpacked to what it was, is found; nothing comes home."""
    packer = tmp_path / "bin" / "gzip"
    packer.parent.mkdir()
    packer.write_text("#!/bin/sh\necho spoilt\n")
    packer.chmod(0o755)
    (tmp_path / "-a file").write_text("text\n" * 1000)
    words = ("--local", "--on-error", "raise", "--to", "out", "--", "-a file")
    ended = run(
        "file_conversion.py", *words, cwd=tmp_path, code=1, env={"PATH": f"{packer.parent}:{os.environ['PATH']}"}
    )
    assert "packed with gz and unpacked again it is another file" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_odd_names(tmp_path: Path) -> None:
    """Names with a dash, spaces and quotes go through, and what comes out unpacks to what went in."""
    file = tmp_path / "-a 'file"
    file.write_bytes(bytes(range(256)) * 100)
    run("file_conversion.py", "--local", "--to", "out", "--", file.name, cwd=tmp_path)
    (packed,) = (tmp_path / "out").iterdir()
    opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[packed.suffix](packed)
    with opened as content:
        assert content.read() == file.read_bytes()
