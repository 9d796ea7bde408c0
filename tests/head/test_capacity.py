"""What of a node is handed out: what the program says, what Slurm grants, what the machine shows."""

import os
from pathlib import Path

import pytest

from hyperflow.head import capacity
from hyperflow.head.capacity import Supply
from hyperflow.wire.findings import Findings
from tests.helpers import alive, block_until

NOTHING = Findings()
CUDA = "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("said", "granted", "found", "gpus"),
    [
        (None, None, Findings(), ()),
        (None, None, Findings(("0", "1"), cards=2), ("0", "1")),  # a machine of our own
        (("3",), None, Findings(("0", "1"), cards=2), ("3",)),
        ((), Supply(("0", "1")), Findings(("0", "1"), CUDA), ()),
        (None, Supply(), Findings(("0", "1"), cards=2), ()),  # Slurm grants none: they may be another job's
        (None, Supply(), Findings(("1",), CUDA, cards=2), ("1",)),  # a step knows better than the head
        (None, Supply(("2", "3")), Findings(("0", "1", "2", "3"), cards=4), ("2", "3")),  # by ssh, not confined
        (None, Supply(("2", "3")), Findings(("0", "1"), cards=2), ("0", "1")),  # by ssh, confined: CUDA counts from 0
        (None, Supply(("2", "3")), Findings(), ("2", "3")),  # no driver that we know
        (None, Supply(("2",)), Findings(("0",), "SLURM_JOB_GPUS"), ("2",)),  # inherited from the head's node
        (None, Supply(("0", "1")), Findings(("GPU-5d5b",), CUDA, cards=2), ("GPU-5d5b",)),
    ],
)
def test_gpus(said: tuple[str, ...] | None, granted: Supply | None, found: Findings, gpus: tuple[str, ...]) -> None:
    """What the program says counts, then the node's own environment, then Slurm's record, then the device files."""
    choice = capacity.choose(Supply(said), granted, found, [0])

    assert choice.capacity.gpus == gpus
    assert bool(choice.gpus_from) == bool(gpus)


@pytest.mark.parametrize(
    ("granted", "found"),
    [
        (Supply(("0", "1")), Findings(("0",), cards=1)),
        (Supply(("0", "1")), Findings(("0", "1"), CUDA, cards=1)),
        (None, Findings(("0", "1"), CUDA, cards=1)),
        (Supply(("0", "1")), Findings(("0",), CUDA)),
    ],
)
def test_a_gpu_that_vanished(granted: Supply | None, found: Findings) -> None:
    """A GPU that should be there and cannot be opened is not handed out, and people are told which are missing."""
    choice = capacity.choose(capacity.NOTHING, granted, found, None)

    assert choice.capacity.gpus == ("0",)
    assert "names" in choice.remark
    assert "2 GPUs" in choice.remark


GIB = 1 << 30


@pytest.mark.parametrize(
    ("said", "granted", "found", "size", "source"),
    [
        (None, None, Findings(), 0, ""),
        (None, None, Findings(total_memory=4 * GIB, memory_from="machine"), 4 * GIB, "machine"),
        (None, Supply(None, GIB), Findings(total_memory=4 * GIB, memory_from="machine"), GIB, "Slurm"),
        (None, Supply(None, GIB), Findings(), GIB, "Slurm"),
        (None, Supply(None, 4 * GIB), Findings(total_memory=GIB, memory_from="control group"), GIB, "control group"),
        (8 * GIB, Supply(None, GIB), Findings(total_memory=GIB), 8 * GIB, "the program"),
    ],
)
def test_memory(said: int | None, granted: Supply | None, found: Findings, size: int, source: str) -> None:
    """What the program says counts; else the least that anybody allows."""
    choice = capacity.choose(Supply(None, said), granted, found, None)

    assert (choice.capacity.memory, choice.memory_from) == (size, source)


def test_domains_are_of_what_is_handed_out() -> None:
    """CPUs and GPUs that are not ours are in no domain; without pinning there is none."""
    found = Findings(("0", "1"), CUDA, domains=(((0, 1), ("0",)), ((2, 3), ("1",)), ((4,), ())))

    assert capacity.choose(Supply(("1",)), None, found, [1, 2]).capacity.domains == (
        (frozenset({1}), frozenset()),
        (frozenset({2}), frozenset({"1"})),
    )
    assert capacity.choose(Supply(), None, found, [0, 1]).capacity.domains == ()
    assert capacity.choose(Supply(), None, found, None).capacity.domains == ()


SMI = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
Unable to determine the device handle for gpu 0000:41:00.0: GPU is lost.  Reboot the system to recover this GPU
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-77aaa0d6-d33d-2b2c-524d-9e3d8d2b8a77)
"""


def stub(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an nvidia-smi in front of the PATH."""
    path = directory / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.process
def test_nvidia_smi_tells_of_parts_and_of_the_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is cut into parts is as many as it has parts; one that is lost is not used."""
    stub(tmp_path, monkeypatch, f"cat <<'END'\n{SMI}END\nexit 15")
    found = Findings(("0", "1", "2"), cards=3)

    assert capacity.needs_smi(Supply(), found)
    asked, remark = capacity.asked_smi(found)

    assert asked.gpus == ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", "2")
    assert "lists 2 GPUs" in remark
    assert capacity.choose(Supply(), None, asked, None).capacity.gpus == asked.gpus


@pytest.mark.process
def test_nvidia_smi_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed with all that it has started, and the device files count; a warning says so."""
    monkeypatch.setattr(capacity, "SMI_SECONDS", 0.3)
    stub(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; sleep 1000")
    found = Findings(("0",), cards=1)

    asked, remark = capacity.asked_smi(found)

    assert asked == found
    assert "no answer within 0.3 s" in remark
    block_until(lambda: not alive(int((tmp_path / "pid").read_text())), 5, "nvidia-smi has ended")


def test_nvidia_smi_is_not_asked_in_vain() -> None:
    """Nobody waits for it where there is no driver, or somebody has said which GPUs are ours."""
    assert not capacity.needs_smi(Supply(), NOTHING)
    assert not capacity.needs_smi(Supply(("0",)), Findings(("0",), cards=1))
    assert not capacity.needs_smi(Supply(), Findings(("0",), CUDA, cards=1))


@pytest.mark.process
def test_nvidia_smi_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have GPUs without it: the device files count, and nothing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert capacity.asked_smi(Findings(("0",), cards=1)) == (Findings(("0",), cards=1), "")
