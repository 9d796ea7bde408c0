"""GPUs of a real allocation: Slurm says which, on each node, also on those that are reached by ssh."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.cluster.cluster import cluster as held_cluster
from tests.cluster.test_doctor import DOCTOR, check
from tests.imports import TOP

SCRIPT = """
import json, sys
import hyperflow as hf
from tests.gpus import holds
ended = hf.run_job_slurm(holds(sys.argv[1], 1000), transport="ssh", min_nodes=3, progress=False, preload=["tests.gpus"])
json.dump(ended, open("ended.json", "w"))
"""


@pytest.mark.timeout(120)
def test_a_thousand_on_three_nodes(needs_cluster: None, tmp_path: Path) -> None:
    """Of a thousand that want one GPU, two, or half of one, no two have the same on a node, though some fail or die.

    Each node has two, and Slurm grants both; the doctor says so.
    """
    (tmp_path / "held").mkdir()
    with held_cluster(gpus=2) as c:
        (c.home / "script.py").write_text(SCRIPT)
        argv = [sys.executable, "script.py", str(tmp_path / "held")]
        doctor = f"{shlex.join([*DOCTOR, '--json'])} > told.json"
        job = c.slurm.sbatch(
            f"{shlex.join(argv)} && {doctor}", nodes=3, exclusive=True, gres="gpu:2", env={"PYTHONPATH": str(TOP)}
        )
        assert c.slurm.wait_for(job, timeout=90)["JobState"] == "COMPLETED", c.slurm.output(job)
        ended = json.loads((c.home / "ended.json").read_text())
        told = json.loads((c.home / "told.json").read_text())

    assert (ended.pop("ValueError"), ended.pop("WorkerDied")) == (50, 20)
    assert sum(ended.values()) == 930
    assert {tuple(name.split()) for name in ended} == {
        (node, *ids) for node in ("node1", "node2", "node3") for ids in (("0",), ("1",), ("0", "1"))
    }
    for node in ("node1", "node2", "node3"):
        found = check(told, "GPUs", node)
        assert (found["status"], found["data"]["gpus"]) == ("ok", ["0", "1"])
    assert check(told, "GPUs", "node2")["data"]["gpus_from"] == "Slurm"  # ssh passes no variables on
