"""Signs of life: who gives them when, and who is given up."""

import os
import time
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head.link import Link
from hyperflow.transports.process import Local, portable_environment, with_prologue
from tests.helpers import wait_until
from tests.support import local


def large(size: int) -> bytes:
    """On a worker: a result that does not fit into any pipe."""
    return bytes(size)


async def test_a_launcher_whose_head_does_not_read_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """While user code blocks the event loop and results wait to be read, a launcher does not spin."""
    monkeypatch.setenv("HYPERFLOW_HEARTBEAT", "0.05")
    async with local(cpus=1) as env:
        launcher = await hf.remote_eval(os.getppid)
        before = _seconds(launcher)
        evaluation = hf.remote_eval(large, 8 << 20).start()
        await wait_until(lambda: env.statistics().running == 1, 5, "it has been sent")
        time.sleep(1.5)  # this is the user's code
        assert _seconds(launcher) - before < 0.5
        assert len(await evaluation) == 8 << 20


def _seconds(pid: int) -> float:
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestSilence:
    """A link counts the seconds in which it listened and heard nothing."""

    @pytest.fixture
    def lost(self) -> list[str]:
        """What was reported."""
        return []

    @pytest.fixture
    async def link(self, tmp_path: Path, lost: list[str]) -> Link:
        """A link that is up, as far as it knows."""
        settings = Settings(heartbeat=1.0, node_timeout=5.0)
        link = Link(Local("n"), settings, tmp_path, lambda *_: None, lambda _, cause, silent: lost.append(cause))
        link._inbox = None
        return link

    async def test_it_adds_up(self, link: Link, lost: list[str]) -> None:
        """Five seconds of silence and one more are too many."""
        for second in range(1, 6):
            link.beat(link.last_received + second, 1.0)
        assert lost == []
        link.beat(link.last_received + 6, 1.0)
        assert lost == ["nothing was heard of it for 6.0 s"]

    async def test_while_we_did_not_listen(self, link: Link, lost: list[str]) -> None:
        """However long the event loop stood still, it counts as the little that the caller says."""
        link.beat(link.last_received + 1000, 2.0)
        link.beat(link.last_received + 2000, 2.0)
        assert lost == []
        link.beat(link.last_received + 3000, 2.0)
        assert lost == ["nothing was heard of it for 3000.0 s"]

    async def test_any_byte_ends_it(self, link: Link, lost: list[str]) -> None:
        """A part of a frame is a sign of life."""
        for _ in range(5):
            link.beat(link.last_received + 4.9, 4.9)
            link.data_received(b"x")
        assert lost == []


def test_what_is_no_other_nodes_business() -> None:
    """Variables that are about this node or this session stay here."""
    here = {"PATH": "/bin", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "1"}
    mine = {"SSH_AUTH_SOCK": "/x", "SLURMD_NODENAME": "n1", "SLURM_STEP_ID": "0", "HYPERFLOW_LAUNCHER": "1", "PWD": "/"}

    assert portable_environment({**here, **mine}) == here


def test_no_prologue() -> None:
    """Without a prologue there is no shell in between."""
    assert with_prologue(["python", "-c", "x y"], " \n") == ["python", "-c", "x y"]
