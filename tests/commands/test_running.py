"""A task on a worker: what its command writes comes home unchanged, whatever the command does."""

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from hyperflow.commands.records import MOST_OUTPUT
from hyperflow.commands.running import TaskDone, TaskFailed
from tests.commands.small import Small, python, run, shell, written
from tests.helpers import block_until

BINARY = bytes(range(256)) * 700
"""More than a piece, and no UTF-8."""


def test_what_is_recorded_of_a_task(tmp_path: Path) -> None:
    """Both streams, input, directory and variables of short commands, and how they ended."""
    (tmp_path / "in").write_bytes(b"read\n")
    home, records = run(
        tmp_path,
        Small(
            ["/bin/sh", "-c", 'cat; pwd; echo "$X"; echo wrong >&2'], str(tmp_path), {"X": "ä"}, str(tmp_path / "in")
        ),
        shell("echo no >&2; exit 3"),
        shell("kill -9 $$"),
        Small(["sleep", "0"]),
    )
    assert [(each.state, each.exit_code) for each in records] == [
        ("done", 0),
        ("failed", 3),
        ("failed", -9),
        ("done", 0),
    ]
    assert written(home, 1) == f"read\n{tmp_path}\nä\n".encode()
    assert written(home, 1, "err") == b"wrong\n"
    assert (records[0].out, records[0].err, records[0].tries) == (len(written(home, 1)), 6, 1)
    assert records[1].error == "no"
    assert records[2].error == "was killed by SIGKILL"
    assert records[3].out == 0
    assert written(home, 4) == b""
    assert all(each.node and each.memory and each.seconds > 0 for each in records)


def test_bytes_come_unchanged(tmp_path: Path) -> None:
    """What is no UTF-8, cut anywhere, NULs, and texts of more than one byte for a character, in two streams at once."""
    code = f"""
import os
for n in range(40):
    os.write(1, {BINARY[:4096]!r}); os.write(2, 'äöü€'.encode() * 300)
os.write(1, b'\\0\\r\\n')
"""
    home, (record,) = run(tmp_path, python(code))
    assert written(home, 1) == BINARY[:4096] * 40 + b"\0\r\n"
    assert written(home, 1, "err") == "äöü€".encode() * 300 * 40
    assert (record.out, record.err) == (4096 * 40 + 3, len("äöü€".encode()) * 12_000)


def test_streams_that_are_written_in_turns_for_long(tmp_path: Path) -> None:
    """A command that goes on has its output posted piece by piece; none is lost or doubled."""
    code = """
import sys, time
for n in range(120):
    print('out', n, flush=True); print('err', n, file=sys.stderr, flush=True); time.sleep(0.01)
"""
    home, _ = run(tmp_path, python(code))
    assert written(home, 1).decode().splitlines() == [f"out {n}" for n in range(120)]
    assert written(home, 1, "err").decode().splitlines() == [f"err {n}" for n in range(120)]


def test_a_flood(tmp_path: Path) -> None:
    """Of 200 MB, the first 64 MB are kept and the rest is counted; the worker's memory does not grow by it."""
    code = """
import os, resource
block = bytes(range(256)) * 4096
for _ in range(200): os.write(1, block)
parent = open(f'/proc/{os.getppid()}/status').read()
os.write(2, parent.split('VmHWM:')[1].split()[0].encode())
"""
    home, (record,) = run(tmp_path, python(code))
    assert (record.state, record.out) == ("done", 200 << 20)
    kept = written(home, 1)
    assert len(kept) == MOST_OUTPUT
    assert hashlib.sha256(kept).digest() == hashlib.sha256(bytes(range(256)) * (MOST_OUTPUT // 256)).digest()
    assert int(written(home, 1, "err")) < 150_000  # KB


def test_a_process_that_is_left_behind(tmp_path: Path) -> None:
    """It keeps the output open, and writes later: nobody waits for it, and it writes into no other task's output."""
    home, records = run(
        tmp_path,
        shell("(setsid sh -c 'for n in 1 2 3 4 5 6 7 8; do echo late; sleep 0.05; done') & echo first"),
        shell("sleep 0.2; echo second"),
    )
    assert [each.state for each in records] == ["done", "done"]
    assert records[0].seconds < 0.3
    assert written(home, 1).replace(b"late\n", b"") == b"first\n"
    assert written(home, 2) == b"second\n"


def test_output_that_a_script_opens_anew(tmp_path: Path) -> None:
    """`> /dev/stderr` does not cut off what is there."""
    home, _ = run(tmp_path, shell("echo one >&2; echo two > /dev/stderr; echo three > /dev/stdout; echo four"))
    assert written(home, 1, "err") == b"one\ntwo\n"
    assert written(home, 1) == b"three\nfour\n"


def test_commands_that_cannot_be_started(tmp_path: Path) -> None:
    """The exit code is that of a shell, and the error output says where the program was sought."""
    (tmp_path / "file").write_text("text")
    home, records = run(
        tmp_path,
        Small(["no-such-program"]),
        Small([str(tmp_path / "gone")]),
        Small([str(tmp_path / "file")]),
        Small(["true"], cwd=str(tmp_path / "nowhere")),
        Small(["true"], stdin=str(tmp_path / "missing")),
    )
    assert [each.exit_code for each in records] == [127, 127, 126, 126, 126]
    assert b"PATH is" in written(home, 1, "err")
    assert str(tmp_path / "gone").encode() in written(home, 2, "err")
    assert str(tmp_path / "nowhere").encode() in written(home, 4, "err")
    assert str(tmp_path / "missing").encode() in written(home, 5, "err")
    assert all(each.state == "failed" and each.error for each in records)


def test_a_task_that_is_tried_again(tmp_path: Path) -> None:
    """Only what its last try has written is its output, though the first has written more."""
    script = f"""
if mkdir {tmp_path}/tried; then seq 1 20000; sleep 0.7; seq 1 20000; exit 1; fi
echo second
"""
    home, (record,) = run(tmp_path, shell(script), retries=1)
    assert (record.state, record.tries) == ("done", 2)
    assert written(home, 1) == b"second\n"


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """What was posted by then is there."""
    home, (record,) = run(tmp_path, shell("echo begun; sleep 1.2; kill -9 $PPID; sleep 30"), crash_limit=1)
    assert (record.state, record.exit_code) == ("failed", None)
    assert "WorkerDied" in record.error
    assert (record.out, record.err, record.tries) == (6, 0, 1)
    assert written(home, 1) == b"begun\n"


def test_a_time_limit(tmp_path: Path) -> None:
    """What a command has written comes home, and its last words, too."""
    script = "trap 'echo last words; exit 1' TERM; echo begun; for n in 1 2 3 4 5 6 7 8 9; do sleep 0.3; done"
    home, (record,) = run(tmp_path, shell(script), time_limit=0.9)
    assert record.state == "failed"
    assert "TimeLimitExceeded" in record.error
    assert written(home, 1) == b"begun\nlast words\n"


def test_failures_travel() -> None:
    """The error survives pickle, with all that it has."""
    done = TaskDone(3, 0.5, 0.1, 1000, "node1", 2, b"\xff", b"it is wrong\n", 0, 0, "1a")
    error = pickle.loads(pickle.dumps(TaskFailed(17, ["./simulate", "a b"], done)))
    assert error.done == done
    assert str(error) == "task 17, ['./simulate', 'a b'], exited with 3 on node1\n  | it is wrong"


@pytest.mark.process
def test_no_process_is_left(tmp_path: Path) -> None:
    """A run that is killed takes its commands with it."""
    script = f"""
from pathlib import Path
from tests.commands.small import run, shell
run(Path({str(tmp_path)!r}), shell('echo $$ > {tmp_path}/pid; exec sleep 100'))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    pid = tmp_path / "pid"
    try:
        block_until(lambda: pid.exists() and pid.read_text(), 20, "the command runs")
    finally:
        process.kill()
        process.wait()
    command = Path(f"/proc/{int(pid.read_text())}")
    block_until(lambda: not command.exists(), 15, "the command is gone")
