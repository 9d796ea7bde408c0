"""
A real PostgreSQL server for tests: started when the first one asks, for the session, and removed at its end.

It listens on a socket in a private directory of /tmp and nowhere else, so it disturbs no other server. PostgreSQL
refuses to run as root; where the tests do, it runs as the user `postgres`, or `nobody`. It ends with pytest, also when
that is killed. The Debian package is installed when it is missing and we may, without starting its own server.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from tests import helpers, leaks
from tests.cluster import packages

NEEDS = "postgres"

ACCESS = """
local all guarded scram-sha-256
local all all trust
"""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install PostgreSQL if any test needs it: before the first, so that its time is not taken."""
    needed = any(NEEDS in getattr(item, "fixturenames", ()) for item in session.items)
    may = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if needed and may and not session.config.option.collectonly and programs() is None:
        packages.install_these(["postgresql"], ["postgresql"])


def programs() -> Path | None:
    """Return the directory of initdb and postgres, or None."""
    places = [*os.environ.get("PATH", os.defpath).split(os.pathsep), *sorted(map(str, _debian()), reverse=True)]
    for place in places:
        if all(os.access(Path(place, name), os.X_OK) for name in ("initdb", "postgres")):
            return Path(place)
    return None


def _debian() -> Iterator[Path]:
    return Path("/usr/lib/postgresql").glob("*/bin")


class Server:
    """A running server; `start` and `stop` may be called again and again."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {name: value for name, value in os.environ.items() if name != leaks.MARK}
        self._user: list[str] = []
        if os.geteuid() == 0:
            user = _unprivileged()
            os.chown(directory, user.pw_uid, user.pw_gid)
            self._user = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def make(self) -> None:
        """Make the files of an empty server."""
        initdb = [str(self._programs / "initdb"), "-D", str(self.directory / "data"), "-U", "admin"]
        options = ["--locale=C", "--encoding=UTF8", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            ["setpriv", *self._user, *initdb, *options],
            cwd="/",
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        (self.directory / "data" / "pg_hba.conf").write_text(ACCESS)

    def start(self) -> None:
        """Start, and wait until it answers."""
        server = [str(self._programs / "postgres"), "-D", str(self.directory / "data"), "-k", str(self.directory)]
        options = ["-c", "listen_addresses=", "-c", "max_connections=50", "-c", "shared_buffers=16MB"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=QUIT", *self._user, *server, *options],
                cwd="/",
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        leaks.SPARED.add(self._process.pid)
        helpers.block_until(self.answers, 30, "PostgreSQL starts", state=self.log)

    @property
    def running(self) -> bool:
        """Whether it was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it; its connections are cut. With SIGQUIT it ends as in a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        assert self._process.wait(30) == 0, self.log()
        leaks.SPARED.discard(self._process.pid)
        self._process = None

    def url(self, database: str, user: str = "anna") -> str:
        """Return the URL of a database for a user."""
        return f"postgresql://{user}@{quote(str(self.directory), safe='')}/{database}"

    def admin(self, statement: str, *values: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute a statement as the administrator, and return the rows of its answer."""
        with psycopg.connect(self.url(database, "admin"), autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(statement), values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def backends(self, database: str) -> list[int]:
        """Return the processes of the server that serve a database."""
        return [pid for (pid,) in self.admin("SELECT pid FROM pg_stat_activity WHERE datname = %s", database)]

    @property
    def pid(self) -> int:
        """The process that starts all others."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return what the server has written."""
        return (self.directory / "log").read_text(errors="replace")

    def answers(self) -> bool:
        """Tell whether it takes connections; not while it starts, or recovers from a crash."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            self.admin("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Hold the one server that tests share; skip where there is none, and say why."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL here: apt-get install --no-install-recommends postgresql")
    # Not in pytest's own directory, which another user cannot enter.
    directory = Path(tempfile.mkdtemp(prefix="hyperflow-postgres-", dir="/tmp"))
    server = Server(directory, found)
    try:
        server.make()
        server.start()
        server.admin("CREATE ROLE anna LOGIN")
        server.admin("CREATE ROLE guarded LOGIN PASSWORD 'correct-horse'")
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def server_url(postgres: Server) -> Iterator[str]:
    """Give the test an empty database of its own, by its URL; a connection that it leaves open makes it fail."""
    postgres.admin("CREATE DATABASE test OWNER anna")
    yield postgres.url("test")
    postgres.admin("DROP DATABASE test")  # waits some seconds for connections that are just being closed
