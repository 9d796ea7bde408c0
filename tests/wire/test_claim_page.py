"""A worker and its launcher agree which tasks are started, whatever the order in which their processors see things."""

import contextvars
import math
import pickle
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from hyperflow.wire import claim_page, frames
from hyperflow.wire.answer_ring import PLACE
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.frames import Outcome
from hyperflow.wire.numbers import Seq
from hyperflow.worker import quick
from hyperflow.worker.measure import Sums
from hyperflow.worker.quick import QuickLoop, Rare
from hyperflow.worker.worker import Worker
from tests.stepping import Log, Party, Words, explore

STARTED, FROM, BELOW = ClaimPage.STARTED, ClaimPage.FROM, ClaimPage.BELOW
SENT = "sent"
"""The word that says how many tasks the launcher has passed on."""

Retract = Callable[[ClaimPage, Seq], Seq]
Run = Callable[[Any, Any], None]


def launcher(retract: Retract, batches: list[int]) -> Party:
    """A launcher that passes tasks on, and retracts all of them after each batch."""

    def party(words: Words, log: Log) -> None:
        page = object.__new__(ClaimPage)
        page.words = words  # type: ignore[assignment]
        sent = 0
        for count in batches:
            sent += count
            words[SENT] = sent
            log.append((retract(page, Seq(sent + 1)), sent + 1))

    return party


def worker(run_all: Run, batches: list[int]) -> Party:
    """A worker that runs each batch when it has come."""

    def party(words: Words, log: Log) -> None:
        made = object.__new__(Worker)
        made.claims = SimpleNamespace(words=words)  # type: ignore[assignment]
        made.seq, made.in_chunks, made.leaving = 0, 0, ""
        made.lock_client = SimpleNamespace(later=[])  # type: ignore[assignment]
        made.stream = SimpleNamespace()  # type: ignore[assignment]
        made.sums = Sums()
        made.log = SimpleNamespace(name="", function="")  # type: ignore[assignment]
        made.poll = lambda: None  # type: ignore[method-assign]

        def answer(_: Any, outcome: Outcome, __: float, data: bytes) -> None:
            assert outcome == Outcome.SKIPPED
            log.append(("skipped", *frames.SIZE.unpack(data)))

        made.answer = answer  # type: ignore[assignment, method-assign]
        made.run = lambda *_: log.append(("ran", made.seq))  # type: ignore[assignment, method-assign]
        for count in batches:
            assert words[SENT, made.seq + count]
            run_all(made, count)

    return party


def quickly(self: Any, count: Any) -> None:
    """A worker in its quick loop."""

    class Ring:
        words, page, size, written, taken = self.claims.words, bytearray(PLACE + 1000), 1000, 0, 0

    nothing = SimpleNamespace(partial=[])
    stream: Any = SimpleNamespace(ring=Ring, told=0, woken=math.inf)
    traces: Any = SimpleNamespace(threads=math.inf, surroundings=SimpleNamespace(before={}))
    log: Any = SimpleNamespace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", nothing)
        patch.setattr(sys, "stderr", nothing)
        patch.setattr(quick, "time", SimpleNamespace(perf_counter=lambda: 0.0))
        arrivals: Any = SimpleNamespace(visitors={})
        loop = QuickLoop(stream, self.claims, log, SimpleNamespace(), traces, arrivals, (nothing, nothing))  # type: ignore[arg-type]

        def evaluate() -> None:
            self.seq = log.task
            self.run()

        tasks = iter([(pickle.dumps(()),)] * count)
        while last := loop.run(evaluate, contextvars.Context(), self.seq + 1, tasks):
            assert last.why is Rare.TAKEN_BACK
            self.seq = self.claims.words[STARTED]
            self.answer(0, Outcome.SKIPPED, 0.0, frames.SIZE.pack(self.seq))


def wrong(batches: list[int], retract: Retract = ClaimPage.retract, run_all: Run = Worker.run_all) -> set[str]:
    """Return what goes wrong in any history that can be."""
    total = sum(batches)
    found: set[str] = set()

    def told(words: Words, log: Log) -> None:
        patch.setattr(claim_page, "time", SimpleNamespace(sleep=lambda _: words.settle()))
        launcher(retract, batches)(_Sends(words), log)  # type: ignore[arg-type]

    def hears(words: Words, log: Log) -> None:
        worker(run_all, batches)(_Hears(words), log)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "tasks", lambda count: [(0, 0, b"", [])] * count)
        histories = list(explore([told, hears], blocked=lambda word, value: word[0] == SENT and not value))
    assert len(histories) > len(batches)  # it has really explored
    for retracted, done in histories:
        ran = [seq for what, seq in done if what == "ran"]
        skipped = [seq for what, seq in done if what == "skipped"]
        back = {seq for boundary, below in retracted for seq in range(boundary, below)}
        if sorted(ran + skipped) != list(range(1, total + 1)):
            found.add(f"not each once: ran {ran}, skipped {skipped}")
        found |= {f"{seq} runs twice" for seq in back.intersection(ran)}
    return found


class _Sends:
    """The words of the launcher: each number of tasks that were sent is a word of its own, which is set once."""

    def __init__(self, words: Words) -> None:
        self.words = words

    def __getitem__(self, word: Any) -> int:
        return self.words[(word,)]

    def __setitem__(self, word: Any, value: int) -> None:
        if word == SENT:
            self.words[SENT, value] = 1
        else:
            self.words[(word,)] = value

    def settle(self) -> None:
        self.words.settle()


class _Hears(_Sends):
    """The words of the worker."""

    def __getitem__(self, word: Any) -> int:
        return self.words[word] if isinstance(word, tuple) else self.words[(word,)]


@pytest.mark.parametrize("batches", [[1], [4], [1, 1], [2, 1], [1, 2], [2, 2], [1, 1, 1]], ids=str)
def test_no_task_runs_twice_and_none_is_lost(batches: list[int]) -> None:
    """In every interleaving, a task that was retracted has not run, and each other one has."""
    assert wrong(batches) == set()
    assert wrong(batches, run_all=quickly) == set()


def stale(page: ClaimPage, below: Seq) -> Seq:
    """The bug that once was: what was read before it was published counts, though the worker has gone on."""
    first = Seq(page.started + 1)
    page.words[BELOW] = below
    page.words[FROM] = first
    claim_page.time.sleep(page.SETTLE)
    return first


def hasty(page: ClaimPage, below: Seq) -> Seq:
    """Does not wait until all processors have seen the writes."""
    page.words[BELOW] = below
    page.words[FROM] = page.started + 1
    return Seq(page.started + 1)


def looks_first(self: Any, body: Any) -> None:
    """A worker that looks whether a task is retracted before it says that it starts it."""
    words = self.claims.words
    for _ in frames.tasks(body):
        self.seq += 1
        retracted = words[FROM] <= self.seq < words[BELOW]
        words[STARTED] = self.seq
        if retracted:
            self.answer(0, Outcome.SKIPPED, 0.0, frames.SIZE.pack(self.seq))
        else:
            self.run()


def forgets(page: ClaimPage, below: Seq) -> Seq:
    """Forgets what it retracted before, while the worker is just looking at it."""
    page.words[BELOW] = below
    page.words[FROM] = page.started + 1
    claim_page.time.sleep(page.SETTLE)
    return Seq(page.started + 1)


@pytest.mark.parametrize("bug", [stale, hasty, forgets])
def test_bugs_of_a_launcher_are_found(bug: Retract) -> None:
    """The same look finds the stale read, and two other bugs. (`forgets` was in the code until this test was there.)"""
    assert "1 runs twice" in wrong([1, 1], retract=bug)


def test_bug_of_a_worker_is_found() -> None:
    """It finds a worker that looks too early."""
    assert "1 runs twice" in wrong([2], run_all=looks_first)
