"""Why a job failed, what the program gets for it, and what follows; from Slurm's words, slurm.out, the job's error."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from hyperflow.errors import (
    AllocationEnding,
    JobCancelled,
    JobCrashed,
    JobFailed,
    JobNodeFailed,
    JobOutOfMemory,
    JobRefused,
    JobResultUnreadable,
    JobTimeLimitExceeded,
    OutOfMemory,
)
from hyperflow.master.lifecycle import Cause, Kind, Verdict
from hyperflow.options import Resubmit
from hyperflow.saying import in_words, short_str
from hyperflow.slurm.queue import BatchState

ERRORS: Mapping[Kind, type[JobFailed]] = {
    Kind.CRASH: JobCrashed,
    Kind.OUT_OF_MEMORY: JobOutOfMemory,
    Kind.TIME_LIMIT: JobTimeLimitExceeded,
    Kind.NODE_FAILURE: JobNodeFailed,
    Kind.CANCELLED: JobCancelled,
    Kind.REFUSED: JobRefused,
    Kind.HOPELESS: JobRefused,
    Kind.RESULT: JobResultUnreadable,
}
"""What the program gets if it wants errors raised. The job's own exception arrives as itself."""

REMEDIES: Mapping[Kind, str] = {
    Kind.EXCEPTION: "if it may work the next time: hyperflow retry {number}",
    Kind.CRASH: "look at the output above; then: hyperflow retry {number}",
    Kind.OUT_OF_MEMORY: "give it more memory: hyperflow retry {number} --mem 8G",
    Kind.TIME_LIMIT: "give it more time (what it has recorded is not computed again): "
    "hyperflow retry {number} --time 2:00:00",
    Kind.NODE_FAILURE: "hyperflow retry {number}",
    Kind.CANCELLED: "hyperflow retry {number}",
    Kind.REFUSED: "change what is objected to: hyperflow retry {number} --partition NAME (or --time, --mem, ...)",
    Kind.HOPELESS: "ask for less: hyperflow retry {number} --time 1:00:00 (or --nodes, --mem, --partition, ...)",
    Kind.RESULT: "it has to be computed again: hyperflow retry {number}",
}
"""What to type, by cause."""


def to_go_on(kind: Kind, number: int, running: bool) -> str:
    """Return what to type about a job that has failed so; `running`: the program runs."""
    remedy = REMEDIES[kind].format(number=number)
    if not running:
        changed = "change the code if it has to be changed. Then: hyperflow retry {number}"
        remedy = changed.format(number=number) if kind is Kind.EXCEPTION else remedy
        return f"{remedy}, then hyperflow resume"
    edited = f". If the code has to be changed, change it, and type: hyperflow retry {number} --restart"
    return remedy + (edited if kind is Kind.EXCEPTION else "")


def of_end(state: BatchState, output: str) -> Cause:
    """Return why a job has ended without a result."""
    if state.end and state.end.kind:
        return Cause(Kind(state.end.kind), state.end.text, state.description)
    own = [line for line in output.splitlines() if line.startswith("hyperflow: ")]
    text = "it has ended, and has left no result"
    if state.unseen:
        text = (
            f"{state.nodes} could not write slurm.out: the run directory has to be on a file system that all nodes "
            "see; start the program with another --base-dir"
        )
    elif own and state.exit_code:
        text = f"it could not be run: {own[-1].removeprefix('hyperflow: ')}"
    elif state.signal in (signal.SIGKILL, signal.SIGKILL + 128) or state.exit_code == 128 + signal.SIGKILL:
        text = "its process was killed (maybe for lack of memory; the node's administrator can see that)"
    elif state.signal:
        text = f"its process was killed by signal {state.signal}"
    elif state.kind == "gone":
        text = "Slurm has forgotten it, and it has left no result"
    return Cause(Kind.CRASH, text, state.description)


def of_error(error: Exception, state: BatchState | None) -> Cause:
    """Return why a job has ended with an error; `state` is what Slurm says of its end."""
    if isinstance(error, AllocationEnding):
        if state is not None and state.end and state.end.kind:
            return Cause(Kind(state.end.kind), state.end.text, state.description)
        return Cause(Kind.TIME_LIMIT, f"its allocation ended before the job did: {short_str(error, 2000)}")
    if isinstance(error, OutOfMemory):
        return Cause(Kind.OUT_OF_MEMORY, short_str(error, 2000))
    return Cause(Kind.EXCEPTION, in_words(error, 2000))


_HUMAN = frozenset({Kind.CANCELLED, Kind.REFUSED, Kind.HOPELESS})
"""Causes that another try does not change: the user wanted it so, or has to ask for something else."""


def verdict(on_error: object, error: Exception, kind: Kind, failures: int) -> Verdict:
    """Return what follows from a failure, by the option `on_error`.

    `error` is what the program would get; `failures` is how often the job has been submitted again already.
    """
    answer: object = on_error
    named = False
    if isinstance(on_error, Mapping):
        for one, its_answer in on_error.items():
            if isinstance(error, one):
                answer, named = its_answer, one not in (Exception, JobFailed)
                break
        else:
            answer = "hold"
    if isinstance(answer, Resubmit):
        if failures < answer.times and (named or kind not in _HUMAN):
            return Verdict.AGAIN
        answer = answer.then
    return Verdict.RAISE if answer == "raise" else Verdict.HOLD
