"""Locks between the Jobs of a program, which share nothing but the run directory.

    <run>/locks/
      <digest of a key>/<holder>    a request holds the lock of a key; the file has the key in it, for people
      <digest>.<count>.<place>/<holder>   a request has one place of a semaphore
      queue/<time>,<holder>         a request waits: for what, and in the scope of what
      .<holder>/                    a draft of the first

A holder is one request of one start of a job (or of the master, job 0); its name says which.

Guarantees:
- A lock is taken by renaming a directory that contains the holder's file to the lock's name. This succeeds only if that
  name does not exist or is an empty directory, and for only one of those who try at the same time.
- A lock is released by removing the file under the holder's own name. So a process that finds a holder ended can
  remove what it left, but never what another holder has taken since.
- A semaphore is as many such names as its count; any of them will do. Its count is in the names, so a Job that meets
  another count there raises; where nobody holds one of the other, it cannot know.
- Several locks are taken in the order of their names, all or none. Nobody keeps one while it waits for another.
- First come, first served, by the clocks of the nodes. A request inside the scope of another one does not queue, see
  `locking/rules.py`.
- A cycle of waiting through several Jobs is found in the queue, and its last member is refused. Who waits for a
  semaphore is in one only if all its holders are.

A holder has ended when its process, on this machine, is gone; when its start has left a result, or a later start
exists; when the master has learnt of its end and removed its files. Slurm's word counts: what still runs on a node that
Slurm has given up runs without its locks. While no master runs, the locks of a Job that was killed on another node
stay.

Rejected: flock, which does not work across nodes on every file system; a lease that is renewed, because a Job that
stalls would lose its locks while it works; a lock file that is linked and unlinked, because two that both find its
holder dead cannot take it over safely.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import json
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs

from hyperflow import checked_files, files
from hyperflow.aio import settled
from hyperflow.database.ownership import Owner, started
from hyperflow.environment import Environment
from hyperflow.errors import ConfigurationError, Deadlock
from hyperflow.locking import keys, manager
from hyperflow.locking.manager import LockManager
from hyperflow.locking.rules import LockRequest
from hyperflow.master.lifecycle import Epoch, State
from hyperflow.master.rundir import JobDirectory

T = TypeVar("T")

logger = logging.getLogger("hyperflow")

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two looks at a lock that another request holds."""

NO_EPOCH = Epoch(0)

MASTER = 0
"""The number of the job that is none: flows at the cluster level."""


@attrs.frozen
class Holder:
    """One start of a job, with what others need to tell whether it has ended."""

    job: int
    attempt: int
    restarts: int
    batch_id: int
    machine: str
    pid: int
    started: str
    host: str

    @classmethod
    def this_process(cls, job: int = MASTER, epoch: Epoch = NO_EPOCH, batch_id: int = 0) -> Holder:
        pid = os.getpid()
        host = socket.gethostname().replace(",", "_").replace("/", "_")
        return cls(job, epoch.attempt, epoch.restarts, batch_id, _machine(), pid, started(pid), host)

    def name(self, count: int) -> str:
        """Return the name of this holder's request number `count`."""
        return ",".join(map(str, (*attrs.astuple(self), count)))

    @classmethod
    def from_name(cls, name: str) -> Holder | None:
        """Return the holder that has this name; None if this module has not made it."""
        try:
            job, attempt, restarts, batch_id, machine, pid, start, host, _ = name.split(",")
            return cls(int(job), int(attempt), int(restarts), int(batch_id), machine, int(pid), start, host)
        except ValueError:
            return None

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.attempt, self.restarts)

    def is_gone(self, home: Path) -> bool:
        """Whether it has certainly ended, as far as this process can know."""
        if self.machine == _machine():
            return started(self.pid) != self.started
        if self.job == MASTER:
            owner = Owner.from_text(files.read_text(home / "master.lock"))
            return owner is None or (owner.pid, owner.started) != (self.pid, self.started)
        directory = JobDirectory(home / "jobs" / str(self.job))
        claim = directory.read_claim(self.attempt) or {}
        if directory.result(self.epoch).exists() or claim.get("restarts", 0) > self.restarts:
            return True
        try:
            record = directory.read_record()
        except (OSError, checked_files.Damaged):
            return False
        return record.epoch > self.epoch or record.state in (State.DONE, State.FAILED)


@functools.cache
def _machine() -> str:
    """Return a name for this space of process numbers; elsewhere the same number is another process."""
    facts = [
        socket.gethostname(),
        files.read_text(Path("/etc/machine-id")),
        files.read_text(Path("/proc/sys/kernel/random/boot_id")),
    ]
    with suppress(OSError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()


@attrs.frozen
class Ticket:
    """A request that waits for the locks `wants`, in the scope of the holders `within`; `text` is for errors."""

    wants: tuple[str, ...]
    within: tuple[str, ...]
    text: str


class LockFiles:
    """Takes locks for `me` from the other Jobs of a program; the `Outside` of a lock manager.

    `home` is the run directory; `within` are the holders in whose scope this whole job runs. Private methods block, and
    run in a thread.
    """

    def __init__(self, home: Path, me: Holder, within: Sequence[str] = ()) -> None:
        self._home = home
        self._place = home / "locks"
        self._queue = self._place / "queue"
        self._me = me
        self._within = tuple(within)
        self._one_at_a_time = threading.Lock()
        self._known: dict[str, Ticket] = {}
        self._mine: dict[int, tuple[str, Ticket]] = {}  # tickets of requests
        self._suspect: dict[int, list[str]] = {}  # cycles that were seen once

    async def take(self, request: LockRequest) -> None:
        """Wait until nobody else has the keys, and take them, all or none."""
        pause = FIRST_PAUSE
        try:
            while not await _in_thread(self._try, request):
                await asyncio.sleep(pause * random.uniform(0.7, 1.3))
                pause = min(1.6 * pause, LONGEST_PAUSE)
        except BaseException:
            await _in_thread(self._give_back, request, False)
            raise
        finally:
            self._suspect.pop(request.number, None)

    async def give_back(self, request: LockRequest) -> None:
        """Let others have them; where the file system fails, try again for a while."""
        for pause in (0.1, 0.5, 2.0):
            try:
                await _in_thread(self._give_back, request, True)
            except OSError:
                await asyncio.sleep(pause)
            else:
                return
        await _in_thread(self._give_back, request, False)

    def name(self, number: int) -> str:
        """Return the name under which a request holds its locks."""
        return self._me.name(number)

    def _try(self, request: LockRequest) -> bool:
        with self._one_at_a_time:
            self._place.mkdir(mode=0o700, exist_ok=True)
            self._queue.mkdir(mode=0o700, exist_ok=True)
            names = {_name(key): key for key in sorted(request.keys, key=_name)}
            for key in request.keys:
                self._check_count(key)
            if self._is_behind(request, names.keys()):
                self._line_up(request, tuple(names))
                return False
            if not self._take_all(names, request.number):
                self._line_up(request, tuple(names))
                self._look_for_cycle(request)
                return False
            self._leave_queue(request)
            for key in request.keys:  # of two that take it with different counts at the same time, one sees the other
                self._check_count(key)
            return True

    def _check_count(self, key: str) -> None:
        """Raise if anybody has a place of this semaphore under another count."""
        name, count = keys.split(key)
        if name == key:
            return
        digest, _, _ = _name(key).partition(".")
        for found in _names(self._place):
            told = found.split(".")
            if told[0] == digest and int(told[1]) != count and self._is_held(found):
                raise ConfigurationError(keys.two_counts(name, count, int(told[1])))

    def _take_all(self, names: Mapping[str, str], number: int) -> bool:
        taken: list[str] = []
        for name, key in names.items():
            place = next((one for one in _places(name) if self._take_one(one, key, number)), None)
            if place is None:
                for one in taken:
                    _release(self._place / one, self.name(number))
                return False
            taken.append(place)
        return True

    def _take_one(self, name: str, key: str, number: int) -> bool:
        """Take one lock, unless a holder that has not ended has it."""
        if self._is_held(name):
            return False
        holder = self.name(number)
        draft = self._place / f".{holder}"
        draft.mkdir(mode=0o700, exist_ok=True)
        (draft / holder).write_text(key + "\n")
        try:
            os.rename(draft, self._place / name)
        except OSError as error:
            (draft / holder).unlink()
            draft.rmdir()
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _is_held(self, name: str) -> bool:
        for found in _names(self._place / name):
            holder = Holder.from_name(found)
            if holder is None or not holder.is_gone(self._home):
                return True
            logger.warning("a lock of job %d was taken over: that start of it has ended", holder.job)
            _release(self._place / name, found)
        return False

    def _give_back(self, request: LockRequest, had_it: bool) -> None:
        with self._one_at_a_time:
            for key in request.keys:
                mine = self.name(request.number)
                if not any(_release(self._place / one, mine) for one in _places(_name(key))) and had_it:
                    logger.warning(
                        "the lock of %s was taken from us: somebody believed that this job had ended", keys.shown(key)
                    )
            self._leave_queue(request)

    def _is_behind(self, request: LockRequest, names: Iterable[str]) -> bool:
        """Whether earlier requests wait for as many places of one of these locks as are free."""
        if request.parents or self._within:
            return False
        mine, _ = self._mine.get(request.number, (None, None))
        earlier = Counter(
            want for name, ticket in self._tickets() if mine is None or name < mine for want in ticket.wants
        )
        return any(
            earlier[name] and earlier[name] >= sum(not self._is_held(place) for place in _places(name))
            for name in names
        )

    def _line_up(self, request: LockRequest, wants: tuple[str, ...]) -> None:
        if request.number in self._mine:
            return
        within = (*(self.name(parent.number) for parent in request.parents), *self._within)
        job = "the Cluster" if self._me.job == MASTER else f"job {self._me.job}"
        name = f"{time.time_ns():020d},{self.name(request.number)}"
        ticket = Ticket(wants, within, f"{request.name} (in {job}) waits for {request.shown}")
        self._mine[request.number] = name, ticket
        files.write_whole(self._queue / name, json.dumps(attrs.asdict(ticket)).encode(), durable=False)

    def _leave_queue(self, request: LockRequest) -> None:
        name, _ = self._mine.pop(request.number, (None, None))
        if name is not None:
            (self._queue / name).unlink(missing_ok=True)

    def _tickets(self) -> Iterator[tuple[str, Ticket]]:
        """Yield the tickets of holders that have not ended, the oldest first."""
        names = sorted(_names(self._queue))
        self._known = {name: self._known[name] for name in names if name in self._known}
        for name in names:
            holder = Holder.from_name(name.partition(",")[2])
            if holder is None or name.startswith("."):  # the second one is a draft
                continue
            if holder.is_gone(self._home):
                (self._queue / name).unlink(missing_ok=True)
                continue
            if name not in self._known:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    told = files.from_json((self._queue / name).read_bytes())
                    self._known[name] = Ticket(tuple(told["wants"]), tuple(told["within"]), str(told["text"]))
            if name in self._known:
                yield name, self._known[name]

    def _look_for_cycle(self, request: LockRequest) -> None:
        """Refuse a request that is the last in a cycle of waiting, once that has been seen twice."""
        mine, ticket = self._mine[request.number]
        if not ticket.within:
            return
        tickets = {**dict(self._tickets()), mine: ticket}
        cycle, is_last = self._cycle(mine, tickets)
        suspect = self._suspect.get(request.number)
        self._suspect[request.number] = cycle
        if cycle and cycle == suspect and is_last:
            lines = [f"{tickets[name].text}, which the next one holds, or what it is within" for name in cycle]
            raise Deadlock(f"{request.name} wants {request.shown}", lines)

    def _cycle(self, mine: str, tickets: dict[str, Ticket]) -> tuple[list[str], bool]:
        """Return the names of tickets that wait for each other in a cycle through this one, as few as possible.

        And whether this is the last one of all that are in any cycle with it: else each of two that hold the places of
        a semaphore, and want one more, would find that it waits for itself, and both would be refused.
        """
        stuck = self._stuck(tickets)
        if mine not in stuck:
            return [], False
        after = {name: self._waits_for(name, tickets, stuck) for name in stuck}
        paths = {mine: [mine]}
        todo = [mine]
        for name in todo:
            for other in after[name] - paths.keys():
                paths[other] = [*paths[name], other]
                todo.append(other)
        cycle = next((path for name, path in paths.items() if mine in after[name]), [])
        with_mine = {mine}
        while more := {name for name in paths.keys() - with_mine if not after[name].isdisjoint(with_mine)}:
            with_mine |= more
        return cycle, mine == max(with_mine)

    def _waits_for(self, mine: str, tickets: Mapping[str, Ticket], others: Iterable[str]) -> set[str]:
        """Return which of the other tickets are within a holder of what this one wants; maybe this one itself."""
        places = (place for name in tickets[mine].wants for place in _places(name))
        holders = {holder for place in places for holder in _names(self._place / place)}
        return {other for other in others if not holders.isdisjoint(tickets[other].within)}

    def _stuck(self, tickets: Mapping[str, Ticket]) -> set[str]:
        """Return which tickets are left when all that can get what they want have got it, and their holders ended."""
        wanted = {name for ticket in tickets.values() for name in ticket.wants}
        holders = {name: [_names(self._place / place) for place in _places(name)] for name in wanted}
        stuck = set(tickets)
        before = -1
        while before != len(stuck):
            before = len(stuck)
            bound = {holder for one in stuck for holder in tickets[one].within}
            full = {name for name, places in holders.items() if all(not bound.isdisjoint(place) for place in places)}
            stuck = {one for one in stuck if not full.isdisjoint(tickets[one].wants)}
        return stuck


def share(env: Environment, home: Path, me: Holder, within: Sequence[str] = ()) -> None:
    """Make the locks of an environment hold in the whole program."""
    if isinstance(env.evaluator.locks, LockManager):
        env.evaluator.locks.share(LockFiles(home, me, within))


def scope(env: Environment) -> list[str]:
    """Return the holders in whose scope this code runs."""
    locks = env.evaluator.locks
    if not isinstance(locks, LockManager) or not isinstance(locks.outside, LockFiles):
        return []
    number = manager.scope()
    request = locks.requests.get(number) if number is not None else None
    return [locks.outside.name(one.number) for one in (request, *request.parents)] if request is not None else []


def sweep(home: Path, ended: Callable[[Holder], bool]) -> None:
    """Remove the files of ended holders; for the master, which knows which ones have ended."""
    place = home / "locks"
    for name in _names(place):
        for found in _names(place / name):
            holder = Holder.from_name(found.partition(",")[2] if name == "queue" else found)
            if holder is not None and ended(holder):
                if name == "queue":
                    (place / name / found).unlink(missing_ok=True)
                else:
                    _release(place / name, found)


def _release(lock: Path, holder: str) -> bool:
    """Remove a holder's file from a lock; return whether it was there."""
    try:
        (lock / holder).unlink()
    except FileNotFoundError:
        return False
    with suppress(OSError):  # another process has it already
        lock.rmdir()
    return True


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _name(key: str) -> str:
    """Return the name of a lock; of a semaphore, what the names of its places begin with."""
    name, count = keys.split(key)
    digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
    return digest if name == key else f"{digest}.{count}"


def _places(name: str) -> Iterator[str]:
    """Yield the names that a lock's or semaphore's holders may have."""
    _, semaphore, count = name.partition(".")
    return (f"{name}.{place}" for place in range(int(count))) if semaphore else iter((name,))


async def _in_thread(work: Callable[..., T], *args: Any) -> T:
    """Run in a thread, and return only when it has ended, even if cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        await settled(running)
    except asyncio.CancelledError:
        _ = running.cancelled() or running.exception()  # counts as seen: nobody is left to tell
        raise
    try:
        return running.result()
    finally:
        del running  # it knows the error, whose traceback knows this frame
