"""Runs as tests want them, made without running anything."""

import json
from collections.abc import Mapping
from pathlib import Path

import attrs

from hyperflow.database.ownership import Owner

ESCAPE = "\x1b]0;owned\x07<img src=x onerror=alert(1)><script>alert(1)</script>\u202e\ud800"
"""What acts in a terminal, in HTML, on the direction of text; and half a letter."""

OPENED = {"t": 1.0, "state": "opened", "version": 1}


def make_run(base_dir: Path, name: str, *lines: Mapping[str, object] | bytes, **members: object) -> Path:
    """Make the directory of a job that has ended, with a record and an event log; return it."""
    home = base_dir / name
    (home / "log").mkdir(parents=True, mode=0o700)
    for path in (base_dir, home):
        path.chmod(0o700)
    about = {
        "format": 1,
        "run": name,
        "kind": "job",
        "home": str(home),
        "log_dir": str(home / "log"),
        "database": "",
        "temporary": False,
        "user": "me",
        "owner": attrs.asdict(Owner.this_process(name)),
        "argv": ["demo.py"],
        "directory": "/",
        "slurm_job": "",
        "versions": {},
        "created": 1.0,
        "began": 1.0,
        "alive": 2.0,
        "ended": 2.0,
        "outcome": "finished",
    }
    (home / "log" / "run.json").write_text(json.dumps(about | members))
    (home / "log" / "run.json").chmod(0o600)
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (home / "log" / "events.jsonl").write_bytes(b"".join(line + b"\n" for line in data))
    return home


def log_of(*tasks: int, function: str = "scan") -> list[Mapping[str, object]]:
    """Return a log in which some tasks have run, the last one badly."""
    worker = {"worker": "worker-0@node1"}
    return [
        OPENED,
        {"t": 1.0, "state": "up", "node": "node1", "cpus": 4, "pinned": False},
        {"t": 1.0, "state": "waiting", "tasks": list(tasks), "function": function, "cpus": 1},
        {"t": 1.0, "state": "running", "tasks": list(tasks), **worker},
        {"t": 1.5, "state": "done", "tasks": list(tasks[:-1]), **worker, "seconds": [0.1] * (len(tasks) - 1)},
        {"t": 1.6, "state": "failed", "tasks": [tasks[-1]], "call": f"{function}(1)", "error": f"ValueError: {ESCAPE}"},
    ]
