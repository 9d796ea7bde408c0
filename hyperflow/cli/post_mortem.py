"""`hyperflow debug --attach`: looking at the copy of a process that has failed, while its run goes on.

Each line is a request by itself, so the copy may be on any node, and the head on any machine.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import suppress

from hyperflow.cli import elsewhere, evaluations, heads
from hyperflow.cli.evaluations import Named
from hyperflow.cli.heads import Head
from hyperflow.cli.records import Run
from hyperflow.control.client import HeadElsewhere, head
from hyperflow.errors import ConfigurationError
from hyperflow.saying import printable

PROMPT = "(copy) "

LEAVING = ("q", "quit", "exit", "EOF")


def attach(run: Run, evaluation: Named, lines: tuple[str, ...]) -> int:
    """Show where an evaluation failed, and carry out lines in the copy of its process: these, or those that are typed.

    Raises:
        ConfigurationError: There is no such copy.
        HyperflowError: The run has ended, or the copy does not answer.
    """
    job, task = evaluation
    one = next((one for one in heads.of(run.home) if one.job == job), None)
    if one is None:
        raise ConfigurationError(f"run {run.name} has no job {job}")
    name = evaluations.named(job, task)
    if lines:
        for line in lines:
            _show(_asked(one, run, name, task, line))
        return 0
    _show(_asked(one, run, name, task, ""))
    print("This is a copy of the process, which goes on without it: p, pp, up, down, where, list, args; q to leave")
    for line in _typed():
        _show(_asked(one, run, name, task, line))
    return 0


def _typed() -> Iterator[str]:
    with suppress(ImportError):
        importlib.import_module("readline")  # it gives `input` a history
    while True:
        try:
            line = input(PROMPT if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt):
            return
        if line.strip() in LEAVING:
            return
        if line.strip():
            yield line


def _asked(one: Head, run: Run, name: str, task: int, line: str) -> str:
    try:
        return str(head(one.home).post(f"/evaluations/{task}/inspect", line=line)["text"])
    except HeadElsewhere as error:
        words = ["debug", str(run.home), name, "--attach", f"--command={line}"]
        return elsewhere.carry_out(error.host, words, error, one.slurm_job)


def _show(text: str) -> None:
    for line in text.splitlines():
        print(printable(line))
