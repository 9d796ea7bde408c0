"""The allocations of a pool: submitted, watched, brought to their user, and given back, as the rules say.

One loop asks the rules what to do, at each news and a few times a second. What takes time (sbatch, the start of a
launcher, the release of a node) is a task beside it; the journal is written in a thread.

Guarantees: an error in one of these is told once, and the others go on. Slurm is asked by one client, with one squeue
for all allocations. Whether a holder has started is seen in its file, which is looked at more often.

Rejected: to learn the start of an allocation from squeue alone, which would be up to half a minute late, or would ask
a site's controller each second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from hyperflow.aio import settled
from hyperflow.config import Settings
from hyperflow.errors import ConfigurationError, HyperflowError, SlurmError
from hyperflow.head.capacity import NOTHING, Supply
from hyperflow.pools import claim
from hyperflow.pools.allocation import Allocation, BringUp, DrainNodes, GiveBack, Order, Place, Submit
from hyperflow.pools.claim import Claim
from hyperflow.pools.demand import Need, needed
from hyperflow.pools.journal import Entry, Journal, kind_text
from hyperflow.pools.kinds import Kind, Room
from hyperflow.pools.nodepool import NodePool
from hyperflow.pools.rules import Rules
from hyperflow.pools.scripts import log_of, script
from hyperflow.pools.users import NodeUser, PoolNode
from hyperflow.slurm.client import SlurmClient, Watch
from hyperflow.slurm.refusal import gist

logger = logging.getLogger("hyperflow.pools")

LOOK = 0.25
"""Seconds between two looks at what waits, at nodes and at the files of holders."""

GRACE = 45.0
"""Seconds beyond the idle timeout after which holders end by themselves where nobody renews the claim."""

RELEASE = 30.0
"""Seconds that a user may take to release a node."""

LAST_CANCEL = 20.0
"""Seconds that Slurm has for the cancel at the end of the program. The claim ends what is left."""

NOBODYS_FAULT = ("CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE")
"""How an allocation may end without a fault of what ran there. Its nodes are lost some moments before Slurm says so."""

LOOK_COST = 20
"""So many times as long as a look at what waits takes, no other one is made, unless an allocation has changed its
state: much that waits for many different things takes some time."""

PAUSE = 5.0
"""Seconds after an error of the loop."""


def _nothing() -> None:
    """Do nothing."""


class Allocations:
    """The allocations of one pool. `serving` brings them to a user; `give_back` ends all of them."""

    def __init__(
        self,
        options: NodePool,
        journal: Journal,
        client: SlurmClient,
        name: str,
        settings: Settings,
        said: Supply = NOTHING,
    ) -> None:
        """Make it.

        Args:
            options: What there may be; replaced by `set_limits`.
            journal: The pool's directory.
            client: Open as long as this is used.
            name: In the names of Slurm jobs.
            settings: Which nodes are not used, and how long before its end an allocation is drained.
            said: What the program says that each node has.
        """
        self._said = said, settings.end_margin
        kinds = [Kind.of(number, each, *self._said) for number, each in enumerate(options.sbatch)]
        self.rules = Rules(options, kinds, first=journal.following)
        self.on_kinds: Callable[[], object] = _nothing
        """Called when more is known of what nodes have."""
        self.need = Need((0,) * len(kinds), "nothing waits")
        self.client = client
        self._journal = journal
        self._writing = asyncio.Lock()
        self._name = name
        self._exclude = settings.exclude_nodes
        self._user: NodeUser | None = None
        self._watches: dict[int, Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._told: set[str] = set()
        self._held: dict[int, str] = {}  # the kinds of which people know that they are held
        self._words: dict[int, str] = {}  # all that Slurm has said when it refused one
        self._seen: tuple[object, float] = ((), 0.0)  # how allocations stood at the last look at what waits, until when
        self._claim = Claim(0, f"{name}.{time.time_ns()}", options.idle_timeout + GRACE)
        self._adopted = False

    # ---- scopes -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self, user: NodeUser) -> AsyncIterator[None]:
        """Bring nodes to a user within a scope. What is up at its end stays up until `give_back`."""
        self._user = user
        loops = [asyncio.create_task(self._run(), name="pool"), asyncio.create_task(self._renew(), name="claim")]
        try:
            yield
        finally:
            self.rules.closing = True
            working = [*loops, *self._tasks]
            for task in working:
                task.cancel()
            await settled(*working)

    async def give_back(self) -> None:
        """Cancel all allocations; what Slurm does not cancel now ends by the claim."""
        self._claim = self._claim._replace(renewals=self._claim.renewals + 1, ended=True)
        await self._write_claim()
        try:
            async with asyncio.timeout(LAST_CANCEL):
                await self._cancel_all()
        except (TimeoutError, HyperflowError, OSError) as error:
            jobs = [it.slurm_job for it in self.rules.allocations.values() if it.slurm_job is not None]
            why = str(error) or f"no answer within {LAST_CANCEL:g} s"
            text = (
                "Slurm has not cancelled the pool's allocations %s (%s); those that run end by themselves within %g s"
            )
            logger.warning(text, jobs, why, self._claim.patience)

    async def _cancel_all(self) -> None:
        if self._journal.entries and not self._adopted:
            await self._adopt()
        unknown = {it.token: it for it in self.rules.allocations.values() if it.slurm_job is None}
        if unknown:  # sbatch was under way
            for token, ids in (await self.client.find(unknown)).items():
                for job in ids[:1]:
                    self.rules.submitted(unknown[token], job, time.time())
        live = [it.slurm_job for it in self.rules.allocations.values() if it.slurm_job is not None]
        if live:
            await self.client.cancel(live)
        try:
            for it in [*self.rules.allocations.values()]:
                await self._remove(it)
        except (HyperflowError, OSError) as error:  # whoever opens the directory next finds that they have ended
            self._tell("cannot forget the allocations of the pool, which are cancelled", error)

    # ---- for people ---------------------------------------------------------------------------------------------

    def set_limits(self, options: NodePool) -> None:
        """Use other limits from now on."""
        self.rules.limits = options
        self._claim = self._claim._replace(patience=options.idle_timeout + GRACE)
        self.wake()

    def change_kinds(self, changes: dict[str, Any]) -> None:
        """Ask for something else, of the kinds that are held, or of all; raises ConfigurationError."""
        chosen = set(self.rules.held) or {kind.number for kind in self.rules.kinds}
        self.rules.kinds = [
            Kind.of(kind.number, kind.options.changed(**changes), *self._said) if kind.number in chosen else kind
            for kind in self.rules.kinds
        ]

    def wake(self) -> None:
        """Look at once."""
        self._news.set()

    # ---- the loop -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                if not self._adopted:
                    await self._adopt()
                self._turn()
                pause = LOOK
            except Exception as error:  # noqa: BLE001 (a mistake of ours: the next turn may go well)
                self._tell("the pool's own loop has met an error, and goes on", error)
                pause = PAUSE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            self._news.clear()

    def _turn(self) -> None:
        """Take in what is new, and do what is to be done."""
        user, rules, now = self._user, self.rules, time.time()
        assert user is not None
        for it in [*rules.allocations.values()]:
            self._look_at(it, user, now)
        self._look_at_work(user, now)
        self._tell_held()
        # The second time, what was idle when it was drained is given back.
        for order in [*rules.orders(now, self.need.allocations), *rules.orders(now, self.need.allocations)]:
            self._carry_out(order, user)

    def _tell_held(self) -> None:
        """Tell of each kind that is held, once: what needs it waits, and who looks at the program sees nothing else."""
        held = dict(self.rules.held)
        for number, why in held.items():
            if number not in self._held:
                text = (
                    "no more allocations of %s are asked for, until `hyperflow pool resume`, which takes other options "
                    "of sbatch; what needs them waits: %s"
                )
                logger.warning(text, self.rules.kinds[number].name, self._words.pop(number, why))
        self._held = held

    def _look_at_work(self, user: NodeUser, now: float) -> None:
        """Find out how many allocations what waits is worth, unless that was done just now and took long."""
        rules, began = self.rules, time.perf_counter()
        standing = list(rules.standing(now))
        stands = (
            [*rules.held],
            rules.limits,
            [(it.number, it.state) for it in rules.allocations.values()],
            len(standing),
        )
        if self._seen[0] == stands and began < self._seen[1]:
            return
        wants, free = user.demand(), user.free_cpus()
        rules.has_spare(0 if wants else free, now)
        self.need = needed(wants, rules.kinds, standing, free, rules.limits.target_duration, rules.held.keys())
        rules.gathering = self.need.gathering
        ended = time.perf_counter()
        self._seen = stands, ended + LOOK_COST * (ended - began)

    def _look_at(self, it: Allocation, user: NodeUser, now: float) -> None:
        if it.state in ("pending", "starting") and not it.places:
            report = self._journal.report(it.number)
            if report is not None and report.slurm_job == it.slurm_job:
                before = self.rules.kinds[it.kind]
                self.rules.started(it, report.places, report.ends, now)
                self._has_learnt(it, before)
                self.client.wake()
        if it.state in ("up", "draining"):
            for place in it.up:
                if not user.is_up(place.name):
                    self.rules.node_failed(it, place, "it was lost", now)
                    self.client.wake()  # mostly because the allocation has ended
            self.rules.looked(it, user.is_busy, now, user.takes_work)
        watch = self._watches.get(it.number)
        if watch is not None and watch.state != it.said:
            self.rules.slurm_says(it, watch.state, now)
            if it.state == "ended":
                self._ended(it, user)

    def _has_learnt(self, it: Allocation, before: Kind) -> None:
        if self.rules.kinds[it.kind].node_kind(1) != before.node_kind(1):
            self.on_kinds()

    def _ended(self, it: Allocation, user: NodeUser) -> None:
        logger.info("allocation %d (Slurm job %s) has ended: %s", it.number, it.slurm_job, it.cause)
        for place in it.up:
            self._beside(self._release(user, place, it.cause), f"release {place.name}")
        if it.said.slurm_state in NOBODYS_FAULT:
            for place in it.places.values():
                user.forgive(place.name)
        self._watches.pop(it.number, None)
        self._beside(self._remove(it), "forget an allocation")

    def _carry_out(self, order: Order, user: NodeUser) -> None:
        match order:
            case Submit(it):
                self._beside(self._submit(it), "submit an allocation")
            case BringUp(it, place):
                self._beside(self._bring_up(it, place, user), f"start {place.name}")
            case DrainNodes(it, cause):
                for place in it.up:
                    user.drain(place.name, cause)
                self.rules.looked(it, user.is_busy, time.time(), user.takes_work)
            case GiveBack(it, cause):
                self._beside(self._give_back(it, cause, user), "give an allocation back")

    def _beside(self, work: Coroutine[Any, Any, None], what: str) -> None:
        async def told() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 (also a mistake of ours: the pool goes on)
                self._tell(f"cannot {what}", error)
            self.wake()

        task = asyncio.create_task(told(), name=what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell(self, what: str, error: Exception) -> None:
        text = f"{what}: {error}"
        expected = isinstance(error, (HyperflowError, OSError))
        if text not in self._told:
            self._told.add(text)
            logger.warning("%s", text, exc_info=None if expected else error)

    # ---- what takes time ----------------------------------------------------------------------------------------

    async def _submit(self, it: Allocation) -> None:
        kind = self.rules.kinds[it.kind]
        path = self._journal.path
        text = script(kind, self._name, it.number, it.token, path, self._exclude)
        try:
            await self._write(self._journal.add, Entry(it.number, kind_text(kind), it.token))
        except ConfigurationError as error:
            self.rules.not_submitted(it, str(error), time.time())
            raise
        try:
            job = await self.client.submit(path / f"allocation-{it.number}", it.token, text)
        except SlurmError as error:
            said = gist(str(error))
            self.rules.refused(it, said, time.time())
            self._words[it.kind] = str(error)
            await self._remove(it)
            return
        logger.info("allocation %d is Slurm job %d (%s)", it.number, job, kind.name)
        self.rules.submitted(it, job, time.time())
        self._watch(it, job)
        await self._write(self._journal.submitted, it.number, job)

    def _watch(self, it: Allocation, job: int) -> None:
        self._watches[it.number] = watch = self.client.watch(job)
        watch.subscribe(self.wake)

    async def _bring_up(self, it: Allocation, place: Place, user: NodeUser) -> None:
        node = PoolNode(place.name, place.cpus, it.slurm_job, place.supply, it.ends, place.host)
        try:
            await user.use(node)
        except Exception as error:  # noqa: BLE001 (of ours, too: else nobody would try it again, or give it back)
            self.rules.node_failed(it, place, str(error), time.time())
            self._tell(f"{place.name} of Slurm job {it.slurm_job} cannot be used", error)
            self.client.wake()
            return
        if it.state not in ("starting", "up"):  # given back meanwhile
            self.rules.node_failed(it, place, it.cause, time.time())
            await self._release(user, place, it.cause)
            return
        self.rules.node_up(it, place, time.time())
        if (found := user.found(place.name)) is not None:
            before, there = self.rules.kinds[it.kind], found.capacity
            self.rules.has_seen(it, Room(found.cpus, len(there.gpus), there.memory, 0.0))
            self._has_learnt(it, before)

    async def _give_back(self, it: Allocation, cause: str, user: NodeUser) -> None:
        logger.info("allocation %d (Slurm job %s) is given back: %s", it.number, it.slurm_job, cause)
        # All at a time: where the allocation ends in a moment, what is not released by then is lost.
        await asyncio.gather(*(self._release(user, place, cause) for place in it.up))
        self._claim = self._claim._replace(given_back={*self._claim.given_back, it.number})
        await self._write_claim()
        if it.slurm_job is not None:
            await self.client.cancel([it.slurm_job])

    async def _release(self, user: NodeUser, place: Place, cause: str) -> None:
        place.state = "lost"
        try:
            async with asyncio.timeout(RELEASE):
                await user.release(place.name, cause)
        except TimeoutError:
            pass  # it ends with its allocation
        except Exception as error:  # noqa: BLE001 (its allocation is given back all the same)
            self._tell(f"cannot release {place.name}", error)

    async def _remove(self, it: Allocation) -> None:
        await self._write(self._journal.remove, it.number)

    async def _write(self, write: Any, *arguments: Any) -> None:
        async with self._writing:
            writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments))
            await settled(writing)
            writing.result()

    # ---- the claim ----------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            self._claim = self._claim._replace(renewals=self._claim.renewals + 1)
            await self._write_claim()
            await asyncio.sleep(min(claim.RENEWED, self._claim.patience / 4))

    async def _write_claim(self) -> None:
        try:
            await self._write(claim.write, self._journal.path, self._claim)
        except Exception as error:  # noqa: BLE001 (a full disk, no more threads: the next time it may go well)
            self._tell("cannot renew the claim of the pool, without which its allocations end", error)

    # ---- what an earlier process has left -----------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Take over what lives of an earlier process, and forget the rest."""
        entries = self._journal.entries
        texts = {kind_text(kind): kind.number for kind in self.rules.kinds}
        found = await self.client.find([entry.token for entry in entries]) if entries else {}
        surplus: list[int] = []
        for entry in entries:
            ids = found[entry.token]
            surplus += ids[1:] if self.rules.kinds else ids
            if not ids or not self.rules.kinds:
                await self._write(self._journal.remove, entry.number)
                continue
            number = texts.get(entry.kind, 0)
            self._watch(self.rules.adopt(entry.number, number, entry.token, ids[0], time.time()), ids[0])
            logger.info("allocation %d (Slurm job %d) of an earlier start is taken over", entry.number, ids[0])
        self._adopted = True
        if surplus:
            await self.client.cancel(surplus)

    def table(self) -> list[dict[str, Any]]:
        """Return what there is, the oldest first; then what has ended."""
        return [self._row(it) for it in (*self.rules.allocations.values(), *self.rules.ended)]

    def _row(self, it: Allocation) -> dict[str, Any]:
        kind = self.rules.kinds[it.kind]
        cpus = sum(place.cpus for place in it.places.values()) or kind.cpus * kind.nodes
        nodes: Sequence[dict[str, Any]] = [
            {"name": place.name, "state": place.state, "cpus": place.cpus, "busy": place.busy, "why": place.why}
            for place in it.places.values()
        ]
        return {
            "number": it.number,
            "kind": it.asked,
            "state": it.state,
            "slurm_job": it.slurm_job,
            "reason": it.reason,
            "nodes": nodes,
            "cpus": cpus,
            "since": it.since,
            "ends": it.ends,
            "cause": it.cause,
            "log": str(log_of(self._journal.path, it.number)),
        }
