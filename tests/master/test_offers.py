"""What the nodes of a program's jobs have, where the program says it; and what jobs on this machine share."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hyperflow as hf
from hyperflow.master.batch import Order
from hyperflow.slurm.script import SbatchOptions
from tests.gpus import looks_at


@pytest.mark.parametrize(
    ("gres", "nodes", "gpus"),
    [
        (None, 1, 0),
        ("gpu", 1, 1),
        ("gpu:2", 3, 6),
        ("gpu:a100:2,shard:4", 1, 2),
        ("gres:gpu:a100,gpu:v100:3", 1, 4),
        ("license:2,gpuspeed:1", 1, 0),
    ],
)
def test_gpus_that_a_job_asks_for(gres: str | None, nodes: int, gpus: int) -> None:
    """They stand in `gres`, with or without a kind and a number, and are those of each node."""
    anything: Any = SimpleNamespace()

    assert Order(anything, "run", 1, "token", "job", SbatchOptions(nodes=nodes, gres=gres)).gpus == gpus


@pytest.mark.process
async def test_jobs_on_this_machine_have_gpus_of_their_own(tmp_path: Path) -> None:
    """Each has as many as it asks Slurm for, of those that the program names; and tokens of its own."""
    async with hf.open_cluster(
        base_dir=tmp_path,
        local=True,
        on_error="raise",
        gpus=["3", "5"],
        memory="4G",
        resources={"licence": 2},
        progress=False,
    ):
        one = hf.remote_eval_job(looks_at()).using(sbatch=hf.SbatchOptions(gres="gpu:1"))
        first, second, none = await hf.concurrently(one, one, hf.remote_eval_job(looks_at()))

    assert {first["gpus"], second["gpus"]} == {"3", "5"}
    assert none["gpus"] == ""
    for each in (first, second, none):
        assert each["licences"] == 2
        assert 1 << 30 <= each["memory"] <= 4 << 30
