"""Random histories of jobs, programs, crashes, repeated and late takings: each entry comes once, and the newest counts.

The files are real; only the disk is memory. A history is a list of steps, made from a seed that a failure names.
"""

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from unittest import mock

import attrs
import pytest

from hyperflow.database import ingest as ingesting
from hyperflow.database import layout
from hyperflow.database.file import DatabaseFile
from hyperflow.database.repair import examine

HISTORIES = int(os.environ.get("HYPERFLOW_TEST_HISTORIES", "40"))
STEPS = 40
JOBS = 3
KEYS = "abcd"


class Crash(BaseException):
    """The process ends here."""


@attrs.define
class World:
    """The files of a program and its jobs, and what they have to hold."""

    path: Path
    random: random.Random
    recorded: dict[str, list[str]] = attrs.field(factory=dict)
    """The values that each job was told are recorded, in their order."""
    unknown: dict[str, str] = attrs.field(factory=dict)
    """A value whose job crashed while it recorded it."""
    late: list[tuple[str, ingesting._Piece, object]] = attrs.field(factory=list)
    """Pieces that were read and not yet taken."""
    serial: int = 0

    def file(self, name: str) -> Path:
        """Return where a job's, or the program's, database is."""
        return self.path / name

    def record(self, job: str, crash: bool) -> None:
        """Let a job record a value under one of a few keys; maybe it crashes on the way."""
        self.serial += 1
        value = f"{job} {self.serial}"
        with closing(DatabaseFile.open(self.file(job), job)) as file:
            self._settle(job, file)
            try:
                with crashing(self.random if crash else None):
                    file.insert([("m", self.random.choice(KEYS), value)])
            except Crash:
                self.unknown[job] = value
                file.connection.close()
                return
        self.recorded.setdefault(job, []).append(value)

    def _settle(self, job: str, file: DatabaseFile) -> None:
        """What a crash left is there or not, and stays so."""
        value = self.unknown.pop(job, None)
        there = "SELECT 1 FROM entries WHERE value = ?"
        if value is not None and file.connection.execute(there, (value,)).fetchone():
            self.recorded.setdefault(job, []).append(value)

    def read(self, job: str) -> None:
        """Read a piece, which may be taken much later, or never, or twice."""
        if not self.file(job).exists():
            return
        with closing(DatabaseFile.open(self.file("program"), "program")) as file:
            watermark = file.watermark(job)
        piece = ingesting._read(self.file(job), job, watermark, self.random.random() < 0.5)
        self.late.append((job, piece, watermark))

    def take(self, crash: bool) -> None:
        """Take one of the pieces, in any order; sometimes it stays to be taken again."""
        if not self.late:
            return
        job, piece, since = self.random.choice(self.late)
        if self.random.random() < 0.7:
            self.late.remove((job, piece, since))
        if piece.watermark is None:
            return
        with closing(DatabaseFile.open(self.file("program"), "program")) as file:
            try:
                with crashing(self.random if crash else None):
                    file.ingest(piece.rows, job, since, piece.watermark)  # type: ignore[arg-type]
            except Crash:
                file.connection.close()

    def step(self) -> None:
        """Do something."""
        job = f"job{self.random.randrange(JOBS)}"
        crash = self.random.random() < 0.3
        self.random.choice([lambda: self.record(job, crash), lambda: self.read(job), lambda: self.take(crash)])()

    def check(self) -> None:
        """Take all that is left, and compare."""
        for job in [f"job{n}" for n in range(JOBS)]:
            if not self.file(job).exists():
                continue
            with closing(DatabaseFile.open(self.file(job), job)) as file:
                self._settle(job, file)
            self.late.clear()
            last = False
            while not last:
                self.read(job)
                last = self.late[-1][1].last
                while self.late:
                    self.take(crash=False)
        if not self.file("program").exists():
            return
        with closing(sqlite3.connect(self.file("program"))) as connection:
            rows = connection.execute("SELECT program, value FROM entries ORDER BY id").fetchall()
        for job in {program for program, _ in rows} | set(self.recorded):
            assert [value for program, value in rows if program == job] == self.recorded.get(job, [])
        assert examine(self.file("program")).problems == ()


@contextmanager
def crashing(chance: random.Random | None) -> Iterator[None]:
    """Let the process end in the middle of a transaction, or right after it, before anybody is told."""
    if chance is None:
        yield
        return
    real = layout.Counts.write
    where = chance.choice(["before", "after the counts", "after the commit"])

    def write(self: layout.Counts, connection: sqlite3.Connection, before: layout.Counts) -> None:
        if where == "before":
            raise Crash
        real(self, connection, before)
        if where == "after the counts":
            raise Crash

    def check_present(self: DatabaseFile) -> None:
        raise Crash

    with mock.patch.object(layout.Counts, "write", write):
        if where == "after the commit":
            with mock.patch.object(DatabaseFile, "check_present", check_present):
                yield
        else:
            yield


def history(path: Path, seed: int) -> None:
    """Run one."""
    path.mkdir()
    world = World(path, random.Random(seed))
    for _ in range(world.random.randrange(1, STEPS)):
        world.step()
    world.check()


@pytest.mark.timeout(3600 if HISTORIES > 1000 else 60)
def test_histories(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is killed, repeated or late: the program's database has each job's entries once, in their order."""
    monkeypatch.setattr(ingesting, "PIECE", 3)
    monkeypatch.setattr("hyperflow.database.place.is_local", lambda path: False)  # a rollback journal is faster here
    for seed in range(HISTORIES):
        try:
            history(in_memory / str(seed), seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error


def test_a_broken_order_is_found(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the watermark were not compared before a piece is taken, a history would show it."""
    monkeypatch.setattr(ingesting, "PIECE", 3)
    monkeypatch.setattr("hyperflow.database.place.is_local", lambda path: False)
    monkeypatch.setattr(
        DatabaseFile, "ingest", lambda self, rows, source, since, watermark: self.add(rows, {source: watermark})
    )
    with pytest.raises(AssertionError):
        for seed in range(60):
            history(in_memory / str(seed), seed)
