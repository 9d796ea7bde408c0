"""Slurm's commands of a test's cluster as commands in a directory, so that code under test finds them in its PATH.

What is between the program and the real command can be changed: `shims.replace("sbatch", "...")` puts lines of shell in
its place, in which `$REAL` is the real one.
"""

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.cluster import packages
from tests.cluster.cluster import Cluster

NAMES = ("sbatch", "squeue", "scancel", "sacct", "scontrol")


class Shims:
    """Commands in a directory, each of which runs on the login host of a cluster."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.directory.mkdir()
        for name in NAMES:
            self.restore(name)

    @property
    def environ(self) -> dict[str, str]:
        """The environment for `SlurmClient(environ=...)`."""
        return self.cluster.login.env({"PATH": os.pathsep.join([str(self.directory), packages.PATH])})

    def replace(self, name: str, lines: str) -> None:
        """Put lines of shell in the place of a command; `"$REAL" "$@"` in them runs the real one."""
        self._write(self.directory / name, f"REAL={shlex.quote(str(self._real(name)))}\n{lines}\n")

    def restore(self, name: str) -> None:
        """Let a command be the real one again."""
        self.replace(name, 'exec "$REAL" "$@"')

    def _real(self, name: str) -> Path:
        real = self.directory / "real" / name
        real.parent.mkdir(exist_ok=True)
        # Not with our PATH: sbatch hands it on to the job.
        entered = shlex.join(self.cluster.login.enter([name]))
        self._write(real, f'PATH={shlex.quote(packages.PATH)} exec {entered} "$@"\n')
        return real

    @staticmethod
    def _write(path: Path, lines: str) -> None:
        new = path.with_name(f"{path.name}.new")  # a script that runs is not changed under the shell's feet
        new.write_text(f"#!/bin/sh\n{lines}")
        new.chmod(0o755)
        new.replace(path)


@contextlib.contextmanager
def configured(cluster: Cluster, *lines: str) -> Iterator[None]:
    """Let the cluster have these lines in its slurm.conf for a while."""
    path = Path(cluster.login.environment["SLURM_CONF"])
    before = path.read_text()
    try:
        path.write_text("\n".join([*lines, before]))
        cluster.slurm.scontrol("reconfigure")
        yield
    finally:
        path.write_text(before)
        cluster.slurm.scontrol("reconfigure")
