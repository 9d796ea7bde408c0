"""Tasks of arrays that have files."""

import os
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.commands.running import TaskFailed
from hyperflow.commands.staged import plan_of, staged
from hyperflow.commands.task_spec import TaskSpec
from tests.support import local


def task(directory: Path, *words: str, **more: Any) -> TaskSpec:
    """Make a task of this directory."""
    return TaskSpec(7, words, cwd=str(directory), **more)


async def test_files_of_a_task(tmp_path: Path) -> None:
    """Inputs have the names that were given, outputs come to the directory, variables and stdin are as elsewhere."""
    (tmp_path / "in").write_text("b\na\n")
    (tmp_path / "std").write_text("std")
    one = task(
        tmp_path, "sh", "-c", "sort data/in > out/sorted; cat > in.txt; printf $X", env={"X": "said"},
        inputs={"data/in": str(tmp_path / "in")}, outputs=("out/*", "in.txt"), stdin=str(tmp_path / "std"),
    )  # fmt: skip
    async with local(cpus=1):
        done = await staged(one)
    assert (done.exit_code, done.out) == (0, b"said")
    assert (tmp_path / "out" / "sorted").read_text() == "a\nb\n"
    assert (tmp_path / "in.txt").read_text() == "std"
    assert sorted(os.listdir(tmp_path)) == ["in", "in.txt", "out", "std"]


async def test_a_task_that_fails(tmp_path: Path) -> None:
    """A task that fails has its error, tries again as often as was asked for, and brings what is to come then."""
    one = task(
        tmp_path, "sh", "-c", f"echo >> {tmp_path}/tries; echo why > core; echo said >&2; exit 3",
        outputs=("out",), on_failure=("core",),
    )  # fmt: skip
    async with local(cpus=1):
        with pytest.raises(TaskFailed) as caught:
            await staged(one).using(retries=1)
    assert (caught.value.done.exit_code, caught.value.done.err) == (3, b"said\n")
    assert (tmp_path / "tries").read_text() == "\n\n"
    assert sorted(os.listdir(tmp_path)) == ["core", "tries"]


async def test_a_task_that_makes_too_little(tmp_path: Path) -> None:
    """A task that has not made its output has failed, and what it is to bring then is not asked for."""
    async with local(cpus=1):
        with pytest.raises(hf.OutputFailed, match="never made"):
            await staged(task(tmp_path, "true", outputs=("out",)))
    assert os.listdir(tmp_path) == []


def test_a_program_of_the_directory(tmp_path: Path) -> None:
    """A relative program is that of the task's directory."""
    assert plan_of(task(tmp_path, "./solve", "x", outputs=("y",))).words == (f"{tmp_path}/./solve", "x")
