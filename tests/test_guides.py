"""What a newcomer copies from the pages of docs/ works, and prints what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import guides
from tests.cluster.cluster import Cluster
from tests.helpers import block_until
from tests.imports import TOP
from tests.kernel import kernel
from tests.support import environment

pytestmark = pytest.mark.timeout(120)


@pytest.mark.process
@pytest.mark.parametrize(
    "page", ["guides/arrays.md", "guides/executors.md", "guides/files.md", "guides/resources.md", "guides/results.md"]
)
def test_files_and_commands(page: str, tmp_path: Path) -> None:
    """Each file is written, each command is typed, in a directory that was empty."""
    for name in ("joblib", "scipy", "pandas"):
        pytest.importorskip(name, reason=f"the pages use {name}")
    env = environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", PYTHONWARNINGS="ignore")
    typed = 0
    for block in guides.blocks(page):
        if block.kind == "file":
            guides.write(block, tmp_path)
        elif block.kind == "command":
            done = subprocess.run(
                block.text, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert guides.matches(done.stdout, block.about), (block.text, done.stdout)
            typed += 1
    assert typed > 1


LOOKS = ("hyperflow nodes", "hyperflow pool info", "hyperflow node info", "hyperflow pool list", "cat ")
"""Commands that only look: what they are to show may take a while."""


def test_pools(cluster: Cluster) -> None:
    """Pools are asked for, looked at and steered as their page says, from the login host of a cluster."""
    place = cluster.home / "guide"
    place.mkdir()
    env: dict[str, str | None] = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(TOP)}
    env |= {"COLUMNS": "120", "HYPERFLOW_PROGRESS": "0"}
    typed = 0
    for block in guides.blocks("guides/pools.md"):
        if block.kind == "file":
            guides.write(block, place)
            continue
        said: list[str] = []

        def as_told(block: guides.Block = block, said: list[str] = said) -> bool:
            done = cluster.login.run(["sh", "-c", block.text], cwd=place, env=env, check=False)
            said.append(done.stdout + done.stderr)
            return guides.matches(done.stdout, block.about)

        if block.text.startswith(LOOKS):
            block_until(as_told, 40, f"as the page has it: {block.text}", state=lambda said=said: said[-1])
        else:
            assert as_told(), (block.text, said)
        typed += 1
    assert typed > 15
    block_until(lambda: "2646700" in (place / "elastic.out").read_text(), 40, "the first program ends")


@pytest.mark.process
async def test_cells(tmp_path: Path) -> None:
    """Each cell is executed in a real kernel."""
    pytest.importorskip("ipykernel", reason="there is no kernel")
    async with kernel(tmp_path) as one:
        shown = [(await one.works(block.text)).result == block.about for block in guides.blocks("guides/notebooks.md")]
    assert shown == [True] * 6


def test_dots_stand_for_anything() -> None:
    """And nothing else does."""
    assert guides.matches("a  1 x\nb  \n", "a ... x\nb")
    assert not guides.matches("a\nc", "a\nb")
    assert not guides.matches("", "a")
    assert not guides.matches("a\nb", "a")
