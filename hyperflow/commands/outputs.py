"""What tasks have written, and how they ended, on the way into the results database.

Guarantees: a task counts as ended when its record, and all that its command has written, is on the disk. What comes
within PAUSE is one batch of the database; what comes by itself goes at once. An evaluation whose posts the disk cannot
take as fast as they come waits: the head holds a few pieces for each worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Generator, Mapping
from typing import Any

from hyperflow import environment
from hyperflow.commands.known import Known
from hyperflow.commands.records import OUTPUT, TASKS, State, TaskRecord, piece_key, piece_text, task_key
from hyperflow.commands.running import TELL_AFTER, Posted, TaskDone, TaskFailed
from hyperflow.commands.under_way import UnderWay
from hyperflow.database.entries import Entry
from hyperflow.errors import DatabaseError, HyperflowError
from hyperflow.saying import in_words

PAUSE = 0.02
"""Seconds between two batches, at least: each costs an fsync, and of short tasks a hundred end meanwhile."""

LONGEST_ERROR = 200
"""Characters of an error in a record."""


class Recorder:
    """Records tasks; made within the Job. It receives what tasks post."""

    def __init__(self) -> None:
        env = environment.current("an array")
        self._database = env.database
        self._receivers = env.evaluator.receivers
        self._receivers[OUTPUT] = self._receive
        self._under_way = UnderWay(env.program.log_dir)
        self._loop = asyncio.get_running_loop()
        self._entries: list[Entry] = []
        self._batch: asyncio.Future[None] | None = None
        self._next = 0.0
        """When the next batch may go, as the loop counts."""

    async def known(self) -> Mapping[tuple[int, str], TaskRecord]:
        """Return what is recorded already, by number and key; the newest record of each number counts."""
        known = Known()
        await self._database.each(TASKS, known.add)
        return known

    def ended(
        self, number: int, key: str, done: TaskDone | BaseException, state: State | None = None
    ) -> Awaitable[TaskRecord]:
        """Record how a task ended; it is on the disk when that is awaited.

        Args:
            number: Of the task.
            key: What it is known by: its command and all that counts for its result.
            done: How its last try ended; an exception where it has failed, or was not run.
            state: Where it does not follow from `done`: "skipped", "cancelled".

        Raises:
            DatabaseError: When it is awaited: it cannot be recorded.
        """
        last = self._under_way.ended(number)
        how: TaskDone | None
        if isinstance(done, TaskFailed):
            how = done.done
            record = _failed(done, state)
        elif isinstance(done, BaseException):
            how, record = None, _lost(done, last, state)
        else:
            how, record = done, _record_of(done, state or ("failed" if done.exit_code else "done"), "")
        if how is not None:
            if how.out:
                self._entries.append((OUTPUT, piece_key(number, how.token, "out", how.out_posted), piece_text(how.out)))
            if how.err:
                self._entries.append((OUTPUT, piece_key(number, how.token, "err", how.err_posted), piece_text(how.err)))
        return Recorded(self._add(TASKS, task_key(number, key), record.text()), record)

    async def close(self) -> None:
        """Wait until all is recorded, and leave no file that tells what runs."""
        if self._receivers.get(OUTPUT) == self._receive:
            del self._receivers[OUTPUT]
        await self._under_way.close()
        if (batch := self._batch) is not None:
            self._hand_over(batch)
            await asyncio.wait([batch])

    def _receive(self, content: Any) -> asyncio.Future[None] | None:
        """Take what a task posts."""
        posted = Posted(*content)
        self._under_way.heard(posted)
        if not posted.stream:
            return None
        key = piece_key(posted.number, posted.token, posted.stream, posted.place)
        return self._add(OUTPUT, key, piece_text(posted.data))

    def _add(self, map_name: str, key: str, text: str) -> asyncio.Future[None]:
        """Put an entry into the batch of this turn of the loop; return what is done when that is on the disk."""
        self._entries.append((map_name, key, text))
        if self._batch is None:
            self._batch = self._loop.create_future()
            if self._next <= self._loop.time():
                self._loop.call_soon(self._hand_over, self._batch)
            else:
                self._loop.call_at(self._next, self._hand_over, self._batch)
        return self._batch

    def _hand_over(self, batch: asyncio.Future[None]) -> None:
        if batch is not self._batch:
            return  # it has gone already
        self._batch, self._next = None, self._loop.time() + PAUSE
        entries, self._entries = self._entries, []
        batch.add_done_callback(_seen)
        try:
            recorded = self._database.record_all(entries)
        except Exception as error:  # noqa: BLE001 (it was closed, say; nobody may wait for ever)
            batch.set_exception(error)
            return

        def done(recorded: asyncio.Future[Any]) -> None:
            if batch.done():
                return
            if recorded.cancelled():
                batch.cancel()
            elif (error := recorded.exception()) is not None:
                batch.set_exception(error)
            else:
                batch.set_result(None)

        recorded.add_done_callback(done)


def _seen(batch: asyncio.Future[None]) -> None:
    """Those who wait for it hear of its error; where it was posts only, nobody does."""
    if not batch.cancelled():
        batch.exception()


class Recorded:
    """A record on its way to the disk. One future for all that goes together: each of its own would take longer."""

    __slots__ = ("_batch", "record")

    def __init__(self, batch: asyncio.Future[None], record: TaskRecord) -> None:
        self._batch = batch
        self.record = record
        """What it will be."""

    def __await__(self) -> Generator[Any, None, TaskRecord]:
        if not self._batch.done():
            yield from asyncio.shield(self._batch).__await__()
        if (error := self._batch.exception()) is not None:
            raise DatabaseError(str(error)) from error  # one for each: a traceback grows where it is raised
        return self.record


def _record_of(done: TaskDone, state: State, error: str) -> TaskRecord:
    return TaskRecord(
        state, done.exit_code, done.seconds, done.cpu_seconds, done.memory, done.node, done.attempt, error,
        done.out_posted + len(done.out), done.err_posted + len(done.err), done.token,
    )  # fmt: skip


def _failed(error: TaskFailed, state: State | None) -> TaskRecord:
    done = error.done
    lines = done.err.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return _record_of(done, state or "failed", (last or error.how)[:LONGEST_ERROR])


def _lost(error: BaseException, said: tuple[Posted, dict[str, int], float] | None, state: State | None) -> TaskRecord:
    """Return the record of a task that did not end by itself, or did not begin."""
    if state is None:
        state = "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
    words = f"{error}" if type(error) is HyperflowError else in_words(error)  # its name says nothing
    words = words.split("\n")[0][:LONGEST_ERROR]
    if said is None:
        return TaskRecord(state, error=words, tries=0 if state in ("skipped", "cancelled") else 1)
    last, ends, since = said
    return TaskRecord(
        state,
        seconds=max(time.time() - since, 0.0) + TELL_AFTER,  # about
        node=last.node,
        tries=last.attempt,
        error=words,
        out=ends.get("out", 0),
        err=ends.get("err", 0),
        token=last.token,
    )
