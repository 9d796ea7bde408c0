"""How nodes are reached and watched: from arguments, HYPERFLOW_* variables, and a small TOML file, in that order.

    # ~/.config/hyperflow/config.toml, or the file that HYPERFLOW_CONFIG names
    transport = "ssh"             # "auto", "ssh" or "srun"
    prologue = "module load gcc"  # shell lines to be run on a node before the launcher
    min_nodes = 2
    exclude_nodes = "node[7-8]"   # nodes that are not to be used
    host_keys = "strict"          # or "accept-new"; or known_hosts = "/path/of/a/file": those keys and no others

Every key is a field of `Settings`, and so is every variable: HYPERFLOW_MIN_NODES=2. An unknown key, a variable that
looks like a misspelt one, and a value that makes no sense are errors that name the place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.sizes import to_bytes

PREFIX = "HYPERFLOW_"

CHOICES = {
    "transport": ("auto", "ssh", "srun"),
    "host_keys": ("strict", "accept-new"),
    "node_to_node": ("auto", "off"),
}


@attrs.frozen
class Settings:
    """How nodes are reached and watched.

    Args:
        transport: "ssh", "srun", or "auto": ssh, and srun for a node on which no launcher answers by ssh; for more than
            32 nodes the other way round, because one srun starts all of them for less than ten handshakes cost.
        node_to_node: Whether hyperflow opens TCP connections of its own between the nodes: "auto", where that saves the
            head's node much (one srun for all nodes; large arrays that many nodes need), or "off". Both ends prove
            that they know a secret of the run, and arrays are compared with a digest, but nothing on these connections
            is encrypted. With "off", everything goes through ssh, or through a srun for each node.
        prologue: Shell lines to run on each node before the launcher, under `set -e`.
        min_nodes: With fewer nodes than this a job does not start.
        exclude_nodes: Nodes that are not to be used, as Slurm writes lists of nodes ("node[7-8],gpu3"), or a list of
            names. Nothing is started there in an allocation that has them, and the jobs of a Cluster computation are
            submitted with `--exclude`.
        start_timeout: Seconds until a launcher must have sent its greeting.
        handshakes: How many ssh handshakes may run at a time (by default sshd drops some beyond 10).
        connect_timeout: Seconds until one ssh connection must be established.
        connect_attempts: How often to try when sshd drops a connection before the login.
        host_keys: What to do with a host whose key is in no known_hosts file: "strict" refuses it; "accept-new" takes
            it, and keeps it in hyperflow's own file. A key that has changed is always refused.
        known_hosts: A file of known host keys; only those count. Not together with "accept-new".
        ssh_port: Port of the nodes' sshd; None for the one in the user's ssh configuration.
        heartbeat: Seconds between heartbeats, in both directions.
        node_timeout: Seconds of silence after which the head gives a node up.
        end_margin: This many seconds before the end of the allocation, the job starts nothing more and gets
            AllocationEnding; 0 for a minute, or for a quarter of the time at the start if that is less.
        database_timeout: Seconds that the server of the results database may be away or silent, at the start and later.
        silence_limit: Seconds of silence after which a launcher on another node gives the head up and ends. Much
            longer than `node_timeout`, because a busy head may be silent. Time in which the launcher itself was
            stopped does not count. A launcher on the head's own machine has no limit: it cannot miss the head's end.
        scratch: Where files and scratch directories of evaluations are on each node: an absolute path, which may have
            variables of the node in it ("/local/$USER"); "" for $TMPDIR there, or /tmp. It has to exist.
        cache: How much the copies of files may take there together: "20G"; "" for half of what is free at the start.
        docs_url: Where your site publishes these pages ("https://docs.example.org/hyperflow"), as `make docs` makes
            them: then `hyperflow docs` says where a page is there, too, and the doctor links there.
    """

    transport: str = "auto"
    node_to_node: str = "auto"
    prologue: str = ""
    min_nodes: int = 1
    exclude_nodes: str = ""
    start_timeout: float = 60.0
    handshakes: int = 8
    connect_timeout: float = 20.0
    connect_attempts: int = 6
    host_keys: str = "strict"
    known_hosts: str = ""
    ssh_port: int | None = None
    heartbeat: float = 2.0
    node_timeout: float = 30.0
    silence_limit: float = 600.0
    end_margin: float = 0.0
    database_timeout: float = 60.0
    scratch: str = ""
    cache: str = ""
    docs_url: str = ""


FIELDS = attrs.fields_dict(Settings)


def read_settings(variables: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
    """Return the current settings.

    Args:
        variables: The environment; os.environ if None.
        arguments: Fields of Settings that override the others; None stands for "not given".

    Raises:
        ConfigurationError: A name is unknown or a value makes no sense; the message names the place.
    """
    variables = os.environ if variables is None else variables
    given: list[tuple[str, Any, str]] = []
    path = place(variables)
    if path.exists() or "HYPERFLOW_CONFIG" in variables:
        given += [(name, value, f"{path}: {name}") for name, value in _read_toml(path).items()]
    for variable, text in variables.items():
        name = variable.removeprefix(PREFIX).lower()
        # Others are no settings: a worker's own HYPERFLOW_SERVICE_ID, for example, where a run starts inside a run.
        if variable.startswith(PREFIX) and (name in FIELDS or _is_near(name)):
            given.append((name, text, variable))
    given += [(name, value, name) for name, value in arguments.items() if value is not None]
    settings = Settings(**{name: _checked(name, value, where) for name, value, where in given})
    if settings.known_hosts and settings.host_keys == "accept-new":
        raise ConfigurationError('known_hosts names the only keys that count; host_keys = "accept-new" takes others')
    for limit in ("node_timeout", "silence_limit"):
        if getattr(settings, limit) <= settings.heartbeat:
            raise ConfigurationError(
                f"{limit} = {getattr(settings, limit):g}, heartbeat = {settings.heartbeat:g}: the other side would be "
                "given up between two signs of life"
            )
    return settings


def place(variables: Mapping[str, str]) -> Path:
    """Return where the configuration is, or would be."""
    home = variables.get("XDG_CONFIG_HOME") or os.path.join(variables.get("HOME", "/"), ".config")
    return Path(variables.get("HYPERFLOW_CONFIG") or os.path.join(home, "hyperflow", "config.toml"))


def _is_near(name: str) -> bool:
    """Tell whether this looks like a misspelt setting."""
    import difflib  # noqa: PLC0415 (few need it, and every start would wait for it)

    return bool(difflib.get_close_matches(name, FIELDS, cutoff=0.8))


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 (few have such a file, and every start would wait for it)

    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error}") from error


def _checked(name: str, value: Any, where: str) -> Any:
    """Return a value with the type of its field; a text may stand for a number."""
    if name not in FIELDS:
        raise ConfigurationError(f"{where}: there is no such setting; there are {', '.join(FIELDS)}")
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigurationError(f"{where} = {value!r}: one of {', '.join(CHOICES[name])} is needed")
    if name == "exclude_nodes" and isinstance(value, (list, tuple, set, frozenset)):
        value = ",".join(map(str, cast("Iterable[object]", value)))
    if name == "cache" and value != "":
        value = str(to_bytes(where, value))
    default = FIELDS[name].default
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ConfigurationError(f"{where} = {value!r}: a text is needed")
        if name == "scratch" and value and not value.startswith(("/", "$")):
            raise ConfigurationError(f"{where} = {value!r}: an absolute path is needed, such as /local/$USER")
        if name == "docs_url" and value and not value.startswith(("https://", "http://", "file://")):
            raise ConfigurationError(f"{where} = {value!r}: an address is needed, such as https://docs.example.org")
        return value
    whole = default is None or isinstance(default, int)
    try:
        number = int(value) if whole else float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    cut_off = isinstance(value, float) and number != value
    if isinstance(value, bool) or cut_off or not 0 < number < math.inf:
        raise ConfigurationError(f"{where} = {value!r}: a positive {'whole ' if whole else ''}number is needed")
    if name == "ssh_port" and number > 65535:
        raise ConfigurationError(f"{where} = {value!r}: a port of at most 65535 is needed")
    return number


def check_cpus(cpus: object) -> None:
    """Raise ConfigurationError unless this is a number of CPUs, or None."""
    if cpus is not None and (type(cpus) is not int or cpus < 1):
        raise ConfigurationError(f"cpus={cpus!r}: a whole number of at least 1 is needed, or None for all there are")
