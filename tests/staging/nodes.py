"""Nodes on this machine that share nothing with the head but their stream: no memory, no scratch directory."""

import contextlib
import hashlib
import os
import shlex
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.head import link
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.transports.process import Connection, Receiver, Spawned


class Apart:
    """A launcher in a scratch directory of its own, which other launchers reach at 127.0.0.1."""

    within_job = False

    def __init__(self, node: str, scratch: Path, before: str = "") -> None:
        self.node = node
        self.scratch = scratch
        self.before = before
        """Lines of a shell, in mounts of its own."""
        self.pid = 0

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start it."""
        self.scratch.mkdir(exist_ok=True)
        if self.before:
            command = ["unshare", "-m", "sh", "-ec", f"{self.before}\nexec {shlex.join(command)}"]
        variables = {**os.environ, "TMPDIR": str(self.scratch), "SSH_CONNECTION": "127.0.0.1 1 127.0.0.1 22"}
        with Spawned(command, log_file, variables) as process:
            return await process.connect(receiver)


@contextlib.asynccontextmanager
async def nodes(
    place: Path, patch: pytest.MonkeyPatch, count: int = 2, *, cpus: int = 1, before: str = "", **settings: Any
) -> AsyncIterator[hf.JobEnv]:
    """Open a job on so many nodes of some CPUs each, n0, n1, ..."""
    patch.setattr(link, "is_shared", lambda offer: False)
    apart = [Apart(f"n{number}", place / f"scratch-{number}", before) for number in range(count)]
    plans = [NodePlan(each, cpus, shared=True) for each in apart]
    program = hf.ProgramInfo.new(place / "run")
    async with open_job(plans, program, settings=Settings(**settings), preload=[]) as env:
        yield env


def engine_of(env: hf.JobEnv) -> Engine:
    """Return the engine of an environment."""
    assert isinstance(env.evaluator, Engine)
    return env.evaluator


def made(path: Path, size: int) -> str:
    """Write a file, and return its digest."""
    data, left = os.urandom(min(size, 1 << 16)), size
    with path.open("wb") as file:
        while left > 0:
            left -= file.write(data[:left])
    return file_digest(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
