"""One byte of a database changes: it is told, or no answer is another one."""

import asyncio
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.database import place
from hyperflow.database.ingest import ingest
from hyperflow.database.store import DamagedEntry, Store, open_database
from hyperflow.errors import DatabaseError, HyperflowError
from tests.database import damage

MAPS = ("memoize:energy:1", "m", "work directories")


async def fill(path: Path, count: int = 120) -> None:
    """Record entries of three maps: short ones, long ones, and a few that are newer than others of their key."""
    async with open_database(path, "20260101-000000-abcdef") as store:
        for name in MAPS:
            await asyncio.gather(*(store.insert(name, f"key {n}", f"[{n}]") for n in range(count)))
        await store.insert("m", "long", "x" * 9000)
        await asyncio.gather(*(store.insert("m", f"key {n}", f'"newer {n}"') for n in range(5)))


async def answers(path: Path) -> dict[str, dict[str, str]]:
    """Look everything up, as programs do, and record something more."""
    async with open_database(path, "reader") as store:
        found = {name: dict(await store.lookup_all(name)) for name in MAPS}
        for name in MAPS:
            for key in list(found[name])[::40]:
                assert await store.lookup(name, key) == found[name][key]
        await store.insert("new", "k", "1")
    async with open_database(path, "reader") as store:
        assert await store.lookup("new", "k") == "1"
        assert {name: dict(await store.lookup_all(name)) for name in MAPS} == found
    return found


async def told_or_the_same(path: Path, expected: object, ask: Callable[[Path], object]) -> str:
    """Return how damage was told, "" if the answers are the same; anything else is an error of the test."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = await ask(path)  # type: ignore[misc]
        except HyperflowError as error:
            return str(error)
    told = [str(each.message) for each in seen if issubclass(each.category, DamagedEntry)]
    assert told or found == expected
    return told[0] if told else ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mask", [0xFF, 0x01])
async def test_one_byte_of_any_page(tmp_path: Path, mask: int) -> None:
    """Told before an answer depends on it, wherever it is; most places matter."""
    whole, path = tmp_path / "whole", tmp_path / "db"
    await fill(whole)
    expected = await answers(whole)
    told = tried = 0
    for offset in damage.places(whole):
        shutil.copy(whole, path)
        damage.flip(path, offset, mask)
        tried += 1
        try:
            told += bool(await told_or_the_same(path, expected, answers))
        except Exception as error:
            raise AssertionError(f"byte {offset % 4096} of page {offset // 4096 + 1}") from error

    assert tried > 300
    assert told > tried / 4
