"""Slurm's complaints: which pass, which do not, and what can be done about them."""

import pytest

from hyperflow.slurm import refusal

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    "text",
    [
        FAILED + "Unable to contact slurm controller (connect failure)",
        FAILED + "Socket timed out on send/recv operation",
        FAILED + "Resource temporarily unavailable",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.",
        "sbatch: error: AssocMaxSubmitJobLimit\n"
        + FAILED
        + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "sbatch: error: QOSMaxSubmitJobPerUserLimit\n"
        + FAILED
        + "Job violates accounting/QOS policy (job submit limit)",
        "sbatch: error: QOSGrpSubmitJobsLimit\n" + FAILED + "Job violates accounting/QOS policy (job submit limit)",
        FAILED + "MaxJobCount limit reached",
        FAILED + "Slurm backup controller in standby mode",
        FAILED + "Rate limit exceeded, please retry momentarily",
        FAILED + "Zero Bytes were transmitted or received",
        FAILED + "Protocol authentication error",
        FAILED + "I/O error writing script/environment to file",
        FAILED + "Required node not available (down, drained or reserved)",
        'sbatch: error: Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
        "scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)",
        "",
    ],
)
def test_what_passes(text: str) -> None:
    """These are worth another try."""
    assert refusal.verdict(text) == "temporary"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "sbatch: error: invalid partition specified: nope\n" + FAILED + "Invalid partition name specified",
            "partition=",
        ),
        # A name is no reason to wait, whatever it is.
        (
            "sbatch: error: invalid partition specified: munge\n" + FAILED + "Invalid partition name specified",
            "partition=",
        ),
        (FAILED + "Invalid account or account/partition combination specified", "="),
        (FAILED + "Invalid qos specification", "qos="),
        (FAILED + "Requested time limit is invalid (missing or exceeds some limit)", "time="),
        (FAILED + "Node count specification invalid", "fewer nodes"),
        (FAILED + "More processors requested than permitted", "fewer nodes"),
        (FAILED + "Requested node configuration is not available", "fewer nodes"),
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            + FAILED
            + "Requested node configuration is not available",
            "mem=",
        ),
        (FAILED + "Invalid feature specification", "constraint="),
        (FAILED + "Invalid generic resource (gres) specification", "gres="),
        (
            FAILED + "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "account or QOS",
        ),
        (FAILED + "Access/permission denied", "ask the site"),
        (FAILED + "User's group not permitted to use this partition", "partition="),
        ("sbatch: unrecognized option '--foo=gpu:1'\nTry \"sbatch --help\" for more information", "leave it out"),
        ("sbatch: error: Invalid --time specification", "time="),
        ('sbatch: error: Invalid numeric value "0" for --cpus-per-task.', "option"),
        ("sbatch: error: Unable to open file /home/me/timed-out.sh", "script"),
    ],
)
def test_what_does_not_pass(text: str, word: str) -> None:
    """These are final, and there is something to do."""
    assert refusal.verdict(text) == "refused"
    assert word in refusal.advice(text)


@pytest.mark.parametrize(
    "text",
    ["sbatch: error: our site does not want this", FAILED + "Unspecified error", "Traceback (most recent call last)"],
)
def test_what_nobody_knows(text: str) -> None:
    """Words of a site's own are no reason to try again, and no proof that there is no job."""
    assert refusal.verdict(text) == "unclear"


@pytest.mark.parametrize(
    ("text", "gist"),
    [
        (
            f"sbatch refused x:\n  sbatch: error: invalid partition specified: fast\n{FAILED}Invalid name\nsee it",
            "invalid partition specified: fast",
        ),
        (f"sbatch refused /x/script.sh:\n  {FAILED}Invalid feature specification", "Invalid feature specification"),
        ("there is no sbatch in PATH (/bin)", "there is no sbatch in PATH (/bin)"),
        ("sbatch: error: " + 300 * "x", 157 * "x" + "..."),
        ("", ""),
    ],
)
def test_gist(text: str, gist: str) -> None:
    """Of many lines, the one that a list has room for names the culprit."""
    assert refusal.gist(text) == gist
