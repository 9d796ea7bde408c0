"""Slurm's record of a job: read from its text, asked for once, and errors where there is none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hyperflow.errors import SlurmError
from hyperflow.slurm import scontrol
from hyperflow.slurm.scontrol import JobRecord
from tests.slurm import golden

LINE = (
    "JobId=7 JobName=a b Requeue=1 Restarts=2 BatchFlag=1 StartTime=100 EndTime=160 Deadline=N/A "
    "NodeList=n[1-2] BatchHost=n1 NumNodes=2\n"
)


def test_the_record() -> None:
    """The fields that the environment may lack are read."""
    assert scontrol.parse(LINE, 7) == JobRecord(7, "n[1-2]", "n1", 160.0, 2)


def test_an_array() -> None:
    """The first job of an array has all of them in its answer; only its own record counts."""
    others = LINE.replace("JobId=7", "JobId=70") + LINE.replace("JobId=7", "JobId=8")

    assert scontrol.parse(others + LINE.replace("n1 ", "n2 "), 7).head == "n2"


@pytest.mark.parametrize("end", ["Unknown", "NONE"])
def test_no_end(end: str) -> None:
    """A job without a time limit has no end."""
    assert scontrol.parse(LINE.replace("EndTime=160", f"EndTime={end}"), 7).end_time is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no record of job 7; it said: nothing"),
        (LINE.replace("JobId=7", "JobId=8"), "no record of job 7"),
        (LINE.replace("EndTime=160", "EndTime=2026-01-01T00:00:00"), "EndTime=2026-01-01T00:00:00"),
        (LINE.replace(" EndTime=160", ""), "EndTime="),
        (LINE.replace("Restarts=2", ""), "Restarts="),
        (LINE.replace("NodeList=n[1-2] BatchHost=n1", "NodeList= BatchHost="), "no nodes"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    """The error says what is missing, and what scontrol said."""
    with pytest.raises(SlurmError) as caught:
        scontrol.parse(text, 7)

    assert words in str(caught.value)
    assert text.strip() in str(caught.value)


def test_how_it_is_asked() -> None:
    """One command, with times in seconds; its answer is read."""
    asked: list[tuple[Sequence[str], Mapping[str, str]]] = []

    def run(argv: Sequence[str], variables: Mapping[str, str]) -> str:
        asked.append((argv, variables))
        return LINE

    assert scontrol.ask(7, run).job_id == 7
    assert asked == [(["scontrol", "show", "job", "-d", "7", "-o"], {"SLURM_TIME_FORMAT": "%s"})]


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Invalid job id >&2; exit 1", "`scontrol show job -d 7 -o` exited with 1: Invalid job id"),
        (f"printf '%s' \"$SLURM_TIME_FORMAT $*\"; echo ' {LINE.strip()}'", "no record"),
        ("sleep 60 & exec sleep 60", "`scontrol show job -d 7 -o` gave no answer within 0.2 s"),
        (None, "`scontrol show job -d 7 -o`: there is no scontrol in PATH"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, words: str) -> None:
    """The error names the command and what it said; what it had started has ended."""
    if script:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(scontrol, "TIMEOUT", 0.2 if script and "sleep" in script else 20.0)

    with pytest.raises(SlurmError) as caught:
        scontrol.ask(7)

    assert words in str(caught.value)


@pytest.mark.parametrize("version", sorted(path.name for path in golden.GOLDEN.iterdir()))
def test_golden(version: str) -> None:
    """What a real Slurm says about jobs of all kinds is read, also if a job's name looks like the record itself."""
    directory = golden.GOLDEN / version
    expected = {
        golden.REQUEUED: JobRecord(1, "node3", "node3", None, 1),
        golden.BATCH: JobRecord(2, "node[1-3]", "node1", golden.START + 300.0, 0),
        golden.SALLOC: JobRecord(3, "node[1-2]", "node1", golden.START + 420.0, 0),
        golden.STEP: JobRecord(4, "node[1-2]", "node1", golden.START + 420.0, 0),
        golden.PTY: JobRecord(5, "node[1-3]", "node1", None, 0),
    }

    for name, record in expected.items():
        assert scontrol.parse((directory / f"{name}.scontrol").read_text(), record.job_id) == record


@pytest.mark.parametrize(
    ("text", "details"),
    [
        (" Nodes=n1 CPU_IDs=0-1 Mem=0 GRES= MinCPUsNode=1", (("n1", (), 0),)),
        (
            " Nodes=n[1-2] CPU_IDs=0 Mem=500 GRES=gpu:2(IDX:0-1)   Nodes=n3 CPU_IDs=0 Mem=1 GRES=gpu:a100:2(IDX:0,3)",
            (("n[1-2]", ("0", "1"), 500 << 20), ("n3", ("0", "3"), 1 << 20)),
        ),
        (" Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:a:1(IDX:0),gpu:b:2(IDX:2-3),shard:1 x", (("n1", ("0", "2", "3"), 0),)),
        (" Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:2(CNT:2)", (("n1", ("0", "1"), 0),)),
        (" Nodes=n1 CPU_IDs=0 Mem=0 GRES=gpu:0", (("n1", (), 0),)),
    ],
)
def test_gpus_of_nodes(text: str, details: tuple[tuple[str, tuple[str, ...], int], ...]) -> None:
    """With -d, the record has the GPUs of each node; those that are only counted count from 0."""
    line = (golden.GOLDEN / "22.05" / f"{golden.BATCH}.scontrol").read_text().rstrip("\n") + text
    found = scontrol.parse(line, int(line.partition("JobId=")[2].split()[0]))

    assert found.details == details
