"""What it means that a command of Slurm failed: try again, or ask for something else.

Slurm's commands have one exit code for everything, so the words decide: those of `slurm_errno.c`, where new ones are
added and old ones stay. Unknown words, such as those of a site's own wrapper, are `unclear`: no reason to try again,
and no proof that nothing was submitted.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["temporary", "refused", "unclear"]

# These are tried first: a limit on submitted jobs, which passes, has words in common with limits that do not. Whole
# phrases, because a script or a partition may have any name.
_TEMPORARY = re.compile(
    r"Unable to contact slurm controller|Unable to establish (controller|configuration)|Backup controller in standby"
    r"|Socket timed out|Connection timed out|Operation timed out|Connection (refused|reset)|No route to host"
    r"|Network is unreachable|Unable to resolve|temporarily (un|dis)|please retry|try again later|Rate limit exceeded"
    r"|Communication (connection|shutdown) failure|Message (send|receive) failure|Unexpected message received"
    r"|Zero Bytes were transmitted|Insane message length|would block|shutting down and closing"
    r"|Max\w*Submit\w*Limit|GrpSubmitJobs?Limit|MaxJobCount limit reached|job queue full"
    r"|I/O error writing script/environment|Requested partition configuration not available now"
    r"|not available \((inactive or drain|down, drained)|Requested nodes are busy"
    r"|Munge encode failed|Protocol authentication error|Cannot allocate memory|Too many open files",
    re.IGNORECASE,
)

# What sbatch says when it, or slurmctld, has read the request and refuses it.
_REFUSAL = re.compile(
    r"submission failed: (?!Unspecified error|Slurm internal error)"
    r"|unrecognized option|invalid option|Invalid --|Invalid numeric value|requires an argument|is ambiguous"
    r"|look like a batch script|Unable to open file",
    re.IGNORECASE,
)

# In this order: a line that names the culprit comes before the general one.
_REFUSED = (
    (r"accounting/QOS policy", "it is beyond a limit of the account or QOS: ask for less, or a shorter time"),
    (r"partition", "give another partition=...; `sinfo --summarize` lists them"),
    (r"\baccount(?!ing)", "give another account=...; `sacctmgr show associations user=$USER` lists yours"),
    (r"\bqos specification|invalid qos", "give another qos=...; `sacctmgr show associations user=$USER` lists yours"),
    (r"time limit|--time\b", "give a time=... that the partition allows; `sinfo -o '%P %l'` shows the limits"),
    (r"memory|--mem\b", "ask for less mem=...; `sinfo -o '%P %m'` shows what nodes have, in megabytes"),
    (r"generic resource|\bgres\b", "give another gres=...; `sinfo -o '%P %G'` shows what there is"),
    (r"feature specification", "give another constraint=...; `sinfo -o '%P %f'` shows what there is"),
    (
        r"node count|node config|cpu count|task count|more processors",
        "ask for fewer nodes, or fewer CPUs on each; see `sinfo`",
    ),
    (r"access.* denied|not permitted|permission denied", "ask the site who may do this"),
    (
        r"unrecognized option|invalid option|invalid --|invalid numeric|ambiguous",
        "correct that option, or leave it out",
    ),
    (r"directive|batch script|unable to open file", "see the script"),
    (r"invalid|not supported", "correct what it names"),
)


def verdict(text: str) -> Verdict:
    """Say what a command's error output means for another try."""
    if not text.strip() or _TEMPORARY.search(text):
        return "temporary"
    return "refused" if _REFUSAL.search(text) else "unclear"


def advice(text: str) -> str:
    """Say what can be done about a refusal; "" if nothing is known of it."""
    return next((told for words, told in _REFUSED if re.search(words, text, re.IGNORECASE)), "")


_GIST = 160
"""Characters that fit into a list."""


def gist(text: str) -> str:
    """Return the line of a refusal that says most, without the common beginning, and cut."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition("error: ")[2] for line in lines if "error: " in line]
    # The first one names the culprit; the one after it says the same in general words.
    said = (errors or lines or [""])[0].removeprefix("Batch job submission failed: ")
    return said if len(said) <= _GIST else said[: _GIST - 3] + "..."
