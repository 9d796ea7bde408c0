"""Named pools: where they are, what is known of them, and which one a name means.

    $XDG_STATE_HOME/hyperflow/pools/     for the user alone; by default under ~/.local/state
      mine/
        pool.json        what it may have, since when, and how it ended (a checked file)
        log              what its manager says
        lent, left-...   who has which CPUs, for a manager that comes after a killed one (see `loans`)
        starting         locked while `hyperflow pool start` is at it
        control/         the manager's control socket (docs/control-api.md)
        leases/          the socket by which programs borrow
        pool/            its allocations (see `journal`)

On a shared home directory it is seen from all hosts; its manager answers on its own host only, and errors name that.
A pool is "running", "elsewhere" (another host has it, and nobody here can tell whether it runs), "left" (its manager
was killed; the next `hyperflow pool start` goes on), or "ended". What has ended is forgotten after a week.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hyperflow import files, private
from hyperflow.checked_files import Damaged, read_checked, with_checksum
from hyperflow.control import place
from hyperflow.control.client import Contact
from hyperflow.control.place import Address
from hyperflow.database.ownership import Owner, started
from hyperflow.errors import ConfigurationError
from hyperflow.pools.nodepool import NodePool
from hyperflow.saying import printable
from hyperflow.slurm.script import SbatchOptions

KIND = "named pool"
FILE = "pool.json"
LOG = "log"
LEASES = "leases"
ALLOCATIONS = "pool"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")

FORGOTTEN_AFTER = 7 * 24 * 3600.0
"""Seconds after its end in which a pool is still shown."""


class NoPool(ConfigurationError):
    """There is no such pool, or it does not run here."""


@attrs.frozen
class About:
    """What is known of a pool: what pool.json says."""

    options: NodePool
    since: float
    keeps: bool = False
    """Whether the least number of allocations is kept while no program wants anything."""
    manager: Owner | None = None
    """The process that holds it; None before its first start, and after its end."""
    ended: float | None = None
    cause: str = ""
    """Why it ended."""

    def to_json(self) -> bytes:
        options: dict[str, Any] = {
            field.name: getattr(self.options, field.name) for field in attrs.fields(NodePool) if field.name != "sbatch"
        }
        options["sbatch"] = [attrs.asdict(kind) for kind in self.options.sbatch]
        manager = None if self.manager is None else attrs.asdict(self.manager)
        rest = {"since": self.since, "keeps": self.keeps, "ended": self.ended, "cause": self.cause}
        return json.dumps({"options": options, "manager": manager, **rest}, default=dict).encode()

    @classmethod
    def from_json(cls, data: bytes) -> About:
        """Read it; raises Damaged."""
        try:
            found: dict[str, Any] = files.from_json(data)
            options = dict(found.pop("options"))
            options["sbatch"] = [SbatchOptions(**kind) for kind in options["sbatch"]]
            options["hosts"] = dict(options["hosts"]) or ()
            manager = found.pop("manager")
            owner = None if manager is None else Owner(**manager)
            return cls(NodePool(**options), manager=owner, **found)
        except (ValueError, KeyError, TypeError, ConfigurationError) as error:
            raise Damaged(f"it makes no sense: {error!r}") from error


@attrs.frozen
class Named:
    """A named pool."""

    name: str
    home: Path
    about: About

    @property
    def state(self) -> str:
        """How it stands: "running", "elsewhere", "left", "ended"."""
        if self.about.manager is None:
            return "ended" if self.about.ended is not None else "left"
        if self.about.manager.is_gone():
            return "left"
        return "running" if self.about.manager.is_near() else "elsewhere"

    def address(self) -> Address:
        """Return where its manager listens for programs; raises NoPool, and says what to type."""
        again = f"`hyperflow pool start {self.name}`"
        manager = self.about.manager
        match self.state:
            case "ended":
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.about.ended))
                raise NoPool(f"the pool {self.name} ended at {when}: {self.about.cause}; {again} starts it again")
            case "elsewhere":
                assert manager is not None
                raise NoPool(
                    f"the pool {self.name} is managed by process {manager.pid} on {manager.host}, and lends its nodes "
                    f"to programs there only; this is {socket.gethostname()}. Run the program there (ssh "
                    f"{manager.host}), or stop the pool there and start it here"
                )
            case "left":
                raise NoPool(f"the manager of the pool {self.name} was killed; {again} goes on with its allocations")
            case _:
                pass
        found = place.read(self.home / LEASES)
        if found is None:
            raise NoPool(f"the pool {self.name} starts just now, or ends; its log is {self.home / LOG}")
        return found

    def contact(self) -> Contact:
        """Return the contact to its manager; raises NoPool."""
        self.address()
        found = place.read(self.home)
        if found is None:
            raise NoPool(f"the manager of the pool {self.name} has no control socket; its log is {self.home / LOG}")
        return Contact(found)


def directory() -> Path:
    """Return where named pools are, whether it is there or not."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # as the standard has it: a relative one is ignored
        state = os.path.join(os.environ.get("HOME") or os.devnull, ".local", "state")  # without a home, there is none
    return Path(state) / "hyperflow" / "pools"


def check_name(name: object) -> str:
    """Return a name that can be a pool's; raises ConfigurationError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a pool: up to 40 letters of ASCII, digits, '.', '-' and '_' are needed, "
            "with a letter or a digit first"
        )
    return name


def read(name: str) -> Named | None:
    """Return a pool; None if there is none. Raises ConfigurationError if its directory is not private, or damaged."""
    home = directory() / check_name(name)
    try:
        with private.Held.open(home) as held:
            _, data = read_checked(held / FILE, KIND)
        return Named(name, home, About.from_json(data))
    except FileNotFoundError:
        return None
    except Damaged as error:
        raise ConfigurationError(
            f"{home / FILE} is damaged ({error}); to forget this pool, type: rm -r {home}"
        ) from error
    except ConfigurationError:
        if not home.exists():
            return None
        raise


def write(home: Path, about: About) -> None:
    """Write what is known of a pool; raises OSError, as on a full disk, or ConfigurationError."""
    private.make_all(home)
    with private.Held.open(home) as held:
        files.write_whole((held / FILE).through, with_checksum(KIND, about.to_json(), {}))


def _nobody(name: str, why: str) -> None:
    """Do nothing."""


def everyone(on_unusable: Callable[[str, str], object] = _nobody) -> list[Named]:
    """Return all pools, the newest last; those that ended long ago are forgotten.

    `on_unusable` is told the names of those that are damaged, or not private, and why.
    """
    found: list[Named] = []
    with suppress(OSError):
        for name in sorted(filter(NAME.fullmatch, os.listdir(directory()))):
            try:
                one = read(name)
            except ConfigurationError as error:
                on_unusable(name, str(error))
                continue
            if one is not None and not _forgotten(one):
                found.append(one)
    return sorted(found, key=lambda one: one.about.since)


def _forgotten(one: Named) -> bool:
    if one.about.ended is None or time.time() < one.about.ended + FORGOTTEN_AFTER:
        return False
    with suppress(OSError):
        files.remove_tree(one.home)
    return True


def find(name: str | None) -> Named:
    """Return the pool of this name; without one, the newest that runs. Raises NoPool, which says what there is."""
    if name is not None and (one := read(name)) is not None:
        return one
    there = everyone()
    running = [one for one in there if one.state == "running"]
    if name is None and running:
        return running[-1]
    names = ", ".join(f"{one.name} ({one.state})" for one in there)
    which = "no pool of yours runs" if name is None else f"you have no pool named {printable(name)!r}"
    seen = f"; there are: {names}" if names else ""
    start = f"hyperflow pool start {name or 'mine'} --nodes 1 --ntasks-per-node 16 --time 8:00:00"
    raise NoPool(f"{which}{seen}. To start one, type: {start}")


def this_process(name: str) -> Owner:
    """Return what says that this process is the manager of a pool."""
    return Owner.this_process(name)


def is_alive(pid: int, since: str) -> bool:
    """Whether a process of this machine goes on: the same one, by its start."""
    return started(pid) == since != ""


def options_in_words(options: NodePool) -> str:
    """Return what a pool may have, in a few words."""
    parts = [_kind_in_words(attrs.asdict(kind)) for kind in options.sbatch]
    if options.hosts:
        parts.append("hosts " + ", ".join(host for host, _ in options.hosts))
    return "; ".join(parts)


def _kind_in_words(options: Mapping[str, Any]) -> str:
    nodes = options.get("nodes") or 1
    tasks, each = options.get("ntasks_per_node") or 1, options.get("cpus_per_task") or 1
    time_limit = f", {options['time']}" if options.get("time") else ""
    where = f" of {options['partition']}" if options.get("partition") else ""
    return f"{nodes} node{'s' * (nodes != 1)} x {tasks * each} CPUs{where}{time_limit}"
