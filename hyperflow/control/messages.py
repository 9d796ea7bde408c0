"""Jobs as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from hyperflow.master.lifecycle import State
from hyperflow.master.view import JobView, Progress

FORMAT = 1
"""It changes when something changes its meaning, not when something is added."""


def job_to_json(job: JobView) -> dict[str, Any]:
    """Return a job as an object of JSON."""
    return {**attrs.asdict(job), "state": str(job.state), "directory": str(job.directory)}


def job_from_json(data: Mapping[str, Any]) -> JobView:
    """Return the job that an object of JSON tells of; members that are not known here are left out."""
    known = {field.name: data[field.name] for field in attrs.fields(JobView)}
    counts = {field.name: data["progress"][field.name] for field in attrs.fields(Progress)}
    known |= {
        "state": State(data["state"]),
        "progress": Progress(**counts),
        "directory": Path(data["directory"]),
    }
    return JobView(**known)
