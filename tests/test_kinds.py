"""The kinds of tests, seen from outside: a pytest run of its own, with tests that start processes, openly or not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import kinds
from tests.imports import TOP

SOURCE = """
import asyncio, os, subprocess
import pytest, uvloop
from tests.support import run_script

def starts():
    subprocess.run(["true"])

class Helper:
    def go(self):
        starts()

@pytest.fixture
def started():
    starts()

def test_process_by_name():
    os.close(os.open("/dev/null", os.O_RDONLY)) or subprocess.run(["true"])

def test_process_by_helper():
    Helper().go()

def test_process_by_fixture(started):
    pass

def test_process_in_an_inner_function(tmp_path):
    def inner():
        run_script(tmp_path, "")
    inner()

@pytest.mark.process
def test_process_by_mark():
    getattr(subprocess, "r" + "un")(["true"])

def test_unit():
    pass

@pytest.mark.unit
def test_unit_although_named():
    subprocess.list2cmdline([])

def test_unit_lies():
    globals()["start" + "s"]()

def test_unit_lies_and_keeps_quiet():
    try:
        globals()["start" + "s"]()
    except Exception:
        pass

async def start_in_loop():
    process = await getattr(asyncio, "create_" + "subprocess_exec")("true")
    await process.wait()

def test_unit_lies_in_uvloop():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(start_in_loop())

def test_slurm(needs_cluster):
    pass
"""

TWO = """
import pytest

@pytest.mark.unit
@pytest.mark.slurm
def test_two():
    pass
"""


def run(directory: Path, *arguments: str, source: str = SOURCE) -> str:
    """Run these tests, and return what pytest prints."""
    path = directory / "test_sample.py"
    path.write_text(source)
    places = ["-c", str(TOP / "pyproject.toml"), "--rootdir", str(directory), "--basetemp", str(directory / "base")]
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", *places, *arguments]
    environ = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        [*command, str(path)], cwd=directory, env=environ, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_each_is_of_its_kind(tmp_path: Path, kind: str) -> None:
    """By what its code, its helpers and its fixtures name; by its mark, where it has one."""
    output = run(tmp_path, "--collect-only", "-q", "-m", kind)

    found = re.findall(r"::(test_\w+)", output)
    assert found == [name for name in re.findall(r"def (test_\w+)", SOURCE) if name.startswith(f"test_{kind}")], output


def test_unit_tests_that_lie_fail(tmp_path: Path) -> None:
    """A unit test that starts a process fails, however it does so, also if it swallows the error; others do not."""
    output = run(tmp_path, "-m", "unit")

    found = set(re.findall(r"^(?:ERROR|FAILED) \S+::(\w+)", output, re.MULTILINE))
    assert found == set(re.findall(r"def (test_unit_lies\w*)", SOURCE)), output
    assert "a unit test starts a process" in output


def test_one_kind_only(tmp_path: Path) -> None:
    """Two marks contradict each other, and are refused."""
    output = run(tmp_path, "--collect-only", source=TWO)

    assert "a test is of one kind" in output
