"""The worker's end of the locks: asks the head of the Job over the stream that the worker has anyway.

Guarantees: an async function that waits leaves its event loop free, a plain one blocks; tasks that arrive meanwhile,
because they were prefetched, are kept for later, in order. A function that ends without having released something
need not be thought of here: the head knows which evaluation holds what.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Collection
from typing import Any

from hyperflow.errors import Deadlock, HyperflowError, MisuseError
from hyperflow.locking.manager import inside
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind

CHUNK = 1 << 16


class LockClient:
    """Asks for locks in the name of the evaluation that runs.

    Args:
        sock: The worker's stream.
        reader: Cuts it into frames.
    """

    def __init__(self, sock: socket.socket, reader: frames.Reader) -> None:
        self.task = 0
        """The evaluation that runs."""
        self.later: list[tuple[int, int, memoryview]] = []
        """What has arrived while somebody waited for a lock."""
        self._sock = sock
        self._reader = reader
        self._serial = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._expected = 0
        self._said: dict[str, Any] = {}  # the reply to what is waited for without an event loop
        self._pid = os.getpid()
        self._thread = threading.get_ident()

    async def take(self, keys: Collection[str]) -> int:
        """Wait for some keys, all or none, and return a number for `release`."""
        self._check()
        loop = asyncio.get_running_loop()
        serial = self._request(keys)
        waiting: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.add_reader(self._sock.fileno(), self._on_readable)
        self._waiting[serial] = waiting
        try:
            await waiting
        except BaseException:
            self.release(serial)
            raise
        finally:
            del self._waiting[serial]
            if not self._waiting:
                loop.remove_reader(self._sock.fileno())
        return serial

    def take_blocking(self, keys: Collection[str]) -> int:
        """Do the same without an event loop."""
        self._check()
        self._expected = serial = self._request(keys)
        self._said.clear()
        try:
            while not self._said:
                self._feed(self._sock.recv(CHUNK))
            if (error := _error(self._said)) is not None:
                raise error
        except BaseException:
            self.release(serial)
            raise
        return serial

    def release(self, number: int) -> None:
        """Give back what was taken."""
        self._check()
        self._send({"task": self.task, "release": number})

    def _request(self, keys: Collection[str]) -> int:
        self._serial += 1
        self._send({"task": self.task, "ask": self._serial, "keys": list(keys), "within": inside.get()})
        return self._serial

    def _send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(frames.control(Kind.LOCK_REQUEST, 0, message))

    def _check(self) -> None:
        if os.getpid() != self._pid or threading.get_ident() != self._thread:
            raise MisuseError(
                "a lock is taken and released by the evaluation itself, not by a process or thread that it starts; "
                "take it around what those do"
            )

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        try:
            self._feed(data)
        except HyperflowError as error:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(error)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise HyperflowError("the launcher has gone, and nobody hands out locks any more")
        for kind, worker, body in self._reader.feed(data):
            if kind != Kind.LOCK_REPLY:
                self.later.append((kind, worker, body))
                continue
            said = json.loads(bytes(body))
            waiting = self._waiting.get(said["ask"])
            if said["ask"] == self._expected:
                self._said.update(said)
            elif waiting is not None and not waiting.done():
                error = _error(said)
                if error is None:
                    waiting.set_result(None)
                else:
                    waiting.set_exception(error)


def _error(said: dict[str, Any]) -> HyperflowError | None:
    if "deadlock" in said:
        return Deadlock(*said["deadlock"])
    return HyperflowError(said["error"]) if "error" in said else None
