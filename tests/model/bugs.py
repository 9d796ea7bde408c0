"""Bugs on purpose, one function each: a model that does not notice one of them proves nothing.

Each is a bug that was once in the code, or that somebody could well write. `promise` is what it breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

import hyperflow.files
import hyperflow.master.runner
from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import FLOW, LockManager
from hyperflow.locking.rules import LockRequest, Locks
from hyperflow.master.driver import JobDriver
from hyperflow.master.lifecycle import Epoch, Record, State
from hyperflow.master.rundir import JobDirectory
from hyperflow.master.shared import Shared
from hyperflow.scheduling.choice import Choice
from hyperflow.scheduling.ledger import Account, Ledger
from hyperflow.scheduling.lending import OWES, Lending
from hyperflow.scheduling.reservations import Reservations
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.speculation import Guesses
from hyperflow.scheduling.state import SENT, Task, Worker
from hyperflow.scheduling.tokens import Purse
from hyperflow.scheduling.waiting import Waiting
from hyperflow.slurm.client import SlurmClient
from hyperflow.wire import claim_page
from hyperflow.wire.claim_page import ClaimPage
from tests.model import lifecycle, locks, master, membership, resources, scheduling, slurmctld, speculation


@attrs.frozen
class Bug:
    """A replacement of one function, and what it breaks in which model."""

    name: str
    model: str
    promises: tuple[str, ...]
    owner: Any
    function: str
    wrong: Callable[..., Any]
    first: int = 0
    """The seed to begin with: some bugs show in one of a thousand histories, and a test has no time for all of them."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.owner, self.function, self.wrong)
            yield


# ---- the scheduler --------------------------------------------------------------------------------------------------


def stale_retract(page: Any, below: int) -> int:
    """What was read before it was published counts, though the worker has gone on since."""
    first = page.started + 1
    page.words[ClaimPage.BELOW] = below
    page.words[ClaimPage.FROM] = first
    claim_page.time.sleep(page.SETTLE)
    return int(first)


def kill_and_free(self: Scheduler, worker: Worker) -> None:
    """The CPUs of a worker that is to end are given out before it has ended."""
    _kill(self, worker)
    self._crew.release(worker)


_kill = Scheduler.kill


def retry_of_cancelled(self: Waiting, tasks: list[Task]) -> list[Task]:
    """What comes back is run again, cancelled or not."""
    for task in tasks:
        if task.state is not SENT:
            task.state = SENT
    return _put_back(self, tasks)


_put_back = Waiting.put_back


def blame_the_oldest(self: Scheduler, number: Any, started: Any, task: Any = 0) -> Any:
    """A crash is charged to the oldest task that has no answer, whatever the worker had started."""
    worker = self.workers.get(number)
    oldest = next(iter(worker.queue.values())).seq if worker is not None and worker.queue else started
    return _ended(self, number, oldest)


_ended = Scheduler.ended


def no_reservation(self: Ledger, *_: Any) -> None:
    """A large task that does not fit reserves nothing: smaller ones that are younger pass it for ever."""


# ---- and all that may be asked for ----------------------------------------------------------------------------------


def gpus_for_all(self: Account, place: Any, request: Any, sign: int) -> None:
    """Nobody notes which GPUs are given out."""
    _move(self, place._replace(gpus=()), request, sign)


_move = Account.move


def free_memory(self: Account, request: Any) -> int:
    """Memory that is asked for costs what CPUs cost."""
    return self.capacity.memory * int(request.cpus)


def tokens_stay_away(self: Purse, request: Any) -> None:
    """Tokens do not come back."""


def half_a_gang(self: Reservations, request: Any, avoided: Any = ()) -> Any:
    """One node is enough to begin with."""
    return _find(self, request._replace(nodes=1), avoided)


_find = Reservations.find


def nothing_is_kept(self: Reservations, request: Any, avoided: Any = ()) -> bool:
    """Who asks for more than CPUs waits until it fits by chance."""
    return True


def by_number(self: Choice, keys: Any) -> Any:
    """Who came first goes first, whatever its priority."""
    return min(keys, key=lambda key: self._waiting.queues[key][0].number)


def wait_for_guesses(self: Guesses, task: Any, places: Any, request: Any) -> list[Any]:
    """Who is wanted waits until a speculative task has ended by itself."""
    _promise(self, task, places, request)
    return []


_promise = Guesses.promise


# ---- and nodes that come and go ---------------------------------------------------------------------------------


def blame_anyway(self: Scheduler, name: str, blamed: bool = True) -> Any:
    """What was on a node that is released is a suspect."""
    return _lose_node(self, name)


_lose_node = Scheduler.lose_node


def owes_and_goes_on(self: Lending, name: str, count: int, gpus: Any = ()) -> bool:
    """A node that owes CPUs is not put aside: what becomes free is given out again."""
    _ask_back(self, name, count, gpus)
    if name in self.owed:
        self._pool.take_back(name, OWES)
    return False


_ask_back = Lending.ask_back


def take_too_much(self: Lending, name: str, owed: int, gpus: Any = ()) -> None:
    """All that is free leaves, whatever was asked for."""
    _take(self, name, max(owed, len(self._pool.nodes[name].free)), gpus)


_take = Lending._take


def in_use_after_all(self: Ledger, name: str, why: str = "") -> None:
    """Whatever reason ends for which a node is aside, it is used again."""
    _take_back(self, name, why)
    if name in self.aside:
        for other in list(self._why_aside[name]):
            _take_back(self, name, other)


_take_back = Ledger.take_back


# ---- locks ----------------------------------------------------------------------------------------------------------


def free_all_of_the_owner(self: LockManager, number: int) -> None:
    """An evaluation that releases one of its locks releases all of them: too early."""
    request = self.requests.get(number)  # type: ignore[call-overload]
    owned = self.rules.owned(request.owner) if request is not None and request.owner != FLOW else []
    for one in [*owned, request]:
        if one is not None:
            _release(self, one.number)


_release = LockManager.release


def no_overtaking(self: Locks, others: Any, suspect: bool = False) -> set[Any]:
    """All stand in the queue, also those within another lock."""
    return set()


def forget_the_dead(self: WorkerLocks, worker: Any) -> None:
    """A worker that ends leaves its locks."""


def forget_where_it_was(self: WorkerLocks, worker: Any, task: Any) -> None:
    """An evaluation that is tried again is not within its flow's locks any more. (It was so until a model said it.)"""
    self._submitted.pop(task, None)
    self._manager.gone((worker, task))


async def keep_from_others(self: LockManager, request: LockRequest, outside: Any) -> None:
    """What was released here is not given back to the other Jobs."""
    self._forget(request)


# ---- the life of a job ----------------------------------------------------------------------------------------------


def any_start_counts(self: Record, epoch: Epoch) -> Record:
    """The result of any start of the newest attempt finishes the job."""
    started = self.state in (State.QUEUED, State.RUNNING, State.ENDED)
    return self._moved(State.DONE) if started and epoch.attempt == self.epoch.attempt else self


def news_of_any_attempt(self: Record, attempt: int, restarts: int = 0) -> Record:
    """The end of an older attempt ends the newest one."""
    return self._moved(State.ENDED) if self.state in (State.QUEUED, State.RUNNING) else self


def cancelled_is_forgotten(self: Record) -> Record:
    """A cancelled job is new again when Slurm does not know it."""
    return self._moved(State.NEW) if self.state is not State.DONE else self


# ---- the master -----------------------------------------------------------------------------------------------------


async def guess(self: JobDriver) -> None:
    """A submission whose answer is not known is taken for one that never was."""
    self._put(self.record.not_there())


async def no_question(self: SlurmClient, tokens: Any, *, since: float | None = None) -> dict[str, list[int]]:
    """Nobody looks for the token of a submission whose answer was lost."""
    await asyncio.sleep(0)
    return {token: [] for token in tokens}


async def no_cancel(self: JobDriver) -> None:
    """An earlier attempt is not ended before the next one is submitted."""


def not_written(self: JobDirectory, record: Record) -> None:
    """The record is written when it is at rest; what was in between is not."""
    if record.state is not State.SUBMITTING:
        _write_record(self, record)


_write_record = JobDirectory.write_record


def seen_before_written(self: JobDirectory, record: Record) -> None:
    """The program sees a result whose job is not yet noted as done."""
    if record.state is not State.DONE:
        _write_record(self, record)


async def tell_nobody(self: Shared, records: Any, by_token: bool = False) -> list[int]:
    """Slurm is not told that a job is not wanted any more."""
    return []


def no_sync(path: Any) -> None:
    """Names are not brought to the disk."""


def both_work(directory: Any, epoch: Any, place: Any) -> bool:
    """Whoever starts does the work, whoever has taken the attempt."""
    return True


BUGS = [
    Bug(
        "stale retract",
        "scheduler",
        (scheduling.ONCE, scheduling.IN_PLACE),
        ClaimPage,
        "retract",
        stale_retract,
        first=1500,
    ),
    Bug("CPUs returned early", "scheduler", (scheduling.ALONE, scheduling.RETURNED), Scheduler, "kill", kill_and_free),
    Bug(
        "retry of a cancelled task", "scheduler", (scheduling.CANCELLED_STARTS, scheduling.ONE_PLACE),
        Waiting, "put_back", retry_of_cancelled,
    ),
    Bug("the wrong one is blamed", "scheduler", (scheduling.CHARGED,), Scheduler, "ended", blame_the_oldest),
    Bug("no reservation", "scheduler", (scheduling.STARVED,), Ledger, "most_promising", no_reservation),
    Bug("a GPU for two", "resources", (resources.GPUS_ALONE,), Account, "move", gpus_for_all),
    Bug("memory for nothing", "resources", (resources.MEMORY,), Account, "cost", free_memory, 135),
    Bug("tokens stay away", "resources", (resources.COUNTED,), Purse, "give_back", tokens_stay_away),
    Bug("half a gang", "resources", (resources.TOGETHER,), Reservations, "find", half_a_gang),
    Bug("nothing is kept", "resources", (resources.STARVED,), Reservations, "keep", nothing_is_kept, 4490),
    Bug("no priorities", "resources", (resources.IN_ORDER, resources.IDLE), Choice, "_first", by_number),
    Bug("guesses go on", "speculation", (speculation.NO_LATER,), Guesses, "promise", wait_for_guesses),
    Bug("a release is charged", "membership", (membership.UNCHARGED,), Scheduler, "lose_node", blame_anyway),
    Bug(
        "owed, and given out", "membership", (scheduling.RETURNED, membership.NOT_OURS, membership.NOT_KEPT),
        Lending, "ask_back", owes_and_goes_on,
    ),
    Bug("too much leaves", "membership", (membership.NOT_OURS,), Lending, "_take", take_too_much),
    Bug(
        "drained, and in use", "membership", (scheduling.RETURNED, scheduling.CHOICE),
        Ledger, "take_back", in_use_after_all, 200,
    ),
    Bug("lock freed early", "locks", (locks.EXCLUSIVE,), LockManager, "release", free_all_of_the_owner),
    Bug("no overtaking", "locks", (locks.NO_DEADLOCK,), Locks, "stuck", no_overtaking),
    Bug("a dead owner keeps its locks", "locks", (locks.FREED,), WorkerLocks, "worker_gone", forget_the_dead),
    Bug(
        "a second try is nowhere", "locks", (locks.NO_DEADLOCK,), WorkerLocks, "answered", forget_where_it_was
    ),
    Bug("not given back", "locks", (locks.NO_DEADLOCK,), LockManager, "_give_back", keep_from_others),
    Bug("any start counts", "lifecycle", (lifecycle.NEWEST,), Record, "finished", any_start_counts, 500),
    Bug("news of any attempt", "lifecycle", (lifecycle.GROWS,), Record, "over", news_of_any_attempt),
    Bug(
        "cancelled, and new again", "lifecycle", (lifecycle.CANCELLED_STAYS,),
        Record, "not_there", cancelled_is_forgotten,
    ),
    Bug("submissions are guessed", "master", (slurmctld.ONE_TOKEN,), JobDriver, "_look_up", guess, 80),
    Bug("no look for the token", "master", (slurmctld.ONE_TOKEN,), SlurmClient, "find", no_question, 20),
    Bug("resubmitted, not cancelled", "master", (slurmctld.SIDE_BY_SIDE,), JobDriver, "_end_for_sure", no_cancel, 60),
    Bug("the token is not written", "master", (slurmctld.TOKEN_FIRST,), JobDirectory, "write_record", not_written),
    Bug("seen before written", "master", (master.ACKNOWLEDGED,), JobDirectory, "write_record", seen_before_written),
    Bug("Slurm is not told", "master", (master.KNOWN, slurmctld.SIDE_BY_SIDE), Shared, "end_at_slurm", tell_nobody),
    Bug("names are not synced", "master", (slurmctld.TOKEN_FIRST,), hyperflow.files, "sync_directory", no_sync),
    Bug("both work", "master", (slurmctld.ONE_WORKS,), hyperflow.master.runner, "claim", both_work, 35),
]  # fmt: skip
