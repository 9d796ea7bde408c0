"""Texts of a run's progress: a row for each group and map, and a line for all. Pure: the time comes as an argument.

Guarantees: all texts are printable, in one line, and none is long.
"""

from __future__ import annotations

from collections import deque

from hyperflow.progress.tally import Course, Group, Snapshot
from hyperflow.saying import age, in_one_line, printable

WINDOW = 30.0
"""Rates are those of so many seconds; where nothing has ended in them, of all the time."""

SAMPLE = 1.0
"""Seconds between two counts that are kept for rates."""

HEADINGS = ("function or name", "done", "running", "waiting", "failed", "rate", "left")

LONGEST_NAME = 40

NAMED = 3
"""So many groups are named in one line."""

MINUTE, HOUR = 60.0, 3600.0

Row = tuple[str, ...]


class View:
    """What is shown of one run, or of one spell of work in it; `base` is how it stood before."""

    def __init__(self, began: float, base: Snapshot | None = None) -> None:
        self.began = began
        self.now = began
        self.stands = Snapshot()
        self._base = base
        self._first = began, dict[tuple[str, str], int]()
        self._samples = deque([self._first])

    def join(self, now: float, snapshot: Snapshot) -> None:
        """Begin to look at a run that began earlier: rates are those from now on."""
        self.now, self.stands = now, snapshot
        self._first = now, _ended(snapshot)
        self._samples = deque([self._first])

    def see(self, now: float, snapshot: Snapshot) -> None:
        """Take in how the run stands now."""
        self.now = now
        self.stands = snapshot if self._base is None else snapshot.since(self._base)
        if now - self._samples[-1][0] >= SAMPLE:
            self._samples.append((now, _ended(self.stands)))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def _rate(self, kind: str, name: str, ended: int) -> float:
        """Return how many end in a second."""
        for then, counts in (self._samples[0], self._first):
            since = ended - counts.get((kind, name), 0)
            if since > 0 and self.now > then:
                return since / (self.now - then)
        return 0.0

    def _left(self, course: Course) -> str:
        """Return how long a map will take, where that can be known."""
        rate = self._rate("map", course.title, course.ended)
        if course.total is None or not rate:
            return ""
        return age(max(course.total - course.ended, 0) / rate)

    def rows(self, most: int) -> list[Row]:
        """Return a row for each group and map, at most so many: those of groups that are under way first."""
        courses = self.stands.courses[: max(most // 2, 1)]
        room = max(most - len(courses), 1)
        groups = self.stands.groups
        if len(groups) > room:
            kept = {group.name for group in sorted(groups, key=lambda it: (not it.alive, -it.submitted))[:room]}
            groups = tuple(group for group in groups if group.name in kept)
        return [*map(self._group_row, groups), *map(self._course_row, courses)]

    def _group_row(self, group: Group) -> Row:
        counts = (group.done, group.running, group.waiting, group.failed)
        return _short(group.name), *map(_count, counts), _per_time(self._rate("group", group.name, group.ended)), ""

    def _course_row(self, course: Course) -> Row:
        waiting = "" if course.total is None else _count(max(course.total - course.ended, 0))
        rate = _per_time(self._rate("map", course.title, course.ended))
        return _short(course.title), _count(course.ended), "", waiting, "", rate, self._left(course)

    def foot(self, rows: int) -> str:
        """Return the line below so many rows: CPUs, nodes, time."""
        stands, said = self.stands, list[str]()
        if hidden := len(stands.groups) + len(stands.courses) - rows:
            said.append(f"and {hidden} more")
        if stands.jobs:
            said.append(f"jobs: {printable(stands.jobs)}")
        if stands.cpus or stands.nodes_asked:
            said.append(_machines(stands))
        return "; ".join([*said, age(self.now - self.began)])

    def line(self) -> str:
        """Return how all stands in one line."""
        said = [_counts(self.stands, ("done", "running", "waiting", "failed"))]
        said += [
            f"{_short(course.title)}: {course.ended} of {course.total}{left and f', {left} left'}"
            for course in self.stands.courses[:NAMED]
            if course.total
            for left in [self._left(course)]
        ]
        return "; ".join([*said, self.foot(len(self.stands.groups) + len(self.stands.courses))])

    def last_line(self) -> str:
        """Return what has been done, in one line."""
        stands = self.stands
        words = f"{_counts(stands, ('done', 'failed', 'cancelled'))} in {age(self.now - self.began)}"
        if len(stands.groups) > 1:
            ordered = sorted(stands.groups, key=lambda it: -it.ended)
            named = [f"{_short(group.name)} {group.ended}" for group in ordered[:NAMED]]
            words += f" ({', '.join(named)}{', ...' if ordered[NAMED:] else ''})"
        return words if not stands.cpus else f"{words}, {_counted(stands.cpus, 'CPU')}"


def _ended(stands: Snapshot) -> dict[tuple[str, str], int]:
    """Return how many have ended, by what rates are told of."""
    groups = {("group", group.name): group.ended for group in stands.groups}
    return groups | {("map", course.title): course.ended for course in stands.courses}


def _counts(stands: Snapshot, names: tuple[str, ...]) -> str:
    """Return counts of all groups: `12 done, 1 failed`."""
    totals = {name: sum(getattr(group, name) for group in stands.groups) for name in names}
    return ", ".join(f"{count} {name}" for name, count in totals.items() if count or name == "done")


def _machines(stands: Snapshot) -> str:
    asked = f", {stands.nodes_asked} asked for" if stands.nodes_asked else ""
    lost = f", {stands.nodes_lost} lost" if stands.nodes_lost else ""
    gpus = f", {stands.gpus_busy:g} of {_counted(stands.gpus, 'GPU')}" if stands.gpus else ""
    return f"{stands.busy} of {_counted(stands.cpus, 'CPU')}{gpus} busy, {_counted(stands.nodes, 'node')}{lost}{asked}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _count(count: int) -> str:
    return str(count) if count else ""


def _per_time(rate: float) -> str:
    """Return a rate with a unit in which it is a number that can be read: `12/s`, `3.5/min`, `2/h`."""
    for unit, seconds in (("s", 1.0), ("min", MINUTE), ("h", HOUR)):
        if rate * seconds >= 1 or unit == "h":
            value = rate * seconds
            return "" if not rate else f"{value:.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"
    return ""


def _short(name: str) -> str:
    text = in_one_line(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
