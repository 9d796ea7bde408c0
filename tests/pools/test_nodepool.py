"""What a pool of nodes may have, and what is said of what it may not."""

from typing import Any

import pytest

import hyperflow as hf
from hyperflow.errors import ConfigurationError
from hyperflow.pools.nodepool import NodePool


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sbatch": "--nodes 1"}, "NodePool(sbatch='--nodes 1'): hyperflow.SbatchOptions(...) is needed"),
        ({"sbatch": {"nodes": 1}}, "NodePool(sbatch={'nodes': 1}): hyperflow.SbatchOptions(...) is needed"),
        ({"sbatch": [hf.SbatchOptions(), 7]}, "NodePool(sbatch=7): hyperflow.SbatchOptions(...) is needed"),
        ({"hosts": {"box1": 0}}, "NodePool(hosts={'box1': 0}): cpus=0: a whole number of at least 1"),
        ({"hosts": ["box1"]}, "NodePool(hosts=['box1']): a dictionary is needed"),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], said: str) -> None:
    """The message shows all of what was given, and the option that it was given for."""
    with pytest.raises(ConfigurationError) as failed:
        NodePool(**options)
    assert str(failed.value).startswith(said)


def test_options_of_sbatch_in_place_of_a_pool() -> None:
    """The message says how to make a pool of them."""
    pool: Any = hf.SbatchOptions(nodes=1)
    with pytest.raises(ConfigurationError, match=r"write hyperflow.NodePool\(sbatch=\.\.\.\)"):
        hf.run_job_pool(hf.pure(1), pool)
