"""ExtVar: read and set in flows, by other processes, by hand; what cannot be read says what to do."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import hyperflow as hf
from hyperflow import extvar
from hyperflow.master.shared import Timeouts
from hyperflow.testing import open_inline_job
from tests.helpers import wait_until
from tests.support import environment

step = hf.ExtVar("step", 0.5, type=float)


@attrs.frozen
class Window:
    """A value with fields."""

    low: float
    high: float


async def test_get_and_set() -> None:
    """The default is there until somebody sets the value, in the program and from outside; the file is private."""
    async with open_inline_job() as env:
        home = env.program.log_dir.parent
        assert step.of(home).get() == 0.5
        assert extvar.names(home) == []
        assert await step.get() == 0.5
        assert extvar.names(home) == ["step"]
        await step.set(0.25)
        assert (await step.get(), step.of(home).get()) == (0.25, 0.25)
        step.of(home).set(2)
        value = await step.get()
        assert (value, type(value)) == (2.0, float)
        path = home / "vars" / "step.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert [each.name for each in path.parent.iterdir()] == ["step.json"]


async def test_first_look_does_not_undo_what_was_set() -> None:
    """A value that was set before the program has asked for it the first time is kept."""
    async with open_inline_job() as env:
        step.of(env.program.log_dir.parent).set(3.0)
        assert await step.get() == 3.0


async def test_types() -> None:
    """Records and plain data come back as they were; what is not of the type is refused where it is set."""
    window = hf.ExtVar("window", Window(0, 1), type=Window)
    plain = hf.ExtVar[object]("plain", None)
    async with open_inline_job():
        await window.set(Window(1.5, 2.5))
        assert await window.get() == Window(1.5, 2.5)
        await plain.set({"a": [1, "b", None]})
        assert await plain.get() == {"a": [1, "b", None]}
        with pytest.raises(hf.SerializationError):
            await step.set("fast")  # type: ignore[arg-type]
    with pytest.raises(hf.SerializationError):
        hf.ExtVar("step", "fast", type=float)


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "-x", "a b", "é", "x" * 101, "a\n"])
def test_bad_names(name: str) -> None:
    """What cannot be a file's name, or could be one elsewhere, is refused."""
    with pytest.raises(hf.MisuseError, match="cannot be the name of a variable"):
        hf.ExtVar(name, 1)


@pytest.mark.parametrize("text", ["", "0.", '{"a": 1', '"fast"', "\xff"])
async def test_damaged_files(text: str) -> None:
    """A file that is cut, or holds something else, is an error that names file and variable, and what to type."""
    async with open_inline_job() as env:
        await step.get()
        path = env.program.log_dir.parent / "vars" / "step.json"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(hf.ConfigurationError, match=r"'step' .*step\.json.*hyperflow var set") as caught:
            await step.get()
        assert str(path) in str(caught.value)
        path.unlink()
        path.mkdir()
        with pytest.raises(hf.ConfigurationError, match="cannot be read"):
            await step.get()


async def test_no_default_no_run(tmp_path: Path) -> None:
    """Without a default, a variable that is not there is an error that names those that are; so is what is no run."""
    with pytest.raises(hf.ConfigurationError, match="no such run"):
        step.of(tmp_path / "none")
    step.of(tmp_path).set(1.0)
    with pytest.raises(hf.ConfigurationError, match="no variable 'other'; it has step"):
        hf.ExtVar("other").of(tmp_path).get()
    with pytest.raises(hf.NotInFlow):
        await step.get()


async def test_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`changes` gives the value, then each other one; a file that is half-written is looked at again, then an error."""
    monkeypatch.setattr(extvar, "PERIOD", 0.01)
    async with open_inline_job() as env:
        home = env.program.log_dir.parent
        path = home / "vars" / "step.json"
        values = step.changes()
        assert await anext(values) == 0.5
        step.of(home).set(0.25)
        assert await anext(values) == 0.25
        path.write_text("0.25")  # written anew, and the same
        following = asyncio.ensure_future(anext(values))
        await asyncio.sleep(0.05)
        path.write_text("[0.1")
        path.write_text("0.125")
        assert await following == 0.125
        path.write_text("[0.1")
        with pytest.raises(hf.ConfigurationError, match="cut"):
            await anext(values)


@hf.job
async def reports(count: int, marks: str) -> list[float]:
    """In a Job: say which values there were."""
    seen: list[float] = []
    async for value in step.changes():
        seen.append(value)
        (Path(marks) / f"{value}-{os.getpid()}").touch()
        if len(seen) == count:
            break
    return seen


async def test_jobs_and_other_processes(tmp_path: Path) -> None:
    """All Jobs of a program see what another process sets, and what one of them sets."""
    marks = tmp_path / "marks"
    marks.mkdir()
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True, timeouts=Timeouts(look=0.05)) as env:
        jobs = [asyncio.ensure_future(hf.remote_eval_job(reports(2, str(marks))).start()) for _ in range(2)]
        await wait_until(lambda: len(list(marks.iterdir())) == 2, 20, "both jobs have seen the default")
        code = "import sys, hyperflow as hf; hf.ExtVar('step').of(sys.argv[1]).set(8)"
        process = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(env.master.run.home)], env=environment(), check=False
        )
        assert process.returncode == 0
        assert await step.get() == 8.0
        assert [await job for job in jobs] == [[0.5, 8.0]] * 2
