"""What sites are like: banners, noisy start-up files, changed host keys, other Pythons, forced commands, hanging sshds.

A run has to start on all nodes all the same, or to go on without one and say why.
"""

import functools
import shutil
import signal
import sys
from collections.abc import Callable, Sequence

from tests.chaos.case import Case
from tests.chaos.cluster_run import SlurmRun, in_slurm
from tests.chaos.faults.nodes import SHORT, by_chance, by_ssh
from tests.chaos.run import Run
from tests.cluster import daemons
from tests.imports import TOP

ODD = "node2"
"""The node that is unlike the others."""

LEFT_OUT = "going on without a node"

START_UP_FILES = {
    "greets": "echo welcome; echo; printf 'no newline' >&2",
    "prints megabytes": "head -c 5000000 /dev/zero | tr '\\0' x; head -c 5000000 /dev/zero | tr '\\0' y >&2",
    "prints garbage": "head -c 300000 /dev/urandom; head -c 300000 /dev/urandom >&2",
    "prints in the background": "(for i in $(seq 2000); do echo noise; sleep 0.01; done) &",
    "prints escape sequences": r"printf '\033[2J\033[H\007\r\n\0'",
    "takes its time": "sleep 3",
    "fails": "false",
    "has a mistake": "if then fi (",
    "is strict": "set -eu",
    "tells each step": "set -x",
    "has a narrow umask": "umask 777",
    "goes elsewhere": "mkdir -p /tmp/gone.$$; cd /tmp/gone.$$; rmdir /tmp/gone.$$",
    "closes descriptors": "exec 3>&- 4>&- 5>&-",
    "has few descriptors": "ulimit -n 64",
    "has its own commands": "alias exec=false cd=false python=false; cd() { echo cd; }; python() { echo no; }",
    "sets another PATH": "export PATH=/usr/bin:/bin",
    "sets no PATH": "unset PATH",
    "sets another PYTHONPATH": "export PYTHONPATH=/nowhere PYTHONSTARTUP=/nowhere PYTHONOPTIMIZE=2",
    "sets PYTHONUNBUFFERED and the like": "export PYTHONUNBUFFERED=1 PYTHONVERBOSE=1 PYTHONWARNINGS=error",
    "sets another TMPDIR": "export TMPDIR=/nowhere",
    "sets another language": "export LANG=xx LC_ALL=xx",
    "preloads what is not there": "export LD_PRELOAD=/nowhere.so",
    "ignores signals": "trap '' TERM INT HUP CHLD",
}

SSH_CONFIGS = {
    "shares connections": "ControlMaster auto\nControlPath ~/.ssh/cm-%r@%h:%p\nControlPersist 1m",
    "wants a terminal": "RequestTTY force",
    "runs another command": "RemoteCommand sleep 100",
    "forwards": "ForwardAgent yes\nForwardX11 yes\nLocalForward 127.0.0.1:9999 localhost:9",
    "sends variables": "SendEnv *\nSetEnv LANG=xx",
    "has what nobody knows": "IgnoreUnknown Nonsense\nNonsense yes",
    "has conditions": 'Match host node* exec "true"\n  User root\nMatch all\n  Compression yes',
    "includes what is not there": "Include /nowhere/*",
    "keeps alive": "ServerAliveInterval 1\nServerAliveCountMax 1\nTCPKeepAlive no",
}
"""What users have in their ~/.ssh/config; ssh has to work all the same."""

UNUSABLE_SSH_CONFIGS = {
    "has a mistake": "Host\n  Port none\n}",
    "names another user": "User nobody",
    "names a key that is not there": "IdentityFile /nowhere\nIdentityFile ~/.ssh/id_ed25519",
    "names another port": "Port 2222",
    "names another host": "HostName nowhere.invalid",
    "goes through a host that is not there": "ProxyJump nowhere.invalid",
    "goes through a command that fails": "ProxyCommand false",
    "goes through a command that hangs": "ProxyCommand sleep 1000",
    "wants another host key": "HostKeyAlgorithms ssh-rsa",
    "knows no hosts": "UserKnownHostsFile /dev/null\nGlobalKnownHostsFile /dev/null",
}
"""With these ssh may fail; then srun has to do."""

KEYS = {
    "known hosts with broken lines": ("known_hosts", "node2 ssh-ed25519\n|1|x|y ssh-rsa AAAA\n\0\xff\n"),
    "a revoked host key": ("known_hosts", "@revoked node2 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n"),
    "a private key that is garbage": ("id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"),
    "accepted keys with broken lines": ("authorized_keys", "garbage\nssh-rsa\n"),
}
"""What stands in a file of ~/.ssh before what is right."""


def ssh_config(run: Run, text: str, transport: str) -> None:
    """Have this in ~/.ssh/config, for all hosts."""
    run = in_slurm(run)
    run.environment |= {"HYPERFLOW_TRANSPORT": transport, "HYPERFLOW_CONNECT_TIMEOUT": "5"}
    (run.cluster.home / ".ssh" / "config").write_text(f"BatchMode yes\n{text}\n")


def ssh_file(run: Run, name: str, text: str) -> None:
    """Have something before the rest of a file in ~/.ssh."""
    path = in_slurm(run).cluster.home / ".ssh" / name
    path.write_text(text + (path.read_text() if path.exists() else ""))
    path.chmod(0o600)


def no_agent(run: Run) -> None:
    """Name an agent for keys that has gone."""
    by_ssh(run)
    run.environment["SSH_AUTH_SOCK"] = "/nowhere"


def start_up_file(run: Run, text: str) -> None:
    """Have a start-up file for what comes by ssh."""
    by_ssh(run)
    run = in_slurm(run)
    (run.cluster.home / ".bashrc").write_text(f'if [ -n "$SSH_CONNECTION" ]; then\n{text}\nfi\n')


def sshd_with(run: Run, settings: Sequence[str], transport: str = "ssh") -> None:
    """Have these settings for the sshd of one node."""
    run = in_slurm(run)
    run.environment["HYPERFLOW_TRANSPORT"] = transport
    host = run.cluster.hosts[ODD]
    daemons.stop("sshd", host)
    run.undo.callback(daemons.stop, "sshd", host)
    host.daemon([*daemons.argv("sshd", host), *(word for setting in settings for word in ("-o", setting))])


def forced_wrapper(run: Run) -> None:
    """Have a forced command that runs what was asked for."""
    (in_slurm(run).cluster.home / "watched").write_text('echo you are watched; exec $SHELL -c "$SSH_ORIGINAL_COMMAND"')
    sshd_with(run, ["ForceCommand=sh ~/watched"])


def login_shell(run: Run, shell: str, transport: str) -> None:
    """Have another login shell, on all hosts."""
    run = in_slurm(run)
    run.environment["HYPERFLOW_TRANSPORT"] = transport
    passwd = run.cluster.directory / "etc" / "passwd"
    before = passwd.read_text()
    run.undo.callback(passwd.write_text, before)
    passwd.write_text(before.replace(":/bin/bash", f":{shell}", 1))


def changed_key(run: Run, transport: str) -> None:
    """Let one node have another host key than the one that is known."""
    run = in_slurm(run)
    run.environment["HYPERFLOW_TRANSPORT"] = transport
    run.cluster.faults.change_host_key(ODD)


def no_keys(run: Run) -> None:
    """Let no node accept our key."""
    (in_slurm(run).cluster.home / ".ssh" / "authorized_keys").unlink()


def unknown_name(run: Run) -> None:
    """Let a node's name not be known to any host, though Slurm knows its address."""
    hosts = in_slurm(run).cluster.directory / "etc" / "hosts"
    before = hosts.read_text()
    run.undo.callback(hosts.write_text, before)
    hosts.write_text("".join(line for line in before.splitlines(keepends=True) if ODD not in line))


def no_sshd(run: Run, transport: str) -> None:
    """Let one node have no sshd."""
    run = in_slurm(run)
    run.environment["HYPERFLOW_TRANSPORT"] = transport
    run.cluster.faults.stop_daemon(ODD, "sshd")


def hanging_sshd(run: Run, transport: str) -> None:
    """Let one node's sshd take connections, and say nothing."""
    run = in_slurm(run)
    run.environment |= {"HYPERFLOW_TRANSPORT": transport, "HYPERFLOW_CONNECT_TIMEOUT": "4"}
    sshd = daemons.find("sshd", run.cluster.hosts[ODD])
    assert sshd
    run.undo.callback(sshd.kill, signal.SIGCONT)
    sshd.kill(signal.SIGSTOP)


def other_version(run: Run, text: str) -> None:
    """Let one node have something else of what both sides need."""
    by_chance(run)
    run = in_slurm(run)
    other = run.place / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text(text)
    run.environment["HYPERFLOW_PROLOGUE"] = f'if [ "$(hostname)" = {ODD} ]; then export PYTHONPATH={other}:{TOP}; fi'


def mounted(run: Run, path: Callable[[SlurmRun], str], options: str) -> None:
    """Mount an empty file system over a directory of one node."""
    by_chance(run)
    run = in_slurm(run)
    host = run.cluster.hosts[ODD]
    target = path(run)
    host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target])
    run.undo.callback(host.run, ["umount", "--lazy", target])


def no_python(run: Run) -> None:
    """Let one node have no Python where ours is."""
    by_chance(run)
    run = in_slurm(run)
    host = run.cluster.hosts[ODD]
    host.run(["mount", "--bind", "/dev/null", sys.executable])
    run.undo.callback(host.run, ["umount", sys.executable])


def read_only_home(run: Run) -> None:
    """Have a home directory that cannot be written to."""
    by_ssh(run)
    run = in_slurm(run)
    shutil.copytree(run.cluster.home / ".ssh", run.cluster.home / "ro" / ".ssh")
    run.shell = "export HOME=$HOME/ro"
    run.within = [
        *("unshare", "--mount", "sh", "-c"),
        'mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" && exec "$@"',
        "-",
    ]


def _all_nodes(name: str, before: Callable[[Run], None]) -> Case:
    """Return a case in which all nodes have to be used."""

    def whole(run: Run) -> None:
        run.environment["HYPERFLOW_MIN_NODES"] = "3"
        before(run)

    return Case(table="site", name=name, before=whole, workload=SHORT, world="slurm", survives=True)


def _without_one(name: str, before: Callable[[Run], None], says: str) -> Case:
    """Return a case in which one node cannot be used, which has to be told with its reason."""
    return Case(
        table="site",
        name=name,
        before=before,
        workload=SHORT,
        world="slurm",
        survives=True,
        says=says,
    )


def _tmp(run: SlurmRun) -> str:
    return str(run.place / "tmp")


def _disk(run: SlurmRun) -> str:
    return str(run.disk)


FORCED = "ForceCommand=echo only for transfers"

CONDITIONS: dict[str, Callable[[Run], None]] = {
    "a banner": functools.partial(sshd_with, settings=["Banner=/etc/passwd"]),
    "a forced command": functools.partial(sshd_with, settings=[FORCED], transport="auto"),
    "a forced command that runs ours": forced_wrapper,
    "a root directory that is not there": functools.partial(
        sshd_with, settings=["ChrootDirectory=/nowhere"], transport="auto"
    ),
    "no forwarding": functools.partial(sshd_with, settings=["DisableForwarding=yes"]),
    "one session": functools.partial(sshd_with, settings=["MaxSessions=1"]),
    "no session": functools.partial(sshd_with, settings=["MaxSessions=0"], transport="auto"),
    "new keys all the time": functools.partial(sshd_with, settings=["RekeyLimit=16K 1"]),
    "compression delayed": functools.partial(sshd_with, settings=["Compression=delayed"]),
    "old algorithms alone": functools.partial(
        sshd_with, settings=["Ciphers=aes128-ctr", "MACs=hmac-sha2-256", "KexAlgorithms=ecdh-sha2-nistp256"]
    ),
    "an sshd that drops connections": functools.partial(
        sshd_with, settings=["PerSourceMaxStartups=0"], transport="auto"
    ),
    "a login shell that is dash": functools.partial(login_shell, shell="/bin/dash", transport="ssh"),
    "a login shell that refuses": functools.partial(login_shell, shell="/usr/sbin/nologin", transport="auto"),
    "a login shell that is not there": functools.partial(login_shell, shell="/nowhere", transport="auto"),
    "an agent that has gone": no_agent,
    "a changed host key": functools.partial(changed_key, transport="auto"),
    "keys that are not accepted": no_keys,
    "a name that is not known": unknown_name,
    "no sshd": functools.partial(no_sshd, transport="auto"),
    "an sshd that hangs": functools.partial(hanging_sshd, transport="auto"),
    "a home that is read-only": read_only_home,
    "a TMPDIR that is read-only": functools.partial(mounted, path=_tmp, options="ro"),
    "a TMPDIR without room": functools.partial(mounted, path=_tmp, options="size=4k,nr_inodes=2"),
    "a TMPDIR without execution": functools.partial(mounted, path=_tmp, options="noexec"),
    "a node that does not see the run's directory": functools.partial(mounted, path=_disk, options="ro"),
    "a tiny /dev/shm": functools.partial(mounted, path=lambda run: "/dev/shm", options="size=4k,nr_inodes=2"),
}
"""What all nodes have to be used in spite of."""

VERSION = "import hyperflow._version as v; v.__version__ = '77.7'"
PYTHON = "import sys; sys.version = '77.7 (main, Jan  1 2026, 00:00:00) [GCC 1.0.0]'"

TABLE = (
    *(
        _all_nodes(f"a start-up file that {what}", functools.partial(start_up_file, text=text))
        for what, text in START_UP_FILES.items()
    ),
    *(
        _all_nodes(f"an ssh configuration that {what}", functools.partial(ssh_config, text=text, transport="ssh"))
        for what, text in SSH_CONFIGS.items()
    ),
    *(
        _all_nodes(f"an ssh configuration that {what}", functools.partial(ssh_config, text=text, transport="auto"))
        for what, text in UNUSABLE_SSH_CONFIGS.items()
    ),
    *(_all_nodes(what, functools.partial(ssh_file, name=name, text=text)) for what, (name, text) in KEYS.items()),
    *(_all_nodes(name, before) for name, before in CONDITIONS.items()),
    _without_one("ssh: a changed host key", functools.partial(changed_key, transport="ssh"), "host key"),
    _without_one("ssh: no sshd", functools.partial(no_sshd, transport="ssh"), "no sshd answers there"),
    _without_one("ssh: an sshd that hangs", functools.partial(hanging_sshd, transport="ssh"), ODD),
    _without_one("ssh: a forced command", functools.partial(sshd_with, settings=[FORCED]), "only for transfers"),
    _without_one("another Python", functools.partial(other_version, text=PYTHON), "python is .*77.7 on node2"),
    _without_one("another hyperflow", functools.partial(other_version, text=VERSION), "hyperflow is .*77.7 on node2"),
    _without_one("no Python", no_python, f"{LEFT_OUT}|slow to start"),  # the run may end before more is known
)
