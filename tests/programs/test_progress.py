"""programs/progress.py where there is no terminal."""

import importlib
from types import ModuleType, SimpleNamespace

import pytest

from tests.programs.runs import TOP


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the module as the programs do, from their own directory."""
    monkeypatch.syspath_prepend(TOP / "programs")
    monkeypatch.delenv("HYPERFLOW_PROGRESS", raising=False)
    return importlib.import_module("progress")


def test_lines_are_few(
    progress: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line after some seconds, the next one a good while later; nothing for work that is quick."""
    now = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    with progress.progress("files", 100) as done:
        for _ in range(100):
            now += 0.25
            done()

    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "files: 8 of 100 after 2 s",
        "files: 48 of 100 after 12 s",
        "files: 88 of 100 after 22 s",
    ]
    assert not output.out


def test_lines_can_be_switched_off(
    progress: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """HYPERFLOW_PROGRESS=0 is silence."""
    monkeypatch.setenv("HYPERFLOW_PROGRESS", "0")
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    with progress.progress("files", 1) as done:
        done()

    assert not capsys.readouterr().err
