"""An array whose processes are all killed half way: what is done stays done, what has failed is retried."""

import shutil
from pathlib import Path

import pytest

from tests.commands.story import FAILING, Here, Story, play

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

TASKS = 300


@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("cc")), reason="there is no C compiler")
def test_each_task_is_done_once(tmp_path: Path) -> None:
    """By the ledger, each task succeeds once, those aside that the kill met between their end and their record."""
    told = play(Story(Here(), tmp_path, TASKS, ["--local"], micros=10_000), 50)
    assert told.wrong(TASKS) == []
    assert len(told.before) >= TASKS // 2
    assert len(told.failed) == TASKS // FAILING
    assert told.files < 50
