"""Whom we speak to, and as whom: host keys under each policy, keys, forwarding; and how hard we knock."""

import time
from pathlib import Path

import pytest

from tests.cluster import daemons
from tests.cluster.cluster import Cluster
from tests.cluster.home import known_host
from tests.cluster.runs import Run, submit
from tests.helpers import block_until

OWN = ".local/share/hyperflow/known_hosts"
CARELESS = "Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n  PasswordAuthentication yes\n"


def _warnings(run: Run) -> str:
    """What the run has warned of, once it has ended."""
    run.wait("end")
    return "\n".join(each.value for each in run.all("warning") if "going on without" in each.value)


def _known_hosts(cluster: Cluster, *nodes: str) -> Path:
    path = cluster.home / ".ssh" / "known_hosts"
    path.write_text("".join(known_host(cluster.directory, node) for node in nodes))
    return path


def test_strict_refuses_an_unknown_host(cluster: Cluster) -> None:
    """An unknown node is left out, whatever the user's configuration says, and the warning says what to type."""
    _known_hosts(cluster, "node1", "node3")
    (cluster.home / ".ssh" / "config").write_text(CARELESS)

    run = submit(cluster, transport="ssh")
    said = _warnings(run)

    assert set(run.result()["nodes"]) == {"node1", "node3"}
    assert "cannot reach node2 by ssh" in said
    assert "is unknown" in said
    assert "ssh-keyscan node2 >> ~/.ssh/known_hosts" in said
    assert 'host_keys = "accept-new"' in said
    assert "node2" not in (cluster.home / ".ssh" / "known_hosts").read_text()
    assert not (cluster.home / OWN).exists()


def test_accept_new(cluster: Cluster) -> None:
    """An unknown node is taken and kept in a file of our own; then strict knows it, and a changed key is refused."""
    mine = _known_hosts(cluster)
    run = submit(cluster, transport="ssh", host_keys="accept-new")

    assert run.result()["right"]
    assert run.statistics()["nodes"] == 3
    own = cluster.home / OWN
    assert sorted(line.split()[0] for line in own.read_text().splitlines()) == ["node2", "node3"]
    assert own.stat().st_mode & 0o077 == 0
    assert mine.read_text() == ""

    cluster.faults.change_host_key("node3")
    before = own.read_text()
    for policy in ("accept-new", "strict"):
        run = submit(cluster, transport="ssh", host_keys=policy)
        said = _warnings(run)
        assert set(run.result()["nodes"]) == {"node1", "node2"}
        assert "cannot reach node3 by ssh" in said
        assert "is not the known one" in said
        assert "ssh-keygen -R node3" in said
    assert own.read_text() == before


@pytest.mark.parametrize("policy", ["strict", "accept-new"])
def test_a_changed_key(cluster: Cluster, policy: str) -> None:
    """A key that has changed is refused, whatever the user's ssh configuration says, and is not tried twice."""
    (cluster.home / ".ssh" / "config").write_text(CARELESS)
    cluster.faults.change_host_key("node2")
    before = cluster.connections("node2")

    run = submit(cluster, transport="ssh", host_keys=policy)

    assert "is not the known one" in _warnings(run)
    assert set(run.result()["nodes"]) == {"node1", "node3"}
    assert cluster.connections("node2") == before + 1
    assert not (cluster.home / OWN).exists()


def test_the_systems_known_hosts(cluster: Cluster) -> None:
    """Keys in /etc/ssh/ssh_known_hosts count, and a damaged line in the user's file harms nobody."""
    mine = _known_hosts(cluster, "node3")
    mine.write_text("damaged\n|1|x|y ssh-rsa z\n@strange marker here\n" + mine.read_text())
    system = cluster.directory / "etc" / "ssh" / "ssh_known_hosts"
    try:
        system.write_text(known_host(cluster.directory, "node2"))
        run = submit(cluster, transport="ssh")
        assert run.result()["right"]
        assert run.statistics()["nodes"] == 3
    finally:
        system.write_text("")


def test_a_pinned_set(cluster: Cluster) -> None:
    """With known_hosts, the keys in that file count and no others; a file that is not there is an error."""
    pinned = cluster.home / "pinned"
    pinned.write_text(known_host(cluster.directory, "node3"))

    run = submit(cluster, transport="ssh", known_hosts="~/pinned")
    said = _warnings(run)

    assert set(run.result()["nodes"]) == {"node1", "node3"}
    assert "node2" in said
    assert "is unknown" in said
    assert f"node2 is not in {pinned}" in said

    error = submit(cluster, transport="ssh", known_hosts="~/nothing", min_nodes=2).error()
    assert f"there is no {cluster.home}/nothing" in error


def test_a_new_key_that_cannot_be_kept(cluster: Cluster) -> None:
    """A node whose key cannot be written down is not taken: there would be nothing to compare with the next time."""
    _known_hosts(cluster, "node3")

    run = submit(cluster, before="export XDG_DATA_HOME=/proc/nowhere", transport="ssh", host_keys="accept-new")

    assert "is new and cannot be kept" in _warnings(run)
    assert set(run.result()["nodes"]) == {"node1", "node3"}


def test_no_permission(cluster: Cluster) -> None:
    """A node that does not take our keys is asked once, not for a password, and the error says what to try."""
    (cluster.home / ".ssh" / "authorized_keys").write_text("")
    before = cluster.connections("node2")

    error = submit(cluster, transport="ssh", min_nodes=2).error()

    assert error.startswith("LauncherError: 1 of 3 nodes")
    assert "ssh -o BatchMode=yes node2 true" in error
    assert "ssh -o BatchMode=yes node3 true" in error
    assert cluster.connections("node2") == before + 1
    assert "password" not in cluster.sshd_log("node2").lower()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Port nonsense\n", "config line 1: Invalid Port integer value: nonsense"),
        ("IdentityFile ~/.ssh/missing\n", ".ssh/missing, which the configuration names"),
        ("ProxyJump nowhere.invalid\n", "goes round in a circle"),
        ("ProxyCommand false\n", "cannot reach node"),
    ],
)
def test_a_configuration_that_is_not_understood(cluster: Cluster, config: str, said: str) -> None:
    """An error in the user's ssh configuration is an error of each node that is to be reached by it."""
    (cluster.home / ".ssh" / "config").write_text(config)

    error = submit(cluster, transport="ssh", min_nodes=2).error()

    assert error.startswith("LauncherError: 1 of 3 nodes")
    assert error.count(said) == 2


LOOK = """
def look(x):
    time.sleep(0.05)
    return hf.worker_info().node, os.environ.get("SSH_AUTH_SOCK"), os.environ.get("DISPLAY")

async def main():
    return sorted(set(await hf.map_concurrently(lambda x: hf.remote_eval(look, x), range(24))))
"""


def test_nothing_is_forwarded(cluster: Cluster) -> None:
    """Neither agent nor display, although the user's configuration has them forwarded; nothing listens on a node."""
    config = cluster.home / ".ssh" / "config"
    config.write_text("Host *\n  ForwardAgent yes\n  ForwardX11 yes\n  RequestTTY force\n  RemoteCommand echo no\n")
    agent = 'eval "$(ssh-agent)" >/dev/null; ssh-add -q; export DISPLAY=:7;'

    run = submit(cluster, LOOK, before=agent, transport="ssh")
    found = {node: rest for node, *rest in run.result()}

    assert found.keys() > {"node2"}
    assert found["node2"] == [None, None]
    for process in cluster.strangers().get("node1", []):
        if "ssh-agent" in process.command:
            process.kill()


def test_dropped_connections_are_tried_again(cluster: Cluster) -> None:
    """Where sshd drops connections because there are many, a few more tries get in, and those are bounded."""
    host = cluster.hosts["node2"]
    daemons.stop("sshd", host)
    argv = [*daemons.argv("sshd", host), "-o", "MaxStartups=1:100:1"]
    host.daemon(argv)
    # The first may be dropped, too: whoever has waited for sshd to listen may not have left yet.
    hold = "until exec 3<>/dev/tcp/node2/22 && read -r said <&3; do sleep 0.1; done; echo $said; exec cat <&3"
    with cluster.login.start(["bash", "-c", hold]) as holder:
        assert holder.stdout
        assert holder.stdout.readline().startswith("SSH-")
        before = cluster.sshd_log("node2").count("drop connection")

        error = submit(cluster, transport="ssh", connect_attempts=2, min_nodes=3).error()
        assert "cannot reach node2 by ssh" in error
        dropped = cluster.sshd_log("node2").count("drop connection") - before
        assert 1 <= dropped <= 2

        run = submit(cluster, transport="ssh", connect_attempts=20)
        block_until(
            lambda: cluster.sshd_log("node2").count("drop connection") > before + dropped, 30, "it is dropped once"
        )
        holder.kill()

        assert run.result()["right"]
        assert run.statistics()["nodes"] == 3
    daemons.stop("sshd", host)


def test_an_sshd_that_says_nothing(cluster: Cluster) -> None:
    """A handshake that does not go on is given up in bounded time."""
    cluster.faults.stop_daemon("node2", "sshd")
    source = (
        "import socket\ns = socket.create_server(('', 22)); print('up', flush=True)\nwhile True: s.accept()[0].detach()"
    )
    with cluster.nodes["node2"].start(["python3", "-c", source]) as silent:
        assert silent.stdout
        assert silent.stdout.readline() == "up\n"

        started = time.monotonic()
        run = submit(cluster, transport="ssh", connect_timeout=0.5)
        said = _warnings(run)

        assert "cannot reach node2 by ssh: it did not answer in time" in said
        assert set(run.result()["nodes"]) == {"node1", "node3"}
        assert time.monotonic() - started < 8
