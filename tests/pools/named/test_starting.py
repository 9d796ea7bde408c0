"""Managers of named pools, started and stopped on this machine, without Slurm: `hyperflow pool start|list|stop`."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.cli.main import command_line
from hyperflow.control import place
from hyperflow.control.client import Contact
from hyperflow.errors import ConfigurationError
from hyperflow.pools.named import named, starting
from tests.helpers import alive, block_until

pytestmark = pytest.mark.process

HOST = ("--hosts", "nowhere.invalid=2")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's state directory; managers that are left there at the end are killed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path
    for pool in named.everyone():
        if pool.state == "running" and pool.about.manager is not None:
            os.kill(pool.about.manager.pid, signal.SIGKILL)
            _until_dead(pool.about.manager.pid)


def _until_dead(pid: int) -> None:
    """Wait for the end of a manager, which is a child of ours here."""
    block_until(lambda: not alive(pid), 20, "the manager ends")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


Pool = Callable[..., str]


@pytest.fixture
def pool(capsys: pytest.CaptureFixture[str]) -> Pool:
    """Type a `hyperflow pool` command; return what it prints."""

    def typed(*words: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            command_line(["pool"])(["pool", *words])
        out, error = capsys.readouterr()
        assert (ended.value.code or 0) == code, out + error
        return out + error

    return typed


def _manager() -> int:
    owner = named.find("mine").about.manager
    assert owner is not None
    return owner.pid


def _programs() -> Any:
    address = place.read(named.find("mine").home)
    assert address is not None
    return Contact(address).get("/pool")["programs"]


def test_the_life_of_a_manager(pool: Pool) -> None:
    """It answers when the command returns, has no terminal, is the only one, is replaced when killed, and ends."""
    said = pool("start", "mine", *HOST)
    assert "pool mine started: hosts nowhere.invalid" in said
    assert 'hyperflow.run_job_pool(job(), "mine")' in said
    pid = _manager()
    assert os.getsid(pid) == pid
    assert _programs() == []
    assert "process" in pool("start", "mine", code=1)
    (row,) = json.loads(pool("list", "--json"))["pools"]
    assert (row["name"], row["state"], row["pid"], row["programs"]) == ("mine", "running", pid, 0)

    os.kill(pid, signal.SIGKILL)
    _until_dead(pid)
    assert "left" in pool("list")
    assert "without other options" in pool("start", "mine", "--hosts", "other=1", code=1)
    assert "pool mine goes on" in pool("start", "mine")
    assert _manager() != pid
    pid = _manager()
    assert "has ended" in pool("stop", "mine")
    _until_dead(pid)
    assert "ended" in pool("list")
    with pytest.raises(ConfigurationError, match="`hyperflow pool start mine` starts it again"):
        hf.run_job_pool(hf.remote_eval(abs, 1), "mine")


def test_what_was_set_outlives_a_manager(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next manager has the limits that were changed; who starts one within an allocation is told how it ends."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert "it ends with Slurm job 4711" in pool("start", "mine", *HOST)
    address = place.read(named.find("mine").home)
    assert address is not None
    Contact(address).post("/pool/set", max_allocations=7)
    pid = _manager()
    os.kill(pid, signal.SIGKILL)
    _until_dead(pid)
    pool("start", "mine")
    assert named.find("mine").about.options.max_allocations == 7
    pool("stop", "mine")


def test_two_who_start_one_pool(pool: Pool) -> None:
    """While one `pool start` is at it, a second one of that name is refused, and changes nothing."""
    with starting._alone("mine"):  # pyright: ignore[reportPrivateUsage]
        assert "another `hyperflow pool start mine` is at it" in pool("start", "mine", *HOST, code=1)
    assert named.everyone() == []


def test_a_pool_that_is_damaged_is_shown(pool: Pool, state: Path) -> None:
    """`pool list` shows what cannot be read, with the reason, beside the others."""
    home = state / "hyperflow/pools/mine"
    home.mkdir(parents=True, mode=0o700)
    (home / named.FILE).write_bytes(b"garbage")
    (home / named.FILE).chmod(0o600)
    (row,) = json.loads(pool("list", "--json"))["pools"]
    assert (row["name"], row["state"]) == ("mine", "unusable")
    assert "damaged" in row["what"]
    assert "unusable" in pool("list")


def test_a_manager_that_is_killed_while_it_ends(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pool stop` does not say then that all was given back, but what to type."""
    pool("start", "mine", *HOST)
    pid = _manager()

    def kill(*_: object) -> dict[str, Any]:
        os.kill(pid, signal.SIGKILL)
        _until_dead(pid)
        return {"programs": []}

    with monkeypatch.context() as patch:
        patch.setattr(starting, "stop", kill)
        assert "was killed while it ended; `hyperflow pool stop mine` again" in pool("stop", "mine", code=1)
    assert "has ended" in pool("stop", "mine")


def test_sigterm_ends_it(pool: Pool) -> None:
    """A manager that is terminated gives everything back, and says why it ended."""
    pool("start", "mine", *HOST)
    pid = _manager()
    os.kill(pid, signal.SIGTERM)
    _until_dead(pid)
    assert named.find("mine").about.cause == "SIGTERM has come"


def test_what_a_killed_manager_has_left_can_be_ended(pool: Pool) -> None:
    """`pool stop` takes over what a killed manager has left, and ends it."""
    pool("start", "mine", *HOST)
    pid = _manager()
    os.kill(pid, signal.SIGKILL)
    _until_dead(pid)
    assert "has ended" in pool("stop", "mine")
    assert "has ended already" in pool("stop", "mine")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start", "a/b", *HOST), "cannot be the name of a pool"),
        (("start", "mine"), "what it may have is missing"),
        (("start", "mine", "--max-allocations", "3"), "what the pool may have is missing"),
        (("start", "mine", "--hosts", "box="), "has no number of CPUs; such as box=8 is right"),
        (("start", "mine", "--hosts", "box=0"), "has no number of CPUs"),
        (("start", "mine", "--hosts", "box=1,box=2"), "box is there twice"),
        (("start", "mine", *HOST, "--idle-timeout", "soon"), "idle_timeout"),
        (("start", "mine", "--dry-run"), "what it may have is missing"),
        (("stop", "mine"), "no pool named 'mine'"),
        (("info", "mine"), "mine"),
    ],
)
def test_bad_input(pool: Pool, words: tuple[str, ...], said: str) -> None:
    """What makes no sense is refused before anything is started, and says what is needed."""
    assert said in pool(*words, code=1)
    assert named.everyone() == []


def test_a_full_disk(state: Path) -> None:
    """Where nothing can be written, no manager is started, and the error names the place."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    argv = [sys.executable, "-m", "hyperflow", "pool", "start", "mine", *HOST]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=limit, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot write {state}/hyperflow/pools/mine: File too large; free space there" in done.stderr


def test_a_name_that_is_no_pool() -> None:
    """A program for a pool that there is not is refused with how to start one."""
    with pytest.raises(ConfigurationError, match="To start one, type: hyperflow pool start mine"):
        hf.run_job_pool(hf.remote_eval(abs, 1), "mine")
