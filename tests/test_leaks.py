"""The leak gate and the time limit, seen from outside: a pytest run of its own, with tests that misbehave."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.imports import TOP

LEAKY = """
import asyncio, os, socket, subprocess, sys, tempfile, threading
import pytest, uvloop

KEPT = []

def test_child():
    KEPT.append(subprocess.Popen(["sleep", "100"]))

def test_orphan():
    subprocess.run(["sh", "-c", "sleep 101 & exit 0"])

async def test_child_of_async():
    KEPT.append(await asyncio.create_subprocess_exec("sleep", "102"))

def test_thread():
    KEPT.append(event := threading.Event())
    threading.Thread(target=event.wait, name="keeps waiting", daemon=True).start()

async def test_socket():
    KEPT.append(socket.socketpair())

def test_file():
    KEPT.append(tempfile.mkdtemp(prefix="hyperflow-"))

async def test_lost_error():
    async def fail():
        raise ValueError("seen by nobody")
    asyncio.create_task(fail())
    await asyncio.sleep(0)

@pytest.mark.timeout(0.5)
def test_hangs_in_uvloop():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(50))

def test_fails_itself():
    a, b = socket.socketpair()
    raise ValueError("the traceback keeps the sockets")

@pytest.mark.leaks("to see the marker work")
def test_excused():
    KEPT.append(socket.socketpair())

@pytest.mark.leaks
def test_excused_without_reason():
    pass
"""

TIDY = """
import asyncio, os, subprocess, threading, time
import pytest, uvloop

@pytest.fixture(scope="module")
def long_lived():
    with subprocess.Popen(["sleep", "103"]) as process:
        yield
        process.kill()

def test_uses_long_lived(long_lived):
    pass

@pytest.fixture
async def connection():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader
    writer.close()
    server.close()

def test_ends_a_little_later():
    threading.Timer(0.2, lambda: None).start()

async def test_async(connection):
    assert await connection.read() == b""
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    await asyncio.to_thread(time.sleep, 0)

def test_uvloop():
    async def main():
        process = await asyncio.create_subprocess_exec("true")
        await process.wait()
        await asyncio.to_thread(time.sleep, 0)
        await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

class Pipe:
    def __init__(self):
        self.ends = os.pipe()
        self.cycle = self
    def __del__(self):
        for end in self.ends:
            os.close(end)

def test_cycle():
    Pipe()
"""


def run(tmp_path: Path, source: str) -> str:
    """Run these tests under the gate; return what pytest prints."""
    path = tmp_path / "test_sample.py"
    path.write_text(source)
    options = ["-o", "leak_grace=0.5", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    places = ["-c", str(TOP / "pyproject.toml"), "--rootdir", str(tmp_path), "--basetemp", str(tmp_path / "base")]
    command = [sys.executable, "-m", "pytest", *options, *places, str(path)]
    environ = {**os.environ, "PYTHONPATH": str(TOP)}
    return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False).stdout


def test_leaks_are_found_and_named(tmp_path: Path) -> None:
    """Each kind of leak, and a test that hangs, fails its own test, and that one only."""
    output = run(tmp_path, LEAKY)

    found = dict(re.findall(r"^(?:ERROR|FAILED) \S+::(\w+) - (?:Failed: )?(.*(?:\n .*)*)", output, re.MULTILINE))
    expected = {
        "test_child": "sleep 100",
        "test_orphan": "sleep 101",
        "test_child_of_async": "sleep 102",
        "test_thread": "keeps waiting",
        "test_socket": "socket:[",
        "test_file": "hyperflow-",
        "test_lost_error": "ValueError('seen by nobody')",
        "test_hangs_in_uvloop": "Timeout (>0.5s)",
        "test_fails_itself": "the traceback keeps",
        "test_excused_without_reason": "needs a reason",
    }
    assert found.keys() == expected.keys(), output
    missing = [words for words in expected.values() if words not in output]
    assert not missing, output


def test_tidy_tests_pass(tmp_path: Path) -> None:
    """What ends by itself, and what belongs to a wider fixture, is no leak."""
    output = run(tmp_path, TIDY)

    assert re.search(r"\n=+ 5 passed in ", output), output
