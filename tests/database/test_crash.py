"""Crashes: whatever a killed process has acknowledged is there."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hyperflow.database.store import open_database

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import asyncio, os, sys
from hyperflow.database import place
from hyperflow.database.store import open_database
place.is_local = lambda path: sys.argv[3] == "wal"

async def main():
    out = sys.stdout.fileno()
    async with open_database(sys.argv[1], sys.argv[2]) as store:
        async def one(n):
            await store.insert("m", f"{sys.argv[2]}-{n}", str(n) * 100)
            os.write(out, f"{n}\\n".encode())  # the acknowledgement: one write, nothing buffered
        for batch in range(100000):
            await asyncio.gather(*(one(batch * 20 + i) for i in range(20)))
asyncio.run(main())
"""


@pytest.mark.parametrize("journal", ["wal", "rollback"])
async def test_kill_in_a_commit_storm(tmp_path: Path, journal: str) -> None:
    """Writers are killed at random moments, one after the other, on one file: no acknowledged key is missing."""
    path = tmp_path / "db"
    acknowledged: set[str] = set()
    for number in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"w{number}", journal], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        seen = b""
        limit = random.randint(1, 6_000)
        while len(seen) < limit:  # a moment that depends on progress, not on the clock
            data = os.read(writer.stdout.fileno(), 4096)
            assert data, "the writer ended by itself"
            seen += data
        writer.send_signal(signal.SIGKILL)
        seen += writer.communicate()[0]
        acknowledged |= {f"w{number}-{line.decode()}" for line in seen.split(b"\n")[:-1]}
        assert json.loads((tmp_path / "db.lock").read_text())["pid"] == writer.pid

    async with open_database(path, "reader") as store:
        found = dict(await store.lookup_all("m"))
    assert len(acknowledged) > 10
    assert acknowledged <= found.keys()
    assert all(value == key.split("-")[1] * 100 for key, value in found.items())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_interpreter_ends_with_an_open_store(tmp_path: Path) -> None:
    """A script that forgets to close, or whose loop is never closed, ends at once and leaves a closed file."""
    code = (
        "import asyncio, sys\nfrom hyperflow.database.store import open_database\n"
        "loop = asyncio.new_event_loop()\ncontext = open_database(sys.argv[1], 'p')\n"
        "store = loop.run_until_complete(context.__aenter__())\n"
        "loop.run_until_complete(store.insert('m', 'k', '1'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "db")], cwd=ROOT, timeout=20, check=False
    )

    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


async def test_a_forked_child_that_exits_normally(tmp_path: Path) -> None:
    """Its end of the interpreter neither waits for the thread nor removes the lock."""
    async with open_database(tmp_path / "db", "p") as store:
        child = os.fork()
        if child == 0:
            try:
                store.close().send(None)
            except StopIteration:  # without waiting
                store.thread._at_exit()
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert (tmp_path / "db.lock").exists()
        await store.insert("m", "k", "1")
