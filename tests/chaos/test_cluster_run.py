"""Runs on the test cluster: what the harness sees of them."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.cluster_run import SHARED, SlurmRun
from tests.chaos.workload import Workload


@pytest.fixture
def run(needs_cluster: None, own_surroundings: None, tmp_path: Path) -> Iterator[SlurmRun]:
    """Give a run in an allocation that is not started."""
    held = SlurmRun(tmp_path / "run", Workload(keys=36, seconds=0.2, world="slurm"), random.Random(0))
    try:
        yield held
    finally:
        held.close()
        SHARED.down()


@pytest.mark.timeout(120)
def test_two_turns(run: SlurmRun) -> None:
    """Processes are found by role and host; a turn that is killed says so; the next one ends well."""
    run.start()
    run.at_work()
    roles = {role: {process.host for process in found} for role, found in run.processes().items()}
    assert {role: len(hosts) for role, hosts in roles.items()} == {
        **dict.fromkeys(("keeper", "launcher", "worker", "watcher"), 3),
        "head": 1,
    }
    assert roles["head"] == {run.head_host}
    head = run.one("head", run.head_host)
    assert head
    head.signal(signal.SIGKILL)
    assert run.wait().code == -signal.SIGKILL

    run.start()

    assert run.wait().code == 0
    assert oracle.judge(run) == []
    assert {entry.host for entry in run.ledger.entries() if entry.what == "start"} == set(run.cluster.nodes)
