"""Tests of the holder, and of the claim by which it sees that it is still wanted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperflow.pools import claim
from hyperflow.pools.claim import Claim
from tests.helpers import block_until

ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_JOB_END_TIME": "1900000000",
    "SLURM_MEM_PER_NODE": "1024",
}


def _started(directory: Path, **variables: str) -> "subprocess.Popen[bytes]":
    code = "from hyperflow.pools import holder; holder.LOOK = 0.05; holder.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory), "3"],
        env={**os.environ, **ALLOCATION, **variables},
        stdout=subprocess.PIPE,
    )


def _end(holder: "subprocess.Popen[bytes]") -> tuple[int, str]:
    output, _ = holder.communicate(timeout=20)
    return holder.returncode, output.decode()


def test_a_claim() -> None:
    """It comes back as it was written, at one size; what is no claim is none."""
    said = Claim(5, "me", 12.5, frozenset({3, 4}))
    assert Claim.of(said.to_bytes()) == said
    assert len(said.to_bytes()) == claim.SIZE == len(Claim(0, "x" * 100, 1.0, range(5000), True).to_bytes())
    assert (said.wants(2), said.wants(3), said._replace(ended=True).wants(2)) == (True, False, False)
    assert [Claim.of(data) for data in (b"", b"{", b"{}", b"[]", b"\0" * 50)] == [None] * 5


@pytest.mark.process
def test_it_holds(tmp_path: Path) -> None:
    """It says what Slurm has granted, in a file that only the user can read; it ends when its number is given back."""
    claim.write(tmp_path, Claim(1, "me", 60.0, {2}))
    with _started(tmp_path) as holder:
        path = tmp_path / "holder-3"
        block_until(path.exists, 20, "it says what it has")
        said = json.loads(path.read_text())
        assert (said["slurm_job"], said["ends"], said["restarts"]) == (7, 1900000000.0, 0)
        assert said["nodes"][1] == {"name": "node2", "cpus": 4, "gpus": None, "memory": 1 << 30}
        assert path.stat().st_mode & 0o777 == 0o600
        holder.send_signal(signal.SIGUSR1)  # as Slurm does before the end
        claim.write(tmp_path, Claim(2, "me", 60.0, {2, 3}))
        assert _end(holder) == (0, "given back\n")


@pytest.mark.process
def test_nobody_wants_it(tmp_path: Path) -> None:
    """It ends when the claim does not change for as long as that says."""
    claim.write(tmp_path, Claim(1, "me", 0.5))
    with _started(tmp_path) as holder:
        assert _end(holder) == (0, "nobody has wanted this allocation for 0 s\n")


@pytest.mark.process
def test_a_second_start(tmp_path: Path) -> None:
    """An allocation that somebody has requeued ends at once."""
    with _started(tmp_path, SLURM_RESTART_COUNT="1") as holder:
        code, said = _end(holder)
    assert (code, "put back into the queue" in said) == (0, True)
    assert not (tmp_path / "holder-3").exists()
