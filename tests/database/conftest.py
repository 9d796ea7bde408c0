"""A program and an environment whose evaluator is never asked: the database knows nothing of the engine."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow import environment
from hyperflow.database.store import Store, copy_database, open_database
from hyperflow.environment import Environment
from hyperflow.options import Options
from hyperflow.program import ProgramInfo
from hyperflow.progress.tally import Counted


@attrs.frozen
class NoEvaluator:
    """Stands where the engine would."""

    cpus: int = 1
    maps: set[Counted] = attrs.field(factory=set[Counted])

    def open_map(self, owner: object) -> None:
        """Evaluate nothing in batches."""

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options
    ) -> asyncio.Future[Any]:
        """Refuse: no test of the database evaluates anything."""
        raise NotImplementedError


@asynccontextmanager
async def running(program: ProgramInfo) -> AsyncIterator[Store]:
    """Open the program's database, as running a job does, and put an environment in force."""
    if program.start_from is not None and not Path(program.database).exists():
        copy_database(program.start_from, program.database)
    async with open_database(program.database, program.program_id) as store:
        with environment.entered(Environment(Options(), NoEvaluator(), store, program)):
            yield store


@pytest.fixture
def program(tmp_path: Path) -> ProgramInfo:
    """Make a program with directories of its own."""
    return ProgramInfo.new(tmp_path / "base")


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in memory: thousands of databases are opened, and nobody needs them on a disk."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="hyperflow-damage-") as directory:
        yield Path(directory)
