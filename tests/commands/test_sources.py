"""What is recorded of an array, in the databases of its run and its jobs, while entries go from these to that."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.commands import sources, under_way
from hyperflow.commands.form import Form
from hyperflow.commands.history import Followed, History, own_records
from hyperflow.commands.keys import key_of
from hyperflow.commands.reading import read_numbers
from hyperflow.commands.records import OUTPUT, TASKS, TaskRecord, piece_key, piece_text, task_key
from hyperflow.commands.spec import ArraySpec
from hyperflow.commands.under_way import Running
from hyperflow.commands.written import Written
from hyperflow.database.entries import DamagedEntry
from hyperflow.database.ingest import ingest
from hyperflow.database.store import Store, open_database
from hyperflow.errors import DatabaseError

RUN = "20261122-120000-abcdef"


async def _record(store: Store, number: int, code: int, token: str, *pieces: bytes) -> None:
    place = 0
    for piece in pieces:
        await store.insert(OUTPUT, piece_key(number, token, "out", place), piece_text(piece))
        place += len(piece)
    record = TaskRecord("failed" if code else "done", code, out=place, token=token, node="node1")
    await store.insert(TASKS, task_key(number, "key"), record.text())


def _output(home: Path, number: int) -> bytes:
    with sources.opened(home) as opened:
        written = Written("out", None)
        written.look(opened)
        record = History(opened, 10, {}).record(number)
        token = record.token if record else written.newest(number)
        return b"".join(data for _, data in written.read(opened, number, token))


async def test_a_job_that_records_in_a_file_of_its_own(tmp_path: Path) -> None:
    """Each task is there once, before its entries come into the run's database, in between, and afterwards."""
    home = tmp_path / RUN
    own = home / "jobs" / "1" / "results.1.0.sqlite"
    own.parent.mkdir(parents=True, mode=0o700)
    with sources.opened(home) as opened:
        assert not list(opened)
    async with open_database(home / "results.sqlite", RUN) as run, open_database(own, f"{RUN}-1-1.0") as job:
        assert isinstance(run, Store)
        assert isinstance(job, Store)
        await _record(job, 1, 0, "1a", b"one ", b"two")
        assert _output(home, 1) == b"one two"
        await ingest(run, own, f"{RUN}-1-1.0")
        with sources.opened(home) as opened:
            assert len(opened) == 1  # all of it has been taken
        assert _output(home, 1) == b"one two"
        await _record(job, 2, 1, "2b", b"wrong")
        await _record(job, 2, 0, "3c", b"right")
        with sources.opened(home) as opened:
            counts = History(opened, 3, {}).counts()
        assert {state: count for state, count in counts.items() if count} == {"done": 2, "waiting": 1}
        assert _output(home, 1) == b"one two"
        assert _output(home, 2) == b"right"
        await ingest(run, own, f"{RUN}-1-1.0")
    assert _output(home, 2) == b"right"


async def test_a_task_is_followed_across_databases(tmp_path: Path) -> None:
    """What has come since is read, each piece once, though the file that it was in is read no more."""
    home = tmp_path / RUN
    own = home / "jobs" / "1" / "results.1.0.sqlite"
    own.parent.mkdir(parents=True, mode=0o700)
    written, task, end = Written("out", {1}), Followed(1), 0
    seen = b""

    def look() -> str:
        nonlocal end, seen
        with sources.opened(home) as opened:
            state = task.look(opened, None).state
            written.look(opened)
            for place, data in written.read(opened, 1, written.newest(1), end):
                assert place == end
                seen, end = seen + data, place + len(data)
        return state

    async with open_database(home / "results.sqlite", RUN) as run, open_database(own, f"{RUN}-1-1.0") as job:
        assert isinstance(run, Store)
        assert look() == "waiting"
        for place in range(0, 40, 4):
            await job.insert(OUTPUT, piece_key(1, "1a", "out", place), piece_text(b"%04d" % place))
            if place % 3 == 0:
                await ingest(run, own, f"{RUN}-1-1.0")
            assert look() == "waiting"
        assert isinstance(job, Store)
        await job.insert(TASKS, task_key(1, "key"), TaskRecord("done", 0, out=40, token="1a").text())
        assert look() == "done"
    assert seen == b"".join(b"%04d" % place for place in range(0, 40, 4))


async def test_damage_is_told(tmp_path: Path) -> None:
    """A flipped byte in a piece is no output: it is reported, and the rest comes."""
    home = tmp_path / RUN
    home.mkdir(mode=0o700)
    async with open_database(home / "results.sqlite", RUN) as run:
        assert isinstance(run, Store)
        await _record(run, 1, 0, "1a", b"one", b"x" * 5_000, b"three")
    with closing(sqlite3.connect(home / "results.sqlite")) as connection:
        connection.execute("UPDATE entries SET value = replace(value, 'xxx', 'xyx') WHERE id = 2")
        connection.commit()
    with pytest.warns(DamagedEntry, match="entry 2"):
        assert _output(home, 1) == b"onethree"


def test_what_runs(tmp_path: Path) -> None:
    """It is told by the file of its job; one that is cut off, or no such file, tells of nothing."""
    file = tmp_path / under_way.NAME
    assert under_way.read(file) == {}
    file.write_text('{"7": ["node1", 1.5, 2, "1a"]}')
    assert under_way.read(file) == {7: Running("node1", 1.5, 2, "1a")}
    history = History([], 9, under_way.read(file))
    assert history.state(7) == "running"
    assert list(history.numbers("waiting")) == [1, 2, 3, 4, 5, 6, 8, 9]
    for text in ('{"7": ["node1"', "[]", '{"7": 3}', '{"x": ["node1", 1.5, 2, "1a"]}', ""):
        file.write_text(text)
        assert under_way.read(file) == {}


async def test_a_question_about_one_task(tmp_path: Path) -> None:
    """It is answered by that task's entries alone; that others are missing is noticed all the same."""
    home = tmp_path / RUN
    home.mkdir()
    async with open_database(home / "results.sqlite", RUN) as store:
        assert isinstance(store, Store)
        for number in (1, 11, 2, 1):
            await _record(store, number, 0, f"{number}a", b"of ", str(number).encode())
    with sources.opened(home) as opened:
        (source,) = opened
        assert [entry.number for entry in source.scan_of(TASKS, 1)] == [3, 12]
        assert [entry.number for entry in source.scan_of(TASKS, 1, 3)] == [12]
        found = History(opened, 20, {}, only=[1])
        assert {state: count for state, count in found.counts().items() if count} == {"done": 1, "waiting": 19}
        written = Written("out", {1})
        written.look(opened)
        assert [data for _, data in written.read(opened, 1, "1a")] == [b"of ", b"1"]
        assert not list(written.read(opened, 11, "11a"))
    with closing(sqlite3.connect(home / "results.sqlite")) as connection, connection:
        connection.execute("DELETE FROM entries WHERE id = 6")
    with sources.opened(home) as opened, pytest.raises(DatabaseError, match="3 of them can be found"):
        list(opened[0].scan_of(TASKS, 1))


async def test_records_of_another_array(tmp_path: Path) -> None:
    """Where an array began with an earlier database, what that says of another command does not count."""
    home = tmp_path / RUN
    (home / "array").mkdir(parents=True)
    spec = ArraySpec("numbers", read_numbers("1-2"), Form(("echo", "{n}"), "/base", ("n",)))
    assert own_records(home, spec) is None
    (home / "array" / "database").write_text("earlier")
    async with open_database(home / "results.sqlite", RUN) as store:
        assert isinstance(store, Store)
        await store.insert(TASKS, task_key(1, key_of(("true",), "")), TaskRecord("done", 0).text())
        own = key_of(("echo", "2"), spec.task(2).cwd)
        await store.insert(TASKS, task_key(2, own), TaskRecord("done", 0).text())
    with sources.opened(home) as opened:
        assert History(opened, 2, {}, own_records(home, spec)).counts()["done"] == 1
        followed = [Followed(number, own_records(home, spec)).look(opened, None).state for number in (1, 2)]
    assert followed == ["waiting", "done"]
