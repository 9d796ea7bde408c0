"""Jobs as JSON, and back: for the control API and `hyperflow list --json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from hyperflow.master.lifecycle import State
from hyperflow.master.view import JobView, Progress

FORMAT = 1
"""Goes up with incompatible changes only; members may be added without."""


def job_to_json(job: JobView) -> dict[str, Any]:
    """Return a job as a JSON object."""
    return {**attrs.asdict(job), "state": str(job.state), "directory": str(job.directory)}


def job_from_json(data: Mapping[str, Any]) -> JobView:
    """Return the job that a JSON object describes; members that are not known here are left out."""
    known = {field.name: data[field.name] for field in attrs.fields(JobView)}
    counts = {field.name: data["progress"][field.name] for field in attrs.fields(Progress)}
    known |= {
        "state": State(data["state"]),
        "progress": Progress(**counts),
        "directory": Path(data["directory"]),
    }
    return JobView(**known)
