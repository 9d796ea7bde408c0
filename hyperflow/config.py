"""How nodes are reached and watched: from arguments, HYPERFLOW_* variables, and a small TOML file, in that order.

    # ~/.config/hyperflow/config.toml, or the file that HYPERFLOW_CONFIG names
    transport = "ssh"             # "auto", "ssh" or "srun"
    prologue = "module load gcc"  # shell lines to be run on a node before the launcher
    min_nodes = 2
    host_keys = "strict"          # or "accept-new"; or known_hosts = "/path/of/a/file": those keys and no others

Every key is a field of `Settings`, and so is every variable: HYPERFLOW_MIN_NODES=2. A key that is unknown, a variable
that looks like a misspelt one, and a value that makes no sense are refused with the place where they were found.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from hyperflow.errors import ConfigurationError

PREFIX = "HYPERFLOW_"

TRANSPORTS = ("auto", "ssh", "srun")
HOST_KEYS = ("strict", "accept-new")


@attrs.frozen
class Settings:
    """How nodes are reached and watched.

    Args:
        transport: "ssh", "srun", or "auto": ssh, and srun for a node that ssh does not reach.
        prologue: Shell lines that are run on each node before the launcher, under `set -e`.
        min_nodes: With fewer nodes than this a job does not start.
        start_timeout: Seconds for a launcher to say hello.
        handshakes: How many ssh handshakes may be under way at a time (sshd's default is to drop some beyond 10).
        connect_timeout: Seconds for one ssh connection to come about.
        connect_attempts: How often a connection that was dropped before we logged in is tried.
        host_keys: What to do with a host whose key is in no known_hosts file: "strict" refuses it; "accept-new" takes
            it, and keeps it in hyperflow's own file. A key that has changed is always refused.
        known_hosts: A file of known host keys; those count, and no others. Not together with "accept-new".
        ssh_port: Port of the nodes' sshd; None for what the user's ssh configuration says.
        heartbeat: Seconds between signs of life, both ways.
        node_timeout: Seconds of silence after which the head gives a node up.
        end_margin: Seconds before the end of the allocation at which a job is told, and starts nothing more; 0 for a
            minute, or a quarter of the time there was at the start, if that is less.
        silence_limit: Seconds of silence after which a launcher gives the head up, and ends. Much longer: a busy head
            is not a dead head.
    """

    transport: str = "auto"
    prologue: str = ""
    min_nodes: int = 1
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


NAMES = tuple(field.name for field in attrs.fields(Settings))


def read_settings(variables: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
    """Return the settings in force.

    Args:
        variables: The environment; os.environ if None.
        arguments: Fields of Settings that take precedence; None stands for "not given".

    Raises:
        ConfigurationError: Something is unknown or makes no sense; the message names the place.
    """
    variables = os.environ if variables is None else variables
    values: dict[str, Any] = {}
    path = Path(variables.get("HYPERFLOW_CONFIG") or _default_file(variables))
    if path.exists() or "HYPERFLOW_CONFIG" in variables:
        for name, value in _read_toml(path).items():
            values[name] = _checked(name, value, f"{path}: {name}")
    for variable, text in variables.items():
        name = variable.removeprefix(PREFIX).lower()
        # Others are not ours to refuse: a worker's own HYPERFLOW_SERVICE_ID, say, when a run is started inside a run.
        if variable.startswith(PREFIX) and (name in NAMES or _is_near(name)):
            values[name] = _checked(name, text, variable)
    for name, value in arguments.items():
        if value is not None:
            values[name] = _checked(name, value, name)
    settings = Settings(**values)
    if settings.known_hosts and settings.host_keys == "accept-new":
        raise ConfigurationError('known_hosts names the only keys that count; host_keys = "accept-new" takes others')
    for limit in ("node_timeout", "silence_limit"):
        if getattr(settings, limit) <= settings.heartbeat:
            text = "the other side would be given up between two signs of life"
            raise ConfigurationError(
                f"{limit} = {getattr(settings, limit):g}, heartbeat = {settings.heartbeat:g}: {text}"
            )
    return settings


def _is_near(name: str) -> bool:
    """Tell whether this looks like a misspelt setting."""
    import difflib  # noqa: PLC0415 (few need it, and every start would wait for it)

    return bool(difflib.get_close_matches(name, NAMES, cutoff=0.8))


def _default_file(variables: Mapping[str, str]) -> str:
    home = variables.get("XDG_CONFIG_HOME") or os.path.join(variables.get("HOME", "/"), ".config")
    return os.path.join(home, "hyperflow", "config.toml")


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 (few have such a file, and every start would wait for it)

    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the configuration {path}: {error}") from error


def _checked(name: str, value: Any, where: str) -> Any:
    """Return a value as its field wants it; a text may stand for a number."""
    field = {field.name: field for field in attrs.fields(Settings)}.get(name)
    if field is None:
        raise ConfigurationError(f"{where}: there is no such setting; there are {', '.join(NAMES)}")
    choices = {"transport": TRANSPORTS, "host_keys": HOST_KEYS}.get(name)
    if choices is not None and value not in choices:
        raise ConfigurationError(f"{where} = {value!r}: one of {', '.join(choices)} is needed")
    if isinstance(field.default, str):
        if not isinstance(value, str):
            raise ConfigurationError(f"{where} = {value!r}: a text is needed")
        return value
    whole = field.default is None or isinstance(field.default, int)
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
