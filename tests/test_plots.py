"""plot: points and pictures go into files of the run, bounded; what makes no sense is refused where it is written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow import plots
from hyperflow.errors import MisuseError, NotInFlow
from hyperflow.plots import Drawings
from hyperflow.records import index
from hyperflow.testing import open_inline_job
from tests.support import run_script

PICTURE = plots.PNG + b"..."


def drawn(log_dir: Path) -> Drawings:
    """Return what was drawn there."""
    found = Drawings()
    found.look(log_dir)
    return found


def on_worker(x: int) -> str:
    """Draw a point where this runs."""
    hf.plot("there", x=x, y=x * x)
    return "drawn"


async def test_points_in_a_flow_and_in_an_evaluation() -> None:
    """Both come into one picture, in their order; numbers of any kind are numbers, and no number is a gap."""
    async with open_inline_job() as env:
        hf.plot("there", x=0, y=0)
        await hf.remote_eval(on_worker, 1)
        hf.plot("there", x=2, y=float("nan"))
        hf.plot("scan", x=1, y=2, value=3)
        found = drawn(env.program.log_dir)
        there, scan = found.series["there"], found.series["scan"]
        assert (there.x, there.y, there.given) == ([0, 1, 2], [0, 1, None], {"x", "y"})
        assert (scan.x, scan.y, scan.value) == ([1], [2], [3])
        assert (env.program.log_dir / "plots.jsonl").stat().st_mode & 0o777 == 0o600
        found.look(env.program.log_dir)  # nothing has come
        assert len(there.x) == 3


async def test_pictures() -> None:
    """A figure or the bytes of a PNG file is a picture; the newest one of a name is kept."""

    class Figure:
        def savefig(self, fname: Any, *, format: str) -> None:  # noqa: A002 (as matplotlib calls it)
            assert format == "png"
            fname.write(PICTURE + b"2")

    async with open_inline_job() as env:
        hf.plot("fit", value=PICTURE)
        hf.plot("fit", value=Figure())
        series = drawn(env.program.log_dir).series["fit"]
        assert series.picture is not None
        assert plots.read_picture(series.picture) == PICTURE + b"2"
        assert len(os.listdir(env.program.log_dir / "plots")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"x": 1},
        {"y": "1"},
        {"y": True},
        {"y": [1, 2]},
        {"y": 1j},
        {"value": b"GIF89a"},
        {"value": plots.PNG + bytes(plots.LARGEST)},
        {"x": 1, "value": PICTURE},
        {"y": object()},
    ],
)
async def test_what_makes_no_sense(wrong: dict[str, Any]) -> None:
    """It is refused with what was given, and nothing is written."""
    async with open_inline_job() as env:
        with pytest.raises(MisuseError, match="plot"):
            hf.plot("loss", **wrong)
        for name in ("", "two\nlines", "x" * 300, 7):
            with pytest.raises(MisuseError, match="name"):
                hf.plot(name, y=1)  # type: ignore[arg-type]
        assert not list(env.program.log_dir.glob("plots*"))


def test_outside_of_everything() -> None:
    """Where no flow runs there is no run to draw into."""
    with pytest.raises(NotInFlow):
        hf.plot("loss", y=1)


async def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, and on a full disk, one warning says that no more is drawn; the run goes on."""
    monkeypatch.setattr(plots, "BYTES", 200)
    async with open_inline_job() as env:
        with pytest.warns(RuntimeWarning, match="no more is drawn") as warned:
            for number in range(20):
                hf.plot("loss", y=number)
        assert len(warned) == 1
        assert (env.program.log_dir / "plots.jsonl").stat().st_size <= 200
    async with open_inline_job() as env:
        (env.program.log_dir / "plots.jsonl").symlink_to("/dev/full")  # a link is not followed either
        with pytest.warns(RuntimeWarning, match="no more is drawn"):
            hf.plot("loss", y=1)


async def test_names_and_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has so many pictures; a reader tells so many names apart."""
    monkeypatch.setattr(plots, "MOST", 3)
    async with open_inline_job() as env:
        for number in range(5):
            hf.plot(f"loss {number}", y=number)
        assert len(drawn(env.program.log_dir).series) == 3
        with pytest.warns(RuntimeWarning, match="3 pictures"):
            for number in range(4):
                hf.plot(f"fit {number}", value=PICTURE)


async def test_garbled_files_are_no_trouble() -> None:
    """Lines that make no sense are skipped, a cut one waits for its rest, a picture that is none is refused."""
    async with open_inline_job() as env:
        place = env.program.log_dir / "plots.jsonl"
        lines = [b"\xff\xfe", b"[]", b'{"name": 1}', b'{"t": {}, "name": "a"}', b'{"t": 1e999, "name": "a", "y": 1}']
        place.write_bytes(
            b"\n".join([*lines, json.dumps({"t": 1, "name": "good", "y": [3]}).encode(), b'{"t": 2, "na'])
        )
        found = drawn(env.program.log_dir)
        assert found.series["good"].y == [None]
        with place.open("ab") as file:
            file.write(b'me": "good", "y": 5}\n')
        found.look(env.program.log_dir)
        assert found.series["good"].y == [None, 5]
        (env.program.log_dir / "plots").mkdir()
        other = env.program.log_dir / "plots" / "x.png"
        other.write_bytes(b"<svg onload=alert(1)>")
        with pytest.raises(hf.HyperflowError, match="no picture"):
            plots.read_picture(other)


SCRIPT = """
import hyperflow as hf

def on_worker(x):
    hf.plot("there", x=x, y=x)

@hf.job
async def draws():
    await hf.remote_eval(on_worker, 1)
    hf.plot("here", y=1)
    hf.plot("fit", value=b"\\x89PNG\\r\\n\\x1a\\n...")

hf.run_job_local(draws(), cpus=1, progress=False)
"""


@pytest.mark.process
def test_a_run_that_has_gone_keeps_what_it_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of real workers and of the job, and pictures, are in the index after a run without a place of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run_script(tmp_path, SCRIPT)
    (run,) = index.names()
    found = drawn(index.logs(run))
    assert sorted(found.series) == ["fit", "here", "there"]
    assert found.series["fit"].picture is not None
    assert plots.read_picture(found.series["fit"].picture).startswith(plots.PNG)
