"""The index of a file: a million keys are ready at once, and it is believed only where it proves itself."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.database import file as files
from hyperflow.database import index, kept
from hyperflow.database.file import DatabaseFile
from hyperflow.errors import DatabaseError
from tests.database import damage


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, pages and what is kept are so short that some hundred entries make many of each."""
    monkeypatch.setattr(files, "RUN", 8)
    monkeypatch.setattr(files, "SHORTEST", 3)
    monkeypatch.setattr(files, "PAGE", 4)
    monkeypatch.setattr(index, "LONGEST", 64)
    monkeypatch.setattr(kept, "MEMORY_BUDGET", 20 * kept.OVERHEAD)


def few(map_name: str, key: str) -> int:
    """Return a check sum that many keys share."""
    return hash((map_name, key)) % 5


def history(path: Path, seed: int) -> dict[tuple[str, str], str]:
    """Insert, look up and reopen at random; every answer is that of a dict. Return what is there at last."""
    chance = random.Random(seed)
    expected: dict[tuple[str, str], str] = {}
    for _ in range(6):
        with closing(DatabaseFile.open(path, "p")) as file:
            for _ in range(chance.randrange(60)):
                new = [(chance.choice("mn"), str(chance.randrange(90)), str(chance.random())) for _ in range(3)]
                if chance.random() < 0.5:
                    file.insert(new)
                    expected |= {(map_name, key): value for map_name, key, value in new}
                    file.tidy()
                else:
                    for map_name, key, _ in new:
                        assert file.lookup(map_name, key) == expected.get((map_name, key))
    return expected


@pytest.mark.parametrize("shares", [False, True])
def test_it_is_a_dict(in_memory: Path, monkeypatch: pytest.MonkeyPatch, shares: bool) -> None:
    """Whatever is inserted, looked up, merged, evicted and opened again; also where keys share a check sum."""
    if shares:
        monkeypatch.setattr(files, "digest", few)
    for seed in range(6):
        path = in_memory / f"db{seed}"
        expected = history(path, seed)
        with closing(DatabaseFile.open(path, "p")) as file:
            found = {(name, str(key)): file.lookup(name, str(key)) for name in "mno" for key in range(90)}
            assert {key: text for key, text in found.items() if text is not None} == expected
            runs = [(run.first, run.last, len(run.entries)) for run in file.index.runs]
            assert all(last - first + 1 == length for first, last, length in runs)
            assert sum(length for *_, length in runs) > file.counts.total.entries - 8
            assert len(runs) < 16


def filled(path: Path, count: int = 100) -> DatabaseFile:
    """Make a file that has runs, and open it again."""
    with closing(DatabaseFile.open(path, "p")) as file:
        for n in range(0, count, 10):
            file.insert([("m", str(key), f"[{key}]") for key in range(n, n + 10)])
            file.tidy()
    return DatabaseFile.open(path, "p")


def test_only_what_is_asked_for_is_read(in_memory: Path) -> None:
    """The first lookup reads the runs, and the page of the entry; a miss reads nothing more."""
    with closing(filled(in_memory / "db")) as file:
        assert file.lookup("m", "none") is None
        seen: list[str] = []
        file.connection.set_trace_callback(seen.append)
        assert file.lookup("m", "other") is file.lookup("n", "5") is None
        assert seen == []
        assert file.lookup("m", "5") == "[5]"
        assert len(seen) == 1
        assert file.kept.get("m", "6") == "[6]"
        assert file.kept.get("m", "50") is None


SPOILT = {
    "no table": "DROP TABLE runs",
    "other columns": "ALTER TABLE runs RENAME COLUMN seal TO sale",
    "the first is missing": "DELETE FROM runs WHERE first = 1",
    "one is missing": "DELETE FROM runs WHERE rowid = (SELECT rowid FROM runs LIMIT 1 OFFSET 1)",
    "another seal": "UPDATE runs SET seal = seal + 1 WHERE first > 1",
    "another place": "UPDATE runs SET first = first + 1",
    "other entries": "UPDATE runs SET entries = zeroblob(length(entries))",
    "another type": "UPDATE runs SET entries = 'text'",
    "beyond the end": "UPDATE runs SET last = last + 1000 WHERE last > 60",
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_run_is_left_aside(in_memory: Path, how: str) -> None:
    """Then the entries are read, all answers are the same, and the index is whole again when the file is closed."""
    path = in_memory / "db"
    filled(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(SPOILT[how])
    for _ in range(2):
        with closing(DatabaseFile.open(path, "p")) as file:
            assert [file.lookup("m", str(n)) for n in range(101)] == [*(f"[{n}]" for n in range(100)), None]
    with closing(DatabaseFile.open(path, "p")) as file:
        file.know()
        assert file.index.waiting < 8


def test_entries_that_vanish(in_memory: Path) -> None:
    """An entry that the index knows and the table has not is an error, and no miss."""
    path = in_memory / "db"
    filled(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE id = 50")
    with closing(DatabaseFile.open(path, "p")) as file:
        assert file.lookup("m", "48") == "[48]"
        with pytest.raises(DatabaseError, match=r"entry 50 of 100 cannot be found.*hyperflow repair"):
            file.lookup("m", "49")


@pytest.mark.parametrize("spoilt", ["map = 'n'", "key = '9999'", "value = '[0]'", "metadata = ''"])
def test_a_damaged_entry(in_memory: Path, spoilt: str) -> None:
    """It is told when it is asked for, once, and an older one of its key counts again."""
    path = in_memory / "db"
    with closing(filled(path)) as file:
        file.insert([("m", "7", "[77]")])
        number = file.counts.total.newest
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE entries SET {spoilt} WHERE id = ?", (number,))
    for _ in range(2):
        with closing(DatabaseFile.open(path, "p")) as file:
            assert [file.lookup("m", "7") for _ in range(2)] == ["[7]", "[7]"]
            assert len(file.damaged) == 1
            assert "is damaged; it counts as absent" in file.damaged[0]


def test_one_byte_of_any_page_where_keys_are_looked_up(in_memory: Path) -> None:
    """It is told, or every answer is the same: as for whole maps, see `test_damage`."""
    whole, path = in_memory / "whole", in_memory / "db"
    filled(whole, 200).close()
    expected = {str(n): f"[{n}]" for n in range(200)} | {"none": None}
    told = tried = 0
    for offset in list(damage.places(whole))[::3]:
        path.write_bytes(whole.read_bytes())
        damage.flip(path, offset)
        tried += 1
        try:
            with closing(DatabaseFile.open(path, "p")) as file:
                found = {key: file.lookup("m", key) for key in expected}
                reports = file.damaged
        except DatabaseError:
            told += 1
            continue
        assert reports or found == expected, f"byte {offset % 4096} of page {offset // 4096 + 1}"
        told += bool(reports)
    assert told > tried / 5
