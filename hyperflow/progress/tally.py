"""How evaluations stand, by group: a group is what `using(name=...)` names, else the evaluations of one function.

Guarantees: its memory follows the groups that have evaluations under way. Those that have ended are joined when there
are many.

NamedTuple and not attrs, and annotations that are no texts: each run imports this; see `records/record.py`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, Self

MOST_ENDED = 1000
"""When about so many groups have ended, they are joined."""

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
        jobs: In a Cluster computation, how its jobs stand, in words.
    """

    groups: tuple[Group, ...] = ()
    courses: tuple[Course, ...] = ()
    cpus: int = 0
    busy: int = 0
    nodes: int = 0
    nodes_lost: int = 0
    jobs: str = ""

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


class Counts:
    """The counts of one group; one is raised by each evaluation that ends."""

    __slots__ = ("cancelled", "done", "failed", "submitted")

    def __init__(self) -> None:
        self.submitted = 0
        self.done = 0
        self.failed = 0
        self.cancelled = 0

    def alive(self) -> bool:
        """Whether any is under way."""
        return self.submitted > self.done + self.failed + self.cancelled

    def join(self, other: "Counts") -> None:
        """Count another group here."""
        for name in Counts.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Tally:
    """The counts of all groups of a run, and the maps that run now."""

    def __init__(self) -> None:
        self.of = defaultdict[str, Counts](Counts)
        self.maps: set[Counted] = set()
        self._tidy_at = MOST_ENDED

    def submitted(self, name: str, count: int) -> None:
        """So many evaluations of a group have been submitted."""
        self.of[name].submitted += count
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
