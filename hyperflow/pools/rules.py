"""The rules of allocations: what each is at, and what to do next. Pure: news in, orders out, no clock of its own.

    submitting -> pending -> starting -> up -> draining -> ending -> ended

Guarantees:
- Never more than `max_allocations` at a time, counted from before they are submitted until Slurm says that they have
  ended; never more than `max_queued` that wait at Slurm.
- Nothing is submitted of a kind that is held, nor while the pool is paused.
- What runs is not ended to make a pool smaller: an allocation is drained, and given back when nothing runs there. Only
  its own end ends what runs there.
- Every allocation that was submitted ends, or is taken over by another process.

A kind is *held* when Slurm refuses it, when Slurm says for minutes that it cannot start as it is, or when three
allocations in a row have brought no node up. An allocation that somebody cancels is none of these.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence

from hyperflow.pools.allocation import (
    COMING,
    LIVE,
    QUEUED,
    Allocation,
    BringUp,
    DrainNodes,
    GiveBack,
    Order,
    Place,
    State,
    Submit,
)
from hyperflow.pools.demand import Standing
from hyperflow.pools.kinds import Kind, Room
from hyperflow.pools.nodepool import NodePool
from hyperflow.slurm.queue import BatchState

IN_A_ROW = 3
"""After so many allocations that brought no node up, one after the other, their kind is held."""

EBB = 30.0
"""Seconds for which fewer allocations must be needed before one that waits is withdrawn."""

HOPELESS = 180.0
"""Seconds for which Slurm must say that an allocation cannot start as it is."""

SILENCE = 180.0
"""Seconds after which an allocation that Slurm runs must have shown its holder."""

TRIES = 3
"""How often a node is tried, or taken in again after it was lost."""

TRY_PAUSE = 10.0
"""Seconds between two tries."""

CLOCKS = 30.0
"""Seconds by which the end of an allocation may be later than its time limit says, else clocks differ."""

SEEN_LATE = 10.0
"""Seconds after its begin at which a holder is seen at the latest, mostly."""

LAST = 4.0
"""Seconds before the end of an allocation at which what still runs there goes back."""

REFUSED_PAUSE = 30.0
"""Seconds until the next try where it is not Slurm that refuses: a full disk, say."""

REMEMBERED = 100
"""Allocations that have ended, for people."""


def _token() -> str:
    return os.urandom(12).hex()


class Rules:
    """The allocations of one pool, and what to do with them."""

    def __init__(
        self,
        limits: NodePool,
        kinds: Sequence[Kind],
        *,
        first: int = 1,
        token: Callable[[], str] = _token,
    ) -> None:
        """Make them.

        Args:
            limits: May be replaced at any time.
            kinds: The same.
            first: The number of the next allocation.
            token: Makes one.
        """
        self.limits = limits
        self.kinds = list(kinds)
        self.allocations: dict[int, Allocation] = {}
        self.ended: deque[Allocation] = deque(maxlen=REMEMBERED)
        self.held: dict[int, str] = {}
        """Why, by kind, in Slurm's words where they are Slurm's."""
        self.gathering: Collection[int] = ()
        """Kinds of which something waits for several nodes at a time: those that are up are kept for it."""
        self.paused = False
        self.closing = False
        self._next = first
        self._token = token
        self._in_a_row = Counter[int]()
        self._not_before = 0.0
        self._ebbing: float | None = None
        self._spare: float | None = None  # since when other allocations have had room for all that one of them runs

    # ---- news ---------------------------------------------------------------------------------------------------

    def adopt(self, number: int, kind: int, token: str, job: int | None, now: float) -> Allocation:
        """Take over what an earlier process has submitted."""
        made = Allocation(number, kind, token, "pending", now, slurm_job=job, adopted=True)
        made.asked = self.kinds[kind].name
        self.allocations[number] = made
        self._next = max(self._next, number + 1)
        return made

    def submitted(self, it: Allocation, job: int, now: float) -> None:
        """Slurm has taken it."""
        it.slurm_job = job
        if it.state == "submitting":
            it.to("pending", now)

    def refused(self, it: Allocation, said: str, now: float) -> None:
        """Slurm has refused it."""
        self.held[it.kind] = said
        self._end(it, f"refused: {said}", now)

    def not_submitted(self, it: Allocation, why: str, now: float) -> None:
        """It could not be submitted, for a reason that is not Slurm's."""
        self._not_before = now + REFUSED_PAUSE
        self._end(it, why, now)

    def slurm_says(self, it: Allocation, said: BatchState, now: float) -> None:
        """Slurm has said something of it."""
        is_news = it.said.kind != "unknown" or not it.adopted
        it.said, it.reason = said, said.reason
        if said.final:
            self._over(it, said, now, is_news)
            return
        if said.kind == "running" and it.state == "pending":
            it.to("starting", now)
        if not said.hopeless:
            it.hopeless_since = None
        elif it.hopeless_since is None:
            it.hopeless_since = now

    def _over(self, it: Allocation, said: BatchState, now: float, is_news: bool) -> None:
        """It has ended; where that is no news, it had done so before it was taken over."""
        cancelled = said.kind == "ended" and said.slurm_state == "CANCELLED"
        cause = it.cause or ("Slurm no longer knows it" if said.kind == "gone" else said.description)
        if is_news and it.state not in ("draining", "ending") and not it.was_up and not cancelled:
            self._failed(it, cause)
        self._end(it, cause, now)

    def _failed(self, it: Allocation, cause: str) -> None:
        self._in_a_row[it.kind] += 1
        if self._in_a_row[it.kind] >= IN_A_ROW and it.kind not in self.held:
            self.held[it.kind] = f"{IN_A_ROW} allocations in a row have brought no node up; the last one: {cause}"

    def _end(self, it: Allocation, cause: str, now: float) -> None:
        it.to("ended", now, cause)
        for place in it.places.values():
            place.busy = False
        self.allocations.pop(it.number, None)
        self.ended.append(it)

    def started(self, it: Allocation, places: Sequence[Place], ends: float | None, now: float) -> None:
        """Its holder is there, and says which nodes it has."""
        if it.state in COMING and not it.places:
            taken = {name for other in self.allocations.values() for name in other.places}
            taken.update(name for name, _ in self.limits.hosts)
            for place in places:
                place.host = place.name
                if place.name in taken:
                    place.name = f"{place.host}.{it.slurm_job}"
            it.places = {place.name: place for place in places}
            it.ends = ends = self._on_our_clock(it, ends, now)
            it.to("starting", now)
            cpus = min((place.cpus for place in places), default=0)
            lasts = ends - now if ends is not None else 0.0
            self.has_seen(it, Room(cpus, seconds=max(lasts, 0.0)))

    def _on_our_clock(self, it: Allocation, ends: float | None, now: float) -> float | None:
        """Return when it ends, if its holder was seen as soon as it began. Slurm's clock may not be ours: then it would
        be over before it begins, and the next one would be asked for at once; or be cut off without a warning."""
        limit = self.kinds[it.kind].options.time_limit
        if ends is None or limit is None or it.adopted:
            return ends
        is_wrong = ends > now + limit + CLOCKS or ends < now + LAST
        return now + limit - SEEN_LATE if is_wrong else ends

    def has_seen(self, it: Allocation, room: Room) -> None:
        """A node of it has this; 0 of what nobody knows. (What was taken over may be of another kind.)"""
        if not it.adopted:
            self.kinds[it.kind] = self.kinds[it.kind].having(room)

    def node_up(self, it: Allocation, place: Place, now: float) -> None:
        """A node of it is in use."""
        place.state, place.why = "up", ""
        it.was_up = True
        it.idle_since = now
        self._in_a_row.pop(it.kind, None)
        if it.state == "starting":
            it.to("up", now)

    def node_failed(self, it: Allocation, place: Place, why: str, now: float) -> None:
        """A node of it cannot be used, or was lost."""
        place.busy = False
        place.why = why
        place.again = now + TRY_PAUSE
        place.state = "failed" if place.tries >= TRIES or it.state == "starting" else "lost"

    def looked(
        self, it: Allocation, busy: Callable[[str], bool], now: float, takes_work: Callable[[str], bool] | None = None
    ) -> None:
        """Note which of its nodes have work, and which take any."""
        for place in it.up:
            place.busy = busy(place.name)
            place.takes_work = takes_work is None or takes_work(place.name)
        if it.is_busy():
            it.idle_since = None
        elif it.idle_since is None:
            it.idle_since = now

    def has_spare(self, free_cpus: int, now: float) -> None:
        """Note how many CPUs have nothing to do while nothing waits; 0 if anything does."""
        up = self.of("up")
        cpus = [sum(place.cpus for place in it.up) for it in up]
        if len(up) < 2 or len({it.kind for it in up}) > 1 or free_cpus < min(cpus):
            self._spare = None
        elif self._spare is None:
            self._spare = now

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """Go on with what was paused or held."""
        self.paused = False
        self.held.clear()
        self._in_a_row.clear()
        self._not_before = 0.0

    # ---- what there is ------------------------------------------------------------------------------------------

    def of(self, *states: State) -> list[Allocation]:
        """Return those that are in one of these states, the oldest first."""
        return [it for it in self.allocations.values() if it.state in states]

    def standing(self, now: float) -> Iterator[Standing]:
        """Yield the nodes that take work."""
        for it in self.of("up"):
            left = float("inf") if it.ends is None else max(it.ends - self.margin(it) - now, 0.0)
            for place in it.up:
                if not place.takes_work:
                    continue
                gpus, memory = place.supply
                yield Standing(Room(place.cpus, len(gpus or ()), memory or 0, left), 1)

    def margin(self, it: Allocation) -> float:
        """Return how many seconds before its end it is drained."""
        return self.kinds[it.kind].last

    # ---- orders -------------------------------------------------------------------------------------------------

    def orders(self, now: float, needed: Sequence[int]) -> list[Order]:
        """Say what to do now; each order is given once."""
        found: list[Order] = [*self._shrink(now), *self._withdraw(now, needed), *self._gather(now)]
        for it in [*self.allocations.values()]:
            match it.state:
                case "pending":
                    found += self._pending(it, now)
                case "starting":
                    found += self._starting(it, now)
                case "up":
                    found += self._up(it, now)
                case "draining":
                    found += self._draining(it, now)
                case _:
                    pass
        found += self._grow(now, needed)
        return found

    def _give_back(self, it: Allocation, cause: str, now: float) -> GiveBack:
        it.to("ending", now, it.cause or cause)
        return GiveBack(it, it.cause)

    def _pending(self, it: Allocation, now: float) -> Iterator[Order]:
        if it.hopeless_since is not None and now - it.hopeless_since >= HOPELESS:
            said = it.said.description
            self.held.setdefault(it.kind, said)
            yield self._give_back(it, said, now)

    def _starting(self, it: Allocation, now: float) -> Iterator[Order]:
        if not it.places:
            if now - it.since >= SILENCE:
                why = (
                    f"Slurm has run it for {SILENCE:g} s, and nothing was heard of it: do its nodes see the directory?"
                )
                self._failed(it, why)
                yield self._give_back(it, why, now)
            return
        yield from self._bring_up(it, now)
        if all(place.state == "failed" for place in it.places.values()):
            why = "no node came up: " + "; ".join(f"{place.name}: {place.why}" for place in it.places.values())
            self._failed(it, why)
            yield self._give_back(it, why, now)

    def _bring_up(self, it: Allocation, now: float) -> Iterator[Order]:
        for place in it.places.values():
            if place.state == "coming" or (place.state == "lost" and now >= place.again):
                place.state = "trying"
                place.tries += 1
                yield BringUp(it, place)

    def _up(self, it: Allocation, now: float) -> Iterator[Order]:
        if it.ends is not None and now >= it.ends - self.margin(it):
            yield from self._drain(it, "time limit", now)
            return
        states = {place.state for place in it.places.values()}
        if states <= {"failed"}:
            why = "; ".join(f"{place.name}: {place.why}" for place in it.places.values())
            yield self._give_back(it, f"its nodes were lost: {why}", now)
            return
        live = len(self.of(*LIVE))
        idle = it.idle_since is not None and now - it.idle_since >= self.limits.idle_timeout
        kept = it.kind in self.gathering and not self.paused
        if idle and not it.is_busy() and live > self.limits.min_allocations and not kept:
            yield from self._drain(it, "idle timeout", now)
        else:
            yield from self._bring_up(it, now)

    def _drain(self, it: Allocation, cause: str, now: float) -> Iterator[Order]:
        it.to("draining", now, cause)
        yield DrainNodes(it, cause)

    def _draining(self, it: Allocation, now: float) -> Iterator[Order]:
        over = it.ends is not None and now >= it.ends - LAST
        trying = any(place.state == "trying" for place in it.places.values())
        if over or (not it.is_busy() and not trying):
            yield self._give_back(it, it.cause, now)

    def _shrink(self, now: float) -> Iterator[Order]:
        """Give up what is more than there may be: first what waits, then what is idle, then the newest."""
        live = self.of(*LIVE)
        surplus = len(live) - self.limits.max_allocations
        if surplus <= 0:
            return
        ranks = {"pending": 0, "starting": 1, "up": 2}
        going = [it for it in live if it.state in ranks]
        going.sort(key=lambda it: (it.is_busy(), ranks[it.state], -it.number))
        for it in going[:surplus]:
            if it.state == "up":
                yield from self._drain(it, "the pool became smaller", now)
            else:
                yield self._give_back(it, "the pool became smaller", now)

    def _gather(self, now: float) -> Iterator[Order]:
        """Drain one allocation whose work others have room for. Else little work, which goes to one node and then to
        another, would keep all of them."""
        if self._spare is None or now - self._spare < self.limits.idle_timeout:
            return
        if len(self.of(*LIVE)) > max(self.limits.min_allocations, 1):
            least = min(self.of("up"), key=lambda it: (sum(place.busy for place in it.up), -it.number), default=None)
            if least is not None and least.is_busy():  # else it is given back for being idle
                self._spare = None
                yield from self._drain(least, "other allocations have room for its work", now)

    def _withdraw(self, now: float, needed: Sequence[int]) -> Iterator[Order]:
        """Take from the queue what is not needed any more."""
        surplus = self._surplus(needed)
        if not surplus:
            self._ebbing = None
        elif self._ebbing is None:
            self._ebbing = now
        elif now - self._ebbing >= EBB:
            self._ebbing = None
            for it in surplus:
                yield self._give_back(it, "nothing that waits needs it any more", now)

    def _surplus(self, needed: Sequence[int]) -> list[Allocation]:
        found: list[Allocation] = []
        spare = len(self.of(*LIVE)) - self.limits.min_allocations
        for kind in self.kinds:
            more = sum(it.kind == kind.number for it in self.of(*COMING)) - needed[kind.number]
            waiting = [it for it in reversed(self.of("pending")) if it.kind == kind.number]
            found += waiting[: max(more, 0)]
        return found[: max(spare, 0)]

    def _grow(self, now: float, needed: Sequence[int]) -> Iterator[Order]:
        if self.paused or self.closing or now < self._not_before:
            return
        for kind in self.kinds:
            if kind.number in self.held:
                continue
            while len(self.allocations) < self.limits.max_allocations:
                if len(self.of(*QUEUED)) >= self.limits.max_queued:
                    return
                coming = sum(it.kind == kind.number for it in self.of(*COMING))
                live = len(self.of(*LIVE))
                if coming >= needed[kind.number] and live >= self.limits.min_allocations:
                    break
                made = Allocation(self._next, kind.number, self._token(), "submitting", now, asked=kind.name)
                self._next += 1
                self.allocations[made.number] = made
                yield Submit(made)
