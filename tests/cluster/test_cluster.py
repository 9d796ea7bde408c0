"""The cluster that other tests stand on: it comes up, does what a cluster does, can be hurt and healed, and goes."""

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import __main__ as by_hand
from tests.cluster import daemons, place
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.cluster.home import known_host
from tests.cluster.host import Command, CommandError
from tests.helpers import block_until

SSH = ("ssh", "-o", "ConnectTimeout=2")


def test_comes_up_and_goes(needs_cluster: None) -> None:
    """Nodes have the CPUs they are given, a job runs on all of them, and afterwards the machine is as before."""
    before = _surroundings()

    with held_cluster(cpus=(4, 2, 1)) as c:
        inits = [c.hosts[name].init for name in c.hosts]
        assert c.slurm.sinfo() == {"node1": "idle", "node2": "idle", "node3": "idle"}
        assert [c.slurm.node(name)["CPUTot"] for name in c.nodes] == ["4", "2", "1"]
        job = c.slurm.sbatch("srun hostname", nodes=3)
        assert c.slurm.wait_for(job)["JobState"] == "COMPLETED"
        assert sorted(c.slurm.output(job).split()) == ["node1", "node2", "node3"]

    assert not c.directory.exists()
    assert [place.started(pid) for pid in inits] == [None] * 4
    assert _surroundings() == before


def _surroundings() -> tuple[list[str], str, str]:
    """What of the machine a cluster might change: its network cards, its mounts, its file of hosts."""
    return (
        sorted(name for _, name in socket.if_nameindex()),
        Path("/proc/self/mounts").read_text(),
        Path("/etc/hosts").read_text() + Path("/etc/passwd").read_text(),
    )


def test_two_at_once(cluster: Cluster) -> None:
    """A second cluster with the same names and addresses knows nothing of the first."""
    with held_cluster(cpus=(1,)) as other:
        (other.home / "here").touch()
        job = other.slurm.sbatch("sleep 60")

        assert list(other.slurm.squeue()) == [job]
        assert cluster.slurm.squeue() == {}
        assert not (cluster.home / "here").exists()
        assert cluster.login.run([*SSH, "node1", "ls"]).stdout == ""
        assert other.connections("node1") == 0


def test_a_start_that_fails_leaves_nothing(needs_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a daemon does not start, the error has its words, and everything is taken down again."""
    argv = daemons.argv
    monkeypatch.setattr(daemons, "argv", lambda name, host: [*argv(name, host), *["--nonsense"] * (name == "slurmd")])
    mine = f"hfc-*-{os.getpid()}-*"
    before = set(place.PARENT.glob(mine))

    with pytest.raises(CommandError, match="slurmd"), held_cluster():
        pass

    assert set(place.PARENT.glob(mine)) == before


def test_the_owner_is_killed(needs_cluster: None) -> None:
    """When the process that made a cluster is killed, all of it ends; the next start removes its directory."""
    script = """if True:
        import sys
        from tests.cluster.cluster import cluster
        with cluster(cpus=(1, 1)) as c:
            print(c.directory, *(host.init for host in c.hosts.values()), flush=True)
            sys.stdin.read()
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout
        directory, *inits = owner.stdout.readline().split()
        place.sweep()
        assert Path(directory).is_dir()  # it lives
        owner.kill()

    block_until(lambda: not any(place.started(int(pid)) for pid in inits), 5, "the hosts end")
    assert Path(directory).is_dir()
    place.sweep()
    assert not Path(directory).exists()


def test_what_is_left_over_is_told_from_what_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is a leftover if the process that it is named after has gone, also if its number is used again."""
    monkeypatch.setattr(place, "PARENT", tmp_path)
    living = place.make()
    space, pid, since = living.name.split("-")[1:4]
    dead = tmp_path / f"hfc-{space}-{pid}-{int(since) - 1}-0"
    elsewhere = tmp_path / f"hfc-{int(space) + 1}-{pid}-1-0"
    strange = tmp_path / f"hfc-{space}-{pid}-2-0"
    for path, mode in ((dead, 0o700), (elsewhere, 0o700), (strange, 0o777), (place.by_hand(), 0o700)):
        path.mkdir()
        path.chmod(mode)

    assert place.leftovers() == [dead]


def test_by_hand(needs_cluster: None, capfd: pytest.CaptureFixture[str]) -> None:
    """`up` leaves a cluster that other processes find, `shell` runs there, `status` shows it, `down` removes it."""
    name = ["--name", f"test{os.getpid()}"]
    try:
        assert by_hand.main([*name, "up", "--cpus", "2,1"]) == 0
        assert by_hand.main([*name, "shell", "node2", "hostname"]) == 0
        assert by_hand.main([*name, "status"]) == 0
        assert by_hand.main([*name, "up"]) == 1
    finally:
        by_hand.main([*name, "down"])

    out, error = capfd.readouterr()
    assert "2 nodes and a login host" in out
    assert "\nnode2\n" in out
    assert "node[1-2]" in out
    assert "up already" in error
    assert not place.by_hand(name[1]).exists()


# ------------------------------------------------------------------------------------------------ hosts


def test_a_host_of_its_own(cluster: Cluster) -> None:
    """Hosts share files and the home directory; processes, /dev/shm and the network are each host's own."""
    node = cluster.nodes["node2"]
    (cluster.home / "shared").write_text("from the test")

    assert node.run(["cat", "shared"]).stdout == "from the test"
    assert node.run(["sh", "-c", "cd; pwd; getent passwd root | cut -d: -f6"]).stdout.split() == [str(cluster.home)] * 2
    assert node.run([sys.executable, "-c", "import hyperflow; print(hyperflow.__version__)"]).returncode == 0
    node.run(["touch", "/dev/shm/mine"])
    assert cluster.nodes["node1"].run(["ls", "/dev/shm"]).stdout == ""
    assert not Path("/dev/shm/mine").exists()
    assert "slurmctld" not in node.run(["ps", "-e"]).stdout
    with pytest.raises(CommandError, match="No such file"):
        node.run(["cat", "nothing"])


def test_processes_and_signals(cluster: Cluster) -> None:
    """A command on a host shows in that host's list only, under both of its numbers, and a signal reaches it."""
    node = cluster.nodes["node3"]
    with node.start(["sh", "-c", "trap 'echo caught; exit 5' USR1; echo $$; while :; do sleep 0.05; done"]) as started:
        assert started.stdout
        inner = int(started.stdout.readline())
        assert started.pid not in {p.pid for p in node.processes()}
        assert inner in {p.inner_pid for p in cluster.strangers()["node3"]}
        assert cluster.strangers().keys() == {"node3"}

        started.signal(signal.SIGUSR1)

        assert started.stdout.read() == "caught\n"
        assert started.wait(5) == 5


def test_what_dies_here_dies_there(cluster: Cluster) -> None:
    """Killing what the test has started ends the command on the host."""
    with cluster.login.start(["sleep", "60"]) as started:
        block_until(cluster.strangers, 5, "it runs")
        started.kill()

    block_until(lambda: not cluster.strangers(), 5, "it has ended", state=cluster.strangers)


def test_jobs(cluster: Cluster) -> None:
    """A job finds the Python that runs here; it can be watched, cancelled, and signalled."""
    sleep = shlex.join([sys.executable, "-c", "import time; time.sleep(60)"])
    job = cluster.slurm.sbatch(f"echo started; exec {sleep}", nodes=2)
    cluster.slurm.wait_for(job, "RUNNING")
    block_until(lambda: cluster.slurm.output(job), 5, "it says so")

    assert cluster.slurm.squeue() == {job: "RUNNING"}
    assert set(cluster.strangers()) == {"node1"}
    cluster.slurm.scancel(job)
    assert cluster.slurm.wait_for(job)["JobState"] == "CANCELLED"
    assert cluster.slurm.output(job).startswith("started\n")


# -------------------------------------------------------------------------------------------------- ssh


def test_ssh(cluster: Cluster) -> None:
    """From the login host to a node without a question, by name; sshd's log counts the connection."""
    before = cluster.connections("node2"), cluster.accepted("node2")

    said = cluster.login.run([*SSH, "node2", "hostname; pwd; echo ${SLURM_CONF-none}"]).stdout.split()

    assert said == ["node2", str(cluster.home), "none"]
    assert (cluster.connections("node2"), cluster.accepted("node2")) == (before[0] + 1, before[1] + 1)
    assert cluster.connections("node1") == cluster.sshd_log("node1").count("Connection from")


def test_ssh_from_the_test_itself(cluster: Cluster) -> None:
    """Code under test can open its connections on the login host."""
    address = (cluster.hosts["node1"].address, 22)
    with cluster.network_of("login"), socket.create_connection(address, timeout=5) as connection:
        assert connection.getsockname()[0] == cluster.login.address
        assert connection.recv(4) == b"SSH-"


def test_unknown_and_changed_host_keys(cluster: Cluster) -> None:
    """OpenSSH refuses a host that it does not know, and one whose key has changed; the repair restores both."""
    known = cluster.home / ".ssh" / "known_hosts"
    known.write_text(known_host(cluster.directory, "node1"))
    unknown = cluster.login.run([*SSH, "node2", "true"], check=False)
    assert unknown.returncode == 255
    assert "Host key verification failed" in unknown.stderr

    cluster.faults.change_host_key("node1")
    changed = cluster.login.run([*SSH, "node1", "true"], check=False)
    assert changed.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in changed.stderr

    assert cluster.repair() == []
    for node in cluster.nodes:
        cluster.login.run([*SSH, node, "true"])


# ----------------------------------------------------------------------------------------------- faults


@pytest.fixture
def session(cluster: Cluster) -> Iterator[Command]:
    """An ssh session from login to node2 that sends a line back for each one that it gets."""
    with cluster.login.start([*SSH, "node2", "echo ready; exec cat"], stdin=subprocess.PIPE) as started:
        assert started.stdout
        assert started.stdout.readline() == "ready\n"
        yield started


def _answers(session: Command) -> bool:
    """Whether a line comes back soon."""
    assert session.stdin
    assert session.stdout
    try:
        session.stdin.write("hello\n")
        session.stdin.flush()
    except BrokenPipeError:
        return False
    readable, _, _ = select.select([session.stdout], [], [], 0.5)
    return bool(readable) and bool(session.stdout.readline())


def test_sessions_are_killed(cluster: Cluster, session: Command) -> None:
    """Killing sshd's processes for a connection ends it; sshd lives on."""
    assert _answers(session)

    assert cluster.faults.kill_ssh_sessions("node2") >= 1

    assert session.wait(5) == 255
    cluster.login.run([*SSH, "node2", "true"])


def test_sshd_is_stopped(cluster: Cluster, session: Command) -> None:
    """Without sshd nobody gets in, who is in stays in; and again with it."""
    cluster.faults.stop_daemon("node2", "sshd")

    assert cluster.login.run([*SSH, "node2", "true"], check=False).stderr.endswith("Connection refused\n")
    assert _answers(session)

    cluster.faults.start_daemon("node2", "sshd")
    cluster.login.run([*SSH, "node2", "true"])


def test_a_command_that_takes_too_long(cluster: Cluster) -> None:
    """It is ended, and the error says so."""
    with pytest.raises(CommandError, match=r"sleep 60 took longer than 0\.1 s"):
        cluster.login.run(["sleep", "60"], timeout=0.1)

    block_until(lambda: not cluster.strangers(), 5, "it has ended", state=cluster.strangers)


@pytest.mark.parametrize("direction", ["both", "to the node", "from the node"])
def test_the_link_is_cut(cluster: Cluster, session: Command, direction: str) -> None:
    """Nothing comes through and nothing is said; when the link is back, what was on its way arrives."""
    match direction:
        case "both":
            cluster.faults.cut("node2")
        case "to the node":
            cluster.faults.lose("login", "node2")
        case _:
            cluster.faults.lose("node2", "login")

    assert not _answers(session)
    assert session.poll() is None

    cluster.network.heal()
    block_until(lambda: _answers(session), 10, "the session goes on")


def test_a_node_is_frozen(cluster: Cluster, session: Command) -> None:
    """Nothing on a frozen node answers, although its kernel takes what is sent; thawed, all goes on."""
    cluster.faults.freeze("node2")
    assert not _answers(session)

    cluster.faults.thaw("node2")
    assert _answers(session)


def test_a_frozen_nodes_own_commands(cluster: Cluster) -> None:
    """What a test has started on a node that is frozen goes on when it is thawed, and can be waited for."""
    script = "echo one; read line; echo two"
    with cluster.nodes["node2"].start(["sh", "-c", script], stdin=subprocess.PIPE) as started:
        assert started.stdin
        assert started.stdout
        assert started.stdout.readline() == "one\n"
        cluster.faults.freeze("node2")
        started.stdin.write("go on\n")
        started.stdin.flush()
        assert not select.select([started.stdout], [], [], 0.2)[0]

        cluster.faults.thaw("node2")

        assert started.stdout.readline() == "two\n"
        assert started.wait(5) == 0


def test_a_frozen_node_goes_down_too(needs_cluster: None) -> None:
    """A cluster with a node that is frozen, or off, can be taken down."""
    with held_cluster(cpus=(1, 1)) as c:
        c.faults.freeze("node1")
        c.faults.crash("node2")

    assert not c.directory.exists()


def test_a_node_crashes(cluster: Cluster) -> None:
    """Everything on a node that is switched off is gone; booted, it is a node again."""
    cluster.faults.crash("node3")

    assert cluster.login.run([*SSH, "node3", "true"], check=False).returncode == 255
    with pytest.raises(CommandError, match="switched off"):
        cluster.nodes["node3"].run(["true"])

    cluster.faults.boot("node3")
    cluster.slurm.wait_idle()
    cluster.login.run([*SSH, "node3", "true"])


def test_the_login_host_crashes(cluster: Cluster) -> None:
    """The login host can be switched off and on like a node; all that it does for the cluster it does again."""
    cluster.faults.crash("login")
    cluster.faults.boot("login")

    cluster.slurm.wait_idle()
    assert cluster.login.run([*SSH, "node1", "hostname"]).stdout == "node1\n"


def test_slurmd_is_killed(cluster: Cluster) -> None:
    """A job survives its node's slurmd; the repair brings it back and ends the job."""
    job = cluster.slurm.sbatch("sleep 60")
    cluster.slurm.wait_for(job, "RUNNING")
    block_until(lambda: cluster.strangers().get("node1"), 5, "the script runs")
    cluster.faults.stop_daemon("node1", "slurmd")

    assert "node1" in cluster.strangers()

    assert cluster.repair() == []
    assert cluster.slurm.squeue() == {}
    assert set(cluster.slurm.sinfo().values()) == {"idle"}


def test_what_a_test_leaves_is_found(cluster: Cluster) -> None:
    """The repair names and ends what still runs on a node, also what Slurm knows nothing of."""
    cluster.login.run([*SSH, "node2", "setsid sleep 3600 >/dev/null 2>&1 </dev/null &"])

    left = cluster.repair(grace=0.1)

    assert len(left) == 1
    assert left[0].startswith("node2: ")
    assert left[0].endswith("sleep 3600")
    assert cluster.repair(grace=0.1) == []


def test_kill_by_the_hosts_own_number(cluster: Cluster) -> None:
    """A process can be killed by the number that it knows itself by."""
    with cluster.nodes["node1"].start(["sh", "-c", "echo $$; exec sleep 60"]) as started:
        assert started.stdout
        cluster.faults.kill("node1", int(started.stdout.readline()))

        assert started.wait(5) in {-signal.SIGKILL, 128 + signal.SIGKILL}
