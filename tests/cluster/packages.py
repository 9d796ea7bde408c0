"""The Debian packages that a cluster is made of, and how they are installed without starting or enabling anything."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

# What is looked for, in PATH with the directories for administrators, and what brings it.
PROGRAMS = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "munged": "munge",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
SERVICES = ("munge", "slurmctld", "slurmd", "ssh")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])

_LOCK = "/run/lock/hyperflow-tests-install"
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """Return the programs that are not here."""
    return [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]


def obstacle() -> str | None:
    """Say why there can be no cluster here as things are; None if there can be one."""
    if os.geteuid() != 0:
        return "a Slurm cluster on this machine needs root"
    if not _may_unshare():
        return "a Slurm cluster on this machine needs namespaces, and this process may not make any"
    if absent := missing():
        packages = " ".join(sorted({PROGRAMS[program] for program in absent}))
        return f"no {', '.join(absent)} here: apt-get install --no-install-recommends {packages}"
    return None


def _may_unshare() -> bool:
    return _quietly("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true") == 0


def _quietly(*argv: str) -> int:
    return subprocess.run(argv, capture_output=True, check=False).returncode


def install() -> None:
    """Install what is missing, where we may; leave a service that was not here before neither running nor enabled."""
    wanted = sorted({PROGRAMS[program] for program in missing()})
    if not wanted or os.geteuid() != 0 or shutil.which("apt-get") is None or not _may_unshare():
        return
    install_these(wanted, SERVICES)


def install_these(wanted: Sequence[str], services: Sequence[str]) -> None:
    """Install packages; leave those of their services that were not here before neither running nor enabled."""
    print(f"installing {' '.join(wanted)}", flush=True)
    with _one_at_a_time():
        before = {service for service in services if _unit(service)}
        with _nothing_starts():
            if _apt("update", "-qq"):
                _apt("install", "-y", "-qq", "--no-install-recommends", *wanted)
        for service in services:
            if service not in before and _unit(service):
                _quietly("update-rc.d", service, "disable")
                _quietly("deb-systemd-helper", "disable", f"{service}.service")


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for other processes of the test run (pytest-xdist's) that install something."""
    with open(_LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unit(service: str) -> bool:
    return Path(f"/etc/init.d/{service}").exists()


def _apt(*words: str) -> bool:
    done = subprocess.run(
        ["apt-get", "-o", "DPkg::Lock::Timeout=60", *words],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"apt-get {words[0]} failed:\n{done.stdout[-2000:]}", flush=True)
    return done.returncode == 0


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """Answer "no" for the time being when a package asks whether it may start its service, unless someone does so."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
