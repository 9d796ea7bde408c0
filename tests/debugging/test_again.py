"""What fails leaves what it takes to fail again: here, under pdb, and as a file elsewhere."""

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hyperflow as hf
from hyperflow.debugging import capsule
from tests.support import Gate, environment, local, logs, run_script, wait_at

PROGRAM = """
import enum, sys
import attrs, numpy as np
import hyperflow as hf
import helping
@attrs.define
class Molecule:
    size: int
    def shrink(self): return self.size - LEAST
class Way(enum.Enum):
    UP, DOWN = "up", "down"
LEAST = 7
TABLE = hf.put({"seven": np.arange(40_000.0)})
def solve(molecule, way, table, k=0):
    secret = molecule.shrink() + float(table["seven"][k]) - k
    return helping.inverse(secret)
@hf.job
async def main():
    await hf.remote_eval(solve, Molecule(8), Way.UP, TABLE)
    await hf.remote_eval(solve, Molecule(7), Way.DOWN, TABLE, k=3)
if __name__ == "__main__":
    hf.run_job_local(main(), cpus=1, program=hf.ProgramInfo.new("hyperflow-runs"))
"""

HELPING = """
def inverse(x):
    below = x
    return 1 / below
"""


def type_in(place: Path, words: list[str], orders: str = "") -> tuple[int, str, str]:
    """Run Python with these words; return exit code, what it printed, and what it said on standard error."""
    done = subprocess.run(
        [sys.executable, *words], cwd=place, env=environment(), input=orders, capture_output=True, text=True,
        timeout=50, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def debug(place: Path, *words: str, orders: str = "") -> tuple[int, str, str]:
    """Type `hyperflow debug`."""
    return type_in(place, ["-m", "hyperflow", "debug", *words], orders)


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """Let a program fail; return its directory, in which program and module are not any more."""
    (tmp_path / "helping.py").write_text(HELPING)
    said = run_script(tmp_path, PROGRAM, check=False)
    assert "ZeroDivisionError" in said, said
    (tmp_path / "helping.py").unlink()
    (tmp_path / "script.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    return tmp_path


LOOK = "p below\nup\np molecule, way, secret, k, len(table['seven'])\nw\nq\n"


def test_here_and_elsewhere(failed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It fails again where it failed, with its arguments and its lines; the saved file does so without the run."""
    code, out, said = debug(failed, "2", orders=LOOK)
    assert code == 1, said
    assert "it has failed with the same error" in said
    for seen in ("0.0", "Molecule(size=7), <Way.DOWN: 'down'>, 0.0, 3, 40000", "return 1 / below"):
        assert seen in out, out + said
    assert "hyperflow/" not in said.partition("Traceback")[2]

    saved = failed / "f.hfc"
    code, out, said = debug(failed, "2", "--save", str(saved))
    assert code == 0, said
    elsewhere = tmp_path_factory.mktemp("laptop")
    shutil.move(saved, elsewhere / "f.hfc")
    for path in failed.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    failed.rmdir()
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)
    code, out, said = type_in(elsewhere, ["f.hfc"], LOOK)
    assert code == 1, said
    assert "f.hfc is a program" in said
    assert "is not here" in said
    assert "it has failed with the same error" in said
    for seen in ("Molecule(size=7), <Way.DOWN: 'down'>, 0.0, 3, 40000", "return 1 / below"):
        assert seen in out, out + said

    code, out, said = type_in(elsewhere, ["f.hfc", "--step"], "p molecule\nc\n")
    assert "Molecule(size=7)" in out, out + said
    code, out, said = type_in(elsewhere, ["f.hfc", "--other"])
    assert (code, said) == (1, "usage: python f.hfc [--step]\n")
    whole = (elsewhere / "f.hfc").read_bytes()
    (elsewhere / "f.hfc").write_bytes(whole[: len(whole) // 2])
    code, out, said = type_in(elsewhere, ["f.hfc"])
    assert code == 1
    assert "f.hfc is damaged: " in said
    assert "it was cut short" in said  # seen in the base64, or by the size: as the half falls
    assert len(said.splitlines()) == 1


def test_what_succeeded_left_nothing(failed: Path) -> None:
    """There is nothing to debug of an evaluation that did not fail."""
    code, _, said = debug(failed, "1")
    assert code == 1
    assert "kept nothing of evaluation 1" in said


def test_show_names_the_command(failed: Path) -> None:
    """Who looks at a run that has failed reads what to type."""
    code, out, _ = type_in(failed, ["-m", "hyperflow", "show"])
    assert code == 0
    assert "hyperflow debug" in out


async def fail(call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Let an evaluation fail."""
    with contextlib.suppress(ArithmeticError):
        await hf.remote_eval(call, *args, **kwargs)
        pytest.fail("it did not fail")


def again(env: hf.JobEnv, number: int, orders: str = "q\n") -> str:
    """Debug an evaluation that fails with the same error again; return what pdb printed."""
    home = env.program.log_dir.parent
    code, out, said = debug(home, str(home), str(number), orders=orders)
    assert "it has failed with the same error" in said, said
    assert code == 1
    return out


class Scale:
    """A callable object."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, x: float) -> float:
        raise ArithmeticError(f"{self.by} times {x}")

    async def later(self, x: float) -> float:
        """Fail, too."""
        raise ArithmeticError(f"{self.by} times {x}, later")


async def test_all_kinds_of_calls() -> None:
    """Lambdas, methods, objects, async functions, keywords, arrays of all sizes and captures come back."""
    captured = [1, 2, 3]
    large, small = np.arange(100_000.0), np.arange(10.0)

    def writes(first: Any, second: Any, *, times: int) -> None:
        total = float(first.sum() + second.sum())
        first *= 0
        second *= 0
        raise ArithmeticError(f"{total} {times} {captured}")

    async with local(cpus=1) as env:
        await fail(lambda x: 1 / x, 0)
        await fail(Scale(2.5), 3)
        await fail(Scale(2.5).later, 4)
        await fail(writes, large, small, times=3)
        captured.append(4)
        await fail(writes, small, large, times=4)
        assert "x = 0" in again(env, 1, "a\nq\n")
        for number in (2, 3, 4, 5):
            again(env, number)


async def test_random_numbers_and_surroundings() -> None:
    """It draws the same numbers, knows the same worker, and takes locks that nobody else holds."""

    def draws(seconds: float) -> None:
        with hf.with_lock("key"):
            own = np.random.default_rng(hf.seed_sequence()).random()
            drawn = random.random(), np.random.random(), own
            raise ArithmeticError(f"{drawn} {hf.worker_info().service_id} {seconds}")

    def warms_up() -> float:
        random.seed(5)
        end = [random.random() for _ in range(2_000_000)][-1]
        return float(end + np.random.random())

    async with local(cpus=1) as env:
        await hf.remote_eval(warms_up)
        await fail(draws, 0.5)
        again(env, 2)


async def test_items_of_remote_map() -> None:
    """Of a chunk whose failures are returned, the first one is kept, and raises when it is run again."""

    def inverse(x: int) -> float:
        if x == 5:
            raise ArithmeticError(f"no {x}")
        return 1 / x

    async with local(cpus=1) as env:
        found = await hf.remote_map(inverse, range(1, 9), chunk_size=8, errors="return")
        assert [type(one) for one in found].count(hf.Failed) == 1
        assert "x = 5" in again(env, 1, "a\nq\n")


async def test_it_goes_through_now(tmp_path: Path) -> None:
    """What depends on a file is run with the file as it is now."""
    path = tmp_path / "there"

    def looks() -> str:
        if not path.exists():
            raise ArithmeticError("it is not there")
        return "there"

    async with local(cpus=1) as env:
        await fail(looks)
        path.touch()
        home = env.program.log_dir.parent
        code, _, said = debug(home, str(home), "1")
        assert code == 0
        assert "it went through this time, and returned a str" in said


async def test_what_is_not_here() -> None:
    """A call that cannot be unpickled here is told in a line that names what is missing."""

    class Fragile:
        def __init__(self) -> None:
            self.number = 1

        def __setstate__(self, state: dict[str, int]) -> None:
            if not os.environ.get("HYPERFLOW_SERVICE_ID"):
                raise ImportError("No module named \x1b[2J")
            self.__dict__.update(state)

    def uses(it: Fragile) -> None:
        raise ArithmeticError(f"no {it.number}")

    async with local(cpus=1) as env:
        await fail(uses, Fragile())
        home = env.program.log_dir.parent
        code, out, said = debug(home, str(home), "1")
        assert code == 1
        assert "it cannot be unpickled here: ImportError" in said
        assert "install what it needs" in said
        assert "Traceback" not in said
        assert (out + said).replace("\n", "").isprintable()


async def test_crashes_and_time_limits() -> None:
    """What ends its worker can be looked at, too: the head has kept the call."""
    large = np.arange(100_000.0)

    class Kept:
        def __init__(self, text: str) -> None:
            self.text = text

    def crashes(kept: Kept, array: Any) -> float:
        if os.environ.get("HYPERFLOW_SERVICE_ID"):
            os._exit(3)
        raise ArithmeticError(f"{kept.text} {array.sum()}")

    def hangs(gate: str) -> None:
        if os.environ.get("HYPERFLOW_SERVICE_ID"):
            wait_at(gate)
        raise ArithmeticError("not there")

    async with local(cpus=1) as env:
        with pytest.raises(hf.WorkerDied):
            await hf.remote_eval(crashes, Kept("it was kept"), hf.put(large))
        gate = Gate(env.program.data_dir)
        with pytest.raises(hf.TimeLimitExceeded):
            await hf.remote_eval(hangs, gate.path).using(time_limit=0.5)
        home = env.program.log_dir.parent
        for number, words in ((1, f"it was kept {large.sum()}"), (2, "not there")):
            code, out, said = debug(home, str(home), str(number), orders="q\n")
            assert code == 1
            assert f"ArithmeticError: {words}" in said, out + said
            assert "another error" in said


async def test_a_directory_that_others_can_write_to() -> None:
    """Then nothing is left there, the log says why, and the error arrives as itself."""

    def opens(log_dir: Path) -> None:
        log_dir.chmod(0o777)
        raise ArithmeticError("no")

    async with local(cpus=1) as env:
        await fail(opens, env.program.log_dir)
        assert not (env.program.log_dir / capsule.DIRECTORY).exists()
        assert "hyperflow keeps nothing of this failure" in logs(env)
        assert "can be written by others" in logs(env)


async def test_a_forked_child_leaves_nothing() -> None:
    """What fails in a child of an evaluation is no failure of the evaluation."""

    def forks() -> int:
        if os.fork() == 0:
            raise ArithmeticError("in the child")
        return os.wait()[1]

    async with local(cpus=1) as env:
        assert await hf.remote_eval(forks) != 0
        assert not (env.program.log_dir / capsule.DIRECTORY).exists()


def test_a_run_whose_directory_has_gone(tmp_path: Path) -> None:
    """A failure that the program has coped with can still be looked at when the temporary directory is gone."""

    def inverse(x: int) -> float:
        return 1 / x

    @hf.job
    async def copes() -> str:
        await fail(inverse, 0)
        return "coped"

    assert hf.run_job_local(copes(), cpus=1) == "coped"
    code, out, said = debug(tmp_path, "1", orders="a\nq\n")
    assert code == 1
    assert "it has failed with the same error" in said, said
    assert "x = 0" in out
