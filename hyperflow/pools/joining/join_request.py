"""What a node says of itself when it asks to join: one JSON object, as the command of its ssh session.

Who says it has the pool's key, and so is trusted. But its name becomes part of names of files at the head, and a
joining program of another version may mean something else by the same words; so all of it is checked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container
from typing import Any

import attrs

from hyperflow import files
from hyperflow._version import __version__
from hyperflow.errors import ConfigurationError
from hyperflow.saying import unfit_name
from hyperflow.wire.frames import PROTOCOL_VERSION

JOIN, LOG = "join ", "log"
"""The commands of the two sessions of a node: the first is followed by a request, the second is its launcher's log."""

LONGEST = 4096
MOST_CPUS = 1 << 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_UNFIT = re.compile(r"[^A-Za-z0-9._-]")


@attrs.frozen
class JoinRequest:
    """What a node says of itself.

    Args:
        name: As it calls itself.
        cpus: How many to use there; None for all that its launcher may use.
        seconds_left: After how many seconds the node ends; None if nobody knows of an end. (Not when: clocks differ.)
        idle_timeout: After so many seconds without work it wants to leave; None for never.
        log_dir: Where the logs of its workers are, on a machine that does not share the run's directory; else "".
        hyperflow: The version there; so is `protocol`.
        protocol: See above.
    """

    name: str
    cpus: int | None = None
    seconds_left: float | None = None
    idle_timeout: float | None = None
    log_dir: str = ""
    hyperflow: str = __version__
    protocol: int = PROTOCOL_VERSION

    @property
    def command(self) -> str:
        """The command of the session."""
        return JOIN + json.dumps(attrs.asdict(self))


def read(command: str) -> JoinRequest:
    """Return the request that a command is; raises ConfigurationError, which says what is wrong."""
    if not command.startswith(JOIN) or len(command) > LONGEST:
        raise ConfigurationError("this is no request to join a pool; `hyperflow node join` makes one")
    try:
        said: Any = files.from_json(command.removeprefix(JOIN))
        theirs = said.get("hyperflow"), said.get("protocol")
        if theirs != (__version__, PROTOCOL_VERSION):
            raise ConfigurationError(
                f"hyperflow is {__version__} (protocol {PROTOCOL_VERSION}) at the head and {str(theirs[0])[:40]} "
                f"(protocol {str(theirs[1])[:40]}) on the node; use one and the same Python environment"
            )
        return JoinRequest(
            name=fit_name(str(said["name"])),
            cpus=_cpus(said["cpus"]),
            seconds_left=_seconds(said["seconds_left"]),
            idle_timeout=_seconds(said["idle_timeout"]),
            log_dir=_directory(said["log_dir"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"the request to join a pool makes no sense: {str(error)[:200]}") from error


def fit_name(name: str) -> str:
    """Return the name of a node as it can be part of a file's name."""
    fitting = _UNFIT.sub("-", name).lstrip("._-")[:63]
    return fitting if _NAME.fullmatch(fitting) else "node"


def unused_name(name: str, used: Container[str]) -> str:
    """Return the name, or if it is used already, the name with a number: the pods of a Job may all have one name."""
    chosen, number = name, 1
    while chosen in used:
        number += 1
        chosen = f"{name}-{number}"
    return chosen


def _cpus(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 < value <= MOST_CPUS):
        raise ValueError(f"cpus is {str(value)[:40]}")
    return value


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{str(value)[:40]} are no seconds")
    return float(value)


def _directory(value: Any) -> str:
    if not isinstance(value, str) or unfit_name(value) or (value and not value.startswith("/")):
        raise ValueError("log_dir is no absolute path")
    return value
