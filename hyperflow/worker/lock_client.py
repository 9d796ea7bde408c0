"""The lock client: asks the head of the Job for locks and random streams, over the stream that the worker has anyway.

Guarantees: an async function that waits leaves its event loop free, a plain one blocks. Prefetched tasks that arrive
while it waits are kept for later, in order. A function may end without a release: the head knows what each evaluation
holds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Collection

from hyperflow.errors import Deadlock, HyperflowError, MisuseError
from hyperflow.locking.manager import inside, resolve
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import LockReleased, LockReply, LockWanted, StreamReply, StreamWanted
from hyperflow.wire.numbers import LockSerial, TaskNumber, WorkerNumber
from hyperflow.worker.stream import Stream


class LockClient:
    """Asks for locks in the name of the evaluation that runs."""

    def __init__(self, stream: Stream, reader: frames.Reader) -> None:
        self.task = TaskNumber(0)
        """The evaluation that runs."""
        self.later: list[tuple[int, WorkerNumber, memoryview]] = []
        """What has arrived while the evaluation waited for a lock."""
        self._launcher = stream
        self._reader = reader
        self._serial = 0
        self._waiting: dict[LockSerial, asyncio.Future[None]] = {}
        self._expected = LockSerial(0)  # a plain function waits for the reply to this
        self._replies: list[LockReply] = []  # which is put here
        self._stream = StreamReply(TaskNumber(0), ())  # of the evaluation that asked last
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    async def take(self, keys: Collection[str]) -> LockSerial:
        """Acquire some keys, all or none, and return a number for `release`."""
        self._check()
        loop = asyncio.get_running_loop()
        serial = self._request(keys)
        waiting: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._launcher.fileno(), self._on_readable)
        self._waiting[serial] = waiting
        try:
            await waiting
        except BaseException:
            self.release(serial)
            raise
        finally:
            del self._waiting[serial]
            if not self._waiting:
                loop.remove_reader(self._launcher.fileno())
            del waiting  # it knows the error, whose traceback knows this frame
        return serial

    def take_blocking(self, keys: Collection[str]) -> LockSerial:
        """Do the same without an event loop."""
        self._check()
        self._expected = serial = self._request(keys)
        self._replies.clear()
        try:
            while not self._replies:
                self._feed(self._launcher.recv(frames.CHUNK))
            if (error := _error(self._replies[0])) is not None:
                raise error
        except BaseException:
            self.release(serial)
            raise
        return serial

    def release(self, number: int) -> None:
        """Give back what was taken."""
        self._check()
        self._launcher.sendall(messages.framed(LockReleased(self.task, LockSerial(number))))

    def stream(self) -> tuple[int, ...]:
        """Return what the random stream of the evaluation is made of."""
        self._check("a random stream is asked for", "hand a child of it on: seed_sequence().spawn(n)")
        self._launcher.sendall(messages.framed(StreamWanted(self.task)))
        self._stream = StreamReply(TaskNumber(0), ())
        while self._stream.task != self.task:
            self._feed(self._launcher.recv(frames.CHUNK))
        if not self._stream.words:
            raise HyperflowError("the evaluation has ended for the head, and gets no random stream any more")
        return self._stream.words

    def stream_of(self, task: TaskNumber) -> tuple[int, ...]:
        """Return what an evaluation has been told of its random stream; nothing if it has not asked."""
        return self._stream.words if self._stream.task == task else ()

    def _request(self, keys: Collection[str]) -> LockSerial:
        self._serial += 1
        serial, within = LockSerial(self._serial), inside.get()
        wanted = LockWanted(self.task, serial, tuple(keys), LockSerial(within) if within is not None else None)
        self._launcher.sendall(messages.framed(wanted))
        return serial

    def _check(self, done: str = "a lock is taken and released", instead: str = "take it around what those do") -> None:
        if os.getpid() != self._pid or threading.get_ident() != self._thread:
            raise MisuseError(f"{done} by the evaluation itself, not by a process or thread that it starts; {instead}")

    def _on_readable(self) -> None:
        try:
            data = self._launcher.recv(frames.CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        try:
            self._feed(data)
        except HyperflowError as error:
            for waiting in self._waiting.values():
                resolve(waiting, error)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise HyperflowError("the launcher has gone, and nobody hands out locks any more")
        for kind, worker, body in self._reader.feed(data):
            if kind == Kind.STREAM_REPLY:
                self._stream = messages.read(StreamReply, body)
                continue
            if kind != Kind.LOCK_REPLY:
                self.later.append((kind, worker, body))
                continue
            reply = messages.read(LockReply, body)
            waiting = self._waiting.get(reply.serial)
            if reply.serial == self._expected:
                self._replies.append(reply)
            elif waiting is not None:
                resolve(waiting, _error(reply))


def _error(reply: LockReply) -> HyperflowError | None:
    if reply.refusal is None:
        return None
    return HyperflowError(reply.refusal) if reply.cycle is None else Deadlock(reply.refusal, list(reply.cycle))
