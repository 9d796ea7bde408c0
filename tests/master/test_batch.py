"""What is asked of Slurm for a job: the settings of the user, and what the job itself wants."""

from pathlib import Path

from hyperflow.master.batch import Order, script_text
from hyperflow.master.rundir import JobDirectory
from hyperflow.slurm.script import SbatchOptions


def order(**extra: str) -> Order:
    """Return an order with such options of sbatch."""
    return Order(JobDirectory(Path("/run/jobs/1")), "run", 1, "token-12345678", "scan", SbatchOptions(extra=extra))


def test_excluded_nodes_go_to_sbatch() -> None:
    """The setting `exclude_nodes` becomes `--exclude`, beside what the job excludes itself."""
    assert "exclude" not in script_text(order())
    assert "\n#SBATCH --exclude=node3\n" in script_text(order(exclude="node3"))
    assert '\n#SBATCH --exclude="node[1-2]"\n' in script_text(order(), "node[1-2]")
    assert '\n#SBATCH --exclude="node3,node[1-2]"\n' in script_text(order(exclude="node3", nice="5"), "node[1-2]")
