"""The control socket of a real master, whose jobs run on this machine: questions, orders, refusals, places."""

import asyncio
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import hyperflow as hf
from hyperflow import checked_files
from hyperflow.control import client, place, variables
from hyperflow.control.client import Contact, MasterElsewhere, NoMaster, Refused, Silent, contact
from hyperflow.control.server import peer, serve
from hyperflow.errors import ConfigurationError
from hyperflow.master import rundir
from hyperflow.master.api import open_control
from hyperflow.master.lifecycle import State
from hyperflow.master.master import Master
from hyperflow.master.view import job_from_json, job_to_json
from tests.helpers import wait_until

NOBODY = 65534

ASK = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("socket")
    connection.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    while data := connection.recv(4096):
        os.write(1, data)
"""


@hf.job
async def needs(path: str) -> str:
    """Return what a file says; without one, fail."""
    with open(path) as file:
        return file.read()


@hf.job
async def endless() -> None:
    """Never end."""
    await asyncio.Event().wait()


async def jobs_in(env: hf.ClusterEnv, state: State, *numbers: int) -> None:
    """Wait until these jobs are in a state."""
    seen = -1
    async with asyncio.timeout(40):
        while env.master.numbers(state) != list(numbers):
            seen = await env.master.changed(seen)


@asynccontextmanager
async def one_held(tmp_path: Path) -> AsyncIterator[tuple[hf.ClusterEnv, Contact, asyncio.Future[str]]]:
    """Run a master with one job, which is held for want of a file."""
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True) as env:
        waiting = hf.remote_eval_job(needs(str(tmp_path / "file"))).start()
        await jobs_in(env, State.HELD, 1)
        yield env, contact(env.master.run.home), waiting
        waiting.cancel()


async def ask(question: Callable[..., Any], *words: Any, **more: Any) -> Any:
    """Ask in a thread: the master answers in this one."""
    return await asyncio.to_thread(question, *words, **more)


async def refusal(answer: Awaitable[Any]) -> str:
    """Return with which words something is refused."""
    with pytest.raises(Refused) as refused:
        await answer
    return str(refused.value)


async def test_a_held_job_is_seen_and_retried(tmp_path: Path) -> None:
    """The list has the job with its cause, `why` its story; retried with more time, it gives its result."""
    async with one_held(tmp_path) as (env, master, waiting):
        listed = await ask(master.get, "/jobs")
        (job,) = [job_from_json(one) for one in listed["jobs"]]
        assert (listed["program"], listed["pid"]) == (env.program.program_id, os.getpid())
        assert job == env.master.jobs()[0]
        assert "FileNotFoundError" in job.cause
        told = await ask(master.get, "/jobs/1/why")
        assert "hyperflow retry 1" in told["why"]

        (tmp_path / "file").write_text("there")
        answer = await ask(master.post, "/retry", numbers=[1], changes={"time": "2:00:00"})

        assert answer["jobs"][0]["number"] == 1
        assert await waiting == "there"
        assert rundir.job_directories(env.master.run.home)[0].read_record().options["time"] == "2:00:00"
        assert (await ask(master.get, "/statistics"))["jobs"] == {"done": 1}


async def test_giving_up_hands_the_error_over(tmp_path: Path) -> None:
    """A job that is given up ends with its own error in the program."""
    async with one_held(tmp_path) as (_, master, waiting):
        await ask(master.post, "/give_up", numbers="all")
        with pytest.raises(FileNotFoundError):
            await waiting


async def test_a_cancelled_job_is_held(tmp_path: Path) -> None:
    """A running job that is cancelled is held, and may be given up."""
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True) as env:
        master = contact(env.master.run.home)
        waiting = hf.remote_eval_job(endless()).start()
        await jobs_in(env, State.RUNNING, 1)
        answer = await ask(master.post, "/cancel", numbers="all")
        assert (answer["jobs"][0]["state"], answer["jobs"][0]["cause"][:9]) == ("held", "cancelled")
        waiting.cancel()


async def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    """What makes no sense changes nothing, and the answer says why."""
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/retry", {"numbers": [7]}, "there is no job 7"),
        ("/retry", {"numbers": [1, 7]}, "there is no job 7"),
        ("/retry", {"numbers": []}, "a list of numbers"),
        ("/retry", {"numbers": ["1"]}, "a list of numbers"),
        ("/retry", {}, "a list of numbers"),
        ("/retry", {"numbers": [True]}, "a list of numbers"),
        ("/retry", {"numbers": [1], "changes": {"tmie": "1"}}, "members among nodes"),
        ("/retry", {"numbers": [1], "changes": {"time": "soon"}}, "a time is needed"),
        ("/retry", {"numbers": [1], "when": "now"}, "its members: numbers, changes"),
        ("/cancel", {"numbers": [1]}, "nothing to cancel"),
        ("/cancel", {"numbers": "all"}, "no job is queued or running"),
        ("/nonsense", {}, "POST /nonsense: Not Found"),
        ("/jobs", {}, "POST /jobs: Method Not Allowed"),
    ]
    async with one_held(tmp_path) as (env, master, _):
        before = env.master.jobs()
        for path, body, words in cases:
            assert words in await refusal(ask(master.post, path, **body))
        assert env.master.jobs() == before


async def test_variables(tmp_path: Path) -> None:
    """Variables of the program are listed, read and set; what cannot be one is refused."""

    def put(name: str, body: dict[str, Any]) -> Any:
        return master._ask("PUT", f"/vars/{name}", body)

    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        master = contact(env.master.run.home)
        tolerance = hf.ExtVar("tolerance", 1e-3, type=float)
        assert await tolerance.get() == 1e-3
        assert await ask(master.get, "/vars") == {"names": ["tolerance"]}
        assert await ask(master.get, "/vars/tolerance") == {"name": "tolerance", "value": 1e-3}
        assert await ask(put, "tolerance", {"value": 1e-6}) == {"name": "tolerance", "value": 1e-6}
        assert await tolerance.get() == 1e-6
        assert "cannot be the name of a variable" in await refusal(ask(put, ".x", {"value": 1}))
        assert "no variable 'other'" in await refusal(ask(master.get, "/vars/other"))
        assert "member" in await refusal(ask(put, "tolerance", {}))


async def test_a_body_that_is_no_json_is_refused(tmp_path: Path) -> None:
    """The answer is JSON, too, and the master goes on."""
    async with one_held(tmp_path) as (_, master, _):
        reader, writer = await asyncio.open_unix_connection(str(master.address.path))
        writer.write(b"POST /retry HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nConnection: close\r\n\r\n{no}")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert b"400" in answer.splitlines()[0]
        assert b"the body is no JSON" in answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_other_users_are_refused(tmp_path: Path) -> None:
    """Who is another user gets 403, even where the modes of directory and socket were loosened."""
    async with one_held(tmp_path) as (_, master, _):
        room = master.address.path.parent
        assert stat.S_IMODE(room.stat().st_mode) == 0o700
        assert stat.S_IMODE(master.address.path.stat().st_mode) == 0o600
        room.chmod(0o755)
        master.address.path.chmod(0o666)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, str(room), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
        assert b"403" in output.splitlines()[0], (output, errors)
        assert f"you are user {NOBODY}".encode() in output
        assert b"jobs" not in output


def test_the_kernel_names_the_peer() -> None:
    """Of a pair of sockets, both ends are ours."""
    one, other = socket.socketpair()
    with one, other:
        assert peer(one) == os.geteuid()


async def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    """Where a socket's path would be too long it is in a private directory, which the run names; both are removed."""
    deep = tmp_path / ("d" * 90)
    async with hf.open_cluster(base_dir=deep, local=True) as env:
        home = env.master.run.home
        address = place.read(home)
        assert address is not None
        assert deep not in address.path.parents
        assert stat.S_IMODE(address.path.parent.stat().st_mode) == 0o700
        assert (await ask(contact(home).get, "/jobs"))["jobs"] == []
    assert not address.path.parent.exists()
    assert not list((home / "control").iterdir())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a directory whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="hf", dir="/tmp") as directory:
        yield Path(directory)


async def test_what_a_killed_master_has_left_is_replaced(short_path: Path) -> None:
    """A socket and an address that nobody answers at are replaced, also those outside of the run directory."""
    tmp_path = short_path
    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        home, run = env.master.run.home, env.program.program_id
    elsewhere = tmp_path / f"{place.PREFIX}x"
    elsewhere.mkdir()
    for path in (home / "control" / "socket", elsewhere / "socket"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    address = {"host": socket.gethostname(), "pid": 1, "path": str(elsewhere / "socket")}
    checked_files.write_file(home / "control" / "master.json", repr(address).replace("'", '"').encode())
    with pytest.raises(NoMaster, match="no master runs"):
        contact(home)

    async with hf.open_cluster(resume=run, base_dir=tmp_path, local=True):
        assert (await ask(contact(home).get, "/jobs"))["program"] == run
        assert not elsewhere.exists()


def test_a_socket_that_cannot_be_removed(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that has become read-only it stays; that does not hide what the program ends with."""

    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with place.listening(short_path, only_there=True):
        monkeypatch.setattr(Path, "unlink", read_only)
    monkeypatch.undo()
    assert list(short_path.glob("*/socket"))


async def test_a_master_that_dies_meanwhile(tmp_path: Path) -> None:
    """Where the socket is still there and nobody listens, the caller is told."""
    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        address = place.read(env.master.run.home)
        assert address is not None
        gone = place.Address(address.host, address.pid, tmp_path / "gone")
        with pytest.raises(NoMaster, match=f"process {os.getpid()} does not answer"):
            await ask(Contact(gone).get, "/jobs")


async def test_a_master_that_was_killed(tmp_path: Path) -> None:
    """A socket that a killed process has left behind: its process has gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
    left = Contact(place.Address(socket.gethostname(), 7, tmp_path / "s"))
    with pytest.raises(NoMaster, match="process 7 has gone: nobody answers at"):
        await ask(left.get, "/jobs")


async def test_a_master_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that takes the question and says nothing is not waited for long by who only looks."""
    monkeypatch.setattr("hyperflow.control.client.GLANCE", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        silent = Contact(place.Address(socket.gethostname(), 7, tmp_path / "s"))
        with pytest.raises(Silent, match=r"process 7 has not answered within 0.05 s: it is stopped, or busy"):
            await ask(silent.get, "/jobs")


async def test_a_master_on_another_host(tmp_path: Path) -> None:
    """A master of another host is named, and not looked for here."""
    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        lock = env.master.run.home / "master.lock"
        text = lock.read_text()
        lock.write_text(text.replace(f'"{socket.gethostname()}"', '"login2"'))
        with pytest.raises(MasterElsewhere, match=f"process {os.getpid()} on login2"):
            contact(env.master.run.home)
        lock.write_text(text)


async def test_without_a_place_the_program_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program whose socket cannot be made runs all the same, and says so."""
    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        home = env.master.run.home
    (home / "control").rmdir()
    (home / "control").write_text("in the way")
    async with hf.open_cluster(resume=home, local=True) as env:
        assert await hf.remote_eval(abs, -1).using(sbatch=hf.SbatchOptions()) == 1
        with pytest.raises(NoMaster, match="no control socket"):
            contact(home)
    assert "will not reach this program" in caplog.text


async def test_defects_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A defect behind the socket is an answer and a line in the log; the master goes on."""

    class Broken(Master):
        def statistics(self) -> Any:
            raise ZeroDivisionError("defect")

    async with hf.open_cluster(base_dir=tmp_path, local=True) as env:
        home = env.master.run.home
        broken = Broken(env.master.run, env.master.batch, env.database)
        async with open_control(broken):
            master = contact(home)
            assert "ZeroDivisionError: defect" in await refusal(ask(master.get, "/statistics"))
            assert (await ask(master.get, "/jobs"))["jobs"] == []
    assert "ZeroDivisionError" in caplog.text
    await wait_until(lambda: place.read(home) is None, 5, "the socket has gone")


async def test_the_server_needs_no_master(tmp_path: Path) -> None:
    """It answers what it is given: any process that has a run's directory can serve, a Job's head as well."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"evaluations": 7})

    async with serve(tmp_path, [web.get("/evaluations", answer), *variables.routes(tmp_path)]) as address:
        assert address is not None
        assert await ask(Contact(address).get, "/evaluations") == {"evaluations": 7}
        assert await ask(Contact(address).get, "/vars") == {"names": []}
        assert "GET /jobs: Not Found" in await refusal(ask(Contact(address).get, "/jobs"))
    assert asked == ["/evaluations"]


def test_a_place_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    """Nobody puts a socket where others could replace it."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control").chmod(0o777)
    with pytest.raises(ConfigurationError, match="can be written by others"), place.listening(tmp_path):
        pass


def test_jobs_travel_as_json(tmp_path: Path) -> None:
    """A job becomes JSON and the same job again; members of later versions are left out."""
    from hyperflow.master.view import JobView, Progress

    job = JobView(3, "f(1)", State.QUEUED, 77, "Priority", "", Progress(1, 2, 3, 4), "", 1.5, 1, tmp_path)
    assert job_from_json({**job_to_json(job), "colour": "blue"}) == job


DEEP = b"[" * 100_000 + b"]" * 100_000

ODD_BODIES = [
    ("POST", "/retry", b'{"numbers": [NaN]}'),
    ("POST", "/retry", b'{"numbers": [1], "changes": {"time": NaN}}'),
    ("POST", "/retry", b'{"numbers": [1], "changes": {"time": 1' + b"0" * 400 + b"}}"),
    ("POST", "/retry", b'{"numbers": [1], "changes": {"nodes": 1e999}}'),
    ("POST", "/retry", b'{"numbers": [1], "changes": {"partition": "\\ud800"}}'),
    ("POST", "/cancel", b'{"numbers": [-Infinity]}'),
    ("POST", "/cancel", b'{"numbers": [' + b"9" * 5000 + b"]}"),
    ("POST", "/give_up", DEEP),
    ("POST", "/give_up", b'{"numbers": ' + DEEP + b"}"),
    ("POST", "/give_up", b"\xff\xfe"),
    ("POST", "/give_up", b""),
    ("PUT", "/vars/x", b'{"value": NaN}'),
    ("PUT", "/vars/x", b'{"value": [1, {"a": -Infinity}]}'),
    ("PUT", "/vars/x", b'{"value": 1e400}'),
    ("PUT", "/vars/x", b'{"value": ' + DEEP + b"}"),
    ("PUT", "/vars/a%5Cb", b'{"value": 1}'),
    ("PUT", "/vars/a%0Ab", b'{"value": 1}'),
    *(
        ("PUT", f"/vars/{name}", b'{"value": 1}')
        for name in ("n" * 300, "-x", "%09", "%00", "a%2Fb", "..x", "%ED%A0%80")
    ),
    ("PUT", "/vars/x", b'{"value": 1, "value2": 2}'),
    ("PUT", "/vars/x", b'{"value": "' + b"x" * 10_000_000 + b'"}'),
]


async def test_bodies_that_are_no_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """NaN, infinities, what is nested deeply and other oddities are answered with a reason; nothing changes."""
    async with one_held(tmp_path) as (env, master, _):

        def send(method: str, path: str, body: bytes) -> tuple[int, str]:
            connection = client._UnixConnection(master.address.path, 10)
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            connection.close()
            return answer.status, said["error"]

        for method, path, body in ODD_BODIES:
            status, said = await ask(send, method, path, body)
            assert (status, bool(said)) == (413 if len(body) > 2**20 else 400, True), (path, body[:60], said)
        assert (await ask(send, "GET", f"/jobs/{'9' * 5000}/why", b""))[0] == 404
        assert env.master.numbers(State.HELD) == [1]
    assert "Traceback" not in caplog.text
