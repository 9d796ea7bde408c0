"""What squeue and sacct print about jobs, to data: the state of a batch job as a program sees it.

squeue is called with `--Format`, a separator that nobody types, uncut fields (`:` without a width), and free texts
last. Rejected: `--json`, because not every squeue is built with it, and the layout changes with the version of its data
parser (a job's state was a word and became a list, its exit code a number and became an object); `-o`, which has no
letter for restarts and exit codes.

With `--states=all` squeue also lists jobs that have ended, as long as slurmctld remembers them (MinJobAge, 5 minutes by
default). `scontrol show job` knows no more, so it is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import attrs

SEPARATOR = "\x1f"
_QUEUE = ("JobID", "State", "Reason", "NodeList", "RestartCnt", "exit_code", "Comment", "Name")
QUEUE_FORMAT = ",".join(f"{field}:{SEPARATOR}" for field in _QUEUE)
"""For `squeue --Format`."""
ACCOUNTING_FORMAT = "JobIDRaw,State,ExitCode,NodeList,Comment,JobName"
"""For `sacct --format`, together with --parsable2 and --delimiter=SEPARATOR."""

Kind: TypeAlias = Literal["unknown", "pending", "running", "ended", "gone"]

# The program has not begun, though the job may have nodes. A job without nodes is pending, too.
_PENDING = {"PENDING", "CONFIGURING", "POWER_UP_NODE", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}


@attrs.frozen
class End:
    """What it means that a job has ended in one of Slurm's states.

    Args:
        text: For people.
        kind: The sort of failure; "" if the state alone does not tell.
        nothing_runs: True if no process of the job is left. On a node that Slurm has lost it may go on for a while.
    """

    text: str
    kind: Literal["", "time limit", "out of memory", "node failure", "cancelled"] = ""
    nothing_runs: bool = True


ENDS: Mapping[str, End] = {
    "COMPLETED": End("the script has ended without an error"),
    "FAILED": End("the script has failed"),
    "TIMEOUT": End("it has reached its time limit; give it more time", "time limit"),
    "DEADLINE": End("it could not have ended before its deadline", "time limit"),
    "OUT_OF_MEMORY": End("it has used more memory than it asked for; give it more", "out of memory"),
    "NODE_FAIL": End("one of its nodes has failed", "node failure", nothing_runs=False),
    "BOOT_FAIL": End("one of its nodes could not be booted", "node failure", nothing_runs=False),
    "PREEMPTED": End("another job has taken its place", "node failure"),
    "CANCELLED": End("somebody cancelled it", "cancelled"),
    "LAUNCH_FAILED": End("it could not be launched", nothing_runs=False),
    "RECONFIG_FAIL": End("a node could not be configured", nothing_runs=False),
    "REVOKED": End("another cluster has taken it", nothing_runs=False),
}
"""The states in which a job has ended."""

_OUTPUT_FAILED = 53
"""What Slurm gives as the signal when it could not open the output file on the node."""

_HOPELESS = {
    "PartitionNodeLimit": "more nodes than the partition has or allows (or some of them are down)",
    "PartitionTimeLimit": "a longer time limit than the partition allows",
    "PartitionConfig": "the partition does not allow what the job asks for",
    "BadConstraints": "no node has what the job asks for",
    "AccountNotAllowed": "the partition does not allow this account",
    "QOSNotAllowed": "the partition does not allow this QOS",
    "InvalidAccount": "the account is not valid",
    "InvalidQOS": "the QOS is not valid",
    "DependencyNeverSatisfied": "a job that it depends on has failed",
    "ReservationDeleted": "its reservation was deleted",
    "JobHoldMaxRequeue": "Slurm has started it too often; `scontrol release` lets it try again",
    "launch failed requeued held": "it could not be launched; `scontrol release` lets it try again",
    "QOSMinCpuNotSatisfied": "fewer CPUs than the QOS demands",
}
_HOPELESS_FORMS = (
    # AssocMaxWallDurationPerJobLimit, QOSMaxCpuPerJobLimit, QOSMaxMemoryPerJob, MaxMemPerLimit, ...: limits of one job
    (
        re.compile(r"(Assoc|QOS)?Max\w*Per(Job|Node)(Limit)?|MaxMemPerLimit|QOSMin\w+"),
        "it asks for more or less than the account or QOS allows a job",
    ),
    (
        re.compile(r"Job's (account|QOS)\b.* this partition\b.*"),
        "the partition does not allow this account or QOS",
    ),
)


@attrs.frozen
class BatchState:
    """What Slurm says about one batch job.

    Args:
        kind: "unknown" (nothing heard yet), "pending", "running", "ended", or "gone" (Slurm has forgotten it).
        slurm_state: Slurm's own word, such as TIMEOUT. A job that is COMPLETING still counts as running.
        reason: Why it waits, or why it has ended, in Slurm's words; "" if it gives none.
        restarts: How often it has been put back into the queue.
        hopeless: Why it cannot start as things are; "" if it can, or nobody knows. A site may change that, so wait some
            minutes before you act on it.
    """

    kind: Kind = "unknown"
    slurm_state: str = ""
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    exit_code: int | None = None
    signal: int | None = None
    hopeless: str = ""

    @property
    def end(self) -> End | None:
        """What it means that it has ended; None while it has not, or where Slurm's word is not known."""
        return ENDS.get(self.slurm_state) if self.kind == "ended" else None

    @property
    def final(self) -> bool:
        return self.kind in {"ended", "gone"}

    @property
    def unseen(self) -> bool:
        """Whether it has not begun, because its node could not open the file for its output."""
        return self.slurm_state == "FAILED" and self.signal == _OUTPUT_FAILED

    @property
    def description(self) -> str:
        """The state for people."""
        match self.kind:
            case "unknown":
                return "not heard of yet"
            case "gone":
                return "Slurm no longer knows it"
            case "pending":
                why = f" ({self.reason})" if self.reason else ""
                return f"pending{why}" + (f": {self.hopeless}" if self.hopeless else "")
            case "running":
                return f"{self.slurm_state.lower()} on {self.nodes}"
            case "ended":
                return f"{self.slurm_state}: {self._end()}"

    def _end(self) -> str:
        if self.slurm_state == "FAILED":
            if self.unseen:
                return f"Slurm could not write the job's log on {self.nodes}; do the nodes see the log directory?"
            if self.signal:
                return f"the script was killed by signal {self.signal}"
            if self.reason == "BadConstraints":
                return _HOPELESS["BadConstraints"]
            return f"the script has ended with exit code {self.exit_code}"
        told = self.end.text if self.end else "it has ended"
        return f"{told} ({self.reason})" if self.reason.startswith("by ") else told


@attrs.frozen
class Listed:
    """One job in a list: its state, and the words of its comment and name; a token may be among them."""

    state: BatchState
    words: frozenset[str]

    @property
    def was_refused(self) -> bool:
        """Whether slurmctld refused it: it keeps a record of it, but it never was a job."""
        return self.state.slurm_state == "FAILED" and self.state.reason == "BadConstraints" and not self.state.nodes


def read_queue(text: str) -> dict[int, Listed]:
    """Read what `squeue --noheader --Format=QUEUE_FORMAT` has printed; other lines are skipped."""
    found: dict[int, Listed] = {}
    for line in text.splitlines():
        fields = line.split(SEPARATOR, 6)
        if len(fields) == 7 and fields[0].isdecimal():  # else part of a name or comment with a line break in it
            job_id, state, reason, nodes, restarts, status, rest = fields
            made = _state(state, reason, nodes, int(restarts) if restarts.isdecimal() else 0, status)
            found[int(job_id)] = Listed(made, _words(rest))
    return found


def read_accounting(text: str) -> dict[int, Listed]:
    """Read what sacct has printed, with ACCOUNTING_FORMAT."""
    found: dict[int, Listed] = {}
    for line in text.splitlines():
        fields = line.split(SEPARATOR, 4)
        if len(fields) == 5 and fields[0].isdecimal():
            job_id, state, status, nodes, rest = fields
            word, _, by = state.partition(" by ")
            made = _state(word, f"by user {by}" if by else "", nodes, 0, status)
            found[int(job_id)] = Listed(made, _words(rest))
    return found


_RECORD = re.compile(
    r" JobState=([A-Z_]+)\S* Reason=(.*?) Dependency=\S+ Requeue=\d+ Restarts=(\d+) .*? ExitCode=(\S+) "
)
_RECORD_NODES = re.compile(r" NodeList=(\S+) ")


def read_record(text: str, job_id: int) -> BatchState | None:
    """Read the state in what `scontrol show job ID -o` has printed; None if that is no record of this job.

    The patterns include the neighbours of a field, because a job's name may be anything.
    """
    for line in text.splitlines():
        found = _RECORD.search(line)
        if found is not None and line.startswith(f"JobId={job_id} "):
            nodes = _RECORD_NODES.search(line)
            return _state(found[1], found[2], nodes[1] if nodes else "", int(found[3]), found[4])
    return None


def by_token(listed: Mapping[int, Listed], tokens: Collection[str]) -> dict[str, list[int]]:
    """Return the jobs that carry each token, oldest first."""
    found: dict[str, list[int]] = {token: [] for token in tokens}
    for job_id, job in sorted(listed.items()):
        if not job.was_refused:
            for token in job.words & found.keys():
                found[token].append(job_id)
    return found


def read_submitted(text: str) -> int | None:
    """Return the id that `sbatch --parsable` has printed, as `ID` or `ID;CLUSTER`; None if there is none."""
    for line in reversed(text.splitlines()):  # sites' own lines come before it
        if match := re.fullmatch(r"(\d+)(;\S*)?", line.strip()):
            return int(match[1])
    return None


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[A-Za-z0-9_-]+", text))


def _exit(status: str) -> tuple[int | None, int | None]:
    """Return exit code and signal, of `3:0`, or of a number as wait() gives it; None for what it does not tell."""
    code, colon, signal = status.partition(":")
    if not code.isdecimal() or (colon and not signal.isdecimal()):
        return None, None
    return (int(code), int(signal) or None) if colon else (int(code) >> 8, int(code) & 0x7F or None)


def _state(word: str, reason: str, nodes: str, restarts: int, status: str) -> BatchState:
    nodes = "" if nodes in {"(null)", "None assigned"} else nodes
    reason = "" if reason in {"None", "(null)", "N/A"} else reason
    if word in ENDS:
        return BatchState("ended", word, reason, nodes, restarts, *_exit(status))
    if word in _PENDING or not nodes:
        return BatchState("pending", word, reason, nodes, restarts, hopeless=hopeless(reason))
    return BatchState("running", word, reason, nodes, restarts)


def hopeless(reason: str) -> str:
    """Say why a job that waits for this reason cannot start as things are; "" if it can, or nobody knows."""
    told = _HOPELESS.get(reason) or next((text for form, text in _HOPELESS_FORMS if form.fullmatch(reason)), None)
    return f"Slurm cannot start it as it is: {told}" if told else ""
