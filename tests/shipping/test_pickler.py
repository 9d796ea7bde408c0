"""Shipping by value: through a real second process, from a script of which the other side knows nothing."""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import attr
import pytest

from tests.imports import TOP

SCRIPTS = [Path(__file__).with_name(name) for name in ("shipping_script.py", "typed_script.py")]
CHECKS = [
    (script, node.name)
    for script in SCRIPTS
    for node in ast.parse(script.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]


@functools.cache
def results(script: Path) -> dict[str, str]:
    """Run a script once."""
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("script", "check"), CHECKS, ids=lambda each: each if isinstance(each, str) else each.stem)
def test_script(script: Path, check: str) -> None:
    """What `shipping_script.py` and `typed_script.py` check holds."""
    outcome = results(script)[check]
    assert outcome == "", outcome


def newer_python() -> str | None:
    """Return a Python of 3.12 or newer, if there is one here."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = ("python3.12", "python3.13")
    found = [path for name in names if (path := shutil.which(name))]
    found += map(str, sorted(Path.home().glob(".pyenv/versions/3.1[23]*/bin/python3")))
    for path in found:
        done = subprocess.run([path, "-c", "import sys; print(sys.version_info >= (3, 12))"], capture_output=True, check=False)
        if done.stdout == b"True\n":
            return path
    return None


def test_syntax_of_python_3_12(tmp_path: Path) -> None:
    """What `new_syntax_script.py` checks holds."""
    python = newer_python()
    if python is None:
        pytest.skip("there is no Python 3.12 here, whose syntax the script has")
    for package in ("attr", "attrs"):  # pure Python, so that another version can read them; all that a worker needs
        (tmp_path / package).symlink_to(Path(attr.__file__).parent.with_name(package))
    path = f"{TOP}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [python, "-B", Path(__file__).with_name("new_syntax_script.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(json.loads(done.stdout), "")
