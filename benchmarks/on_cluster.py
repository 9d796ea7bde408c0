"""Contestants that run on the login host of a real Slurm cluster, in an allocation; see tests/cluster.

The cluster comes up for one turn and goes down with it: a login host and nodes with a real sshd each, in network
namespaces of this machine. So bytes do go through ssh and through a network card, though not through a cable.
"""

import json
import os
import subprocess
import sys

from benchmarks.harness import TOP, Figures, Skipped
from tests.cluster import packages
from tests.cluster.cluster import cluster
from tests.cluster.host import Command


def on_login(function: str, *, nodes: int = 1, cpus: int = 2, limit: float = 110, transport: str = "ssh") -> Figures:
    """Run "module:function" on the login host, in an allocation of nodes; return its figures.

    Args:
        function: What to run there; its figures are returned.
        nodes: How many nodes are allocated.
        cpus: CPUs of each.
        limit: Seconds after which it is ended.
        transport: How nodes are reached (see hyperflow.config.Settings).
    """
    packages.install()
    if obstacle := packages.obstacle():
        raise Skipped(obstacle)
    with cluster((cpus,) * nodes) as held:
        argv = ["salloc", "--quiet", f"--nodes={nodes}", f"--ntasks-per-node={cpus}"]
        env = {"PYTHONPATH": str(TOP), "HYPERFLOW_TRANSPORT": transport}
        turn = [sys.executable, "-m", "benchmarks.turn", function]
        with held.login.start([*argv, *turn], env=env) as command:
            return _figures(command, limit)


def _figures(command: Command, limit: float) -> Figures:
    try:
        said, complaints = command.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        raise Skipped(f"failed: it took more than {limit:.0f} s") from None
    if command.returncode != 0:
        lines = (complaints.strip() or said.strip() or f"it ended with {command.returncode}").splitlines()
        raise Skipped(f"failed: {lines[-1]}")
    figures: Figures = json.loads(said.splitlines()[-1])
    if "skipped" in figures:
        raise Skipped(f"{figures['skipped']}")
    return figures


def node() -> str:
    """Return the name of the allocation's first node, when called in an allocation."""
    said = subprocess.run(
        ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], stdout=subprocess.PIPE, check=True
    )
    return said.stdout.decode().split()[0]
