"""Orders that are typed on another machine than the one that carries them out: the same command there, by ssh or srun.

By srun where the process that is to carry it out is in a Slurm job, and ssh does not get there: many sites let nobody
into their nodes by ssh. What is run there is this Python, which has to be on a shared file system.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence

from hyperflow import pages
from hyperflow.control.client import Refused
from hyperflow.errors import HyperflowError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--")

SSH_FAILED = 255
"""ssh's own exit code."""

REACHED = "hyperflow: here"
"""What the other side says first, so that a failure of srun is not taken for one of the command."""

PATIENCE = 180.0
"""Seconds for the whole of it: an order may have to wait for Slurm."""


class NoWay(HyperflowError):
    """Another machine cannot be reached from here."""


def command(words: Sequence[str]) -> list[str]:
    """Return how a command of hyperflow is run there."""
    return [sys.executable, "-m", "hyperflow", *words]


def typed(host: str, words: Sequence[str], *options: str) -> str:
    """Return what to type for that."""
    return shlex.join(["ssh", *options, host, shlex.join(command(words))])


def carry_out(host: str, words: Sequence[str], why: HyperflowError, slurm_job: str = "") -> str:
    """Run a command of hyperflow on another machine, and return what it prints.

    Args:
        why: Why it is not run here.
        slurm_job: The Slurm job of the process that the order is for, if it is in one.

    Raises:
        Refused: It cannot be reached; the text says what to type there. Or what the command itself says.
    """
    there = f"exec {shlex.join(command(words))}"
    try:
        return look(host, there, slurm_job, PATIENCE)
    except NoWay as error:
        raise Refused(f"{why}; type: {typed(host, words)} ({error})") from None


def look(host: str, script: str, slurm_job: str, patience: float) -> str:
    """Run a line of shell on another machine, and return what it prints; each way may take so many seconds.

    Raises:
        NoWay: It cannot be reached; the text says what was tried.
        Refused: What the line itself says, where it fails.
    """
    tried: list[str] = []
    for way, line in _ways(host, slurm_job, script):
        try:
            done = subprocess.run(
                line,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=patience,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            tried.append(f"{way}: {error}")
            continue
        begun, _, printed = done.stdout.partition(f"{REACHED}\n")
        if begun == done.stdout:  # nothing has begun there
            tried.append(f"{way}: {done.stderr.strip() or f'status {done.returncode}'}")
            continue
        if done.returncode:
            said = done.stderr.partition(f"\n{pages.ABOUT}")[0]  # this error says where to read about it, too
            raise Refused(f"on {host}: {said.strip().removeprefix('hyperflow: ')}")
        return printed
    raise NoWay(f"no way leads there: {'; '.join(tried)}")


def _ways(host: str, slurm_job: str, script: str) -> Iterator[tuple[str, list[str]]]:
    shell = f"echo {shlex.quote(REACHED)}; {script}"
    yield "ssh", [*SSH, host, shell]
    if slurm_job:
        within = [f"--jobid={slurm_job}", "--overlap", "--quiet", "--nodes=1", "--ntasks=1", f"--nodelist={host}"]
        yield "srun", ["srun", *within, "sh", "-c", shell]
