"""Launchers that are forked from their program: nothing of it is left that a worker or the program could notice."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperflow.transports import forked
from hyperflow.wire import processes
from tests.helpers import alive, wait_until

PROGRAM = """
import atexit, json, logging, os, random, signal, socket, sqlite3, sys, tempfile, time, warnings, weakref
import numpy
import hyperflow as hf
import beside
beside.value = "changed"
warnings.simplefilter("error")
logging.basicConfig(filename="program.log", level=0)
signal.signal(signal.SIGUSR1, lambda *_: None)
random.seed(1), numpy.random.seed(1)
sys.setrecursionlimit(5000)
atexit.register(lambda: open("exits", "a").write("x"))
half = open("half", "w")
half.write("half a line")
connection, peer = socket.socketpair()
folder = tempfile.TemporaryDirectory()
database = sqlite3.connect("program.sqlite")
database.execute("pragma journal_mode = wal")
database.execute("create table t(x)")
database.execute("begin immediate")
stdin = sys.stdin.readline()

def fds(pid):
    targets = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            targets.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass
    return sorted(targets)

def look():
    import beside, logging, threading, numpy, signal, warnings
    warnings.warn("this is no error")
    return {
        "pid": os.getpid(), "launcher": os.getppid(), "program": os.path.basename(sys.argv[0]),
        "command": open(f"/proc/{os.getppid()}/cmdline").read().split("\\0"),
        "fds": fds(os.getpid()), "above": fds(os.getppid()), "beside": beside.value, "stdin": sys.stdin.read(),
        "random": random.random(), "numpy": float(numpy.random.random()), "handlers": len(logging.root.handlers),
        "signal": signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL, "recursion": sys.getrecursionlimit(),
        "tasks": len(os.listdir("/proc/self/task")), "threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "main": "connection" in vars(sys.modules["__main__"]),
    }

@hf.job
async def both():
    return [await hf.remote_eval(look).using(fresh_process=True) for _ in range(2)]

def run():
    return hf.run_job_local(both(), cpus=1)

first = run()
second = run()
half.flush()
peer.setblocking(False)
try:
    peer.recv(1)
    open_still = False
except BlockingIOError:
    open_still = True
print(json.dumps([first, second, open_still, os.path.isdir(folder.name), stdin]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What the program has printed, and where it ran."""
    place = tmp_path_factory.mktemp("forked")
    (place / "program.py").write_text(PROGRAM)
    (place / "beside.py").write_text("value = 'as imported'")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=place, input="line 1\nline 2\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return place, json.loads(done.stdout)


@pytest.mark.process
def test_the_first_launcher_is_forked(told: tuple[Path, list[Any]]) -> None:
    """The first one has the program's command line; one that comes after something has run is started anew."""
    _, (first, second, *_) = told

    assert all(worker["command"][1] == "program.py" for worker in first)
    assert all(worker["command"][1] != "program.py" for worker in second)


@pytest.mark.process
def test_workers_are_as_those_of_a_fresh_python(told: tuple[Path, list[Any]]) -> None:
    """Modules of the user's, handlers, signals, standard input and threads are what they are without a fork."""
    _, (first, second, *_) = told
    own = {"pid", "launcher", "command", "fds", "above", "random", "numpy"}

    for worker in (*first, *second):
        assert {name: worker[name] for name in worker.keys() - own} == {
            "program": "program.py",
            "beside": "as imported",
            "stdin": "",
            "handlers": 0,
            "signal": True,
            "recursion": 1000,
            "tasks": 1,
            "threads": "1",
            "main": False,
        }
    assert len({worker["random"] for worker in first}) == len({worker["numpy"] for worker in first}) == 2


@pytest.mark.process
def test_nothing_of_the_program_is_held_or_touched(told: tuple[Path, list[Any]]) -> None:
    """No file, socket or database of it is open below; what it has begun to write, and what it made, is as it was."""
    place, (first, second, open_still, folder, stdin) = told

    for worker, fresh in zip(first, second, strict=True):
        for which in ("fds", "above"):
            kinds, expected = (
                {name.partition("[")[0] for name in each[which] if not name.endswith((".log", "/fd", "/alive"))}
                for each in (worker, fresh)
            )
            assert kinds <= expected | {"/dev/null"}
    assert (place / "half").read_text() == "half a line"
    assert (place / "exits").read_text() == "x"
    assert open_still
    assert folder
    assert stdin == "line 1\n"


KILLED = """
import os, time
import hyperflow as hf

@hf.job
async def run():
    def work():
        if (daemon := os.fork()) == 0:
            os.setsid()
            time.sleep(300)
        with open("half", "w") as file:
            file.write(str(daemon))
        os.rename("half", "daemon")
        time.sleep(300)
    await hf.remote_eval(work)

hf.run_job_local(run(), cpus=1, program=hf.ProgramInfo.new("runs"))
"""


@pytest.mark.process
async def test_nothing_outlives_it(tmp_path: Path) -> None:
    """Killed all at once, program, keeper, launcher and worker leave nothing, not even what the worker has forked."""
    note = tmp_path / "daemon"
    with subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path) as program:
        await wait_until(note.exists, 30, "the worker has forked")
        daemon = int(note.read_text())
        ours = [program.pid, *(pid for pid in processes.descendants(program.pid) if pid != daemon)]
        processes.kill_all(ours, signal.SIGSTOP)  # none can clean up after another
        assert alive(daemon)
        processes.kill_all(ours)

    await wait_until(lambda: not alive(daemon), 30, "the watcher has ended it")


def test_tests_are_no_place_to_fork() -> None:
    """Where anything could be in the way, as in this process with pytest's hooks, nothing is forked."""
    assert not forked.may_fork()
