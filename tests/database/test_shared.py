"""The shared store: a real PostgreSQL server, many writers, nothing lost when it goes away for a while."""

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from hyperflow._job import job, run_job_local
from hyperflow.database import KeyValMap, memoize, new_work_dir
from hyperflow.database import server as servers
from hyperflow.database.entries import SCHEMA_VERSION
from hyperflow.database.store import DamagedEntry, open_database
from hyperflow.errors import ConfigurationError, DatabaseError
from hyperflow.events import reader
from hyperflow.flow import Job
from hyperflow.program import ProgramInfo
from hyperflow.remote import remote_eval
from tests import helpers
from tests.database import damage
from tests.database.conftest import running
from tests.postgres import Server

ROOT = Path(__file__).resolve().parents[2]


def on_server(postgres: Server) -> list[tuple[str, str, str, str]]:
    """Read what every process would see now."""
    return postgres.admin("SELECT map, key, value, program FROM hyperflow_entries ORDER BY id", database="test")


async def test_insert_and_lookup(postgres: Server, server_url: str) -> None:
    """What was inserted is committed when insert returns, and is found; what was not is None."""
    async with open_database(server_url, "p1") as store:
        assert await store.lookup("m", "k") is None
        await store.insert("m", "k", "1")
        assert on_server(postgres) == [("m", "k", "1", "p1")]
        assert await store.lookup("m", "k") == "1"
        assert await store.lookup("other", "k") is None


async def test_newest_wins_and_nothing_is_overwritten(postgres: Server, server_url: str) -> None:
    """A later program shadows an earlier one's value; both stay."""
    async with open_database(server_url, "p1") as store:
        await store.insert("m", "a", "1")
        await store.insert("m", "b", "2")
    async with open_database(server_url, "p2") as store:
        await store.insert("m", "a", "3")
        assert await store.lookup("m", "a") == "3"
        assert await store.lookup_all("m") == [("a", "3"), ("b", "2")]
        assert await store.lookup_all("other") == []

    assert [row[2:] for row in on_server(postgres)] == [("1", "p1"), ("2", "p1"), ("3", "p2")]


async def test_others_results_are_seen_at_once(server_url: str) -> None:
    """What one program records, another one finds that has looked for it in vain, and one that knew an older value."""
    async with open_database(server_url, "p1") as first, open_database(server_url, "p2") as second:
        assert await first.lookup("m", "k") is None
        await second.insert("m", "k", "1")
        assert await first.lookup("m", "k") == "1"
        await second.insert("m", "k", "2")
        assert await first.lookup("m", "k") == "2"
        assert await first.lookup_all("m") == [("k", "2")]


async def test_batches(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for at one moment is one commit and one round trip; each gets its own answer."""
    asked: list[int] = []
    for name in ("insert", "lookup"):
        real = getattr(servers.Server, name)

        def counting(self: servers.Server, items: list[Any], real: Any = real) -> Any:
            asked.append(len(items))
            return real(self, items)

        monkeypatch.setattr(servers.Server, name, counting)
    async with open_database(server_url, "p") as store:
        await asyncio.gather(*(store.insert("m", str(n), str(n * n)) for n in range(1000)))
        keys = [*range(1500), *range(500)]
        found = await asyncio.gather(*(store.lookup("m", str(n)) for n in keys))

    assert found == [str(n * n) if n < 1000 else None for n in keys]
    assert asked == [1000, 2000]


async def test_hard_texts(postgres: Server, server_url: str) -> None:
    """Keys beyond what an index takes, tabs, quotes, backslashes and all of Unicode come back as they were."""
    texts = ["", "x" * 100_000, "tab\tnewline\nback\\slash \\N \\.", "'; DROP TABLE hyperflow_entries; --", "Ωμέγα 😀"]
    async with open_database(server_url, "p") as store:
        await asyncio.gather(*(store.insert(text, text, text) for text in texts))
        assert [await store.lookup(text, text) for text in texts] == texts
        assert [await store.lookup_all(text) for text in texts] == [[(text, text)] for text in texts]


async def test_impossible_texts(server_url: str) -> None:
    """They are refused, and the others that are recorded at the same moment are not disturbed."""
    async with open_database(server_url, "p") as store:
        bad, good, worse = await asyncio.gather(
            store.insert("m", "nul\0", "1"),
            store.insert("m", "k", "1"),
            store.insert("m", "half \ud800", "1"),
            return_exceptions=True,
        )
        assert good is None
        assert isinstance(bad, DatabaseError)
        assert isinstance(worse, DatabaseError)
        assert await store.lookup_all("m") == [("k", "1")]


async def test_damaged_entries(postgres: Server, server_url: str) -> None:
    """They are reported and count as absent; an older, sound entry counts again."""
    async with open_database(server_url, "p") as store:
        for key, value in (("a", "1"), ("a", "2"), ("b", "3")):
            await store.insert("m", key, value)
        postgres.admin("UPDATE hyperflow_entries SET value = '4' WHERE value IN ('2', '3')", database="test")

        with pytest.warns(DamagedEntry, match="entry 2 of map 'm', key 'a'"):
            assert await store.lookup("m", "a") == "1"
        with pytest.warns(DamagedEntry, match="entry 3 of map 'm', key 'b'"):
            assert await store.lookup("m", "b") is None
        with pytest.warns(DamagedEntry):
            assert await store.lookup_all("m") == [("a", "1")]


async def test_closing_records_what_is_queued(postgres: Server, server_url: str) -> None:
    """Also when those who asked were cancelled; afterwards the store says that it was closed."""
    async with open_database(server_url, "p") as store:
        inserts = [asyncio.ensure_future(store.insert("m", str(n), "1")) for n in range(100)]
        await asyncio.sleep(0)
        for each in inserts[:50]:
            each.cancel()
    assert len(on_server(postgres)) == 100
    assert all(each.done() for each in inserts)
    with pytest.raises(DatabaseError, match="was closed"):
        await store.lookup("m", "1")


async def test_many_open_an_empty_database_at_once(postgres: Server, server_url: str) -> None:
    """One makes the tables, and all can use them."""

    async def use(n: int) -> None:
        async with open_database(server_url, f"p{n}") as store:
            await store.insert("m", str(n), "1")

    await asyncio.gather(*(use(n) for n in range(12)))
    assert sorted(row[1] for row in on_server(postgres)) == sorted(str(n) for n in range(12))
    assert postgres.admin("SELECT version FROM hyperflow_layout", database="test") == [(SCHEMA_VERSION,)]


WRITER = """
import asyncio, os, sys
from hyperflow.database.store import open_database

async def main():
    async with open_database(sys.argv[1], sys.argv[2]) as store:
        async def one(n):
            await store.insert("m", str(n), f"{sys.argv[2]} {n}")
            os.write(1, f"{sys.argv[2]} {n}\\n".encode())  # the acknowledgement
        for batch in range(int(sys.argv[3])):
            await asyncio.gather(*(one(batch * 20 + i) for i in range(20)))
asyncio.run(main())
"""


def start_writer(url: str, program_id: str, batches: int) -> "subprocess.Popen[bytes]":
    """Start a process that inserts batches of 20, and prints what is recorded."""
    command = [sys.executable, "-c", WRITER, url, program_id, str(batches)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


async def read_lines(writer: "subprocess.Popen[bytes]", count: int) -> None:
    """Read some of what a writer says, which waits until it has got so far."""
    assert writer.stdout is not None
    for _ in range(count):
        assert await asyncio.to_thread(writer.stdout.readline), "the writer ended by itself"


async def test_two_writers(postgres: Server, server_url: str) -> None:
    """Processes that write the same keys at a time lose nothing, and all see the same newest values."""
    writers = [start_writer(server_url, f"w{n}", 50) for n in range(2)]
    for writer in writers:
        out, _ = await asyncio.to_thread(writer.communicate)
        assert writer.returncode == 0
        assert out.count(b"\n") == 1000

    written = on_server(postgres)
    assert sorted(row[2] for row in written) == sorted(f"w{w} {n}" for w in range(2) for n in range(1000))
    newest = {key: value for _, key, value, _ in written}
    async with open_database(server_url, "p1") as first, open_database(server_url, "p2") as second:
        assert dict(await first.lookup_all("m")) == newest
        assert {key: await second.lookup("m", key) for key in list(newest)[::50]} == dict(list(newest.items())[::50])


async def test_a_writer_that_is_killed(postgres: Server, server_url: str) -> None:
    """What it was told is recorded is there."""
    writer = start_writer(server_url, "w", 1_000_000)
    assert writer.stdout is not None
    seen = b"".join([await asyncio.to_thread(writer.stdout.readline) for _ in range(2000)])
    writer.kill()
    seen += writer.communicate()[0]
    acknowledged = {line.decode() for line in seen.split(b"\n")[:-1]}

    assert len(acknowledged) >= 2000
    await helpers.wait_until(lambda: not postgres.backends("test"), 20, "the server notices")
    assert acknowledged <= {row[2] for row in on_server(postgres)}


@pytest.mark.parametrize("how", ["terminated", "killed", "restarted"])
async def test_a_connection_that_is_lost(postgres: Server, server_url: str, how: str) -> None:
    """A backend that is ended or killed, or a server that is restarted, delays the writer; each entry is there once."""
    writer = start_writer(server_url, "w", 150)
    for _ in range(3):
        await read_lines(writer, 400)
        if how == "restarted":
            postgres.stop()
            postgres.start()
        else:
            await helpers.wait_until(postgres.answers, 20, "the server has recovered")  # it ends all after a kill
            (backend,) = await helpers.wait_until(lambda: postgres.backends("test"), 20, "the writer is connected")
            if how == "killed":
                os.kill(backend, signal.SIGKILL)
            else:
                postgres.admin("SELECT pg_terminate_backend(%s)", backend)
            await helpers.wait_until(lambda pid=backend: not helpers.alive(pid), 20, "the backend ends")
    await asyncio.to_thread(writer.communicate)

    assert writer.returncode == 0
    await helpers.wait_until(postgres.answers, 20, "the server has recovered")
    assert sorted(int(row[1]) for row in on_server(postgres)) == list(range(3000))


async def test_an_answer_that_is_lost(postgres: Server, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that has happened, though the connection broke before it was told, is not repeated."""
    real = servers.Server._retried
    runs: list[bool] = []

    def losing(self: servers.Server, doing: str, run: Any) -> Any:
        def once(connection: Any) -> None:
            runs.append(True)
            run(connection)
            if len(runs) == 1:
                connection.close()
                raise psycopg.OperationalError("the connection was lost")

        return real(self, doing, once)

    async with open_database(server_url, "p") as store:
        monkeypatch.setattr(servers.Server, "_retried", losing)
        await asyncio.gather(*(store.insert("m", str(n), "1") for n in range(10)))

    assert len(runs) == 2
    assert [row[1] for row in on_server(postgres)] == [str(n) for n in range(10)]


async def test_a_server_that_stays_away(postgres: Server, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the calls fail, and name the server; when it is there again the same store goes on."""
    monkeypatch.setattr(servers, "RETRY_SECONDS", 0.2)
    async with open_database(server_url, "p") as store:
        await store.insert("m", "a", "1")
        postgres.stop()
        try:
            with pytest.raises(DatabaseError, match=r"cannot write to postgresql://anna@.*tried for 0\.2 s"):
                await store.insert("m", "b", "1")
            with pytest.raises(DatabaseError, match="cannot read postgresql://anna@"):
                await store.lookup("m", "a")
        finally:
            postgres.start()
        assert await store.lookup("m", "a") == "1"
        await store.insert("m", "b", "2")

    assert [row[1] for row in on_server(postgres)] == ["a", "b"]


STOPPED = ["idle", "copying"]


@pytest.mark.parametrize("moment", STOPPED)
async def test_a_backend_that_hangs(postgres: Server, server_url: str, moment: str) -> None:
    """It is given up after a while, and another one goes on; what it had comes once, also when it wakes up later."""
    async with asyncio.timeout(40), open_database(server_url, "p", 4.0) as store:
        await store.insert("m", "k", "old")
        (backend,) = postgres.backends("test")
        inserts = []
        if moment == "copying":
            inserts = [asyncio.ensure_future(store.insert("m", str(n), "x" * 1_000_000)) for n in range(60)]
            await asyncio.sleep(0)
        with damage.stopped(backend):
            await store.insert("m", "k", "new")
            assert await store.lookup("m", "k") == "new"
            await asyncio.gather(*inserts)
        await helpers.wait_until(lambda: not helpers.alive(backend), 20, "the one that woke up ends")
        assert await store.lookup("m", "k") == "new"

    assert sorted(row[2] for row in on_server(postgres) if row[1] == "k") == ["new", "old"]
    assert len(on_server(postgres)) == 2 + len(inserts)


@pytest.mark.parametrize("how", ["insert", "lookup", "lookup_all"])
async def test_a_server_that_hangs(postgres: Server, server_url: str, how: str) -> None:
    """When all of it is silent, calls and closing end with an error that names it, all of them in the time of one."""
    arguments = {"insert": ("m", "k", "1"), "lookup": ("m", "k"), "lookup_all": ("m",)}[how]
    with pytest.raises(DatabaseError) as caught:
        async with asyncio.timeout(25), open_database(server_url, "p", 2.0) as store:
            pids = [*postgres.backends("test"), postgres.pid]
            with damage.stopped(*pids):
                calls = [getattr(store, how)(*arguments) for _ in range(20)]
                found = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(each) for each in found} == {DatabaseError}
                assert server_url in str(found[-1])
                await store.close()
                raise found[0]
    assert server_url in str(caught.value)
    assert "silent" in str(caught.value) or "timeout" in str(caught.value)


async def test_cancelling_while_the_server_hangs(postgres: Server, server_url: str) -> None:
    """One cancel is enough: closing is bounded."""

    async def use() -> None:
        async with open_database(server_url, "p", 2.0) as store:
            started.set_result([*postgres.backends("test"), postgres.pid])
            await go_on.wait()
            await store.insert("m", "k", "1")

    started: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    go_on = asyncio.Event()
    task = asyncio.create_task(use())
    with damage.stopped(*await started):
        go_on.set()
        await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(40):
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_server_that_is_away_at_the_start(postgres: Server, server_url: str) -> None:
    """It is waited for, as during the run."""
    postgres.stop()
    try:
        opening = asyncio.create_task(use_once(server_url, 30.0))
        await asyncio.sleep(0.2)
        assert not opening.done()
    finally:
        postgres.start()
    assert await opening == "1"


async def test_waiting_for_a_server_can_be_interrupted(tmp_path: Path) -> None:
    """A cancel ends it at once, long before the time is up."""
    url = f"postgresql://anna@{quote(str(tmp_path), safe='')}/nowhere"
    opening = asyncio.create_task(use_once(url, 600.0))
    await asyncio.sleep(0.05)
    opening.cancel()
    async with asyncio.timeout(40):
        with pytest.raises(asyncio.CancelledError):
            await opening


async def use_once(url: str, patience: float) -> str | None:
    """Open a database, and record and read something."""
    async with open_database(url, "p", patience) as store:
        await store.insert("m", "k", "1")
        return await store.lookup("m", "k")


SET_BACK = "SELECT setval(pg_get_serial_sequence('hyperflow_entries', 'id'), 1, false)"


@pytest.mark.parametrize("when", ["opened", "connected again"])
async def test_a_sequence_that_was_set_back(postgres: Server, server_url: str, when: str) -> None:
    """It is mended by who may, so that what is recorded is the newest."""
    async with open_database(server_url, "p") as store:
        for n in range(20):
            await store.insert("m" if n % 2 else "n", "k", str(n))
        if when == "connected again":
            postgres.admin(SET_BACK, database="test")
            for backend in postgres.backends("test"):
                postgres.admin("SELECT pg_terminate_backend(%s)", backend)
            await store.insert("m", "k", "newest")
            assert await store.lookup("m", "k") == "newest"
    if when == "opened":
        postgres.admin(SET_BACK, database="test")
        async with open_database(server_url, "q") as store:
            await store.insert("m", "k", "newest")
            assert await store.lookup("m", "k") == "newest"
            assert await store.lookup("n", "k") == "18"


async def test_a_sequence_that_another_has_to_mend(postgres: Server, server_url: str) -> None:
    """Who may only insert is refused, and told what to type; that mends it."""
    stranger = postgres.url("test", "stranger")
    async with open_database(server_url, "p") as store:
        for n in range(20):
            await store.insert("m", "k", str(n))
    postgres.admin("CREATE ROLE stranger LOGIN")
    postgres.admin("GRANT SELECT, INSERT ON hyperflow_entries, hyperflow_layout TO stranger", database="test")
    postgres.admin(SET_BACK, database="test")
    try:
        with pytest.raises(DatabaseError, match=r"older results would count as newer.*SELECT setval") as caught:
            async with open_database(stranger, "p"):
                pass
        postgres.admin(str(caught.value).partition("psql: ")[2], database="test")
        async with open_database(stranger, "p") as store:
            await store.insert("m", "k", "newest")
            assert await store.lookup("m", "k") == "newest"
    finally:
        postgres.admin("DROP OWNED BY stranger", database="test")
        postgres.admin("DROP ROLE stranger")


@pytest.mark.parametrize(
    ("inserts", "order"),
    [(1, "DELETE FROM hyperflow_entries"), (1, "DROP TABLE hyperflow_entries"), (0, "DROP TABLE hyperflow_entries")],
)
async def test_a_server_without_what_was_acknowledged(
    postgres: Server, server_url: str, inserts: int, order: str
) -> None:
    """After a failover to a server that does not have the last entries, nobody goes on as if they were there."""
    async with open_database(server_url, "p") as store:
        for number in range(inserts):
            await store.insert("m", "k", str(number))
        postgres.admin(order, database="test")
        for backend in postgres.backends("test"):
            postgres.admin("SELECT pg_terminate_backend(%s)", backend)
        with pytest.raises(DatabaseError, match="is not there any more"):
            await store.lookup("m", "k")


async def test_no_such_server_or_database(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are told before any work starts, with what to type; a server that is not there is waited for."""
    monkeypatch.setattr(servers, "RETRY_SECONDS", 0.2)
    with pytest.raises(DatabaseError, match=r"cannot connect to .*nowhere.*No such file"):
        async with open_database(f"postgresql://anna@{quote(str(tmp_path), safe='')}/nowhere", "p"):
            pass
    with pytest.raises(DatabaseError, match=r'database "nowhere" does not exist.*createdb'):
        async with open_database(postgres.url("nowhere"), "p"):
            pass
    with pytest.raises(ConfigurationError, match="colour"):
        async with open_database("postgresql://anna@localhost/db?colour=red", "p"):
            pass


async def test_passwords(postgres: Server, server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read from the password file; a missing or wrong one is told without being shown."""
    url = postgres.url("test", "guarded")
    postgres.admin("GRANT CREATE ON SCHEMA public TO guarded", database="test")
    passwords = tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    for content in ("", "*:*:*:guarded:wrong-horse\n"):
        passwords.write_text(content)
        passwords.chmod(0o600)
        with pytest.raises(DatabaseError, match=r"cannot connect to .*guarded.*pgpass") as caught:
            async with open_database(url, "p"):
                pass
        assert "horse" not in "".join(traceback.format_exception(caught.value))
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    passwords.write_text("*:*:*:guarded:correct-horse\n")
    async with open_database(url, "p") as store:
        await store.insert("m", "k", "1")
        assert "horse" not in repr(store)
    assert "horse" not in postgres.log()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@host/db",
        "postgres://user:s3cret@host:5432/db",
        "postgresql://user:a/s3cret@host/db",
        "postgresql://user:a?s3cret@host/db",
        "postgresql://user:a#s3cret@host/db",
        "postgresql://user:s3cret",
        "postgresql://host:s3cret/db",
        "postgresql://host/db?user=x&password=s3cret",
        "postgresql:/user:s3cret@host/db",
        "postgresql:user:s3cret@host/db",
        "postgresql+psycopg://user:s3cret@host/db",
        "mysql://user:s3cret@host/db",
    ],
)
async def test_passwords_in_urls_are_refused(tmp_path: Path, url: str) -> None:
    """No error shows them, neither that of a program nor that of a store; and no directory is made."""
    for keyword in ("database", "start_from"):
        with pytest.raises(ConfigurationError) as caught:
            ProgramInfo.new(tmp_path / "base", **{keyword: url})
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigurationError) as caught:
        async with open_database(url, "p"):
            pass
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace(repr(url), "")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://",
        "postgresql:///db",
        "postgresql://host",
        "postgres://user@host:5432/db",
        "postgresql://user@host1:5432,host2/db?target_session_attrs=read-write",
        "postgresql://user@[::1]:5432/db",
        "postgresql://user@%2Frun%2Fpostgresql/db",
        "postgresql:///db?host=/run/postgresql&user=x",
    ],
)
def test_programs_on_a_server(tmp_path: Path, url: str) -> None:
    """A program keeps a URL as it is; only files are made absolute, and copied to start from."""
    assert ProgramInfo.new(tmp_path, database=url).database == url
    with pytest.raises(ConfigurationError, match="only a file can be copied"):
        ProgramInfo.new(tmp_path, database=url, start_from=tmp_path / "earlier")


async def test_missing_rights(postgres: Server, server_url: str) -> None:
    """Who may not make the tables, or not write to them, is told what the administrator has to type."""
    stranger = postgres.url("test", "stranger")
    postgres.admin("CREATE ROLE stranger LOGIN")
    try:
        with pytest.raises(DatabaseError, match=r"permission denied.*GRANT CREATE ON SCHEMA public"):
            async with open_database(stranger, "p"):
                pass
        async with open_database(server_url, "p"):
            pass
        with pytest.raises(DatabaseError, match="GRANT SELECT, INSERT"):
            async with open_database(stranger, "p"):
                pass
        postgres.admin("GRANT SELECT ON hyperflow_entries, hyperflow_layout TO stranger", database="test")
        with pytest.raises(DatabaseError, match=r"no right to INSERT.*GRANT SELECT, INSERT"):
            async with open_database(stranger, "p"):
                pass
        postgres.admin("GRANT INSERT ON hyperflow_entries TO stranger", database="test")
        async with open_database(stranger, "p") as store:
            await store.insert("m", "k", "1")
            assert await store.lookup("m", "k") == "1"
    finally:
        postgres.admin("DROP OWNED BY stranger", database="test")
        postgres.admin("DROP ROLE stranger")


async def test_a_newer_layout(postgres: Server, server_url: str) -> None:
    """Tables of a newer version are left as they are."""
    async with open_database(server_url, "p"):
        pass
    postgres.admin("UPDATE hyperflow_layout SET version = version + 1", database="test")
    with pytest.raises(DatabaseError, match="newer version of hyperflow"):
        async with open_database(server_url, "p"):
            pass


async def test_settings_of_the_server(postgres: Server, server_url: str) -> None:
    """A commit that would not wait for the disk is made to; a database that can only be read is refused."""
    postgres.admin("ALTER DATABASE test SET synchronous_commit = off")
    async with open_database(server_url, "p") as store:
        show = store.thread.call(lambda server: server.connection.execute("SHOW synchronous_commit").fetchone())
        assert await show == ("on",)
    postgres.admin("ALTER DATABASE test SET default_transaction_read_only = on")
    with pytest.raises(DatabaseError, match="can only be read"):
        async with open_database(server_url, "p"):
            pass


async def test_without_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional; who names a server without it is told what to install."""
    for module in ("hyperflow.database.server",):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'hyperflow\[postgresql\]'"):
        open_database("postgresql://host/db", "p")


async def test_memoize(server_url: str, tmp_path: Path) -> None:
    """Calls that overlap run once; a later program, and one that runs beside it, find the result."""
    ran: list[int] = []

    @job
    async def slowly(x: int) -> tuple[int, str]:
        ran.append(x)
        await asyncio.sleep(0)
        return x, "done"

    double = memoize("double")(slowly)
    first = ProgramInfo.new(tmp_path, database=server_url)
    second = ProgramInfo.new(tmp_path, database=server_url)
    async with running(first):
        assert await asyncio.gather(*(double(n % 3) for n in range(30))) == [(n % 3, "done") for n in range(30)]
        async with running(second):
            assert await double(1) == (1, "done")
            assert await double(7) == (7, "done")
        assert await double(7) == (7, "done")
        assert await new_work_dir("x") == await new_work_dir("x")
        squares = KeyValMap("squares", key=int, value=int)
        await squares.insert(3, 9)
        assert await squares.lookup_all() == [(3, 9)]

    assert sorted(ran) == [0, 1, 2, 7]


async def test_two_processes_compute_one_call(server_url: str, tmp_path: Path) -> None:
    """Each goes on with its own result, and the one that was recorded last is what everybody finds."""
    both = asyncio.Barrier(2)

    def program(result: str) -> Any:
        @job
        async def compute() -> str:
            await both.wait()
            return result

        return memoize("raced", on_change="ignore")(compute)

    async def run(result: str) -> str:
        async with running(ProgramInfo.new(tmp_path, database=server_url)):
            found: str = await program(result)()
            return found

    assert await asyncio.gather(run("one"), run("other")) == ["one", "other"]
    async with open_database(server_url, "p") as store:
        ((_, newest),) = await store.lookup_all("memoize:raced:1")
        assert json.loads(newest) in ("one", "other")
    later = [await run_alone(server_url, tmp_path, program("never computed")) for _ in range(2)]
    assert later == [json.loads(newest)] * 2


async def run_alone(url: str, base: Path, call: Any) -> str:
    """Make one call in a program of its own."""
    async with running(ProgramInfo.new(base, database=url)):
        found: str = await call()
        return found


def test_a_job_on_this_machine(server_url: str, tmp_path: Path) -> None:
    """A program runs with its results on the server, and its second run computes nothing."""

    @memoize("slept")
    def slept(x: int) -> Job[int]:
        return remote_eval(abs, x)

    @job
    async def main() -> list[int]:
        return [await slept(n) for n in range(3)]

    first = ProgramInfo.new(tmp_path, database=server_url)
    assert run_job_local(main(), cpus=1, program=first) == [0, 1, 2]
    second = ProgramInfo.new(tmp_path, database=server_url)
    assert run_job_local(main(), cpus=1, program=second) == [0, 1, 2]
    states = [
        [event["state"] for event in reader.read(program.log_dir / "events.jsonl")] for program in (first, second)
    ]
    assert ["done" in each for each in states] == [True, False]
