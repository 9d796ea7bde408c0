"""How long a node is there, as Slurm and PBS say it."""

from collections.abc import Mapping, Sequence

import pytest

from hyperflow.errors import SlurmError
from hyperflow.pools.joining.walltime import seconds_left

PBS_PRO = """Job Id: 42.server
    Job_Name = x
    resources_used.walltime = 00:10:00
    Resource_List.ncpus = 4
    Resource_List.walltime = 01:00:00
"""
TORQUE = "Job Id: 7\n    Resource_List.walltime = 24:00:00\n    Walltime.Remaining = 86000\n"
SCONTROL = (
    "JobId=7 JobName=x Requeue=1 Restarts=0 BatchFlag=1 StartTime=1000 EndTime=4600 Deadline=N/A "
    "NodeList=node1 BatchHost=node1 NumNodes=1\n"
)


def says(text: str | None) -> object:
    """Return a batch system's command that prints this, or fails."""

    def ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
        del variables
        if text is None:
            raise SlurmError(f"no {command[0]}")
        return text

    return ask


@pytest.mark.parametrize(
    ("environ", "text", "left"),
    [
        ({}, None, None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1600"}, None, 600.0),
        ({"SLURM_JOB_ID": "7"}, SCONTROL, 3600.0),
        ({"SLURM_JOB_ID": "7"}, None, None),
        ({"PBS_JOBID": "42.server"}, PBS_PRO, 3000.0),
        ({"PBS_JOBID": "7"}, TORQUE, 86000.0),
        ({"PBS_JOBID": "7"}, "Job Id: 7\n  Resource_List.walltime = 1:00:00:00\n", 86400.0),
        ({"PBS_JOBID": "7", "PBS_WALLTIME": "1800"}, None, 1800.0),
        ({"PBS_JOBID": "7"}, "Job Id: 7\n", None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "900"}, None, 1.0),
    ],
)
def test_what_is_left(environ: dict[str, str], text: str | None, left: float | None) -> None:
    """Variables first, then the batch system's command; where nobody says it, there is no end."""
    assert seconds_left(environ, says(text), lambda: 1000.0) == left  # type: ignore[arg-type]
