"""What a failure of ssh means: the same words for a run's warnings and for the doctor."""

import socket

import asyncssh
import pytest

from hyperflow.cli import verdicts
from hyperflow.transports.ssh_advice import KnownKeys, explain, host_key_failure, typed

NOBODY = KnownKeys("node2", 22, ())


@pytest.mark.parametrize(
    ("error", "cause", "what", "fix"),
    [
        (asyncssh.PermissionDenied("no"), "permission denied", "does not accept our keys", 'transport = "srun"'),
        (asyncssh.KeyExchangeFailed("kex"), "no common ground", "no algorithm in common (kex)", "host key"),
        (ConnectionRefusedError(111, "x"), "refused", "no sshd answers there", "start sshd on node2"),
        (socket.gaierror(-2, "Name unknown"), "unknown name", "nobody knows this name (Name unknown)", "sinfo --Node"),
        (FileNotFoundError(2, "x", "/k"), "configuration", "there is no /k, which the configuration names", "Identity"),
        (ValueError("bad key"), "configuration", "not understood (bad key)", "ssh -v node2 true"),
        (RecursionError("depth"), "configuration", "round in a circle", "ProxyJump none"),
        (RuntimeError("the handler is closed"), "no answer", "ProxyCommand", "sinfo --nodes=node2"),
        (TimeoutError(), "no answer", "did not answer in time", "sinfo --nodes=node2"),
        (asyncssh.ConnectionLost("lost"), "no answer", "hangs up (lost)", "sinfo --nodes=node2"),
        (OSError(101, "Network is unreachable"), "other", "Network is unreachable", "ssh -v node2 true"),
        (OSError(), "no answer", "does not answer (OSError)", "sinfo --nodes=node2"),
    ],
)
def test_explained(error: Exception, cause: str, what: str, fix: str) -> None:
    """Each failure has a cause, words and a way out, and the doctor says the same."""
    told = explain(error, "node2")
    assert told.cause == cause
    assert what in told.what
    assert fix in told.fix
    assert str(told) == f"{told.what}. {told.fix}"
    check = verdicts.ssh_failure("node2", error, NOBODY, "", True)
    assert (check.detail, check.fix, check.data["cause"]) == (told.what, told.fix, told.cause)


def test_host_keys_at_another_port() -> None:
    """What to type names the port, the node's name in ssh's own form, and the pinned file as one types it."""
    unknown = host_key_failure("node2", KnownKeys("node2", 2222, (), "~/my keys"), "SHA256:abc")
    assert unknown.cause == "host key unknown"
    assert "(SHA256:abc) is unknown: node2 is not in /" in unknown.what
    assert "`ssh-keyscan -p 2222 node2 >> ~/'my keys'`" in unknown.fix
    changed = host_key_failure("node2", KnownKeys("node2", 2222, ("/a/keys",)), "")
    assert "is not the known one: another one is in /a/keys" in changed.what
    assert "`ssh-keygen -R '[node2]:2222' -f /a/keys`" in changed.fix
    assert typed("/a b") == "'/a b'"
