"""The face of the installed package: what a user types first works, and nothing is missing from the wheel.

It needs pytest and hyperflow, and nothing of this checkout: `make faces` runs it with the wheel that was built, away
from the sources, with each Python that we support.
"""

import importlib.resources
import subprocess
import sys
from pathlib import Path

import pytest

import hyperflow as hf

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

PROGRAM = """\
import hyperflow as hf


def square(x: int) -> int:
    return x * x


@hf.memoize("total", version=1)
@hf.job
async def total(count: int) -> int:
    return sum(await hf.remote_map(square, range(count)))


@hf.cluster
async def program() -> None:
    value = await hf.remote_eval_job(total(4)).using(sbatch=hf.SbatchOptions())
    print(value, await hf.ExtVar("eps", 0.5).get())


if __name__ == "__main__":
    hf.main(program)
"""


def typed(*words: str, place: Path) -> str:
    """Return what a command prints, with the Python that runs this."""
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_files() -> None:
    """What is no Python came along: the mark that there are types, the public names, the page's scripts."""
    package = importlib.resources.files(hf)

    for name in ("py.typed", "__init__.pyi", "viewing/assets/page.js", "viewing/assets/style.css"):
        assert package.joinpath(name).is_file(), name


def test_public_names() -> None:
    """Each public name is there, and has a docstring if it can have one."""
    assert len(hf.__all__) > 50
    for name in hf.__all__:
        assert getattr(hf, name).__doc__, name


def test_evaluations_and_errors() -> None:
    """Lambdas run in worker processes; their results come back, and their exceptions with their own types."""

    @hf.job
    async def both() -> list[int]:
        with pytest.raises(ZeroDivisionError):
            await hf.remote_eval(lambda: 1 / 0)
        return await hf.remote_map(lambda x: x + 1, [1, 2, 3])

    assert hf.run_job_local(both(), cpus=2) == [2, 3, 4]


def test_what_a_decorated_job_decides() -> None:
    """A Job that awaits in a loop, with options, runs as the README says."""

    @hf.job
    async def bisection(low: float, high: float) -> float:
        while high - low > 1e-3:
            middle = (low + high) / 2
            value = await hf.remote_eval(lambda x: x * x - 2, middle).using(cpus=1)
            low, high = (middle, high) if value < 0 else (low, middle)
        return low

    assert hf.run_job_local(bisection(1, 2), cpus=1) == pytest.approx(2**0.5, abs=1e-3)


def test_cluster_program(tmp_path: Path) -> None:
    """A Cluster program runs here with --local, and its results, variables and run can be asked for afterwards."""
    (tmp_path / "program.py").write_text(PROGRAM)

    assert typed("program.py", "--local", place=tmp_path).strip() == "14 0.5"
    assert "total" in typed("-m", "hyperflow", "results", place=tmp_path)
    assert "program" in typed("-m", "hyperflow", "runs", place=tmp_path)


def test_array(tmp_path: Path) -> None:
    """Many commands run without a program, and what they print is kept."""
    typed("-m", "hyperflow", "array", "--range", "1-3", "--local", "--", "echo", "number {n}", place=tmp_path)

    assert typed("-m", "hyperflow", "output", place=tmp_path).count("number ") == 3


def test_command_line(tmp_path: Path) -> None:
    """The command line knows its version and its commands."""
    assert typed("-m", "hyperflow", "--version", place=tmp_path).strip() == hf.__version__
    assert "doctor" in typed("-m", "hyperflow", "--help", place=tmp_path)
