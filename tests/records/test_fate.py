"""What has become of a run on another machine that is not heard of: Slurm is asked, or its machine."""

import os
import time
from pathlib import Path

import attrs
import pytest

from hyperflow.cli import fate, records
from hyperflow.cli.records import Fate, Run
from hyperflow.database.ownership import Owner
from hyperflow.program import ProgramInfo
from hyperflow.records import record
from hyperflow.records.record import State
from hyperflow.slurm.queue import SEPARATOR

pytestmark = pytest.mark.process

NOW = time.time()

COMMAND = '#!/bin/sh\necho "$0 $*" >> "{0}/asked"\n{1}\n'


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of commands: this Slurm has node7 and some jobs, and no way leads to any machine."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    jobs = {1: "RUNNING", 2: "TIMEOUT", 3: "NODE_FAIL", 4: "PENDING"}
    lines = [SEPARATOR.join((str(job), state, "None", "node7", "0", "0:0", "", "x")) for job, state in jobs.items()]
    say(place, "squeue", "cat <<END\n{}\nEND".format("\n".join(lines)))
    say(place, "sinfo", "echo node7.cluster")
    say(place, "ssh", "exit 255")
    say(place, "srun", "exit 1")
    return place


def say(place: Path, name: str, script: str) -> None:
    """Write a command, which also writes down that it was asked."""
    (place / name).write_text(COMMAND.format(place, script))
    (place / name).chmod(0o755)


def asked(place: Path) -> list[str]:
    """Return the commands that were asked since the last look."""
    try:
        lines = (place / "asked").read_text().splitlines()
    except FileNotFoundError:
        return []
    (place / "asked").unlink()
    return [Path(line.split()[0]).name for line in lines]


def elsewhere(base: Path, slurm_job: str, age: float = 1000.0, host: str = "node7", **owner: str) -> Run:
    """Return a run that another machine has written down."""
    program = ProgramInfo.new(base)
    made = record.Record.of_this_process(program, "job")
    there = attrs.evolve(made.owner, host=host, **{"machine": "another", **owner})
    told = made._replace(owner=there, slurm_job=slurm_job, began=NOW - 2000, alive=NOW - age)
    record.write(program.log_dir / record.NAME, told)
    return records.find(program.program_id, base)


def test_slurms_word(commands: Path, tmp_path: Path) -> None:
    """One question tells of all runs that are late; a job that Slurm still has, or that is of another one, is none."""
    jobs = {
        "1": "",
        "2": "allocation ended",
        "3": "killed",
        "4": "killed",
        "5": "killed",
        "": "",
        "x": "",
        "9" * 5000: "",
    }
    runs = [elsewhere(tmp_path, job) for job in jobs]
    assert [str(run.fate.state) if run.fate else "" for run in fate.with_slurms_word(runs, NOW)] == list(jobs.values())
    assert asked(commands) == ["sinfo", "squeue"]
    (gone,) = fate.with_slurms_word([runs[4]], NOW)
    assert gone.fate == Fate(State.KILLED, "its Slurm job 5: Slurm no longer knows it")
    assert (gone.state(NOW), gone.seconds(NOW)) == (State.KILLED, 1000.0)
    events = gone.log_dir / "events.jsonl"
    events.touch()
    os.utime(events, (NOW - 900, NOW - 900))
    assert round(gone.seconds(NOW) or 0) == 1100
    others = [elsewhere(tmp_path, "5", host="login"), elsewhere(tmp_path, "5", age=10.0)]
    assert [run.fate for run in fate.with_slurms_word(others, NOW)] == [None, None]


@pytest.mark.parametrize("name", ["squeue", "sinfo"])
def test_slurm_is_away(commands: Path, tmp_path: Path, name: str) -> None:
    """Who does not answer changes nothing; what is heard of is not asked about."""
    say(commands, name, "exit 1")
    run = elsewhere(tmp_path, "5")
    assert fate.with_slurms_word([run], NOW) == [run]
    asked(commands)
    assert fate.with_slurms_word([elsewhere(tmp_path, "5", age=10.0)], NOW)[0].fate is None
    assert asked(commands) == []


def test_its_machine(commands: Path, tmp_path: Path) -> None:
    """Where Slurm knows nothing, the machine says whether the process is there; what is in doubt is left so."""
    run = elsewhere(tmp_path, "1")
    assert fate.asked_for(run, NOW) == run
    assert asked(commands) == ["sinfo", "squeue", "ssh", "srun"]
    here = Owner.this_process("here")
    say(commands, "ssh", 'for last; do :; done\nexec sh -c "$last"')
    there = {"machine": here.machine, "boot_id": here.boot_id, "pid_namespace": here.pid_namespace}
    alive = elsewhere(tmp_path, "", **there, started=here.started)
    assert fate.asked_for(alive, NOW).fate is None
    told = fate.asked_for(elsewhere(tmp_path, "", **there, started="1"), NOW)
    assert told.fate == Fate(State.KILLED, f"its process ({os.getpid()}) on node7 ended without a word")
    assert fate.asked_for(elsewhere(tmp_path, "", machine=here.machine, boot_id="before"), NOW).state(NOW) == "killed"
    for doubt in ({**there, "pid_namespace": "another"}, {**there, "machine": "another"}):
        assert fate.asked_for(elsewhere(tmp_path, "", **doubt, started="1"), NOW).fate is None
