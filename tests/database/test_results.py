"""Results for reading: while a program writes, without its classes, from damaged, old and foreign files."""

import asyncio
import enum
import json
import os
import pickle
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy
import psycopg
import pytest

import hyperflow as hf
from hyperflow import flow as flows
from hyperflow.database import Record, place
from hyperflow.database import file as files
from hyperflow.database.entries import DamagedEntry
from hyperflow.database.shown import Arguments
from hyperflow.database.store import open_database
from hyperflow.errors import ConfigurationError, DatabaseError, MisuseError
from hyperflow.flow import Job
from hyperflow.program import ProgramInfo
from tests.database import damage, legacy
from tests.database.conftest import running
from tests.database.test_legacy import same

NOBODY = 65534


class Phase(enum.Enum):
    """Of a result."""

    SOLID = 1
    LIQUID = 2


@attrs.frozen
class Molecule:
    """An argument."""

    name: str
    charge: int = 0


@attrs.frozen
class Energy:
    """A result."""

    total: float
    phase: Phase = Phase.SOLID


@hf.memoize("energy", version=1)
def energy(molecule: Molecule, basis: str, distance: float = 1) -> Job[Energy]:
    """Give a result without an engine."""
    return flows.pure(Energy(len(molecule.name) * distance))


def file_of(program: ProgramInfo) -> Path:
    """Return the database's file."""
    assert isinstance(program.database, Path)
    return program.database


def home_of(program: ProgramInfo) -> Path:
    """Return the run's directory."""
    return program.log_dir.parent


@pytest.fixture
def recorded(program: ProgramInfo) -> ProgramInfo:
    """Make a run with results."""

    async def record() -> None:
        async with running(program):
            for basis in ("sto-3g", "ccpvdz"):
                for name in ("H2", "H2O"):
                    await energy(Molecule(name), basis, 2)
            await hf.KeyValMap[tuple[int, int], float]("grid").insert((1, 2), 0.5)

    asyncio.run(record())
    return program


@pytest.mark.parametrize("local", [True, False], ids=["wal", "journal"])
async def test_while_the_program_runs(program: ProgramInfo, monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    """Each answer has what is recorded by then; the program neither waits nor fails, and closes as always."""
    monkeypatch.setattr(place, "is_local", lambda path: local)
    monkeypatch.setattr(files, "PIECE", 2)
    async with running(program):
        await energy(Molecule("H2"), "sto-3g")
        db = hf.open_results(program)
        found = db.map("energy")
        for number in range(2, 7):
            assert len(found) == number - 1 == len(found.items())
            await energy(Molecule("H2"), "sto-3g", number)
            assert found.get(Molecule("H2"), "sto-3g", number) == Energy(2 * number)
        assert [one.count for one in db.maps()] == [6]
        names = {path.name for path in home_of(program).iterdir()}
    assert {path.name for path in home_of(program).iterdir()} == names - {
        *("results.sqlite-wal", "results.sqlite-shm", "results.sqlite.lock")
    } - {"results.sqlite-journal"}
    assert file_of(program).read_bytes()[18] == 1  # no WAL is left
    assert len(found) == 6


def test_a_reader_does_not_lock_out_the_program(recorded: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a WAL a reader and a commit exclude each other; so nothing is held while what was read is looked at."""
    monkeypatch.setattr(files, "PIECE", 2)
    commits: list[int] = []
    sound = files.is_sound

    def commit_meanwhile(*entry: Any) -> bool:
        with closing(sqlite3.connect(file_of(recorded), timeout=0)) as connection:
            connection.execute("UPDATE entries SET seal = seal")
            connection.commit()
        commits.append(1)
        return sound(*entry)

    monkeypatch.setattr(files, "is_sound", commit_meanwhile)
    assert len(hf.open_results(recorded).map("energy").items()) == 4
    assert len(commits) == 4


def test_what_there_is(recorded: ProgramInfo) -> None:
    """Names, counts, types and an example; a memoized function has its own name and those of its arguments."""
    with hf.open_results(home_of(recorded)) as db:
        first, second = db.maps()
        assert (first.name, first.version, first.kind, first.count) == ("energy", "1", "memoized", 4)
        assert (first.key, first.value) == ("molecule: Molecule, basis: str, distance: float", "Energy")
        assert first.function == f"{__name__}.energy"
        assert first.example == ((Molecule("H2O"), "ccpvdz", 2.0), Energy(6.0))
        assert (second.name, second.key, second.value, second.count) == ("grid", "tuple[int, int]", "float", 1)
        assert second.size == len("0.5")
        for text in (repr(db.maps()), db.maps()._repr_html_(), db._repr_html_()):
            assert "energy" in text
            assert "Molecule" in text
        assert str(file_of(recorded)) in repr(db)


def test_lookups(recorded: ProgramInfo) -> None:
    """By position and by name; an int finds a float; a key of `items` finds its value."""
    db = hf.open_results(recorded)
    found = db.map("energy")
    assert found[Molecule("H2"), "sto-3g", 2] == Energy(4.0)
    assert found.get(Molecule("H2"), basis="sto-3g", distance=2.0) == Energy(4.0)
    assert found.get(Molecule("He"), "sto-3g", 2) is None
    assert (Molecule("He"), "sto-3g", 2) not in found
    with pytest.raises(KeyError):
        _ = found[Molecule("He"), "sto-3g", 2]
    entries = found.items()
    for key, value in entries:
        assert found[key] == value
        assert (key.molecule, key.basis, key.distance) == key
        assert pickle.loads(pickle.dumps(key)).basis == key.basis
    assert list(found) == found.keys()
    assert found.values()[0] == Energy(4.0)
    with pytest.raises(MisuseError, match="molecule, basis, distance"):
        found.get(Molecule("H2"))
    assert db.map("grid")[1, 2] == 0.5
    assert db.map("memoize:energy:1")[Molecule("H2"), "sto-3g", 2] == Energy(4.0)


def test_the_function_itself_brings_its_types(recorded: ProgramInfo) -> None:
    """And its defaults; a KeyValMap its types."""
    db = hf.open_results(recorded)
    assert db.map(energy).get(Molecule("H2"), "sto-3g", distance=2) == Energy(4.0)
    assert db.map(energy).get(Molecule("H2"), "sto-3g") is None  # the default distance is 1
    assert db.map(hf.KeyValMap[tuple[int, int], float]("grid")).items() == [((1, 2), 0.5)]
    with pytest.raises(DatabaseError, match="is not of the type that was given"):
        db.map("energy", value=int).items()


def test_filters(recorded: ProgramInfo) -> None:
    """By value or by a test of it; 2 is 2.0, and True is not 1."""
    found = hf.open_results(recorded).map("energy")
    assert len(found.where(basis="sto-3g")) == 2
    assert len(found.where(distance=2)) == 4
    assert len(found.where(distance=True)) == 0
    assert found.where(molecule=Molecule("H2"), basis=lambda name: name.startswith("cc")).keys() == [
        (Molecule("H2"), "ccpvdz", 2.0)
    ]
    assert found.where(basis="sto-3g").get(Molecule("H2"), "ccpvdz", 2) is None
    with pytest.raises(MisuseError, match="did you mean 'basis'"):
        found.where(base=1)


def test_versions(program: ProgramInfo) -> None:
    """The one that recorded last, or the one that is asked for."""

    async def record() -> None:
        async with running(program):
            for version in (2, 1):
                function = hf.memoize("f", version=version)(lambda x, v=version: flows.pure(10 * v + x))
                await function(1)

    asyncio.run(record())
    db = hf.open_results(program)
    assert db.map("f").version == "1"
    assert db.map("f", version=2).values() == [21]
    with pytest.raises(ConfigurationError, match="no version 3 of 'f'; it has 2, 1"):
        db.map("f", version=3)


def test_frames(recorded: ProgramInfo) -> None:
    """Columns for arguments and result; fields of records have their own."""
    pandas = pytest.importorskip("pandas", reason="frames of pandas need it")
    db = hf.open_results(recorded)
    frame = db.map("energy").where(basis="sto-3g").frame()
    assert list(frame.columns) == ["molecule.name", "molecule.charge", "basis", "distance", "total", "phase"]
    assert list(frame["total"]) == [4.0, 6.0]
    assert isinstance(db.map("grid").frame("pandas"), pandas.DataFrame)
    assert list(db.map("grid").frame().columns) == ["key.0", "key.1", "value"]


def test_frames_of_polars(recorded: ProgramInfo) -> None:
    """The same with polars."""
    pytest.importorskip("polars", reason="frames of polars need it")
    frame = hf.open_results(recorded).map("energy").frame("polars")
    assert frame["total"].to_list() == [4.0, 6.0, 4.0, 6.0]


def test_frames_of_whatever(program: ProgramInfo) -> None:
    """Arrays, None and values of many kinds stay what they are."""
    pytest.importorskip("pandas", reason="frames of pandas need it")
    pytest.importorskip("polars", reason="frames of polars need it")
    values = [numpy.ones((2, 2)), None, {1, 2}, 1j, [1, "a"], 3]

    async def record() -> None:
        async with running(program):
            for number, value in enumerate(values):
                await hf.KeyValMap("any").insert(number, value)

    asyncio.run(record())
    found = hf.open_results(program).map("any")
    for frame in (found.frame("pandas"), found.frame("polars")):
        assert [type(value) for value in frame["value"]] == [type(value) for value in values]
    assert found.info().value == "int | list[int | str] | complex | set[int] | ..."


def test_without_pandas_and_polars(recorded: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to type."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install pandas"):
        hf.open_results(recorded).map("energy").frame()


def test_classes_that_are_not_here(recorded: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shown as data, with the same names of fields; lookups and filters go on working."""
    monkeypatch.delitem(sys.modules, __name__)
    found = hf.open_results(recorded).map("energy")
    key, value = found.items()[0]
    assert value == Record("Energy", {"total": 4.0, "phase": "Phase.SOLID"})
    assert (value.total, value["phase"], key.molecule.name) == (4.0, "Phase.SOLID", "H2")
    assert repr(value) == "Energy(total=4.0, phase='Phase.SOLID')"
    assert found[key] == value
    assert pickle.loads(pickle.dumps(value)) == value
    with pytest.raises(AttributeError, match="it has total, phase"):
        _ = value.energy
    assert len(found.where(molecule=key.molecule)) == 2
    typed = hf.open_results(recorded).map("energy", key=tuple[Molecule, str, float], value=Energy)
    assert typed.items()[0] == ((Molecule("H2"), "sto-3g", 2.0), Energy(4.0))


def test_a_class_that_has_changed(recorded: ProgramInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be made of what is recorded is shown as data, too."""

    @attrs.frozen
    class Other:
        something_else: int

    Other.__qualname__ = "Energy"
    monkeypatch.setattr(sys.modules[__name__], "Energy", Other)
    assert hf.open_results(recorded).map("energy").values()[0].total == 4.0


def test_registered_types_and_unknown_tags(program: ProgramInfo) -> None:
    """Of a type that is not registered here, and of a later version."""

    async def record() -> None:
        async with open_database(file_of(program), "p") as store:
            await store.insert("m", "1", '{"!type":["Money",[3,"EUR"]]}')
            await store.insert("m", "2", '{"!later":[1]}')
            await store.insert("m", "3", '{"!ndarray":["<q9",[1],"AA=="]}')

    asyncio.run(record())
    assert hf.open_results(program).map("m").values() == [
        Record("Money", {"value": [3, "EUR"]}),
        {"!later": [1]},
        {"!ndarray": ["<q9", [1], "AA=="]},
    ]


def test_old_files(tmp_path: Path) -> None:
    """A file of version 1 is read as it is, and stays so; the order of arguments is not in it."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(legacy.__file__).with_suffix(".sql").read_text())
    before = path.read_bytes()
    db = hf.open_results(path)
    maps = db.maps()
    assert sum(one.count for one in maps) > len(legacy.VALUES)
    for one in maps:
        assert len(db.map(one.map_name).items()) == one.count
    for made, (hint, value) in zip(legacy.maps(), legacy.VALUES, strict=True):
        assert same(db.map(made)["k"], value), hint
    with pytest.raises(MisuseError, match="did not note the order"):
        db.map(next(one.name for one in maps if one.kind == "memoized")).get(1, 2, 3)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_bad_names(recorded: ProgramInfo, tmp_path: Path) -> None:
    """What is no map, no run, and no file."""
    db = hf.open_results(recorded)
    with pytest.raises(ConfigurationError, match="no map 'enregy'; did you mean 'energy'"):
        db.map("enregy")
    with pytest.raises(ConfigurationError, match="'nothing' is no run in"):
        hf.open_results("nothing", base_dir=tmp_path)
    with pytest.raises(ConfigurationError, match="there is no results database"):
        hf.open_results(tmp_path / "nothing.sqlite")
    with pytest.raises(ConfigurationError, match="has no results database"):
        hf.open_results(tmp_path)
    with pytest.raises(ConfigurationError, match="not an ordinary file"):
        hf.open_results(os.devnull)
    for function in (db.maps, db.map("energy").items):
        file_of(recorded).rename(tmp_path / "away") if file_of(recorded).exists() else None
        with pytest.raises(ConfigurationError, match="is not there"):
            function()


def test_where_a_run_is(recorded: ProgramInfo, tmp_path: Path) -> None:
    """By id, its beginning, directory, ProgramInfo; program.json names another file; a job's newest start."""
    home = home_of(recorded)
    for which in (recorded.program_id, recorded.program_id[:17], home, str(home), recorded, file_of(recorded)):
        assert hf.open_results(which, base_dir=home.parent).map("grid").values() == [0.5]
    other = tmp_path / "other"
    other.mkdir()
    (other / "program.json").write_text(json.dumps({"database": str(file_of(recorded))}))
    assert hf.open_results(other).where == str(file_of(recorded))
    job = tmp_path / "jobs" / "3"
    job.mkdir(parents=True)
    for start in ("2.0", "10.0", "10.1"):
        (job / f"results.{start}.sqlite").write_bytes(file_of(recorded).read_bytes())
    assert hf.open_results(job).where.endswith("results.10.1.sqlite")


def test_files_that_are_none(tmp_path: Path, recorded: ProgramInfo) -> None:
    """Empty, of somebody else, of a newer version: told, and left as they were."""
    empty, text, foreign, newer = (tmp_path / name for name in ("empty", "text", "foreign", "newer"))
    empty.touch()
    text.write_text("x" * 200)
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE t (a)")
    newer.write_bytes(file_of(recorded).read_bytes())
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute(f"PRAGMA user_version = {place.LAYOUT_VERSION + 1}")
    for path, words in (
        *(
            (empty, "is empty, not a results database"),
            (text, "is not a results database, or its beginning is damaged"),
        ),
        *((foreign, "not one of hyperflow's"), (newer, "newer version of hyperflow")),
    ):
        before = path.read_bytes()
        with pytest.raises(DatabaseError, match=words):
            hf.open_results(path)
        assert path.read_bytes() == before


def test_damage(recorded: ProgramInfo) -> None:
    """Of one value: it counts as absent, with a warning; of the rest: the error that the store gives."""
    path = file_of(recorded)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE entries SET value = '1' WHERE map = 'grid'")
        connection.commit()
    db = hf.open_results(recorded)
    with pytest.warns(DamagedEntry, match="it counts as absent"):
        assert db.map("grid").items() == []
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM entries WHERE id = 2")
        connection.commit()
    with pytest.raises(DatabaseError, match=r"4 entries in it, and 3 of them .* hyperflow repair"):
        db.map("energy").items()
    damage.flip(path, 4096 + 3)
    with pytest.raises(DatabaseError, match="damaged"):
        [db.map(one.name).items() for one in db.maps()]


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Be somebody without rights to write in a directory."""
    directory.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
        directory.chmod(0o700)


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_a_directory_that_cannot_be_written(in_memory: Path, killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a colleague has recorded is read, also what is only in the log that a killed program has left."""
    home = in_memory / "theirs"
    home.mkdir()
    in_memory.chmod(0o755)
    source = in_memory / "source.sqlite"

    async def record() -> None:
        async with open_database(source, "p") as store:
            await store.insert("m", "1", "2")
            for ending in ("", "-wal") if killed else ():
                (home / f"db{ending}").write_bytes(Path(f"{source}{ending}").read_bytes())

    asyncio.run(record())
    if not killed:
        (home / "db").write_bytes(source.read_bytes())
    for path in home.iterdir():
        path.chmod(0o444)
    before = sorted(home.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with as_nobody(home):
        assert hf.open_results(home / "db").map("m").items() == [(1, 2)]
    assert sorted(home.iterdir()) == before


def test_a_transaction_that_a_killed_program_has_left(recorded: ProgramInfo, tmp_path: Path) -> None:
    """What was recorded before it is read, from a copy; the file and its journal stay for the next program."""
    source, target = file_of(recorded), tmp_path / "left" / "db"
    target.parent.mkdir()
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")  # so that what is not committed gets into the file, too
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE entries SET value = '1', key = '7'")
        connection.execute("CREATE TABLE t AS SELECT randomblob(100000)")
        for ending in ("", "-journal"):
            Path(f"{target}{ending}").write_bytes(Path(f"{source}{ending}").read_bytes())
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    assert before["db-journal"]
    assert hf.open_results(target).map("grid").items() == [((1, 2), 0.5)]
    assert {path.name: path.read_bytes() for path in target.parent.iterdir()} == before


async def test_a_file_that_is_just_being_made(tmp_path: Path) -> None:
    """There is no map yet."""
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {place.APPLICATION_ID}")
    db = hf.open_results(path)
    assert db.maps() == []
    assert repr(db.maps()) == "no maps yet"
    with pytest.raises(ConfigurationError, match="It has none yet"):
        db.map("m")


def test_from_another_thread(recorded: ProgramInfo) -> None:
    """A result may be read wherever it is needed."""
    found: list[Any] = []
    db = hf.open_results(recorded)
    thread = threading.Thread(target=lambda: found.extend(db.map("grid").items()))
    thread.start()
    thread.join()
    assert found == [((1, 2), 0.5)]


async def test_a_server(server_url: str, tmp_path: Path) -> None:
    """The same from PostgreSQL, while the program runs; nothing is written there."""
    with pytest.raises(DatabaseError, match="has no results of hyperflow"):
        hf.open_results(server_url)
    program = ProgramInfo.new(tmp_path, database=server_url)
    async with running(program):
        await energy(Molecule("H2"), "sto-3g", 2)
        await energy(Molecule("H2O"), "sto-3g", 2)
        await hf.KeyValMap[int, int]("numbers").insert(1, 2)
        await hf.KeyValMap[int, int]("numbers").insert(1, 3)
        db = await asyncio.to_thread(hf.open_results, program)
        first, second = db.maps()
        assert (first.name, first.count, first.key) == (
            *("energy", 2),
            "molecule: Molecule, basis: str, distance: float",
        )
        assert (second.count, second.size) == (1, 2)
        assert db.map("energy")[Molecule("H2O"), "sto-3g", 2] == Energy(6.0)
        assert db.map("energy").where(molecule=Molecule("H2")).values() == [Energy(4.0)]
        assert db.map("numbers").items() == [(1, 3)]
        assert db.map("numbers").get(2) is None
        origin = db.map("energy").origin(Molecule("H2O"), "sto-3g", 2)
        assert origin is not None
        assert origin.program == program.program_id
    with psycopg.connect(server_url) as connection:
        connection.execute("INSERT INTO hyperflow_layout VALUES (99)")
    with pytest.raises(DatabaseError, match="made by a newer version"):
        db.maps()


def test_arguments_are_tuples_with_names() -> None:
    """They can be keys of a dict, unpacked and compared."""
    key = Arguments((1, "a"), ("x", "y"))
    assert {key: 1}[(1, "a")] == 1
    assert key.asdict() == {"x": 1, "y": "a"}
    assert not hasattr(key, "z")


async def test_ignored_arguments(program: ProgramInfo) -> None:
    """They are not in the key; they still reach the function, which runs once."""
    ran: list[Any] = []

    @hf.memoize("f", ignore=("verbose", "log"), on_change="ignore")
    def f(x: int, verbose: bool = False, *, log: str = "") -> Job[int]:
        ran.append((x, verbose, log))
        return flows.pure(x)

    async with running(program):
        assert await f(1, log="a") == 1
        assert await f(1, True) == 1
        assert await f(x=1) == 1
        assert await f(2) == 2
    assert ran == [(1, False, "a"), (2, False, "")]
    found = hf.open_results(program).map("f")
    assert found.parameters == ["x"]
    assert found.items() == [((1,), 1), ((2,), 2)]
    assert hf.open_results(program).map(f)[2] == 2


def test_defaults_of_ignored_arguments_tell_no_change() -> None:
    """Those of others do."""

    def made(x: int, verbose: bool, log: str) -> Any:
        def f(x: int = x, verbose: bool = verbose, *, log: str = log) -> Job[int]:
            return flows.pure(x)

        return hf.memoize("f", ignore=("verbose", "log"))(f).__memo__  # type: ignore[attr-defined]

    first = made(1, False, "a")
    assert type(first)(*first.__reduce__()[1]).ignore == ("verbose", "log")
    assert made(1, True, "b").fingerprint.text == first.fingerprint.text
    assert made(2, False, "a").fingerprint.text != first.fingerprint.text


@pytest.mark.parametrize("ignore", [("verbos",), "verbose", (1,), 5])
def test_ignored_arguments_have_to_be_there(ignore: Any) -> None:
    """A name that is no parameter is an error at the decoration, and so is a str alone."""

    def f(x: int, verbose: bool = False) -> Job[int]:
        return flows.pure(x)

    with pytest.raises(
        MisuseError, match=r"has no parameter 'verbos'; it has x, verbose|names of parameters are needed"
    ):
        hf.memoize("f", ignore=ignore)(f)
