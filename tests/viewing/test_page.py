"""The page's server: who gets an answer and who does not, and what it makes of bad runs, logs and requests."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import ClientSession, CookieJar

from hyperflow.cli import records, watched
from hyperflow.cli.histories import Reading
from hyperflow.cli.watched import PAGE, Watched
from hyperflow.viewing import page
from tests.viewing.made import ESCAPE, OPENED, log_of, make_run


@attrs.frozen
class Visitor:
    """Somebody with a browser, who has or has not opened the printed URL."""

    session: ClientSession
    served: page.Served

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return status and text of an answer."""
        async with self.session.get(f"http://127.0.0.1:{self.served.port}{path}", headers=headers) as answer:
            assert answer.headers["Content-Security-Policy"] == page.POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            return answer.status, await answer.text()

    async def ask(self, path: str) -> dict[str, Any]:
        """Return an answer of JSON."""
        status, text = await self.get(path)
        assert status == 200, text
        told: dict[str, Any] = json.loads(text)
        return told

    async def order(self, order: object, **headers: str) -> tuple[int, dict[str, Any]]:
        """Give an order, with the page's own token unless another is named."""
        headers = {"X-Hyperflow-Token": self.served.secrets.orders} | headers
        url = f"http://127.0.0.1:{self.served.port}/api/order"
        async with self.session.post(url, data=json.dumps(order), headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else {"error": text}


@asynccontextmanager
async def visiting(base_dir: Path, *, entered: bool = True) -> AsyncIterator[Visitor]:
    """Serve the page of a base directory, and visit it."""
    jar = CookieJar(unsafe=True)  # an address is no name of a host
    async with page.serving(Watched(base_dir), 0) as served, ClientSession(cookie_jar=jar) as session:
        if entered:
            async with session.get(served.url) as answer:
                assert answer.status == 200
        yield Visitor(session, served)


@pytest.fixture(autouse=True)
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own runs are looked at."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


async def test_nothing_without_the_token(tmp_path: Path) -> None:
    """Whoever has no token, or a wrong one, gets 403 for whatever there is, and learns nothing."""
    async with visiting(tmp_path, entered=False) as visitor:
        wrong = "/?token=" + "x" * 43
        for path in ("/", wrong, "/assets/page.js", "/assets/plotly.min.js", "/api/runs", "/api/picture", "/nothing"):
            status, text = await visitor.get(path)
            assert (status, len(text) < 200) == (403, True), path
        assert (await visitor.order({}))[0] == 403
        assert visitor.served.secrets.entry not in repr(visitor.served)


async def test_the_cookie(tmp_path: Path) -> None:
    """It is for this server's pages only; other sites and scripts do not get it, and it is not the orders' token."""
    async with visiting(tmp_path, entered=False) as visitor:
        async with visitor.session.get(visitor.served.url) as answer:
            (cookie,) = answer.cookies.values()
            text = await answer.text()
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
        assert visitor.served.secrets.orders in text
        assert visitor.served.secrets.entry not in text
        assert (await visitor.get("/"))[0] == 200


async def test_other_sites(tmp_path: Path) -> None:
    """Neither another name of this address (DNS rebinding) nor another origin gets anything, with the cookie too."""
    make_run(tmp_path, "20260101-000000-aa")
    async with visiting(tmp_path) as visitor:
        for host in ("evil.example", f"evil.example:{visitor.served.port}", "127.0.0.1.evil.example:80", ""):
            assert (await visitor.get("/api/runs", Host=host))[0] in (400, 403), host
        for host in ("localhost:1234", "127.0.0.1:80"):  # the other end of an ssh -L
            assert (await visitor.get("/api/runs", Host=host))[0] == 200, host
        order = {"run": "20260101-000000-aa", "order": "set", "name": "a", "value": "1"}
        assert (await visitor.order(order, Origin="http://evil.example"))[0] == 403
        assert (await visitor.order(order, **{"Sec-Fetch-Site": "same-site"}))[0] == 403  # another port of this host
        assert (await visitor.order(order, **{"X-Hyperflow-Token": visitor.served.secrets.entry}))[0] == 403
        assert not (tmp_path / "20260101-000000-aa" / "vars").exists()
        assert (await visitor.order(order))[0] == 200
        assert (tmp_path / "20260101-000000-aa" / "vars" / "a.json").read_text() == "1\n"


ANOTHER = """
import encodings.idna, http.client, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in ("/", "/api/runs", "/?token=guessed"):
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    print(answer.status, len(answer.read()))
for name in os.listdir("/proc"):
    if name.isdigit():
        for what in ("cmdline", "environ"):
            try:
                text = open(f"/proc/{name}/{what}", errors="replace").read()
            except OSError:
                continue
            if sys.stdin is not None and SECRET in text:
                print("found in", name, what)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user(tmp_path: Path) -> None:
    """Another user of the machine reaches the port, gets 403, and finds the token in no process."""
    async with visiting(tmp_path) as visitor:
        script = "import sys; SECRET = sys.stdin.read()\n" + ANOTHER
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, str(visitor.served.port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        said, _ = await process.communicate(visitor.served.secrets.entry.encode())
        assert re.fullmatch(r"(403 \d\d\n){3}", said.decode()), said


async def test_files_and_names(tmp_path: Path) -> None:
    """Only the page's own files are served, and a run's name is one name, however it is written."""
    make_run(tmp_path / "base", "20260101-000000-aa", *log_of(1, 2))
    make_run(tmp_path, "20260101-000000-bb")
    async with visiting(tmp_path / "base") as visitor:
        for path in ("/assets/..%2fviews.py", "/assets/page.html.py", "/assets/%2e%2e/page.py", "/assets/"):
            assert (await visitor.get(path))[0] == 404, path
        for name in ("..%2f20260101-000000-bb", ".", "..", "", "%00", "a" * 5000, "20260101-000000-bb"):
            assert "error" in await visitor.ask(f"/api/run?run={name}"), name
        run = "run=20260101-000000-aa"
        for query in ("from=x&to=1", "from=nan&to=inf", "from=1e400&to=0", "node=%00"):
            assert "lanes" in await visitor.ask(f"/api/gantt?{run}&{query}"), query
        for path in (f"gantt?{run}&first=-1", f"evaluation?{run}&evaluation=x", f"why?{run}&job=1", f"picture?{run}"):
            assert "error" in await visitor.ask(f"/api/{path}"), path
        for order in ([], "x", {}, {"run": "20260101-000000-aa", "order": "rm"}, {"run": 7, "order": "set"}):
            assert "error" in (await visitor.order(order))[1], order


async def test_a_run(tmp_path: Path) -> None:
    """All of a run is told once; then what has changed. What its program logged is data, whatever it says."""
    make_run(tmp_path, "20260101-000000-aa", *log_of(1, 2, 3, function=ESCAPE), argv=[ESCAPE], error=ESCAPE)
    async with visiting(tmp_path) as visitor:
        (row,) = (await visitor.ask("/api/runs"))["runs"]
        assert (row["name"], row["state"]) == ("20260101-000000-aa", "finished")
        told = await visitor.ask("/api/run?run=20260101-000000-aa")
        assert told["functions"][0]["done"] == 2
        assert told["failures"]["shown"][0]["evaluation"] == "3"
        assert told["gantt"]["task"] == ["1", "2", "3"]
        again = await visitor.ask(f"/api/run?run=20260101-000000-aa&have={told['version']}")
        assert ("about" in again, "gantt" in again) == (True, False)
        one = await visitor.ask("/api/evaluation?run=20260101-000000-aa&evaluation=3")
        assert one["tries"][0]["error"] == f"ValueError: {ESCAPE}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b"\x00\xff garbage", b"more"], "damaged"),
        ([OPENED, b'{"t": "late", "state": "running", "tasks": 7, "worker": []}'], "makes no sense"),
        ([{"t": 1, "state": "opened", "version": 99}], "newer"),
        ([b'{"t": 1.0, "state": "waiting", "tasks": [1], "function": "f", "cpus": 1}', b'{"t": 2.0, "st'], ""),
        ([], ""),
    ],
)
async def test_bad_logs(tmp_path: Path, lines: list[Mapping[str, object] | bytes], said: str) -> None:
    """A damaged, foreign, cut, empty or newer log is told on the run's page, with what was read before that place."""
    make_run(tmp_path, "20260101-000000-aa", *lines)
    async with visiting(tmp_path) as visitor:
        told = await visitor.ask("/api/run?run=20260101-000000-aa")
        assert said in told["about"]["note"]
        assert "gantt" in told


async def test_a_log_that_grows_and_a_run_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is read; of a run whose directory has gone it is said that there is none, and the rest goes on."""
    home = make_run(tmp_path, "20260101-000000-aa", *log_of(1, 2))
    make_run(tmp_path, "20260101-000000-bb")
    async with visiting(tmp_path) as visitor:
        path = "/api/run?run=20260101-000000-aa"
        before = await visitor.ask(path)
        with (home / "log" / "events.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in log_of(5, 6)[2:])
        monkeypatch.setattr(watched, "EASE", 0.0)
        after = await visitor.ask(f"{path}&have={before['version']}")
        assert [told["functions"][0]["done"] for told in (before, after)] == [1, 2]
        shutil.rmtree(home)
        assert "no run 20260101-000000-aa any more" in (await visitor.ask(path))["error"]
        assert [it["name"] for it in (await visitor.ask("/api/runs"))["runs"]] == ["20260101-000000-bb"]


def test_several_logs(tmp_path: Path) -> None:
    """The jobs of a run make one history, however often it is read."""
    for name, tasks in (("a", (1, 2, 3)), ("b", (1, 2))):
        make_run(tmp_path, name, *log_of(*tasks))
    reading = Reading()
    for _ in range(2):
        reading.look([(1, tmp_path / "a" / "log"), (2, tmp_path / "b" / "log")])
        assert list(zip(reading.history.job, reading.history.task, strict=True)) == [
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 1),
            (2, 2),
        ]


async def test_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 runs a page of the list reads only those that it shows."""
    make_run(tmp_path, "20260101-000000-zz")
    names = [(f"20260101-000000-{number:06}", False) for number in range(100_000)] + [("20260101-000000-zz", False)]
    read: list[str] = []

    def look(named: records.Named, base_dir: Path) -> records.Run | None:
        read.append(named[0])
        return records.Run(named[0], base_dir / named[0], None)

    monkeypatch.setattr(records, "_names", lambda _: names)
    monkeypatch.setattr(records, "_read", look)
    async with visiting(tmp_path) as visitor:
        told = await visitor.ask("/api/runs?first=50000")
        assert (told["total"], len(told["runs"])) == (100_001, PAGE)
        assert read == [name for name, _ in reversed(names)][50_000 : 50_000 + PAGE]
        assert (await visitor.ask("/api/runs?first=999999"))["runs"] == []


async def test_a_port_that_is_taken_and_plotly_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are errors that say what to type."""
    async with visiting(tmp_path) as visitor:
        with pytest.raises(page.ConfigurationError, match="--port"):
            async with page.serving(Watched(tmp_path), visitor.served.port):
                pass
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(page.ConfigurationError, match=r'pip install "hyperflow\[dashboard\]"'):
        page.plotly()
