"""Tests of the scripts of allocations, and of the dry run, which shows them."""

from pathlib import Path

import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.pools.kinds import Kind
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.scripts import rehearse, script
from hyperflow.slurm.script import SbatchOptions


def test_a_script(tmp_path: Path) -> None:
    """It runs the holder, is not requeued, and leaves out the nodes that are not to be used."""
    kind = Kind.of(0, SbatchOptions(time=5, partition="main", extra={"exclude": "node1"}))
    text = script(kind, "run", 3, "f" * 24, tmp_path, "node[7-8]")
    assert "#SBATCH --no-requeue\n" in text
    assert '#SBATCH --exclude="node1,node[7-8]"\n' in text
    assert f"#SBATCH --job-name=run.{'f' * 24}\n" in text
    assert "hyperflow.pools.holder" in text
    assert text.endswith(f" {tmp_path} 3\n")


async def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run where there is no Slurm says so; hosts need none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no usable Slurm here"):
        await rehearse(NodePool(SbatchOptions(time=5)), tmp_path)
    assert await rehearse(NodePool(hosts={"box1": 32, "box2": None}), tmp_path) == (
        "# host box1: 32 CPUs, by ssh\n\n# host box2: all CPUs, by ssh\n"
    )
