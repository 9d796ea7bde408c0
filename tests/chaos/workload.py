"""What the program under attack is to do: written by the harness, read by the program."""

import json
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Workload:
    """What a program does.

    Args:
        keys: How many evaluations.
        seconds: How long each takes.
        cpus: How many run side by side; on Slurm: on each node.
        world: "local", or "slurm": within an allocation, or "cluster": a Cluster program on the login host.
        jobs: How many jobs a Cluster program has; the keys are dealt out to them.
        nodes: How many nodes each of these jobs has.
        words: Further words of the Cluster program's command line.
        leaves: Whether each task leaves a process behind, in a session of its own.
        burns: Whether a task computes all the time instead of sleeping.
        payload: How many bytes of an array each task gets.
        limit: How many keys are awaited at a time; 0 for all.
        slow: Of so many keys only one takes its seconds; 0 for all.
        locks: Among how many locks the tasks are dealt out; each holds its own while it runs.
        cancels: Of so many keys one is cancelled once it has started, in the first turn.
        database: The URL of a server; by default a file.
        options: For using() of all evaluations.
        settings: For run_job_slurm.
    """

    keys: int = 60
    seconds: float = 0.05
    cpus: int = 2
    world: str = "local"
    jobs: int = 2
    nodes: int = 1
    words: tuple[str, ...] = ("--on-error", "raise")
    leaves: bool = False
    burns: bool = False
    payload: int = 0
    limit: int = 0
    slow: int = 0
    locks: int = 0
    cancels: int = 0
    database: str = ""
    options: dict[str, Any] = attrs.field(factory=dict)
    settings: dict[str, Any] = attrs.field(factory=dict)

    def write(self, place: Path) -> None:
        """Leave it for the program."""
        (place / "workload.json").write_text(json.dumps(attrs.asdict(self)))

    @classmethod
    def read(cls, place: Path) -> "Workload":
        """Read what was left."""
        return cls(**json.loads((place / "workload.json").read_text()))
