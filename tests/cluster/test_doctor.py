"""`hyperflow doctor` on a real cluster, well and ill."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hyperflow
from tests.cluster.cluster import Cluster
from tests.helpers import block_until

DOCTOR = [sys.executable, "-P", "-m", "hyperflow", "doctor"]
HOME = str(Path(hyperflow.__file__).parents[1])
NEEDED = {"PYTHONPATH": HOME}


def in_allocation(cluster: Cluster, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor in a batch job on all nodes; return its exit code and what it told."""
    script = f"{shlex.join([*DOCTOR, '--json', *words])} >told.json; echo $? >code"
    job = cluster.slurm.sbatch(script, nodes=3, exclusive=True, env={**NEEDED, **env})
    assert cluster.slurm.wait_for(job)["JobState"] == "COMPLETED", cluster.slurm.output(job)
    return int((cluster.home / "code").read_text()), json.loads((cluster.home / "told.json").read_text())


def from_login(cluster: Cluster, *words: str, **env: str) -> tuple[int, dict[str, Any]]:
    """Run the doctor on the login host; return its exit code and what it told."""
    done = cluster.login.run([*DOCTOR, "--json", *words], env={**NEEDED, **env}, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def check(told: dict[str, Any], name: str, node: str | None = None) -> dict[str, Any]:
    """Return one check."""
    (found,) = [c for c in told["checks"] if c["check"] == name and (node is None or c["node"] == node)]
    return dict(found)


def failures(told: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return which checks failed, of which nodes."""
    return [(c["check"], c["node"]) for c in told["checks"] if c["status"] == "failed"]


def test_a_healthy_cluster(cluster: Cluster) -> None:
    """In an allocation nothing fails, every node is looked at, and neither files nor processes are left behind."""
    code, told = in_allocation(cluster)

    assert (code, failures(told)) == (0, [])
    assert check(told, "allocation")["data"]["nodes"] == {"node1": 4, "node2": 4, "node3": 4}
    assert check(told, "allocation")["data"]["here"] == "node1"
    assert check(told, "SQLite")["status"] == "ok"
    for node in ("node2", "node3"):
        for name in ("ssh", "srun", "shared directory", "Python"):
            assert check(told, name, node)["status"] == "ok"
        assert check(told, "ssh", node)["data"]["known_in"] == [str(cluster.home / ".ssh" / "known_hosts")]
        assert 0 < check(told, "ssh", node)["data"]["latency_seconds"] < 5
        assert check(told, "Python", node)["data"]["transport"] == "ssh"
        assert cluster.connections(node) >= 2
    for node in cluster.nodes:
        assert check(told, "Python", node)["data"]["greeting"]["host"] == node
        seen = len(check(told, "CPUs", node)["data"]["affinity"])
        assert check(told, "CPUs", node)["status"] == ("ok" if seen == 4 else "warning")
    assert not (cluster.home / "hyperflow-runs").exists()
    assert cluster.strangers() == {}


def test_from_the_login_host(cluster: Cluster) -> None:
    """Without an allocation, nodes that are named are looked at by ssh; without names, it says how to name them."""
    code, told = from_login(cluster, "--nodes", "node[1-3]")

    assert (code, failures(told)) == (0, [])
    assert check(told, "srun", "node2")["status"] == "skipped"
    assert check(told, "Python", "node2")["data"]["transport"] == "ssh"

    code, told = from_login(cluster)
    assert code == 0
    assert "--nodes 'node[1-3]'" in check(told, "nodes")["fix"]


def test_in_salloc(cluster: Cluster) -> None:
    """In an allocation of which no node is this host, all its nodes are looked at, by ssh and by srun."""
    done = cluster.login.run(["salloc", "--nodes=2", "--quiet", *DOCTOR, "--json"], env=NEEDED)
    told = json.loads(done.stdout)

    assert failures(told) == []
    assert check(told, "allocation")["data"]["here"] is None
    assert [check(told, name, node)["status"] for name in ("ssh", "srun") for node in ("node1", "node2")] == ["ok"] * 4
    assert check(told, "Python", "login")["status"] == "ok"


def test_a_wrong_host_key_and_a_dead_sshd(cluster: Cluster) -> None:
    """Both are failures with their causes, although srun works; the nodes' other checks are made by srun."""
    cluster.faults.change_host_key("node2")
    cluster.faults.stop_daemon("node3", "sshd")
    code, told = in_allocation(cluster)

    assert (code, failures(told)) == (1, [("ssh", "node2"), ("ssh", "node3")])
    changed, dead = check(told, "ssh", "node2"), check(told, "ssh", "node3")
    assert changed["data"]["cause"] == "host key changed"
    assert "`ssh-keygen -R node2 -f ~/.ssh/known_hosts`" in changed["fix"]
    assert dead["data"]["cause"] == "refused"
    for node in ("node2", "node3"):
        assert check(told, "Python", node)["data"]["transport"] == "srun"
        assert check(told, "shared directory", node)["status"] == "ok"


def test_where_srun_is_wanted_a_dead_sshd_is_a_warning(cluster: Cluster) -> None:
    """With transport = "srun", ssh may be broken."""
    cluster.faults.stop_daemon("node3", "sshd")
    code, told = in_allocation(cluster, HYPERFLOW_TRANSPORT="srun")

    assert (code, failures(told)) == (0, [])
    assert check(told, "ssh", "node3")["status"] == "warning"
    assert check(told, "Python", "node2")["data"]["transport"] == "srun"


def test_unknown_host_keys(cluster: Cluster) -> None:
    """A key that is in no file is refused, unless the policy is to accept new ones; then it says where it was kept."""
    (cluster.home / ".ssh" / "known_hosts").write_text("")
    code, told = from_login(cluster, "--nodes", "node1")

    assert (code, failures(told)) == (1, [("ssh", "node1")])
    assert check(told, "ssh", "node1")["data"]["cause"] == "host key unknown"
    assert "SHA256:" in check(told, "ssh", "node1")["detail"]
    assert check(told, "Python", "node1")["status"] == "skipped"

    code, told = from_login(cluster, "--nodes", "node1", HYPERFLOW_HOST_KEYS="accept-new")
    assert code == 0
    assert check(told, "ssh", "node1")["data"]["known_in"] == [str(cluster.home / ".local/share/hyperflow/known_hosts")]


def test_a_key_that_is_not_accepted(cluster: Cluster) -> None:
    """Where sshd does not take our key, the advice says how to give it one, and to come back with a job."""
    (cluster.home / ".ssh" / "authorized_keys").write_text("")
    code, told = from_login(cluster, "--nodes", "node1")

    assert (code, failures(told)) == (1, [("ssh", "node1")])
    assert check(told, "ssh", "node1")["data"]["cause"] == "permission denied"
    assert "authorized_keys" in check(told, "ssh", "node1")["fix"]


def test_a_directory_of_one_node_alone(cluster: Cluster) -> None:
    """A run directory in memory is there on each host, but what one writes the others do not see."""
    code, told = from_login(cluster, "--nodes", "node2", "--run-dir", "/dev/shm/runs")

    assert (code, failures(told)) == (1, [("shared directory", "node2")])
    assert "tmpfs" in check(told, "shared directory", "node2")["fix"]
    assert cluster.login.run(["ls", "/dev/shm"]).stdout == ""


@contextmanager
def mounted(cluster: Cluster, node: str, *words: str) -> Iterator[None]:
    """Mount something on one node; the last word is where."""
    cluster.nodes[node].run(["mount", *words])
    try:
        yield
    finally:
        cluster.nodes[node].run(["umount", "--lazy", words[-1]])


def test_another_python(cluster: Cluster, tmp_path: Path) -> None:
    """A node whose Python is of another version is refused, and both versions are named."""
    real = os.path.realpath(sys.executable)
    copy, other = tmp_path / "copy", tmp_path / "other"
    copy.write_bytes(Path(real).read_bytes())
    # It takes `-P -c CODE`, as launchers are started, and lies about its version.
    other.write_text(
        f"#!/bin/sh\nexport PYTHONHOME='{sys.base_prefix}:{sys.base_exec_prefix}'\nshift 2\n"
        f"""exec '{copy}' -P -c "import sys; sys.version = '3.99.0 ' + sys.version.split(' ', 1)[1]; $1"\n"""
    )
    copy.chmod(0o755)
    other.chmod(0o755)
    with mounted(cluster, "node3", "--bind", str(other), real):
        code, told = from_login(cluster, "--nodes", "node[2-3]")

    assert (code, failures(told)) == (1, [("Python", "node3")])
    found = check(told, "Python", "node3")
    assert f"python is {sys.version.split()[0]} here and 3.99.0 on node3" in found["detail"]
    assert found["data"]["greeting"]["python"] == "3.99.0"
    assert check(told, "CPUs", "node3")["status"] == "skipped"


def test_no_python(cluster: Cluster) -> None:
    """Where the environment is not on a shared file system, it says that the node does not see the interpreter."""
    with mounted(cluster, "node3", "-t", "tmpfs", "none", str(Path(sys.prefix, "bin"))):
        code, told = from_login(cluster, "--nodes", "node3")

    assert (code, failures(told)) == (1, [("Python", "node3")])
    assert f"`ssh node3 ls -l {shlex.quote(sys.executable)}`" in check(told, "Python", "node3")["fix"]


def test_a_prologue_that_fails(cluster: Cluster) -> None:
    """What the prologue says is in the failure, and it is named as suspect; ssh itself is well."""
    code, told = from_login(cluster, "--nodes", "node3", HYPERFLOW_PROLOGUE="echo no such module >&2; exit 3")

    assert (code, failures(told)) == (1, [("Python", "node3")])
    assert "no such module" in check(told, "Python", "node3")["detail"]
    assert "prologue" in check(told, "Python", "node3")["fix"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(cluster: Cluster, number: signal.Signals) -> None:
    """Ctrl-C and scancel end it at once, although a node does not answer; files and launchers go with it."""
    cluster.faults.freeze("node2")
    with cluster.login.start([*DOCTOR, "--nodes", "node[1-2]"], env=NEEDED) as doctor:
        block_until((cluster.home / "hyperflow-runs").exists, 10, "it works")
        doctor.signal(number)
        out, _ = doctor.communicate(timeout=40)

    assert (doctor.returncode, out) == (128 + number, "")
    assert not (cluster.home / "hyperflow-runs").exists()


def test_a_node_that_is_frozen_and_one_that_is_cut_off(cluster: Cluster) -> None:
    """What does not answer costs no more than the time that was given, and nothing is left behind."""
    cluster.faults.freeze("node2")
    cluster.faults.cut("node3")
    code, told = from_login(cluster, "--nodes", "node[1-3]", "--timeout", "2")

    assert (code, failures(told)) == (1, [("ssh", "node2"), ("ssh", "node3")])
    for node in ("node2", "node3"):
        assert check(told, "ssh", node)["seconds"] < 5
        assert check(told, "Python", node)["status"] == "skipped"
    assert check(told, "Python", "node1")["status"] == "ok"
