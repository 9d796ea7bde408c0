"""Verdicts: findings to words, statuses and advice."""

import socket

import asyncssh
import pytest

from hyperflow.cli import verdicts
from hyperflow.cli.check import Status, failed, ok, skipped
from hyperflow.head.capacity import Choice
from hyperflow.request import Capacity
from hyperflow.transports.ssh_advice import KnownKeys

NOBODY = KnownKeys("node2", 22, ())
CHANGED = asyncssh.HostKeyNotVerifiable("Host key is not trusted")


def test_an_unknown_host_key() -> None:
    """An unknown key is told with its fingerprint, and there are two ways out: to add it, or to trust new ones."""
    check = verdicts.ssh_failure("node2", CHANGED, NOBODY, "ssh-ed25519 SHA256:abc", True)

    assert check.status is Status.FAILED
    assert check.data["cause"] == "host key unknown"
    assert "SHA256:abc" in check.detail
    assert "`ssh-keyscan node2 >> ~/.ssh/known_hosts`" in check.fix
    assert 'host_keys = "accept-new"' in check.fix


def test_an_unknown_host_key_with_a_pinned_file() -> None:
    """Where one file is named, new keys go there, and trusting others is not on offer."""
    check = verdicts.ssh_failure("node2", CHANGED, KnownKeys("node2", 22, (), "/site/keys"), "", True)

    assert "ssh-keyscan node2 >> /site/keys" in check.fix
    assert "accept-new" not in check.fix


def test_a_changed_host_key() -> None:
    """A changed key names every file that has another one, and how to forget that; the system's is not ours."""
    known = KnownKeys("node2", 2222, ("/home/me/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"))
    check = verdicts.ssh_failure("node2", CHANGED, known, "", True)

    assert check.data["cause"] == "host key changed"
    assert "/home/me/.ssh/known_hosts, /etc/ssh/ssh_known_hosts" in check.detail
    assert "`ssh-keygen -R '[node2]:2222' -f /home/me/.ssh/known_hosts`" in check.fix
    assert "`ssh-keyscan -p 2222 node2" in check.fix
    assert "ask the administrators to correct /etc/ssh/ssh_known_hosts" in check.fix


@pytest.mark.parametrize(
    ("error", "cause", "advice"),
    [
        (asyncssh.PermissionDenied("no"), "permission denied", "authorized_keys"),
        (ConnectionRefusedError(111, "refused"), "refused", "start sshd on node2"),
        (socket.gaierror(-2, "Name or service not known"), "unknown name", "sinfo --Node"),
        (TimeoutError(), "no answer", "ssh -v node2 true"),
        (asyncssh.ConnectionLost("lost"), "no answer", "ssh -v node2 true"),
        (OSError(101, "Network is unreachable"), "other", "ssh -v node2 true"),
    ],
)
def test_other_ssh_failures(error: Exception, cause: str, advice: str) -> None:
    """Each way to fail has its name for programs and its advice for people."""
    check = verdicts.ssh_failure("node2", error, NOBODY, "", True)

    assert (check.status, check.data["cause"]) == (Status.FAILED, cause)
    assert advice in check.fix


def test_who_has_no_job_there_may_be_refused_for_that() -> None:
    """Outside an allocation, being refused may mean nothing."""
    error = asyncssh.PermissionDenied("no")

    assert "salloc" in verdicts.ssh_failure("node2", error, NOBODY, "", False).fix
    assert "salloc" not in verdicts.ssh_failure("node2", error, NOBODY, "", True).fix


GOOD_SSH, GOOD_SRUN = ok("ssh", "fine", "n"), ok("srun", "fine", "n")
BAD_SSH, BAD_SRUN = failed("ssh", "no", "", "n"), failed("srun", "no", "", "n")
NO_SRUN = skipped("srun", "outside", node="n")


@pytest.mark.parametrize(
    ("transport", "ssh", "srun", "expected", "chosen"),
    [
        ("auto", GOOD_SSH, GOOD_SRUN, ("ok", "ok"), "ssh"),
        ("auto", GOOD_SSH, BAD_SRUN, ("ok", "warning"), "ssh"),
        ("auto", BAD_SSH, GOOD_SRUN, ("failed", "ok"), "srun"),
        ("auto", BAD_SSH, BAD_SRUN, ("failed", "failed"), None),
        ("auto", BAD_SSH, NO_SRUN, ("failed", "skipped"), None),
        ("ssh", GOOD_SSH, BAD_SRUN, ("ok", "warning"), "ssh"),
        ("ssh", BAD_SSH, GOOD_SRUN, ("failed", "ok"), None),
        ("srun", BAD_SSH, GOOD_SRUN, ("warning", "ok"), "srun"),
        ("srun", GOOD_SSH, BAD_SRUN, ("ok", "failed"), None),
    ],
)
def test_how_bad_a_transport_is(
    transport: str, ssh: verdicts.Check, srun: verdicts.Check, expected: tuple[str, str], chosen: str | None
) -> None:
    """A way that hyperflow would not go may be closed; the one that it would choose is the one that is tried."""
    ssh, srun = verdicts.by_transport(transport, ssh, srun)

    assert (ssh.status, srun.status) == expected
    assert verdicts.chosen_transport(transport, ssh, srun) == chosen


@pytest.mark.parametrize(
    ("granted", "affinity", "quota", "status", "words"),
    [
        (4, [0, 1, 2, 3], None, "ok", "4 CPUs, as Slurm promises; workers will be pinned"),
        (1, [5], 1.0, "ok", "1 CPU, as Slurm promises"),
        (4, [0, 1], None, "warning", "grants 4 CPUs, but a process may use only 2"),
        (2, [0, 1, 2, 3], None, "warning", "grants 2 CPUs, but a process may use 4"),
        (4, [0, 1, 2, 3], 1.5, "warning", "only the time of 1.5"),
        (None, [0, 1], None, "ok", "may use 2 CPUs; no allocation"),
    ],
)
def test_cpus(granted: int | None, affinity: list[int], quota: float | None, status: str, words: str) -> None:
    """What Slurm grants is compared with the affinity mask and the control group's quota."""
    check = verdicts.cpus("node1", granted, affinity, quota)

    assert check.status == status
    assert words in check.detail
    assert bool(check.fix) == (status == "warning")
    assert check.data == {"granted": granted, "affinity": affinity, "quota": quota}


@pytest.mark.parametrize(
    ("read", "written", "seconds", "status", "words"),
    [
        (None, None, (0.0, 0.1), "ok", "the other way round"),
        (None, None, (3.0, 0.1), "warning", "3.0 s until it saw a file"),
        ("No such file", None, (5.0, 0.0), "failed", "what is written here in /runs is not there (No such file)"),
        (None, "No such file", (0.0, 5.0), "failed", "what it writes there is not here (No such file)"),
    ],
)
def test_sharing(read: str | None, written: str | None, seconds: tuple[float, float], status: str, words: str) -> None:
    """A directory is shared when both directions work, and soon."""
    check = verdicts.sharing("node2", "/runs", "tmpfs", read, written, seconds)

    assert check.status == status
    assert words in check.detail
    if status == "failed":
        assert "type tmpfs" in check.fix
        assert "--run-dir" in check.fix


def test_database() -> None:
    """The journal mode and the kind of file system are named; a slow commit is a warning."""
    local = verdicts.database("ext4", True, True, 0.004)
    remote = verdicts.database("nfs4", False, False, 3.0)

    assert (local.status, local.data["journal"]) == (Status.OK, "wal")
    assert "on ext4, local: write-ahead log" in local.detail
    assert (remote.status, remote.data["journal"]) == (Status.WARNING, "rollback")
    assert "on nfs4, which may be shared: rollback journal" in remote.detail


@pytest.mark.parametrize(
    ("error", "prologue", "advice"),
    [
        ("python is 3.11.7 here and 3.12.1 on node2; use one", "", "`ssh node2 /opt/py --version`"),
        ("ended during its start; sh: 1: exec: /opt/py: not found", "", "`ssh node2 ls -l /opt/py`"),
        ("did not say anything for 60 s", "", "start_timeout"),
        ("ended during its start", "module load x", "Perhaps the prologue fails there"),
    ],
)
def test_launchers_that_do_not_start(error: str, prologue: str, advice: str) -> None:
    """What was said decides on what to look at."""
    assert advice in verdicts.launcher_failure("node2", "ssh node2", error, "/opt/py", prologue).fix


def test_gpus_and_memory() -> None:
    """What was found, and who says so; what is missing is a warning that says what to type."""
    near = ((frozenset({0}), frozenset({"0"})), (frozenset({1}), frozenset({"1"})))
    found = Choice(Capacity(("0", "1"), 8 << 30, domains=near), "Slurm", "control group")

    gpus, memory = verdicts.gpus("node1", found), verdicts.memory("node1", found)
    lost = verdicts.gpus("node1", found._replace(remark="Slurm names 3"))

    assert (gpus.status, gpus.detail) == (Status.OK, "2 (0, 1), as Slurm says; with CPUs close to them")
    assert (memory.status, memory.detail) == (Status.OK, "8G (control group)")
    assert (lost.status, "gpus=[" in lost.fix) == (Status.WARNING, True)
    assert verdicts.gpus("node1", Choice(Capacity())).detail == "none found"
    assert verdicts.memory("node1", Choice(Capacity())).status == Status.WARNING
