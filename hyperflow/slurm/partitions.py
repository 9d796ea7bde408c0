"""What sinfo and scontrol say of partitions: how they are asked, and their lines to data. Pure.

Guarantee: a line that is not understood is left out and counted; it never becomes a partition with wrong numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from hyperflow.slurm.script import seconds_of

ASK_NODES = ("sinfo", "--noheader", "--exact", "--format=%P|%a|%l|%D|%c|%m|%h|%t|%G|%N")
"""A line for each kind of nodes in each state, and each partition."""
ASK_RULES = ("scontrol", "show", "partition", "--oneliner")
ASK_CONFIGURATION = ("scontrol", "show", "config")

_NAME = re.compile(r"[A-Za-z0-9_.:+=@%-]+")  # others could not be written into a batch script as they are
_COUNT = re.compile(r"(\d+)(K?)\+?")  # 16+ is "at least", 1K is a thousand
_GPU = re.compile(r"(?:^|,)gpu(?::([A-Za-z][^:,(]*))?:(\d+)")
_BROKEN = ("down", "drain", "drng", "fail", "maint", "boot", "unk", "inval", "pow", "futr", "reboot")


@attrs.frozen
class Kind:
    """Nodes that are alike: how many, and the CPUs, megabytes of memory and GPUs of each."""

    nodes: int
    cpus: int
    memory: int
    gpus: int = 0
    gpu_type: str = ""


@attrs.frozen
class Partition:
    """A partition.

    Args:
        limit: The longest time in seconds; None where there is no limit.
        exclusive: Whether a job gets whole nodes there, whatever it asks for.
        broken: How many nodes are down, drained or not answering.
        ready: A list of nodes, as Slurm writes it, on which something could be tried now.
        accounts: Who may use it; None for all. `qos` in the same way.
        min_nodes, max_nodes: What a job may have; None for no limit.
        memory_per_cpu: Megabytes that a job gets for each CPU unless it asks; 0 where that is not so.
    """

    name: str
    default: bool
    up: bool
    limit: float | None
    kinds: tuple[Kind, ...]
    exclusive: bool = False
    broken: int = 0
    ready: str = ""
    accounts: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None
    min_nodes: int = 1
    max_nodes: int | None = None
    memory_per_cpu: int = 0

    @property
    def nodes(self) -> int:
        """How many nodes it has."""
        return sum(kind.nodes for kind in self.kinds)

    @property
    def cpus(self) -> int:
        """How many CPUs each of its nodes has at least."""
        return min((kind.cpus for kind in self.kinds), default=1)

    @property
    def with_gpus(self) -> tuple[Kind, ...]:
        """Its kinds of nodes that have GPUs."""
        return tuple(kind for kind in self.kinds if kind.gpus)


def read(nodes: str, rules: str = "") -> tuple[tuple[Partition, ...], int]:
    """Return the partitions in what ASK_NODES and ASK_RULES say, and how many lines were not understood."""
    found: dict[str, list[_Line]] = {}
    unread = 0
    for text in filter(str.strip, nodes.splitlines()):
        line = _line(text)
        if line is None:
            unread += 1
        else:
            found.setdefault(line.name, []).append(line)
    told = {one["PartitionName"]: one for one in map(fields, rules.splitlines()) if "PartitionName" in one}
    return tuple(_ruled(_partition(lines), told.get(name, {})) for name, lines in found.items()), unread


def is_name(text: str) -> bool:
    """Tell whether this can be a name of Slurm's in a batch script."""
    return bool(_NAME.fullmatch(text))


def fields(line: str) -> dict[str, str]:
    """Return the `Name=Value` pairs of a line of scontrol's; a value with blanks is cut at the first."""
    return dict(re.findall(r"(?:^|\s)([A-Za-z]\w*)=(\S*)", line))


def configuration(text: str) -> dict[str, str]:
    """Return the `Name = Value` lines of ASK_CONFIGURATION."""
    return {name: value.strip() for name, value in re.findall(r"^(\w+)\s*= (.*)$", text, re.MULTILINE)}


@attrs.frozen
class _Line:
    name: str
    default: bool
    up: bool
    limit: float | None
    kind: Kind
    exclusive: bool
    state: str
    names: str


def _line(text: str) -> _Line | None:
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != 10:
        return None
    name, available, time, *counts, shared, state, gres, names = parts
    numbers = [_count(count) for count in counts]
    limit = None if time in {"infinite", "UNLIMITED", "n/a"} else seconds_of(time)
    known = limit is not None or time in {"infinite", "UNLIMITED", "n/a"}
    nodes, cpus, memory = numbers
    default = name.endswith("*")
    name = name.removesuffix("*")
    if nodes is None or cpus is None or memory is None or not known or not _NAME.fullmatch(name):
        return None
    gpus = [(kind, int(count)) for kind, count in _GPU.findall(re.sub(r"\([^)]*\)", "", gres))]
    one = gpus[0][0] if len(gpus) == 1 else ""  # of several types, any will do
    kind = Kind(nodes, max(cpus, 1), memory, sum(count for _, count in gpus), one)
    return _Line(name, default, available == "up", limit, kind, shared.upper().startswith("EXCL"), state, names)


def _count(text: str) -> int | None:
    match = _COUNT.fullmatch(text)
    return None if match is None else int(match[1]) * (1000 if match[2] else 1)


def _partition(lines: list[_Line]) -> Partition:
    kinds: dict[Kind, int] = {}
    for line in lines:
        if line.kind.nodes:
            alike = attrs.evolve(line.kind, nodes=0)
            kinds[alike] = kinds.get(alike, 0) + line.kind.nodes
    first = lines[0]
    return Partition(
        first.name,
        first.default,
        first.up,
        first.limit,
        tuple(attrs.evolve(kind, nodes=count) for kind, count in kinds.items()),
        first.exclusive,
        sum(line.kind.nodes for line in lines if line.state.startswith(_BROKEN) or "*" in line.state),
        next(iter(_ready(lines)), ""),
    )


def _ready(lines: list[_Line]) -> list[str]:
    """Return lists of nodes that do nothing, then of those that have room, then of those that work; none that sleep."""
    wanted = ("idle", "mix", "mixed", "mix-", "alloc", "allocated")
    return [line.names for state in wanted for line in lines if line.state == state and line.kind.nodes]


def _ruled(one: Partition, told: Mapping[str, str]) -> Partition:
    """Add what only scontrol says."""

    def names(key: str) -> tuple[str, ...] | None:
        text = told.get(key, "ALL")
        return None if text in {"ALL", "(null)", ""} else tuple(filter(_NAME.fullmatch, text.split(",")))

    return attrs.evolve(
        one,
        accounts=names("AllowAccounts"),
        qos=names("AllowQos"),
        min_nodes=max(_count(told.get("MinNodes", "")) or 1, 1),
        max_nodes=_count(told.get("MaxNodes", "")),
        memory_per_cpu=_count(told.get("DefMemPerCPU", "")) or 0,
    )
