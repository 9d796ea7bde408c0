"""The lock client: asks the head of the Job for locks and random streams, over the stream that the worker has anyway.

Guarantees: an async function that waits leaves its event loop free, a plain one blocks. Prefetched tasks that arrive
while it waits are kept for later, in order. A function may end without a release: the head knows what each evaluation
holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager

from hyperflow.errors import ConfigurationError, Deadlock, HyperflowError, MisuseError
from hyperflow.locking.manager import inside, resolve
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import (
    FileWanted,
    LockReleased,
    LockReply,
    LockWanted,
    SlotReply,
    SlotWanted,
    StreamReply,
    StreamWanted,
)
from hyperflow.wire.numbers import LockSerial, TaskNumber, WorkerNumber
from hyperflow.worker.stream import Stream


class LockClient:
    """Asks for locks in the name of the evaluation that runs."""

    def __init__(self, stream: Stream, reader: frames.Reader) -> None:
        self.task = TaskNumber(0)
        """The evaluation that runs."""
        self.later: list[tuple[int, WorkerNumber, memoryview]] = []
        """What has arrived while the evaluation waited for a lock."""
        self.at_once: dict[int, Callable[[memoryview], None]] = {}
        """What is not kept for later, by kind."""
        self._launcher = stream
        self._reader = reader
        self._serial = 0
        self._waiting: dict[LockSerial, asyncio.Future[None]] = {}
        self._listeners = 0
        self._expected = LockSerial(0)  # a plain function waits for the reply to this
        self._hearing: list[LockSerial] = []  # who waits for what is dealt with at once
        self._replies: list[LockReply] = []  # which is put here
        self._stream = StreamReply(TaskNumber(0), ())  # of the evaluation that asked last
        self._slot = SlotReply(TaskNumber(0), "")  # the same
        self._files: list[memoryview] = []  # answers to who asks for a file
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    async def take(self, keys: Collection[str]) -> LockSerial:
        """Acquire some keys, all or none, and return a number for `release`."""
        self.check()
        serial = self._request(keys)
        try:
            await self._reply(serial)
        except BaseException:
            self.release(serial)
            raise
        return serial

    async def _reply(self, serial: LockSerial) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        self._waiting[serial] = waiting
        try:
            with self.listening():
                await waiting
        finally:
            del self._waiting[serial]
            del waiting  # it knows the error, whose traceback knows this frame

    async def hear(self) -> None:
        """Wait until something has come for which `at_once` has an answer."""
        self._serial += 1
        serial = LockSerial(self._serial)
        self._hearing.append(serial)
        try:
            await self._reply(serial)
        finally:
            self._hearing.remove(serial)

    def listen(self) -> None:
        """Do the same without an event loop, for anything that comes."""
        self._feed(self._launcher.recv(frames.CHUNK))

    def poll(self) -> None:
        """Take what has come, if there is anything."""
        with contextlib.suppress(BlockingIOError):
            self._feed(self._launcher.recv(frames.CHUNK, socket.MSG_DONTWAIT))

    @contextmanager
    def listening(self) -> Generator[None]:
        """Let the event loop read what the head says, within a scope."""
        loop = asyncio.get_running_loop()
        if not self._listeners:
            loop.add_reader(self._launcher.fileno(), self._on_readable)
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1
            if not self._listeners:
                loop.remove_reader(self._launcher.fileno())

    def say(self, message: messages.Message) -> None:
        """Send a message in the name of the evaluation that runs."""
        self.check("programs on other nodes are started", "start them in it")
        self._launcher.sendall(messages.framed(message))

    def take_blocking(self, keys: Collection[str]) -> LockSerial:
        """Do the same without an event loop."""
        self.check()
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
        self.check()
        self._launcher.sendall(messages.framed(LockReleased(self.task, LockSerial(number))))

    def stream(self) -> tuple[int, ...]:
        """Return what the random stream of the evaluation is made of."""
        self.check("a random stream is asked for", "hand a child of it on: seed_sequence().spawn(n)")
        self._launcher.sendall(messages.framed(StreamWanted(self.task)))
        self._stream = StreamReply(TaskNumber(0), ())
        while self._stream.task != self.task:
            self._feed(self._launcher.recv(frames.CHUNK))
        if not self._stream.words:
            raise HyperflowError("the evaluation has ended for the head, and gets no random stream any more")
        return self._stream.words

    def checkpoint_dir(self) -> str:
        """Return the directory in which the evaluation keeps its state."""
        task = self.task
        if self._slot.task != task:
            self.check("a checkpoint directory is asked for", "call checkpoint_dir() before these start")
            self._launcher.sendall(messages.framed(SlotWanted(task)))
            while self._slot.task != task:
                self._feed(self._launcher.recv(frames.CHUNK))
        if self._slot.refusal:
            raise HyperflowError(self._slot.refusal)
        return self._slot.path

    def file(self, digest: str, size: int, source: str, wrong: str = "") -> memoryview:
        """Ask for a file; return the body of the answer to that (frames.FileHere)."""
        self.check("a file that this node does not see is asked for", "call File.path() before these start")
        self._serial += 1
        serial = self._serial
        self._files.clear()
        self._launcher.sendall(messages.framed(FileWanted(self.task, serial, digest, size, source, wrong)))
        while not (found := [body for body in self._files if frames.NUMBER.unpack_from(body) == (serial,)]):
            self._files.clear()  # answers to a request that a signal has ended
            self._feed(self._launcher.recv(frames.CHUNK))
        self._files.clear()
        return found[0]

    def stream_of(self, task: TaskNumber) -> tuple[int, ...]:
        """Return what an evaluation has been told of its random stream; nothing if it has not asked."""
        return self._stream.words if self._stream.task == task else ()

    def _request(self, keys: Collection[str]) -> LockSerial:
        self._serial += 1
        serial, within = LockSerial(self._serial), inside.get()
        wanted = LockWanted(self.task, serial, tuple(keys), LockSerial(within) if within is not None else None)
        self._launcher.sendall(messages.framed(wanted))
        return serial

    def check(self, done: str = "a lock is taken and released", instead: str = "take it around what those do") -> None:
        """Raise MisuseError in a process or thread that the evaluation has started."""
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
            if (deal := self.at_once.get(kind)) is not None:
                deal(body)
                for serial in self._hearing:
                    resolve(self._waiting[serial], None)
                continue
            if kind == Kind.STREAM_REPLY:
                self._stream = messages.read(StreamReply, body)
                continue
            if kind == Kind.SLOT_REPLY:
                self._slot = messages.read(SlotReply, body)
                continue
            if kind == Kind.FILE_HERE:
                self._files.append(body)
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
    if reply.misconfigured:
        return ConfigurationError(reply.refusal)
    return HyperflowError(reply.refusal) if reply.cycle is None else Deadlock(reply.refusal, list(reply.cycle))
