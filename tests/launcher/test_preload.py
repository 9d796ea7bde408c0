"""preload: modules imported once, in the launcher."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from tests import functions as f
from tests.helpers import wait_until
from tests.support import Gate, local


async def test_preloaded_modules_are_there() -> None:
    """A worker has a preloaded module from the start; without preload it has not."""
    async with local(preload=["numpy", "xml.etree.ElementTree"]):
        assert {"numpy", "xml.etree.ElementTree"} <= await hf.remote_eval(f.modules)
    async with local():
        assert not {"numpy", "xml.etree.ElementTree"} & await hf.remote_eval(f.modules)


async def test_a_module_that_uses_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After that no forked worker could use one: a warning names the modules."""
    text = "from hyperflow.wire import gpus\ngpus.DEVICES = ('/dev/null',)  # which the launcher has open\n"
    (tmp_path / "eager.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    async with local(preload=["eager"]):
        assert await hf.remote_eval(abs, -1) == 1

    assert "preload=['eager'] uses a GPU as soon as it is imported" in caplog.text


async def test_random_numbers_differ() -> None:
    """Workers forked from one launcher draw different random numbers, from numpy and from the standard library."""

    def draw() -> tuple[float, float, float]:
        import random

        import numpy

        return float(numpy.random.random()), random.random(), float(numpy.random.default_rng().random())

    async with local(preload=["numpy.random", "random"]):
        drawn = await hf.replicate_concurrently(20, hf.remote_eval(draw).using(fresh_process=True))
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 20


async def test_linear_algebra_works_after_the_fork() -> None:
    """A library that starts threads works in workers that were forked after its import."""

    def product() -> float:
        import numpy

        a = numpy.ones((300, 300))
        return float((a @ a).sum())

    async with local(preload=["numpy"]):
        assert await hf.replicate_concurrently(4, hf.remote_eval(product)) == [300.0**3] * 4
        assert await hf.remote_eval(product).using(cpus=2) == 300.0**3


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (None, "No module named 'broken_one'"),
        ("import nowhere", "No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
    ],
)
async def test_modules_that_do_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, text: str
) -> None:
    """A module that does not import is a ConfigurationError with its name and cause, and nothing is left."""
    if source is not None:
        (tmp_path / "broken_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(hf.ConfigurationError, match=f"(?s)cannot import 'broken_one'.*{text}"):
        async with local(preload=["json", "broken_one"], program=hf.ProgramInfo.new(tmp_path / "runs")):
            pass


async def test_module_that_kills_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that ends the launcher is a LauncherError that names the node's log."""
    (tmp_path / "fatal_one.py").write_text("import os, sys; print('the end', file=sys.stderr, flush=True); os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    program = hf.ProgramInfo.new(tmp_path / "runs")
    with pytest.raises(hf.LauncherError, match=r"(?s)ended during its start.*the end") as caught:
        async with local(preload=["fatal_one"], program=program):
            pass
    assert str(program.log_dir) in str(caught.value)


async def test_cancelled_during_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling while a module is being imported, which may take for ever, ends the launcher at once."""
    gate = Gate(tmp_path)
    (tmp_path / "slow_one.py").write_text(f"import os\nos.mkdir({gate.path + '.dir'!r})\nopen({gate.path!r}).read()")
    monkeypatch.syspath_prepend(tmp_path)

    async def start(**options: Any) -> None:
        async with local(program=hf.ProgramInfo.new(tmp_path / "runs"), **options):
            pass

    starting = asyncio.create_task(start(preload=["slow_one"]))
    await wait_until(Path(gate.path + ".dir").exists, 20, "the import")
    starting.cancel()
    async with asyncio.timeout(40):
        with pytest.raises(asyncio.CancelledError):
            await starting
    for turns in (*range(12), *range(25, 400, 25)):  # and at other moments of a start
        starting = asyncio.create_task(start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
