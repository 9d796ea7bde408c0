"""A run on this machine whose results are on a PostgreSQL server of its own (tests/postgres.py)."""

import atexit
import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests import postgres
from tests.chaos.case import NotRun
from tests.chaos.run import Run
from tests.chaos.workload import Workload
from tests.cluster import packages
from tests.helpers import alive

DATABASE = "test"
PATIENCE = {"HYPERFLOW_DATABASE_TIMEOUT": "12"}

_making = threading.Lock()


def _directory() -> Path:
    """Make a directory that an unprivileged user can enter."""
    return Path(tempfile.mkdtemp(prefix="hyperflow-postgres-", dir="/tmp"))


@functools.cache
def _template() -> Path:
    """Make the files of a server that has an empty database, once."""
    if postgres.programs() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        packages.install_these(["postgresql"], ["postgresql"])
    if (programs := postgres.programs()) is None:
        raise NotRun("there is no PostgreSQL here")
    directory = _directory()
    atexit.register(shutil.rmtree, directory)
    server = postgres.Server(directory, programs)
    server.make()
    server.start()
    server.admin("CREATE ROLE anna LOGIN")
    server.admin(f"CREATE DATABASE {DATABASE} OWNER anna")
    server.stop()
    return directory


def copy(source: Path, target: Path) -> None:
    """Copy the files of a server that is stopped."""
    shutil.rmtree(target / "data", ignore_errors=True)
    subprocess.run(["cp", "-a", str(source / "data"), str(target / "data")], check=True)


class PostgresRun(Run):
    """A run, and its server: `run.server`, in `run.files`."""

    def __init__(self, place: Path, workload: Workload, rng: random.Random) -> None:
        with _making:
            self.template = _template()
        self.files = _directory()
        programs = postgres.programs()
        assert programs
        self.server = postgres.Server(self.files, programs)
        super().__init__(place, attrs.evolve(workload, database=self.server.url(DATABASE)), rng)
        self.environment |= PATIENCE
        self.undo.callback(shutil.rmtree, self.files)
        copy(self.template, self.files)
        self.undo.callback(self._end_server)

    def start(self) -> None:
        """Start the program; the first time, its server before it."""
        if self.turn < 0 and not self.server.running:
            self.server.start()
        super().start()

    def _end_server(self) -> None:
        for pid in self.backends():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self.server.running:
            self.server.stop(signal.SIGQUIT)

    def backends(self) -> list[int]:
        """Return all living processes of the server, as the kernel sees them; the first one has started the others."""
        if not self.server.running:
            return []
        return [self.server.pid, *(pid for pid in _children(self.server.pid) if alive(pid))]

    def serving(self) -> list[int]:
        """Return the processes of the server that serve the program."""
        return self.server.backends(DATABASE)


def _children(parent: int) -> Iterator[int]:
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((place / "stat").read_bytes().rpartition(b")")[2].split()[1]) == parent:
                yield int(place.name)
