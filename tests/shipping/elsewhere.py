"""A worker in a second process, with nothing between it and the test but packed calls and the wire."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hyperflow.errors import SerializationError
from hyperflow.shipping.arrays import SharedBuffer
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import Packer
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.numbers import NO_WORKER
from hyperflow.worker import worker
from tests.imports import TOP


class Elsewhere:
    """Evaluates calls over there: `with Elsewhere() as there: there.call(fn, x)`."""

    def __init__(self, packer: Packer | None = None) -> None:
        self.packer = packer or Packer()
        self.sent: list[int] = []
        """The numbers of the definitions that went there."""
        self._sock, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TOP), os.environ.get("PYTHONPATH", "")])},
        )
        theirs.close()
        self._sock.settimeout(30)
        self._reader = frames.Reader()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()
        assert self._process.wait(timeout=30) == 0

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a call in a turn of its own, and return its result or raise its error."""
        packed = self.packer.pack(fn, args, kwargs)
        self._give((*packed.needs, packed.function))
        record: list[frames.Bytes] = []
        frames.add_task(record, 1, packed.function.number, packed.payload, packed.buffers)
        self._sock.sendall(b"".join(frames.records_frame(Kind.TASKS, 0, record)))
        received: list[memoryview] = []
        while not received:
            data = self._sock.recv(1 << 18)
            assert data, "the worker has gone"
            received = [body for kind, _, body in self._reader.feed(data) if kind == Kind.RESULTS]  # others measure it
        ((_, outcome, _, payload, buffers),) = frames.results(received[0])
        content = pickle.loads(payload, buffers=buffers)
        if outcome == Outcome.VALUE:
            return content
        if outcome == Outcome.RAISED:
            raise pickle.loads(content[0])
        raise SerializationError(str(content))

    def _give(self, needs: Sequence[Definition | SharedBuffer]) -> None:
        """Send what is not there yet."""
        for need in needs:
            if need.number not in self.sent:
                self.sent.append(need.number)
                if isinstance(need, Definition):
                    self._give(need.needs)
                    self._sock.sendall(frames.frame(Kind.DEFINE, NO_WORKER, need.body()))
                else:
                    place = frames.BLOCK.pack(need.number, need.block.size, os.getpid(), need.block.fd)
                    self._sock.sendall(frames.frame(Kind.BLOCK, NO_WORKER, place))


def run_checks(script: dict[str, Any]) -> None:
    """Run all checks among the globals of a script, and print what became of each."""
    results: dict[str, str] = {}
    for name, check in list(script.items()):
        if name.startswith("check_"):
            try:
                check()
                results[name] = ""
            except BaseException:  # noqa: BLE001 (it is shown)
                results[name] = traceback.format_exc()
    print(json.dumps(results))


def main() -> None:
    """Be the worker."""
    info = worker.WorkerInfo("worker-0@elsewhere", "elsewhere", (0,), False, os.devnull, "test")
    sock = socket.socket(fileno=int(sys.argv[1]))
    os._exit(worker.serve(sock, mmap.mmap(-1, mmap.PAGESIZE), info, False))


if __name__ == "__main__":
    main()
