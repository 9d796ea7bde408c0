"""Allocations that shrink while the job runs."""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head import allocation_nodes
from hyperflow.head.engine import open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.transports.process import Local
from tests.helpers import wait_until

RECORD = (
    "JobId=7 JobName=x JobState={} Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode=0:0 RunTime=00:00:00 ReqNodeList=(null) ExcNodeList=(null) NodeList={} BatchHost=n1 NumNodes=1 "
)


@pytest.mark.process
async def test_what_slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes that a running job has are told; errors, nonsense and a job that has ended tell nothing."""
    monkeypatch.setattr(allocation_nodes, "PAUSE", 0.01)
    command, record = tmp_path / "scontrol", tmp_path / "record"
    command.write_text(f"#!/bin/sh\necho >> {tmp_path}/asked\ncat {record}\n")
    command.chmod(0o755)
    told: list[Collection[str]] = []
    environ = {"PATH": os.pathsep.join([str(tmp_path), os.defpath])}
    watching = asyncio.create_task(allocation_nodes.watch(7, told.append, environ))

    async def asked_again() -> None:
        size = (tmp_path / "asked").stat().st_size if (tmp_path / "asked").exists() else 0
        await wait_until(
            lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").stat().st_size > size + 2, 10, "it is asked"
        )

    for text in ("slurm_load_jobs error", "", RECORD.format("RUNNING", "(null)"), RECORD.format("COMPLETED", "n1"),
                 RECORD.format("RUNNING", "n[1-")):  # fmt: skip
        record.write_text(text)
        await asked_again()
    assert told == []
    record.write_text(RECORD.format("RUNNING", "n[1-2]"))
    await wait_until(lambda: bool(told), 10, "it is told")
    assert tuple(told[-1]) == ("n1", "n2")
    watching.cancel()
    await asyncio.wait([watching])


async def test_work_ends_on_a_node_that_is_gone(tmp_path: Path) -> None:
    """A node that the allocation does not have any more is given up, and its work is done elsewhere."""
    plans = [NodePlan(Local("n1"), 1), NodePlan(Local("n2"), 1)]
    async with open_engine(plans, hf.ProgramInfo.new(tmp_path), settings=Settings()) as engine:
        pid = engine.fleet.links["n2"].greeting.pid  # type: ignore[union-attr]
        waiting = [engine.submit(node_after, (str(tmp_path / "go"),), {}, Options()) for _ in range(2)]
        await wait_until(lambda: engine.statistics().running == 2, 20, "both run")
        engine.fleet.keep(["somewhere", "else"])  # nonsense
        assert engine.statistics().nodes == 2
        engine.fleet.keep(["n1"])
        assert engine.statistics().nodes == 1
        await wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the launcher there has ended")
        (tmp_path / "go").touch()
        assert await asyncio.gather(*waiting) == ["n1", "n1"]


def node_after(path: str) -> str:
    """On a worker: wait for a file, and return the node's name."""
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return hf.worker_info().node
