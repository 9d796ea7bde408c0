"""The notebooks: executed from scratch, they give the outputs that are committed."""

import json
from pathlib import Path

import pytest

from tests import notebooks
from tests.cluster.cluster import Cluster
from tests.imports import TOP


def test_all_are_known() -> None:
    """Each file of notebooks/ is executed by a test."""
    assert {path.stem for path in notebooks.DIRECTORY.glob("*.ipynb")} == {*notebooks.LOCAL, *notebooks.SLURM}


@pytest.mark.parametrize("name", [*notebooks.LOCAL, *notebooks.SLURM])
def test_committed(name: str) -> None:
    """All cells were executed in their order, in one run, and no path of the machine where that was is in them."""
    text = (notebooks.DIRECTORY / f"{name}.ipynb").read_text()
    assert str(TOP) not in text
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))


def compare(name: str, executed: Path) -> None:
    """Compare what an execution has given with what is committed."""
    assert list(notebooks.outputs(executed)) == list(notebooks.outputs(notebooks.DIRECTORY / f"{name}.ipynb"))


@pytest.mark.process
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", notebooks.LOCAL)
def test_on_this_machine(name: str, tmp_path: Path) -> None:
    """A notebook gives the committed outputs, and leaves nothing running."""
    compare(name, notebooks.on_this_machine(name, tmp_path))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", notebooks.SLURM)
def test_on_a_cluster(name: str, cluster: Cluster) -> None:
    """Within an allocation of three nodes, and on the login host with jobs of its own."""
    directory = cluster.home / f"notebook-{name}"
    directory.mkdir()
    compare(name, notebooks.on_cluster(name, directory, cluster))
