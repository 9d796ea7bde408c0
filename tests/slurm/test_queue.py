"""What squeue and sacct print, to states: texts of a real Slurm 22.05, and what newer ones print otherwise."""

import pytest

from hyperflow.slurm import queue
from hyperflow.slurm.queue import BatchState

# Printed by 22.05.8 for jobs of a test; `|` stands for the separator.
RECORDED = """\
6|COMPLETED|None|node1|0|0|(null)|wrap|
2|FAILED|NonZeroExitCode|node1|0|768|(null)|wrap|
3|FAILED|JobLaunchFailure|node1|0|9|(null)|wrap|
17|FAILED|JobLaunchFailure|node2|0|4021|(null)|wrap|
20|NODE_FAIL|NodeDown|node2|0|15|(null)|wrap|
21|PENDING|BeginTime||1|0|(null)|wrap|
5|FAILED|BadConstraints||0|1|hyperflow token-000|a.token-000|
4|PENDING|PartitionNodeLimit||0|0|hyperflow token-004|x|
1|PENDING|JobHeldUser||0|0|hello, you|a/b c.token-001|
19|RUNNING|None|node[1-2]|0|0|hyperflow token-019|root.token-019|
"""


def squeue(text: str) -> dict[int, queue.Listed]:
    """Read a text in which the separator is easier to see."""
    return queue.read_queue(text.replace("|", queue.SEPARATOR))


def state(text: str) -> BatchState:
    """Read one line."""
    return next(iter(squeue(text).values())).state


def test_recorded() -> None:
    """Every line is read, and the numbers mean what wait() has them mean."""
    found = {job_id: job.state for job_id, job in squeue(RECORDED).items()}

    assert found == {
        6: BatchState("ended", "COMPLETED", nodes="node1", exit_code=0),
        2: BatchState("ended", "FAILED", "NonZeroExitCode", "node1", exit_code=3),
        3: BatchState("ended", "FAILED", "JobLaunchFailure", "node1", exit_code=0, signal=9),
        17: BatchState("ended", "FAILED", "JobLaunchFailure", "node2", exit_code=15, signal=53),
        20: BatchState("ended", "NODE_FAIL", "NodeDown", "node2", exit_code=0, signal=15),
        21: BatchState("pending", "PENDING", "BeginTime", restarts=1),
        5: BatchState("ended", "FAILED", "BadConstraints", exit_code=0, signal=1),
        4: BatchState("pending", "PENDING", "PartitionNodeLimit", hopeless=found[4].hopeless),
        1: BatchState("pending", "PENDING", "JobHeldUser"),
        19: BatchState("running", "RUNNING", nodes="node[1-2]"),
    }
    assert "more nodes than the partition has" in found[4].hopeless
    assert "do the nodes see the log directory" in found[17].description


def test_tokens() -> None:
    """A job is found by its name or its comment, oldest first; what Slurm has refused is no job."""
    tokens = ["token-000", "token-001", "token-004", "token-019", "token-01"]
    more = "300|PENDING|None||0|0|(null)|again.token-004|\n"

    found = queue.by_token(squeue(more + RECORDED), tokens)

    assert found == {"token-000": [], "token-001": [1], "token-004": [4, 300], "token-019": [19], "token-01": []}


@pytest.mark.parametrize(
    ("word", "nodes", "kind"),
    [
        ("CONFIGURING", "n1", "pending"),
        ("REQUEUED", "n1", "pending"),
        ("REQUEUE_HOLD", "", "pending"),
        ("SPECIAL_EXIT", "", "pending"),
        ("RESV_DEL_HOLD", "", "pending"),
        ("COMPLETING", "n1", "running"),
        ("SUSPENDED", "n1", "running"),
        ("STAGE_OUT", "n1", "running"),
        ("SOMETHING_NEW", "n1", "running"),
        ("OUT_OF_MEMORY", "n1", "ended"),
        ("PREEMPTED", "n1", "ended"),
        ("DEADLINE", "", "ended"),
        ("BOOT_FAIL", "n1", "ended"),
    ],
)
def test_words(word: str, nodes: str, kind: str) -> None:
    """Every word of Slurm is one of our kinds, and one that nobody knows yet ends no job."""
    found = state(f"7|{word}|None|{nodes}|N/A|0|0||x|")

    assert (found.kind, found.slurm_state) == (kind, word)
    assert found.description


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("Resources", False),
        ("Priority", False),
        ("AssocMaxJobsLimit", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("AssocGrpCpuLimit", False),
        ("QOSMaxCpuPerUserLimit", False),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", False),  # maintenance ends
        ("JobHeldUser", False),
        ("BadConstraints", True),
        ("Job's account not known, so it can't use this partition (strict allows physics)", True),
        ("Job's QOS not permitted to use this partition (strict denies low including low)", True),
        ("PartitionTimeLimit", True),
        ("AssocMaxWallDurationPerJobLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("QOSMaxMemoryPerJob", True),
        ("QOSMaxCpuPerNode", True),
        ("MaxMemPerLimit", True),
        ("JobHoldMaxRequeue", True),
        ("launch failed requeued held", True),
        ("DependencyNeverSatisfied", True),
    ],
)
def test_reasons(reason: str, hopeless: bool) -> None:
    """Limits that others' jobs use up pass; what one job asks for does not."""
    found = state(f"7|PENDING|{reason}||0|0||x|")

    assert found.reason == reason
    assert bool(found.hopeless) is hopeless
    assert reason in found.description


def test_names_that_are_traps() -> None:
    """Line breaks and separators in names and comments make no other jobs, nor hide one."""
    text = (
        "7|RUNNING|None|n1|0|0|a|b|c.token-007|\n8|PENDING\n|9|x\n\n10|PENDING|None||0|0|x|tail of\nname.token-010|\n"
    )

    found = squeue(text)

    assert list(found) == [7, 10]
    assert "token-007" in found[7].words


@pytest.mark.parametrize("status", ["3:0", "768"])
def test_exit_codes_of_other_versions(status: str) -> None:
    """An exit code is read in both forms that Slurm has for it."""
    found = state(f"7|FAILED|NonZeroExitCode|n1|0|{status}||x|")

    assert (found.exit_code, found.signal) == (3, None)


def test_accounting() -> None:
    """What sacct says of the end of a job, also who cancelled it."""
    text = (
        "7|CANCELLED by 1000|0:15|node1|hyperflow token-007|x.token-007\n"
        "8|OUT_OF_MEMORY|0:125|node[1-2]||x\n"
        "9|CANCELLED by 0|0:0|None assigned||x\n"
        "9.batch|FAILED|1:0|node1||batch\n"
    )

    found = queue.read_accounting(text.replace("|", queue.SEPARATOR))

    assert {job_id: job.state for job_id, job in found.items()} == {
        7: BatchState("ended", "CANCELLED", "by user 1000", "node1", exit_code=0, signal=15),
        8: BatchState("ended", "OUT_OF_MEMORY", nodes="node[1-2]", exit_code=0, signal=125),
        9: BatchState("ended", "CANCELLED", "by user 0", exit_code=0),
    }
    assert found[7].state.description == "CANCELLED: somebody cancelled it (by user 1000)"
    assert queue.by_token(found, ["token-007"]) == {"token-007": [7]}


@pytest.mark.parametrize(
    ("text", "job_id"),
    [
        ("12\n", 12),
        ("12;cluster\n", 12),
        ("Welcome to our cluster, you have 3 jobs\n12\n", 12),
        ("Submitted batch job 12\n", None),
        ("", None),
    ],
)
def test_submitted(text: str, job_id: int | None) -> None:
    """The id is on a line of its own, whatever a site prints before it."""
    assert queue.read_submitted(text) == job_id


def test_descriptions() -> None:
    """Each kind of state can be told to people."""
    told = [
        BatchState().description,
        BatchState("gone", "RUNNING").description,
        state("7|RUNNING|None|n[1-2]|0|0||x|").description,
        state("7|COMPLETING|None|n1|0|0||x|").description,
        state("7|PENDING|Resources||0|0||x|").description,
        state("7|TIMEOUT|TimeLimit|n1|0|15||x|").description,
        state("7|FAILED|NonZeroExitCode|n1|0|256||x|").description,
    ]

    assert told == [
        "not heard of yet",
        "Slurm no longer knows it",
        "running on n[1-2]",
        "completing on n1",
        "pending (Resources)",
        "TIMEOUT: it has reached its time limit; give it more time",
        "FAILED: the script has ended with exit code 1",
    ]
