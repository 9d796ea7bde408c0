"""Runs in allocations, as other hosts see them over the shared directory: running, killed, silent."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.cluster.host import Host
from tests.helpers import block_until
from tests.imports import TOP

SCRIPT = """
import os, time
import hyperflow as hf
def wait(path):
    print("waiting")
    while not os.path.exists(path):
        time.sleep(0.05)
if __name__ == "__main__":
    hf.run_job_slurm(hf.remote_eval(wait, "go"))
"""


def told(host: Host, place: Path, *words: str) -> Any:
    """Return what a command says on a host, in this directory."""
    command = [sys.executable, "-m", "hyperflow", *words, "--json"]
    env = {"PYTHONPATH": str(TOP), "XDG_STATE_HOME": str(place / "state")}
    return json.loads(host.run(command, cwd=place, env=env).stdout)


def test_runs_of_other_hosts(cluster: Cluster, tmp_path: Path) -> None:
    """A run of node1 is seen from the login host; when its head is killed, node1 knows, and others ask."""
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {"PYTHONPATH": str(TOP), "XDG_STATE_HOME": str(tmp_path / "state")}
    words = shlex.join([sys.executable, "script.py"])
    number = cluster.slurm.sbatch(f"cd {shlex.quote(str(tmp_path))}\nexec {words}", nodes=1, env=env)
    runs = tmp_path / "hyperflow-runs"
    block_until(lambda: list(runs.glob("*/log/worker-*.log")), 60, "a worker")
    (run,) = told(cluster.login, tmp_path, "runs")["runs"]
    assert (run["state"], run["slurm_job"], run["kind"]) == ("running", str(number), "job")
    host = cluster.nodes[run["machine"]]
    shown = told(cluster.login, tmp_path, "show")
    assert (shown["state"], shown["host"], shown["pid"]) == ("running", host.name, run["pid"])

    host.run(["kill", "-9", str(run["pid"])])
    cluster.slurm.wait_for(number)
    assert told(host, tmp_path, "show")["state"] == "killed"
    path = next(runs.glob("*/log/run.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "alive": record["alive"] - 1000, "began": record["began"] - 1000}))
    assert told(cluster.login, tmp_path, "show")["state"] == "killed"  # its machine is asked
