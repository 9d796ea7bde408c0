"""programs/elastic_scan.py: the same edges on this machine and on a pool, whose nodes come and go."""

import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.imports import TOP
from tests.programs.runs import run

WORDS = ("--tunes", "2", "--points", "20", "--seconds", "0")


def test_on_a_pool_as_here(cluster: Cluster, tmp_path: Path) -> None:
    """Allocations and a host find what this machine finds; at the end Slurm has nothing of it."""
    here = run("elastic_scan.py", "--here", *WORDS, cwd=tmp_path).stdout
    env: dict[str, str | None] = {"PYTHONPATH": str(TOP), "HYPERFLOW_PROGRESS": "0"}
    there = ("--partition", "main", "--cpus", "2", "--hosts", "node3=1,nowhere")
    place = cluster.home / "elastic"
    place.mkdir()
    command = [sys.executable, str(TOP / "programs" / "elastic_scan.py"), *there, *WORDS]
    done = cluster.login.run(command, cwd=place, env=env, timeout=50)
    assert done.stdout == here
    assert here.splitlines()[0].startswith("tune 0.050  edge at 0.2")
    assert "going on without host nowhere" in done.stderr
    assert (place / "hyperflow-runs").is_dir()


def test_what_makes_no_sense(tmp_path: Path) -> None:
    """A pool without any node is refused in words."""
    assert "it has no nodes" in run("elastic_scan.py", cwd=tmp_path, code=1).stderr
