"""Sends requests to the master of a run, from another process of the same user on the same machine.

HTTP over a Unix socket with the standard library: importing aiohttp would take longer than the whole request.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

import attrs

from hyperflow import checked_files
from hyperflow.checked_files import Damaged
from hyperflow.control import place
from hyperflow.control.place import Address
from hyperflow.database.ownership import Owner
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.private import Held

PATIENCE = 120.0
"""Seconds to wait for an answer to an order: the master waits for Slurm when it ends jobs."""

GLANCE = 10.0
"""Seconds to wait for an answer to a question; a stopped master (Ctrl-Z) does not answer at all."""


class NoMaster(HyperflowError):
    """No master runs on this run."""


class MasterElsewhere(HyperflowError):
    """The master runs on another host."""

    def __init__(self, host: str, pid: int) -> None:
        super().__init__(host, pid)
        self.host = host
        self.pid = pid

    def __str__(self) -> str:
        return f"the master of this run is process {self.pid} on {self.host}, and answers there only"


class HeadElsewhere(HyperflowError):
    """The head of a job runs on another host."""

    def __init__(self, host: str, pid: int) -> None:
        super().__init__(host, pid)
        self.host = host
        self.pid = pid

    def __str__(self) -> str:
        return f"the head of this job is process {self.pid} on {self.host}, and answers there only"


class Refused(HyperflowError):
    """The master refused the request; the text says why."""


class Silent(Refused):
    """The master did not answer in time; it may still carry out the request."""


@attrs.frozen
class Contact:
    """A master that can be asked."""

    address: Address

    def get(self, path: str) -> dict[str, Any]:
        """Ask a question; raises Refused, Silent, or NoMaster if the master has ended."""
        return self._ask("GET", path, None, GLANCE)

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Give an order; raises Refused, Silent, or NoMaster if the master has ended."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, patience: float = PATIENCE) -> dict[str, Any]:
        connection = _UnixConnection(self.address.path, patience)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except TimeoutError:
            words = f"process {self.address.pid} has not answered within {patience:g} s: it is stopped, or busy"
            raise Silent(words) from None
        except ConnectionRefusedError:  # what was killed leaves its socket
            words = f"process {self.address.pid} has gone: nobody answers at {self.address.path}"
            raise NoMaster(words) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            words = f"process {self.address.pid} does not answer at {self.address.path}"
            raise NoMaster(f"{words}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise Refused(str(answer.get("error", answer)))
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with place.shortened(self._path) as path:
            self.sock.connect(path)
        if (user := place.peer(self.sock)) != os.geteuid():
            raise PermissionError(errno.EPERM, f"the process that listens there is user {user}'s, not yours")


def owner(home: Path) -> Owner | None:
    """Return the owner of a run's lock, its master, or None; a lock of another host may be stale."""
    try:
        with Held.open(home) as run:
            found = Owner.from_text(checked_files.read_private(run / "master.lock").decode(errors="replace"))
    except (OSError, ConfigurationError, Damaged):
        return None
    return None if found is None or found.is_gone() else found


def contact(home: Path) -> Contact:
    """Return the contact to the master of a run; raises NoMaster or MasterElsewhere."""
    master = owner(home)
    if master is None:
        raise NoMaster("no master runs on this run")
    if master.host != socket.gethostname():
        raise MasterElsewhere(master.host, master.pid)
    address = place.read(home)
    if address is None:
        raise NoMaster(f"its master is process {master.pid}, which has no control socket; its log says why")
    return Contact(address)


def head(home: Path) -> Contact:
    """Return the contact to the head of the job with this directory; raises NoMaster or HeadElsewhere."""
    address = place.read(home)
    if address is None:
        raise NoMaster(f"no job runs in {home}")
    if address.host != socket.gethostname():
        raise HeadElsewhere(address.host, address.pid)
    return Contact(address)
