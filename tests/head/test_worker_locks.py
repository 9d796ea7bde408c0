"""Locks of two workers, in every order in which their messages can cross: one holder at a time, and nobody waits for
ever."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from hyperflow.head.worker_locks import WorkerLocks
from hyperflow.locking.manager import LockManager
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import LockReleased, LockReply, LockWanted
from hyperflow.wire.numbers import LockSerial, TaskNumber, WorkerNumber

ANSWER, WAIT, GIVE_UP = "answer", "wait", "give up"
Step = tuple[Any, ...]


def want(serial: int, *keys: str, within: int | None = None) -> Step:
    """Ask for keys; `WAIT` follows, or not."""
    return ("want", serial, keys, within)


def release(serial: int) -> Step:
    """Give them back."""
    return ("release", serial)


ONE = [want(1, "a"), (WAIT, 1), release(1), (ANSWER,)]
FORGETS = [want(1, "a"), (WAIT, 1), (ANSWER,)]  # the head knows what an evaluation holds
TWO = [want(1, "a", "b"), (WAIT, 1), release(1), (ANSWER,)]
NESTED = [want(1, "a"), (WAIT, 1), want(2, "b", within=1), (WAIT, 2), release(2), release(1), (ANSWER,)]
CROSSED = [want(1, "b"), (WAIT, 1), want(2, "a", within=1), (WAIT, 2), release(2), release(1), (ANSWER,)]
IMPATIENT = [want(1, "a"), release(1), want(2, "a"), (WAIT, 2), release(2), (ANSWER,)]  # gives up before the reply

PAIRS = {
    "one one": (ONE, ONE),
    "forgets one": (FORGETS, ONE),
    "two one": (TWO, ONE),
    "nested two": (NESTED, TWO),
    "nested crossed": (NESTED, CROSSED),
    "impatient one": (IMPATIENT, ONE),
    "impatient crossed": (IMPATIENT, CROSSED),
}


@attrs.define
class Client:
    """A worker: what it has still to do, and what is on its way."""

    number: WorkerNumber
    script: list[Step]
    at: int = 0
    up: deque[tuple[int, bytes]] = attrs.field(factory=deque[tuple[int, bytes]])  # messages to the head
    down: deque[LockReply] = attrs.field(factory=deque[LockReply])
    replies: dict[int, bool] = attrs.field(factory=dict[int, bool])  # serial: granted
    holds: dict[int, tuple[str, ...]] = attrs.field(factory=dict[int, tuple[str, ...]])
    alive: bool = True

    @property
    def has_more(self) -> bool:
        """Whether it lives and has not come to its end."""
        return self.alive and self.at < len(self.script)

    @property
    def can_go_on(self) -> bool:
        """Whether it has something to do now."""
        if not self.has_more:
            return False
        what, *rest = self.script[self.at]
        return what != WAIT or rest[0] in self.replies

    def go_on(self) -> None:
        """Do the next thing."""
        what, *rest = self.script[self.at]
        self.at += 1
        task = TaskNumber(self.number)
        if what == "want":
            serial, keys, within = rest
            self.up.append((Kind.LOCK_WANTED, messages.framed(LockWanted(task, serial, keys, within))))
        elif what == WAIT and self.replies[rest[0]]:
            self.holds[rest[0]] = next(step[2] for step in self.script if step[:2] == ("want", rest[0]))
        elif what == WAIT:  # refused: its function raises, and the evaluation ends
            self.at = len(self.script) - 1
            self.holds.clear()
        elif what == "release":
            self.holds.pop(rest[0], None)
            self.up.append((Kind.LOCK_RELEASED, messages.framed(LockReleased(task, LockSerial(rest[0])))))
        else:
            self.holds.clear()
            self.up.append((Kind.RESULTS, b""))


class Pair:
    """Two workers and the head, at one moment."""

    def __init__(self, scripts: tuple[list[Step], list[Step]], locks: type[WorkerLocks]) -> None:
        self.clients = {WorkerNumber(n): Client(WorkerNumber(n), script) for n, script in enumerate(scripts, 1)}
        self.manager = LockManager()
        scheduler: Any = SimpleNamespace(workers={})
        self.locks = locks(self.manager, scheduler, self._write, lambda _, task: str(task))

    def _write(self, node: str, parts: list[frames.Bytes]) -> None:
        (kind, worker, body), *_ = frames.Reader().feed(bytes(parts[0]))
        assert kind == Kind.LOCK_REPLY
        self.clients[worker].down.append(messages.read(LockReply, body))

    @property
    def all_alive(self) -> bool:
        """Whether nobody has died yet."""
        return all(client.alive for client in self.clients.values())

    def choices(self, deaths: bool) -> list[tuple[str, WorkerNumber]]:
        """Return what may happen next."""
        found = []
        for number, client in self.clients.items():
            found += [("goes on", number)] if client.can_go_on else []
            found += [("is heard", number)] if client.up else []
            found += [("is told", number)] if client.down and client.alive else []
            found += [("dies", number)] if deaths and client.has_more and self.all_alive else []
        return found

    def take(self, choice: tuple[str, WorkerNumber]) -> None:
        """Let it happen."""
        what, number = choice
        client = self.clients[number]
        if what == "goes on":
            client.go_on()
        elif what == "is told":
            reply = client.down.popleft()
            client.replies[reply.serial] = reply.refusal is None
        elif what == "dies":
            client.alive = False
            client.up.append((Kind.ENDED, b""))
        else:
            self._hear(client)

    def _hear(self, client: Client) -> None:
        kind, data = client.up.popleft()
        if kind == Kind.RESULTS:
            self.locks.answered(client.number, TaskNumber(client.number))
        elif kind == Kind.ENDED:
            client.holds.clear()  # until its processes had gone, it may have been at work
            self.locks.worker_gone(client.number)
        else:
            ((_, _, body),) = frames.Reader().feed(data)
            worker: Any = SimpleNamespace(number=client.number, node="n", name=f"worker {client.number}")
            self.locks.on_message(worker, kind, body)

    def seen(self) -> tuple[Any, ...]:
        """Return all that decides what can follow."""
        clients = [
            (c.at, tuple(c.up), tuple(c.down), tuple(c.replies.items()), tuple(c.holds), c.alive)
            for c in self.clients.values()
        ]
        return (*clients, *((r.owner, r.keys, r.stage, len(r.parents)) for r in self.manager.requests.values()))

    def wrong(self) -> str:
        """Return which promise is broken now."""
        one, other = ({key for keys in client.holds.values() for key in keys} for client in self.clients.values())
        return f"both hold {one & other}" if one & other else ""


def explore(scripts: tuple[list[Step], list[Step]], locks: type[WorkerLocks], deaths: bool) -> set[str]:
    """Return what goes wrong in any order."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting: list[tuple[tuple[str, WorkerNumber], ...]] = [()]
    while waiting:
        path = waiting.pop()
        pair = Pair(scripts, locks)
        for choice in path:
            pair.take(choice)
        if wrong := pair.wrong():
            found.add(wrong)
        if (key := pair.seen()) in seen:
            continue
        seen.add(key)
        choices = pair.choices(deaths)
        if not choices:
            left = [client for client in pair.clients.values() if client.has_more]
            found |= {f"worker {client.number} waits for ever" for client in left}
            found |= {f"{request.name} is left behind" for request in pair.manager.requests.values()}
        waiting += [(*path, choice) for choice in choices]
    assert len(seen) > 20
    return found


@pytest.mark.parametrize("deaths", [False, True], ids=["", "one dies"])
@pytest.mark.parametrize("scripts", PAIRS.values(), ids=PAIRS)
def test_every_order(scripts: tuple[list[Step], list[Step]], deaths: bool) -> None:
    """In every order of messages and deaths, a key has one holder, and all who live come to their end."""
    assert explore(scripts, WorkerLocks, deaths) == set()


class Hasty(WorkerLocks):
    """Takes an evaluation's locks back when the next one asks, not when its processes have gone."""

    def _wanted(self, worker: Any, message: LockWanted) -> None:
        for request in list(self._manager.requests.values()):
            if request.owner != (worker.number, message.task):
                self._manager.release(request.number)
        super()._wanted(worker, message)


class Forgetful(WorkerLocks):
    """Does not take back what an evaluation still holds when it ends."""

    def answered(self, worker: WorkerNumber, task: TaskNumber) -> None:
        """Do nothing."""


@pytest.mark.parametrize(("bug", "what"), [(Hasty, "both hold"), (Forgetful, "waits for ever")])
def test_bugs_are_found(bug: type[WorkerLocks], what: str) -> None:
    """The same look finds locks that are freed too early, or never."""
    assert any(what in wrong for wrong in explore((FORGETS, ONE), bug, deaths=False))
