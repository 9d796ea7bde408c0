"""NodePool: what a pool of nodes may have, as the user says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs

from hyperflow.config import check_cpus
from hyperflow.errors import ConfigurationError
from hyperflow.pools.joining import port
from hyperflow.saying import unfit_name
from hyperflow.sizes import to_seconds
from hyperflow.slurm.script import SbatchOptions


def _kinds(value: object) -> tuple[SbatchOptions, ...]:
    """Return the kinds of allocations: none, one, or several."""
    if value is None:
        return ()
    if isinstance(value, SbatchOptions):
        return (value,)
    several = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    kinds: tuple[object, ...] = tuple(cast("Iterable[object]", value)) if several else (value,)
    if unfit := [kind for kind in kinds if not isinstance(kind, SbatchOptions)]:
        raise ConfigurationError(
            f"NodePool(sbatch={unfit[0]!r}): hyperflow.SbatchOptions(...) is needed, or a list of them"
        )
    if len(set(kinds)) < len(kinds):
        raise ConfigurationError(
            "NodePool(sbatch=[...]): two kinds are the same; max_allocations says how many there may be"
        )
    return cast("tuple[SbatchOptions, ...]", kinds)


def _hosts(value: object) -> tuple[tuple[str, int | None], ...]:
    """Return hosts with their CPUs, in the order in which they were given."""
    if value == ():
        return ()
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f'NodePool(hosts={value!r}): a dictionary is needed, such as {{"box1": 32, "box2": None}}'
        )
    for name, cpus in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str) or not name.strip() or unfit_name(name):
            raise ConfigurationError(f"NodePool(hosts=...): {name!r} is no name of a host")
        try:
            check_cpus(cpus)
        except ConfigurationError as error:
            raise ConfigurationError(f"NodePool(hosts={{{name!r}: {cpus!r}}}): {error}") from None
    return tuple(cast("Mapping[str, int | None]", value).items())


def _count(least: int) -> Any:
    def check(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not int or value < least:
            raise ConfigurationError(f"NodePool({field.name}={value!r}): a whole number of at least {least} is needed")

    return check


def _idle_timeout(value: object) -> float:
    return to_seconds("NodePool: idle_timeout", value)


def _target_duration(value: object) -> float:
    return to_seconds("NodePool: target_duration", value)


def _listen(value: object) -> int | str | None:
    """Return where to listen, as it was said, if that makes sense."""
    if value is not None:
        port.parse(value)
    return cast("int | str | None", value)


@attrs.frozen
class NodePool:
    """What a pool of nodes may have: allocations of Slurm, machines that ssh reaches, nodes that join by themselves.

    An example, where `scan()` is a job:

        small = hf.SbatchOptions(nodes=1, ntasks_per_node=64, time="4:00:00")
        hf.run_job_pool(scan(), hf.NodePool(sbatch=small, max_allocations=5, hosts={"box1": 32, "box2": None}))

    Raises ConfigurationError at once for a value that makes no sense.

    Args:
        sbatch: What to ask of Slurm for one allocation, or a list of several kinds; without it, nothing is.
        min_allocations: So many are kept, also while nothing waits.
        max_allocations: So many at most, queued and running ones together.
        max_queued: So many may wait at Slurm at a time.
        idle_timeout: An allocation without work is given back after this: seconds, or a text such as "5m".
        target_duration: For how long the work that waits should keep what is asked for busy: a small value asks for
            more allocations, sooner.
        hosts: Machines without Slurm, reached by ssh, with the CPUs to use there; None for all.
        listen: The port, or "address:port", at which nodes that the head cannot reach may join (`hyperflow node join`);
            None for none, 0 for a free one. A port by itself is one of all addresses of this machine.
    """

    sbatch: tuple[SbatchOptions, ...] = attrs.field(default=(), converter=_kinds)
    min_allocations: int = attrs.field(default=0, validator=_count(0), kw_only=True)
    max_allocations: int = attrs.field(default=20, validator=_count(1), kw_only=True)
    max_queued: int = attrs.field(default=2, validator=_count(1), kw_only=True)
    idle_timeout: float = attrs.field(default=300.0, converter=_idle_timeout, kw_only=True)
    target_duration: float = attrs.field(default=60.0, converter=_target_duration, kw_only=True)
    hosts: tuple[tuple[str, int | None], ...] = attrs.field(default=(), converter=_hosts, kw_only=True)
    listen: int | str | None = attrs.field(default=None, converter=_listen, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.min_allocations > self.max_allocations:
            raise ConfigurationError(
                f"NodePool(min_allocations={self.min_allocations}, max_allocations={self.max_allocations}): "
                "the first is larger than the second"
            )
        if not self.sbatch and not self.hosts and self.listen is None:
            raise ConfigurationError(
                "NodePool(): it has no nodes; say sbatch=SbatchOptions(...), hosts={...} or listen=0"
            )

    def changed(self, **changes: Any) -> NodePool:
        """Return the same with some options changed; raises ConfigurationError."""
        for name in changes:
            if name not in FIELDS:
                raise ConfigurationError(f"NodePool has no {name}; it has {', '.join(FIELDS)}")
        if isinstance(changes.get("hosts", self.hosts), tuple):
            changes["hosts"] = dict(changes.get("hosts", self.hosts))
        return attrs.evolve(self, **changes)


FIELDS = tuple(field.name for field in attrs.fields(NodePool))
