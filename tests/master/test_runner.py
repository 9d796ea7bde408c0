"""What runs in an allocation: claims, refusals, results that could not be written at once."""

import asyncio
import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, cast

import pytest

import hyperflow as hf
from hyperflow import checked_files
from hyperflow.environment import Statistics
from hyperflow.errors import ConfigurationError
from hyperflow.master import calls, runner
from hyperflow.master.batch import RUNNER
from hyperflow.master.lifecycle import Attempt, Epoch, Record, State
from hyperflow.master.rundir import CUT_OFF, VALUE, JobDirectory, RunDirectory
from hyperflow.master.runner import Place
from tests.helpers import wait_until


@hf.job
async def double(x: int) -> int:
    """Be a job."""
    return 2 * x


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    """Return the directory of a job that is just being submitted."""
    run = RunDirectory.open(hf.ProgramInfo.new(tmp_path), True)
    record = Record(1, "double(2)#1", "double(2)", {}, State.QUEUED, (Attempt(1, "token-1", 7),))
    made = run.add(record, calls.pack_job(double(2)))
    run.close()
    return made


def run(directory: JobDirectory, attempt: int = 1, batch_id: int = 7) -> "subprocess.CompletedProcess[str]":
    """Run the runner as LocalBatch does."""
    words = [*RUNNER, str(directory.path), directory.home.name, str(attempt), "--local", str(batch_id), "1", "", "0"]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def value(directory: JobDirectory, epoch: Epoch) -> Any:
    """Return the value that a start has ended with."""
    outcome = calls.unpack(*directory.read_result(epoch))
    assert isinstance(outcome, calls.Value)
    return outcome.make()


def error(directory: JobDirectory, epoch: Epoch) -> Exception:
    """Return the error that a start has ended with."""
    outcome = calls.unpack(*directory.read_result(epoch))
    assert isinstance(outcome, Exception)
    return outcome


def test_result(directory: JobDirectory) -> None:
    """The result is there, and only then the process ends; what the job has printed is its output."""
    assert run(directory).returncode == 0
    assert value(directory, Epoch(1)) == 4


def test_second_slurm_job_does_nothing(directory: JobDirectory) -> None:
    """Of two Slurm jobs for one attempt, the second ends without having done anything."""
    assert run(directory, batch_id=7).returncode == 0
    path = directory.result(Epoch(1))
    path.unlink()
    done = run(directory, batch_id=8)
    assert done.returncode == 0
    assert "another Slurm job has taken attempt 1" in done.stderr
    assert not path.exists()
    assert directory.read_claim(1) is not None


def test_claim_without_links(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links, an attempt is taken once all the same."""

    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("hyperflow.files.os.link", link)
    assert runner.claim(directory, Epoch(1), Place(7))
    assert not runner.claim(directory, Epoch(1), Place(8))
    assert runner.claim(directory, Epoch(1, 1), Place(7, 1))
    assert directory.read_claim(1) is not None


def test_later_start_takes_the_earlier_result(directory: JobDirectory) -> None:
    """A start that finds the result of an earlier one of its attempt uses it; not that of a start that was cut off."""
    directory.write_result(Epoch(1), 7, CUT_OFF, calls.pack_value(77, ""))
    assert runner.run(directory.path, directory.home.name, 1, Place(7, 1, cpus=1)) == 0
    assert value(directory, Epoch(1, 1)) == 4
    directory.write_result(Epoch(1, 1), 7, VALUE, calls.pack_value(78, ""))
    assert runner.run(directory.path, directory.home.name, 1, Place(7, 2, cpus=1)) == 0
    assert value(directory, Epoch(1, 2)) == 78
    assert directory.read_result(Epoch(1, 0))[0] == CUT_OFF


@pytest.mark.parametrize("part", ["home", "jobs", "job", "call"])
def test_what_others_can_write_is_refused(directory: JobDirectory, part: str) -> None:
    """Where somebody else could have put a pickle, nothing is unpickled; the output says why."""
    path = {"home": directory.home, "jobs": directory.path.parent, "job": directory.path, "call": directory.call}[part]
    path.chmod(0o777)
    try:
        done = run(directory)
        said = done.stderr if part != "call" else str(error(directory, Epoch(1)))
        assert done.returncode == (runner.REFUSED if part != "call" else runner.RAISED)
        assert f"{path} can be written by others" in said
    finally:
        path.chmod(0o700)


def test_result_that_cannot_be_written_at_once(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the result is written as soon as there is space; it may be hours of work."""
    write = checked_files.write_file
    failures = iter(range(2))

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("result") and next(failures, None) is not None:
            raise ConfigurationError(os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr(checked_files, "write_file", full)
    monkeypatch.setattr(runner, "RESULT_PAUSE", 0.01)
    assert runner.run(directory.path, directory.home.name, 1, Place(7, cpus=1)) == 0
    assert value(directory, Epoch(1)) == 4


def test_damaged_call(directory: JobDirectory) -> None:
    """A call that was cut is not unpickled."""
    directory.call.write_bytes(directory.call.read_bytes()[:-1])
    assert run(directory).returncode == runner.RAISED
    ended_with = error(directory, Epoch(1))
    assert isinstance(ended_with, checked_files.Damaged)
    assert "it was cut short" in str(ended_with)


def test_nothing_can_be_printed(directory: JobDirectory) -> None:
    """Where slurm.out is on a full disk, the outcome of the job is written all the same, if there is space for that."""
    directory.call.write_bytes(b"rubbish")
    words = [*RUNNER, str(directory.path), directory.home.name, "1", "--local", "7", "1", "", "0"]
    with open("/dev/full", "wb") as full:
        subprocess.run(words, stdout=full, stderr=full, check=False)
    assert isinstance(error(directory, Epoch(1)), checked_files.Damaged)


async def test_statistics_are_counted_in_the_loop(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the job stands is counted where workers come and go, in no other thread; only the file is written in one."""
    threads: list[threading.Thread] = []

    class Env:
        def statistics(self) -> Statistics:
            threads.append(threading.current_thread())
            return Statistics(1, 0, 1, 1, {}, 0, 0, 0, 0, 0, 0, 0, 0)

    monkeypatch.setattr(runner, "STATUS_PAUSE", 0.0)
    task = runner.Task(directory, directory.read_record(), Epoch(1), Place(7), {})
    telling = asyncio.create_task(runner._tell(task, cast(Any, Env())))
    await wait_until(lambda: len(threads) > 1 and directory.status.exists(), 5, "it tells twice")
    telling.cancel()
    await asyncio.wait([telling])
    assert set(threads) == {threading.current_thread()}


def swap(directory: JobDirectory, base: Path, argument: int) -> JobDirectory:
    """Put another run of the same user in the place of a run, as who can write to the base directory may."""
    other = RunDirectory.open(hf.ProgramInfo.new(base), True)
    record = Record(1, "double(2)#1", "double(2)", {}, State.QUEUED, (Attempt(1, "token-1", 7),))
    made = other.add(record, calls.pack_job(double(argument)))
    other.close()
    directory.home.rename(base / "away")
    made.home.rename(directory.home)
    return directory


def test_run_directory_swapped_before_the_start(directory: JobDirectory, tmp_path: Path) -> None:
    """Another run of the user's in the place of a run is noticed: the script says which run it belongs to."""
    done = run(swap(directory, tmp_path, 50))
    assert done.returncode == runner.REFUSED
    assert f"and should be {directory.home.name}" in done.stderr
    assert not directory.result(Epoch(1)).exists()


def test_run_directory_swapped_after_the_check(
    directory: JobDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is put in the place of a run directory while the job begins is neither read nor written to."""
    claim = runner.claim

    def late(*arguments: Any) -> bool:
        swap(directory, tmp_path, 50)
        return claim(*arguments)

    monkeypatch.setattr(runner, "claim", late)
    assert runner.run(directory.path, directory.home.name, 1, Place(7, cpus=1)) == 0
    assert not directory.result(Epoch(1)).exists()
    assert value(JobDirectory(tmp_path / "away" / "jobs" / "1"), Epoch(1)) == 4


@pytest.mark.parametrize("what", ["job", "run"])
def test_a_call_that_belongs_elsewhere(directory: JobDirectory, tmp_path: Path, what: str) -> None:
    """A call of another job or run is not unpickled, although it is whole and the user's own."""
    run_of_it = RunDirectory.open(hf.ProgramInfo.new(tmp_path), True)
    other = run_of_it.add(Record(2 if what == "job" else 1, "double(9)#1", "double(9)", {}), calls.pack_job(double(9)))
    run_of_it.close()
    data = other.call.read_bytes()
    if what == "job":
        head, _, payload = data.partition(b"\n")
        header = {"run": directory.home.name, "job": 2, "identity": ""}
        assert head
        data = checked_files.with_checksum("call", payload, header)
    directory.call.write_bytes(data)
    assert run(directory).returncode == runner.RAISED
    ended_with = error(directory, Epoch(1))
    assert isinstance(ended_with, checked_files.Damaged)
    assert f"should be of run {directory.home.name}, job 1" in str(ended_with)
