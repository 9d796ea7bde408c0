"""Which ids of a node are given out: neighbours, and GPUs beside the CPUs that are close to them. Pure.

The lowest free ids of one socket or NUMA node are taken, if it has enough; of several that have, the first. So what is
given out together shares caches and memory, and the other sockets stay whole for those who need a whole one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

Domains = Sequence[tuple[frozenset[int], frozenset[str]]]

PARTS = 1_000_000
"""A GPU has so many: shares of it are added as whole numbers, which leave nothing over."""


def parts_of(gpus: float) -> int:
    """Return how much of each GPU is asked for."""
    return PARTS if gpus >= 1 else max(int(gpus * PARTS + 1e-6), 1)


def choose_cpus(free: Collection[int], count: int, domains: Domains, first: Collection[int] = ()) -> tuple[int, ...]:
    """Choose from the free CPUs: from one domain if possible, with `first` before all others."""
    if count == 1 and not first:
        return (min(free),)
    near = sorted(set(free).intersection(first))
    if len(near) >= count:
        return tuple(near[:count])
    if not near:
        for cpus, _ in domains:
            if len(inside := cpus.intersection(free)) >= count:
                return tuple(sorted(inside)[:count])
        # None is enough: as few of them as possible.
        by_size = sorted((sorted(cpus.intersection(free)) for cpus, _ in domains), key=lambda ids: -len(ids))
        near = [cpu for ids in by_size for cpu in ids]
    others = sorted(set(free).difference(near))
    return tuple(sorted([*near, *others][:count]))


def choose_gpus(
    free: Mapping[str, int], gpus: float, domains: Domains, cpus_free: Collection[int], cpus: int
) -> tuple[str, ...]:
    """Choose from GPUs with so many parts free each; they are enough. Of a fraction, the fullest one that has room."""
    if not gpus:
        return ()
    parts = parts_of(gpus)
    able = [gpu for gpu, left in free.items() if left >= parts]
    if gpus < 1:
        return (min(able, key=lambda gpu: free[gpu]),)
    count = int(gpus)
    inside = [[gpu for gpu in able if gpu in near] for _, near in domains]
    room = [len(ids.intersection(cpus_free)) >= cpus for ids, _ in domains]
    for wanted in (True, False):  # where its CPUs fit, too, and else without them
        for ids, fits in zip(inside, room, strict=True):
            if len(ids) >= count and fits is wanted:
                return tuple(ids[:count])
    return tuple(able[:count])


def near_to(gpus: Collection[str], domains: Domains) -> set[int]:
    """Return the CPUs that are close to one of these GPUs."""
    return {cpu for cpus, near in domains if not near.isdisjoint(gpus) for cpu in cpus}
