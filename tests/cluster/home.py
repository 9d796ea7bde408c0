"""The users' side of the cluster: the shared home directory with its keys, and files of /etc that name hosts."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.cluster import packages
from tests.cluster.network import address, hosts_file

SSH_CONFIG = "# ssh as it comes, except that a test can answer no questions\nBatchMode yes\n"


def host_key(directory: Path, name: str) -> Path:
    """Return the path of a host's private key."""
    return directory / "etc" / "ssh" / f"host_key.{name}"


def make_keys(*paths: Path) -> None:
    """Make private keys, each with its public one beside it, where there are none yet."""
    making = [
        subprocess.Popen(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)],
            env={"PATH": packages.PATH},
            stdin=subprocess.DEVNULL,
        )
        for path in paths
        if not path.exists()
    ]
    for process in making:
        if process.wait():
            raise RuntimeError(f"ssh-keygen ended with {process.returncode}")


def write_etc(directory: Path, names: Iterable[str]) -> list[tuple[Path, str]]:
    """Write what the hosts see of /etc that is not the machine's, and return what is to be seen where."""
    etc = directory / "etc"
    (etc / "ssh").mkdir(parents=True)
    (etc / "ssh" / "ssh_config").touch()
    (etc / "ssh" / "ssh_known_hosts").touch()
    (etc / "hosts").write_text(hosts_file(names))
    # Where the home directory is: sshd, ssh and Slurm ask here, not $HOME.
    root = f"root:x:0:0:root:{directory}/home:/bin/bash\n"
    others = [line for line in Path("/etc/passwd").read_text().splitlines(keepends=True) if line.split(":")[2] != "0"]
    (etc / "passwd").write_text(root + "".join(others))
    return [(etc / "hosts", "/etc/hosts"), (etc / "passwd", "/etc/passwd"), (etc / "ssh", "/etc/ssh")]


def furnish(directory: Path, names: Iterable[str]) -> None:
    """Make the home directory as it is at the start: a key, which every host accepts, and all hosts known."""
    keys, home = directory / "keys", directory / "home"
    keys.mkdir(exist_ok=True)
    make_keys(keys / "id_ed25519", *(host_key(directory, name) for name in names))
    home.mkdir(exist_ok=True)
    for path in home.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    for name in ("id_ed25519", "id_ed25519.pub"):
        shutil.copy(keys / name, ssh)
    shutil.copy(keys / "id_ed25519.pub", ssh / "authorized_keys")
    (ssh / "config").write_text(SSH_CONFIG)
    (ssh / "known_hosts").write_text("".join(known_host(directory, name) for name in names))


def known_host(directory: Path, name: str) -> str:
    """Return a host's line in a file of known hosts."""
    kind, key = host_key(directory, name).with_suffix(f".{name}.pub").read_text().split()[:2]
    return f"{name},{address(name)} {kind} {key}\n"
