"""What tests of nodes that join need: a head with a port, and `hyperflow node join` as a real process."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head.engine import Engine, open_engine
from hyperflow.options import Options
from hyperflow.pools.in_engine import InEngine
from hyperflow.pools.joining.listening import Listening
from hyperflow.request import NodeKind


@attrs.define
class Pool:
    """A head whose pool listens."""

    engine: Engine
    listening: Listening
    home: Path

    async def evaluate(self, fn: object, *args: object) -> object:
        """Evaluate a function on whatever node is there; with none, wait for one."""
        return await self.engine.submit(fn, args, {}, Options())  # type: ignore[arg-type]

    @property
    def nodes(self) -> list[str]:
        return sorted(self.engine.fleet.links)


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Pool]:
    """Run a head without nodes, and let nodes join it on this machine."""
    program = hf.ProgramInfo.new(tmp_path)
    home = program.log_dir.parent
    async with open_engine([], program, settings=Settings()) as engine:
        engine.may_come([NodeKind("joined", 64)])
        user = InEngine(engine, Settings())
        async with Listening("127.0.0.1:0", home / "pool", program.log_dir, user) as listening:
            yield Pool(engine, listening, home)


@attrs.define
class Ended:
    """How a process that joined has ended."""

    code: int
    said: str


class Node:
    """A process that joins."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> Ended:
        said, _ = await self.process.communicate()
        return Ended(self.process.returncode or 0, said.decode())


@asynccontextmanager
async def joining(
    access: Path | None, *words: str, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> AsyncIterator[Node]:
    """Run `hyperflow node join`; its end is waited for."""
    process = await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        *("-m", "hyperflow", "node", "join", *([] if access is None else ["--access", str(access)]), *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Node(process)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.communicate()


def copied(access: Path, to: Path, **changes: object) -> Path:
    """Copy an access file as to another machine, with changes, and return where it is."""
    said = json.loads(access.read_text()) | changes
    to.touch(0o600)
    to.write_text(json.dumps(said))
    return to
