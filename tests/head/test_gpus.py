"""GPUs of evaluations: each id is held by one at a time, whatever fails; nobody sees another one's."""

import asyncio
import os
import time
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.head import capacity
from hyperflow.wire import findings
from hyperflow.wire.findings import Findings
from tests.gpus import commands, follow, holds, looks, seen


def test_each_sees_its_own_and_no_others() -> None:
    """Without gpus= none; a number of them, or one that is shared; and worker_info() has the same."""
    none, one, both, half = hf.run_job_local(looks(), cpus=2, gpus=["3", "GPU-5d5b"], progress=False)

    assert none == ("", ())
    assert one[0] in ("3", "GPU-5d5b")
    assert one[1] == (one[0],)
    assert set(both[1]) == {"3", "GPU-5d5b"}
    assert half[1] in (("3",), ("GPU-5d5b",))
    for listed, ids in (none, one, both, half):
        assert listed == ",".join(ids)


def test_commands_see_the_same() -> None:
    """What an evaluation starts sees what it sees."""
    assert hf.run_job_local(commands(), cpus=1, gpus=["7"], progress=False) == ["", "7"]


async def test_statistics_tell() -> None:
    """How many there are, and how many are free; fractions too. What is asked for in vain is refused in words."""
    async with hf.open_local_job(cpus=2, gpus=["0", "1"], memory="8G", resources={"licence": 4}, progress=False) as env:
        running = hf.remote_eval(time.sleep, 60).using(gpus=0.5, resources={"licence": 3}).start()
        await asyncio.sleep(0)
        await hf.remote_eval(abs, 1)
        stands = env.statistics()

        assert (stands.gpus, stands.gpus_free) == (2, 1.5)
        assert (stands.tokens, stands.tokens_free) == ({"licence": 4}, {"licence": 1})
        assert stands.memory == 8 << 30
        assert stands.in_words()["GPUs"] == "2, 1.5 free"
        assert stands.in_words()["tokens"] == "licence: 4, 1 free"
        with pytest.raises(hf.ImpossibleRequest, match="the largest node has 2 GPUs"):
            await hf.remote_eval(seen).using(gpus=3)
        running.cancel()
        await asyncio.wait([running])


def test_a_gpu_is_empty_for_the_next() -> None:
    """What a worker keeps on a GPU is closed before the next one gets that GPU, however long it takes."""
    assert hf.run_job_local(follow(), cpus=2, gpus=["0"], progress=False) == [False, False, False]


def test_each_id_is_held_by_one(tmp_path: Path) -> None:
    """Of many that want one, two or half of one, and of which some fail or die, no two have the same."""
    ended = hf.run_job_local(holds(str(tmp_path), 100), cpus=2, gpus=["0", "1"], progress=False)

    assert (ended.pop("ValueError"), ended.pop("WorkerDied")) == (5, 2)
    assert {name.partition(" ")[2] for name in ended} == {"0", "1", "0 1"}
    assert sum(ended.values()) == 93


async def test_an_nvidia_smi_that_hangs_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a warning; GPUs are those that have a device file."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nsleep 1000\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(capacity, "SMI_SECONDS", 0.3)
    monkeypatch.setattr(findings, "look", lambda: Findings(("0", "1"), cards=2))

    with pytest.warns(RuntimeWarning, match="no answer within 0.3 s"):
        env = await hf.start_local(cpus=1, progress=False)
    assert env.statistics().gpus == 2
    assert (await hf.remote_eval(seen).using(gpus=2))[1] == ("0", "1")
    await env.close()
