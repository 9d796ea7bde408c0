"""Ownership: one writer, who is named to others; abandoned locks are taken over by exactly one."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.database.ownership import Owner, Ownership, started
from hyperflow.database.store import open_database
from hyperflow.errors import ConfigurationError, DatabaseError
from tests import helpers

ROOT = Path(__file__).resolve().parents[2]


def left_behind(database: Path, **changes: Any) -> Path:
    """Write a lock as some owner would."""
    owner = attrs.evolve(Owner.this_process("program-1"), **changes)
    lock = database.with_name(database.name + ".lock")
    lock.write_text(json.dumps(attrs.asdict(owner)))
    return lock


def dead_pid() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_second_open_is_told_who_it_is(tmp_path: Path) -> None:
    """The error names program, process, host and time."""
    held = Ownership.acquire(tmp_path / "db", "20260101-abc")

    with pytest.raises(DatabaseError, match=rf"program 20260101-abc \(process {os.getpid()} on ") as caught:
        Ownership.acquire(tmp_path / "db", "other")
    assert socket.gethostname() in str(caught.value)
    assert held.owner.since in str(caught.value)
    assert "this process itself" in str(caught.value)

    held.release()
    Ownership.acquire(tmp_path / "db", "other").release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe or a directory is not waited for, and not replaced; the error says what to type."""
    make(tmp_path / "db.lock")

    with pytest.raises(DatabaseError, match=r"does not say by whom; .* type: rm "):
        Ownership.acquire(tmp_path / "db", "other")


async def test_another_process_is_refused(tmp_path: Path) -> None:
    """A real second process gets the error, and the first one is not disturbed."""
    code = (
        "import asyncio, sys\nfrom hyperflow.database.store import open_database\n"
        "async def main():\n    async with open_database(sys.argv[1], 'second'): pass\nasyncio.run(main())"
    )
    async with open_database(tmp_path / "db", "first") as store:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "db")], cwd=ROOT, capture_output=True, text=True, check=False
        )
        await store.insert("m", "k", "1")

    assert done.returncode == 1
    assert f"is in use by program first (process {os.getpid()}" in done.stderr


@pytest.mark.parametrize("how", ["gone", "other start", "other boot"])
def test_abandoned_locks_are_taken_over(tmp_path: Path, how: str) -> None:
    """An owner of this machine that has gone, whose number was given to another one, or from before a restart."""
    changes: dict[str, Any] = {
        "gone": {"pid": dead_pid(), "started": "123"},
        "other start": {"started": "123"},
        "other boot": {"boot_id": "another"},
    }[how]
    lock = left_behind(tmp_path / "db", **changes)

    held = Ownership.acquire(tmp_path / "db", "program-2")

    assert json.loads(lock.read_text())["program"] == "program-2"
    held.release()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the disk has become read-only, that is told; it does not hide what the program ends with."""
    held = Ownership.acquire(tmp_path / "db", "program-1")

    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    held.release()
    assert f"cannot remove the lock file {tmp_path}/db.lock: Read-only file system" in caplog.text


def test_a_zombie_has_gone(tmp_path: Path) -> None:
    """A killed process that nobody has waited for yet owns nothing."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        at = started(process.pid)
        left_behind(tmp_path / "db", pid=process.pid, started=at)
        with pytest.raises(DatabaseError, match=f"process {process.pid}"):
            Ownership.acquire(tmp_path / "db", "program-2")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        Ownership.acquire(tmp_path / "db", "program-2").release()
    finally:
        process.communicate()


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "elsewhere"},
        {"host": "elsewhere", "boot_id": "another"},
        {"machine": "a clone", "boot_id": "another"},
        {"pid_namespace": "pid:[1]"},
    ],
)
def test_locks_of_other_machines_are_kept(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Nobody here knows whether their owner lives; the error says what to type when the user does."""
    lock = left_behind(tmp_path / "db", pid=dead_pid(), **changes)
    text = lock.read_text()

    with pytest.raises(DatabaseError, match=rf"rm {lock}"):
        Ownership.acquire(tmp_path / "db", "program-2")

    assert lock.read_text() == text
    assert [lock] == list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "nonsense", '{"host": 1}'])
def test_unreadable_locks_are_kept(tmp_path: Path, text: str) -> None:
    """What does not say whose it is may be anyone's."""
    lock = tmp_path / "db.lock"
    lock.write_text(text)

    with pytest.raises(DatabaseError, match=rf"rm {lock}"):
        Ownership.acquire(tmp_path / "db", "program-2")


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    """What someone planted there is not read, replaced or removed."""
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "db.lock").symlink_to("victim")

    with pytest.raises(ConfigurationError, match=r"db\.lock"):
        Ownership.acquire(tmp_path / "db", "program")

    assert (tmp_path / "victim").read_text() == "mine"


def test_a_forked_child_does_not_release(tmp_path: Path) -> None:
    """The lock is its parent's."""
    held = Ownership.acquire(tmp_path / "db", "program")
    child = os.fork()
    if child == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)

    assert held.lock.exists()
    held.release()


def test_a_lock_taken_by_another_is_not_released(tmp_path: Path) -> None:
    """Who lost its lock (the user removed it) leaves the next owner's alone."""
    held = Ownership.acquire(tmp_path / "db", "program-1")
    held.lock.unlink()
    other = Ownership.acquire(tmp_path / "db", "program-2")

    held.release()

    assert other.lock.exists()


def test_who_takes_over_waits_for_its_turn(tmp_path: Path) -> None:
    """While another process replaces an abandoned lock, one that judged the same waits, and then finds it held."""
    lock = left_behind(tmp_path / "db", pid=dead_pid(), started="123")
    turn = os.open(lock, os.O_RDONLY)
    fcntl.flock(turn, fcntl.LOCK_EX)
    outcome: list[Any] = []

    def second() -> None:
        try:
            outcome.append(Ownership.acquire(tmp_path / "db", "second"))
        except DatabaseError as error:
            outcome.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    try:
        inode = f":{lock.stat().st_ino} "
        helpers.block_until(
            lambda: (
                outcome or any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())
            ),
            10,
            "the second one waits",
        )
        replaced = left_behind(tmp_path / "new")  # this process, as the one whose turn it is
        replaced.rename(lock)
    finally:
        os.close(turn)
        thread.join(10)

    assert "in use by program program-1" in str(outcome[0])


RACER = """
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from hyperflow.database.ownership import Ownership
from hyperflow.errors import DatabaseError
print("ready", flush=True)
for line in sys.stdin:
    try:
        held = Ownership.acquire(Path(line.strip()), "racer")
        print("won", flush=True)
    except DatabaseError as error:
        print("lost" if "in use by program racer" in str(error) else f"wrong: {error}", flush=True)
"""


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    """Four processes race for an abandoned lock, many times: each time one wins, and the others are told."""
    gone = dead_pid()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        assert [_answer(racer) for racer in racers] == ["ready"] * 4
        for number in range(150):
            database = tmp_path / f"db{number}"
            left_behind(database, pid=gone, started="123")
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(f"{database}\n")
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.flush()
            assert sorted(_answer(racer) for racer in racers) == ["lost", "lost", "lost", "won"]
    finally:
        for racer in racers:
            racer.communicate()


def _answer(racer: "subprocess.Popen[str]") -> str:
    assert racer.stdout is not None
    return racer.stdout.readline().strip()
