"""Shipping by value: through a real second process, from a script of which the other side knows nothing."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

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
