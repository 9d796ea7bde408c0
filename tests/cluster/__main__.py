"""A cluster by hand: `python -m tests.cluster up`, then `shell`, `status`, `down`."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster import packages, place
from tests.cluster.cluster import THREE_NODES, Cluster


def up(directory: Path, cpus: list[int]) -> int:
    """Bring a cluster up that stays until it is taken down."""
    packages.install()
    if reason := packages.obstacle():
        print(reason, file=sys.stderr)
        return 1
    place.sweep()
    if directory.exists():
        if place.recorded(directory):
            print("it is up already: `status` shows it, `down` takes it down", file=sys.stderr)
            return 1
        place.remove(directory)
    directory.mkdir(mode=0o700)
    made = Cluster(directory, cpus)
    try:
        made.up(lifeline=False)
    except BaseException:
        made.down()
        raise
    print(f"{len(cpus)} nodes and a login host; everything is in {directory}")
    print("  python -m tests.cluster shell node1      (or login, which is where sbatch is)")
    print("  python -m tests.cluster down")
    return 0


def status(directory: Path) -> int:
    """Show the hosts, what runs on them for users, and Slurm's queue."""
    found = existing(directory)
    for name, host in found.hosts.items():
        state = "up " if host.outer else "off"
        print(f"{name:8} {host.address:12} {state}  {found.connections(name)} ssh connections")
    print(found.login.run(["sinfo"], check=False).stdout)
    print(found.login.run(["squeue"], check=False).stdout)
    for name, processes in found.strangers().items():
        for process in processes:
            print(f"{name:8} {process.inner_pid:6} {process.command[:90]}")
    return 0


def shell(directory: Path, name: str, words: list[str]) -> int:
    """Run a command on a host, or a shell."""
    host = existing(directory).hosts.get(name)
    if host is None:
        print(f"no host {name!r}", file=sys.stderr)
        return 1
    argv = words or [os.environ.get("SHELL", "/bin/bash"), "-i"]
    return subprocess.run(host.enter(argv), env=host.env(), check=False).returncode


def existing(directory: Path) -> Cluster:
    """Return the cluster that is up in this directory."""
    if not place.recorded(directory):
        sys.exit("no cluster is up: python -m tests.cluster up")
    cpus = [path.name for path in (directory / "slurm").glob("spool.node*")]
    return Cluster(directory, [0] * len(cpus))


def main(words: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser("python -m tests.cluster", description=__doc__)
    parser.add_argument("--name", default=place.BY_HAND, help="to have more than one (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    upward = commands.add_parser("up", help=up.__doc__)
    upward.add_argument("--cpus", default=",".join(map(str, THREE_NODES)), help="of each node (default: %(default)s)")
    inside = commands.add_parser("shell", help=shell.__doc__)
    inside.add_argument("host", nargs="?", default="login")
    inside.add_argument("words", nargs=argparse.REMAINDER, help="a command, in place of a shell")
    commands.add_parser("status", help=status.__doc__)
    commands.add_parser("down", help="Take the cluster down, and remove what is left of earlier ones.")
    given = parser.parse_args(words)
    directory = place.by_hand(given.name)
    match given.command:
        case "up":
            return up(directory, [int(count) for count in given.cpus.split(",")])
        case "status":
            return status(directory)
        case "shell":
            return shell(directory, given.host, given.words)
        case _:
            place.sweep()
            if directory.exists():
                place.remove(directory)
            return 0


if __name__ == "__main__":
    sys.exit(main())
