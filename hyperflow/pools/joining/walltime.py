"""How long this process may run, as the batch system that has started it says: Slurm, or one of the PBS family.

Guarantees: never raises; where nobody says anything, None. A batch system that does not answer costs ASK_TIMEOUT.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from hyperflow.errors import SlurmError
from hyperflow.slurm import scontrol

logger = logging.getLogger("hyperflow")

ASK_TIMEOUT = 20.0
"""Seconds for one command of a batch system."""

_WALLTIME = re.compile(r"^\s*(Resource_List|resources_used)\.walltime\s*=\s*(\S+)\s*$", re.MULTILINE)
_REMAINING = re.compile(r"^\s*Walltime\.Remaining\s*=\s*(\d+)\s*$", re.MULTILINE)
_SPAN = re.compile(r"(?:(\d+):)?(?:(\d+):)?(\d+):(\d+)")

Ask = Callable[[Sequence[str], Mapping[str, str]], str]


def _ask(command: Sequence[str], variables: Mapping[str, str]) -> str:
    return scontrol.run_command(command, variables, ASK_TIMEOUT)


def seconds_left(environ: Mapping[str, str], ask: Ask = _ask, clock: Callable[[], float] = time.time) -> float | None:
    """Return for how many seconds this process may still run, as far as that is known; blocks.

    Args:
        ask: Runs a command, and returns what it printed; raises SlurmError.
        clock: Returns the seconds since 1970.
    """
    if environ.get("SLURM_JOB_ID"):
        return _left(_slurm_end(environ, ask), clock)
    if job := environ.get("PBS_JOBID"):
        try:
            return _of_qstat(ask(["qstat", "-f", job], {}))
        except SlurmError as error:
            logger.warning("it is not known when the job %s ends: %s", job, error)
        with suppress(KeyError, ValueError):  # the whole job's; the start of it is not said
            return float(environ["PBS_WALLTIME"])
    return None


def _left(end: float | None, clock: Callable[[], float]) -> float | None:
    return None if end is None else max(end - clock(), 1.0)


def _slurm_end(environ: Mapping[str, str], ask: Ask) -> float | None:
    with suppress(KeyError, ValueError):
        return float(environ["SLURM_JOB_END_TIME"])
    try:
        return scontrol.ask(int(environ["SLURM_JOB_ID"]), ask).end_time
    except (SlurmError, ValueError) as error:
        logger.warning("it is not known when the Slurm job %s ends: %s", environ["SLURM_JOB_ID"], error)
        return None


def _of_qstat(text: str) -> float | None:
    """Return what `qstat -f` says that is left."""
    if remaining := _REMAINING.search(text):
        return max(float(remaining[1]), 1.0)
    said = {name: span for name, value in _WALLTIME.findall(text) if (span := _seconds(value)) is not None}
    if "Resource_List" not in said:
        return None
    return max(said["Resource_List"] - said.get("resources_used", 0.0), 1.0)


def _seconds(text: str) -> float | None:
    """Return the seconds of a span such as 24:00:00 or 3600."""
    if text.isdigit():
        return float(text)
    if (match := _SPAN.fullmatch(text)) is None:
        return None
    parts = [int(part) for part in match.groups() if part is not None]
    seconds = 0
    for part, factor in zip(reversed(parts), (1, 60, 3600, 86400), strict=False):
        seconds += part * factor
    return float(seconds)
