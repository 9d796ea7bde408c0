"""How evaluations stand, by group: a group is what `using(name=...)` names, else the evaluations of one function.

Guarantees: its memory follows the groups that have evaluations under way. Those that have ended are joined when there
are many.

NamedTuple and not attrs, and annotations that are no texts: each run imports this; see `records/record.py`.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

MOST_ENDED = 1000
"""When about so many groups have ended, they are joined."""

MOST_SAMPLED = 256
"""Seconds of so many evaluations of a group are kept; half of them go when there are more."""

MOST_UNSETTLED = 1000
"""So many seconds wait at least until they are counted."""

MOST_TOLD = 200
"""So many groups are told apart in a snapshot, and so many maps."""

OTHERS = "(others)"


class Counted(Protocol):
    """A map that runs."""

    @property
    def title(self) -> str: ...
    @property
    def total(self) -> int | None:
        """How many items it has, if that is known."""
        ...

    @property
    def ended(self) -> int:
        """How many of them have ended."""
        ...


class Steps:
    """A map whose items are counted as they end."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title = title
        self.total = total
        self.ended = 0


class Group(NamedTuple):
    """The evaluations of one group; `running` are those that a worker is in."""

    name: str
    submitted: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    running: int = 0

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.done + self.failed + self.cancelled

    @property
    def waiting(self) -> int:
        """How many are under way, and no worker is in them."""
        return max(self.submitted - self.ended - self.running, 0)

    @property
    def alive(self) -> bool:
        """Whether any is under way."""
        return self.submitted > self.ended

    def plus(self, other: "Group") -> "Group":
        """Return both as one."""
        return Group._make((self.name, *(mine + its for mine, its in zip(self[1:], other[1:], strict=True))))

    def minus(self, earlier: "Group") -> "Group":
        """Return what has come since; `running` is as it is."""
        counts = (max(mine - its, 0) for mine, its in zip(self[1:-1], earlier[1:-1], strict=True))
        return Group._make((self.name, *counts, self.running))


class Course(NamedTuple):
    """How far a map is, or several of one title."""

    title: str
    ended: int
    total: int | None


class Snapshot(NamedTuple):
    """How a run stands at one moment.

    Args:
        courses: The maps that run.
        busy: CPUs that evaluations have; `cpus`: all.
        gpus_busy: GPUs that evaluations have, or parts of; `gpus`: all.
        jobs: In a Cluster computation, how its jobs stand, in words.
        nodes_asked: Nodes that a pool has asked for, and that are not there yet.
    """

    groups: tuple[Group, ...] = ()
    courses: tuple[Course, ...] = ()
    cpus: int = 0
    busy: int = 0
    nodes: int = 0
    nodes_lost: int = 0
    jobs: str = ""
    gpus: int = 0
    gpus_busy: float = 0
    nodes_asked: int = 0

    @property
    def alive(self) -> bool:
        """Whether any evaluation is under way."""
        return any(group.alive for group in self.groups)

    def since(self, earlier: Self) -> Self:
        """Return what has come since an earlier moment; groups of which nothing has come are left out."""
        known = {group.name: group for group in earlier.groups}
        groups = (group.minus(known[group.name]) if group.name in known else group for group in self.groups)
        return self._replace(groups=tuple(group for group in groups if group.submitted or group.ended or group.alive))

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        lists = {"groups": [it._asdict() for it in self.groups], "courses": [it._asdict() for it in self.courses]}
        return self._asdict() | lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what a JSON object tells; members that are not known here are ignored."""
        known: dict[str, Any] = {name: data[name] for name in cls._fields if name in data}
        known["groups"] = tuple(_made(Group, one) for one in data["groups"])
        known["courses"] = tuple(_made(Course, one) for one in data["courses"])
        return cls(**known)


def _made(kind: Any, data: Mapping[str, Any]) -> Any:
    return kind(**{name: data[name] for name in kind._fields if name in data})


class FunctionStatistics(NamedTuple):
    """What the evaluations of one function, or of one name, have used until now.

    Args:
        seconds: Of all that have a result; `longest`: of one.
        measured: How many were measured one by one: those that took more than 10 ms.
        cpu: Seconds of CPU time, with the programs that they have run. Of shorter ones, workers tell now and then.
        memory: The most bytes that one had, of those that were measured.
        read, written: Bytes, of those that were measured.
    """

    done: int = 0
    failed: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    measured: int = 0
    cpu: float = 0.0
    memory: int = 0
    read: int = 0
    written: int = 0
    sample: Sequence[float] = ()

    def quantile(self, part: float) -> float:
        """Return how many seconds a part of them took at most, as a sample of some hundred tells; 0 for none."""
        times = sorted(self.sample)
        return times[min(int(part * len(times)), len(times) - 1)] if times else 0.0

    @property
    def median(self) -> float:
        """How many seconds half of them took at most."""
        return self.quantile(0.5)


class Usage:
    """What the evaluations of one group have used."""

    __slots__ = (
        "_each", "_skip", "cpu", "longest", "measured", "memory", "read", "sample", "seconds", "short", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.seconds = 0.0
        self.longest = 0.0
        self.measured = 0
        self.cpu = 0.0
        """Seconds of those that were measured one by one."""
        self.short = 0.0
        """Of the others, as far as workers have told."""
        self.memory = 0
        self.read = 0
        self.written = 0
        self.sample = array("f")
        """Seconds of some, evenly spread over all."""
        self._each = 1  # of how many one is in the sample
        self._skip = 0  # how many to leave out before the next one

    def took(self, seconds: Sequence[float]) -> None:
        """So long those took that have ended now."""
        self.seconds += sum(seconds)
        self.longest = max(self.longest, *seconds)
        if self._skip < len(seconds):
            self.sample.extend(seconds[self._skip :: self._each])
            self._skip = -(len(seconds) - self._skip) % self._each
            while len(self.sample) >= MOST_SAMPLED:
                self._skip += self._each * (len(self.sample) % 2)
                self._each *= 2
                self.sample = self.sample[::2]
        else:
            self._skip -= len(seconds)

    def used(self, cpu: float, memory: int, read: int, written: int) -> None:
        """One was measured."""
        self.measured += 1
        self.cpu += cpu
        self.memory = max(self.memory, memory)
        self.read += read
        self.written += written

    def join(self, other: "Usage") -> None:
        """Count another one's here; the sample is of both."""
        self.seconds += other.seconds
        self.longest = max(self.longest, other.longest)
        self.sample.extend(other.sample)
        self.sample = self.sample[:: 1 + len(self.sample) // MOST_SAMPLED]
        self.short += other.short
        measured = self.measured + other.measured
        self.used(other.cpu, other.memory, other.read, other.written)
        self.measured = measured


class Counts:
    """The counts of one group; one is raised by each evaluation that ends."""

    __slots__ = ("_done", "cancelled", "ended", "failed", "submitted", "times", "usage")

    def __init__(self) -> None:
        self.submitted = 0
        self.failed = 0
        self.cancelled = 0
        self.usage = Usage()
        self.times: list[float] = []
        """The seconds of those that have ended with a result, until they are counted all at once."""
        self.ended = self.times.append
        """One has ended, after so many seconds. (Bound once, and no more than that: each evaluation calls it.)"""
        self._done = 0

    @property
    def done(self) -> int:
        """How many have ended with a result."""
        return self._done + len(self.times)

    def settle_if_many(self) -> None:
        """Count what has ended when that is worth it."""
        if len(self.times) >= MOST_UNSETTLED:
            self.settle()

    def settle(self) -> None:
        """Count what has ended."""
        if self.times:
            self._done += len(self.times)
            self.usage.took(self.times)
            self.times.clear()

    def alive(self) -> bool:
        """Whether any is under way."""
        return self.submitted > self.done + self.failed + self.cancelled

    def statistics(self) -> FunctionStatistics:
        """Return what is known."""
        self.settle()
        usage = self.usage
        return FunctionStatistics(
            done=self.done,
            failed=self.failed,
            seconds=usage.seconds,
            longest=usage.longest,
            measured=usage.measured,
            cpu=usage.cpu + usage.short,
            memory=usage.memory,
            read=usage.read,
            written=usage.written,
            sample=usage.sample[:],
        )

    def join(self, other: "Counts") -> None:
        """Count another group here."""
        self.settle()
        other.settle()
        self._done += other.done
        self.submitted += other.submitted
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.usage.join(other.usage)


class Tally:
    """The counts of all groups of a run, and the maps that run now."""

    def __init__(self) -> None:
        self.of = defaultdict[str, Counts](Counts)
        self.maps: set[Counted] = set()
        self._tidy_at = MOST_ENDED

    def submitted(self, name: str, count: int) -> None:
        """So many evaluations of a group have been submitted."""
        counts = self.of[name]
        counts.submitted += count
        counts.settle_if_many()
        if len(self.of) >= self._tidy_at:
            self._tidy()

    def _tidy(self) -> None:
        others = self.of.pop(OTHERS, None) or Counts()
        for name in [name for name, counts in self.of.items() if not counts.alive()]:
            others.join(self.of.pop(name))
        self._tidy_at = 2 * len(self.of) + MOST_ENDED
        self.of[OTHERS] = others

    def snapshot(self, running: Mapping[str, int], **more: Any) -> Snapshot:
        """Return how all groups stand; `running`: how many of each a worker is in, `more`: the other fields."""
        groups = [
            Group(name, it.submitted, it.done, it.failed, it.cancelled, running.get(name, 0))
            for name, it in self.of.items()
        ]
        return Snapshot(fewer(groups), courses(self.maps), **more)


def fewer(groups: list[Group]) -> tuple[Group, ...]:
    """Return at most so many groups as are told apart: those that are alive first; the others are joined."""
    if len(groups) <= MOST_TOLD:
        return tuple(groups)
    ordered = sorted(groups, key=lambda group: (group.name != OTHERS and not group.alive, -group.submitted))
    kept = {group.name for group in ordered[: MOST_TOLD - 1]} - {OTHERS}
    rest = Group(OTHERS)
    for group in groups:
        if group.name not in kept:
            rest = rest.plus(group)
    return (*(group for group in groups if group.name in kept), rest)


def courses(maps: Iterable[Counted]) -> tuple[Course, ...]:
    """Return how far maps are; those of one title are joined."""
    ended, totals, endless = Counter[str](), Counter[str](), set[str]()
    for one in list(maps):
        title, total = one.title, one.total
        ended[title] += one.ended
        if total is None:
            endless.add(title)
        else:
            totals[title] += total
    titles = list(ended)[:MOST_TOLD]
    return tuple(Course(title, ended[title], None if title in endless else totals[title]) for title in sorted(titles))


def length(xs: object) -> int | None:
    """Return how many items there are, if they say so."""
    known: Any = xs
    try:
        return len(known) if hasattr(known, "__len__") else None
    except Exception:  # noqa: BLE001 (whatever a user's __len__ raises)
        return None
