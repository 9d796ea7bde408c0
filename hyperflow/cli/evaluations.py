"""Evaluations as commands name them: NUMBER, and JOB.NUMBER in a Cluster program."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from hyperflow.cli import heads
from hyperflow.cli.records import Run
from hyperflow.errors import ConfigurationError

Named: TypeAlias = tuple[int | None, int]
"""Job, None where there is one only, and number."""

_FORM = re.compile(r"(?:(\d+)\.)?#?(\d+)")


def is_one(word: str) -> bool:
    """Whether a word names an evaluation."""
    return _FORM.fullmatch(word) is not None


def split(command: str, words: tuple[str, ...]) -> tuple[str | None, Named | None]:
    """Return the run and the evaluation that are named: a number is an evaluation, anything else a run.

    Raises:
        ConfigurationError: It is neither.
    """
    rest = list(words)
    which = rest.pop(0) if rest and not _FORM.fullmatch(rest[0]) else None
    match = _FORM.fullmatch(rest.pop(0)) if rest else None
    if rest or (len(words) > (which is not None) and match is None):
        raise ConfigurationError(f"{command} {' '.join(words)}: type hyperflow {command} [RUN] [EVALUATION]")
    if match is None:
        return which, None
    return which, (int(match[1]) if match[1] is not None else None, int(match[2]))


def check(run: Run, evaluation: Named) -> None:
    """Raise ConfigurationError if the job is not named where a run has several."""
    if evaluation[0] is None and run.cluster is not None:
        raise ConfigurationError(f"{run.name} has jobs: name the evaluation as JOB.NUMBER, 3.{evaluation[1]}")


def named(job: int | None, task: int) -> str:
    """Return what commands call an evaluation."""
    return str(task) if job is None else f"{job}.{task}"


def log_dirs(run: Run) -> list[tuple[int | None, Path]]:
    """Return the jobs of a run, each with the log directory of its newest start."""
    if run.cluster is None:
        return [(None, run.log_dir)]
    try:
        return [(head.job, head.log_dir) for head in heads.of(run.home)]
    except OSError:  # it has just been removed
        return []
