"""What is read of the logs of a run that has several jobs."""

import json
from pathlib import Path

from hyperflow.cli.histories import Reading


def write(directory: Path, *tasks: int) -> Path:
    """Write the log of a job whose evaluations have ended."""
    directory.mkdir()
    lines = (
        {"t": 1.0, "state": "opened", "version": 1},
        {"t": 2.0, "state": "waiting", "tasks": tasks, "function": "f", "cpus": 1},
        {"t": 3.0, "state": "running", "tasks": tasks, "worker": "worker-0@n1"},
        {"t": 4.0, "state": "done", "tasks": tasks, "worker": "worker-0@n1", "seconds": [0.1] * len(tasks)},
    )
    (directory / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_the_log_of_a_job_takes_nothing_from_that_of_another(tmp_path: Path) -> None:
    """Each begins with `opened`, which makes the earlier starts of one job past, and not the other jobs."""
    reading = Reading()
    for _ in range(2):  # they are looked at again and again
        reading.look([(1, write(tmp_path / f"a{_}", 1, 2, 3)), (2, write(tmp_path / f"b{_}", 1, 2))])
        assert list(zip(reading.history.job, reading.history.task, strict=True)) == [
            (1, 1),
            (1, 2),
            (1, 3),
            (2, 1),
            (2, 2),
        ]
        assert reading.note == ""
