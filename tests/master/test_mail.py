"""Mail about jobs that are held. The mailer is a stand-in, which takes what any `sendmail -t -i` takes."""

import email
import logging
import os
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.master.lifecycle import State
from hyperflow.master.mail import mailer
from tests.helpers import wait_until


def fails(x: int) -> int:
    """Fail."""
    raise ValueError(f"no root of {x}")


@hf.job
async def failing(x: int) -> int:
    """Fail on a worker."""
    return await hf.remote_eval(fails, x)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> Path:
    """Put a `sendmail` first in PATH, and return the directory that it is in."""
    place = tmp_path / "a mailer"
    place.mkdir()
    program = place / "sendmail"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


async def test_a_held_job_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One mail for each time that a job is held, with what `hyperflow why` says."""
    place = stand_in(tmp_path, monkeypatch, 'cat > "$(dirname "$0")/part.$$"; cd "$(dirname "$0")"; mv part.$$ mail.$$')
    async with hf.open_cluster(base_dir=tmp_path / "runs", local=True, mail="anna@example.org") as env:
        waiting = hf.remote_eval_job(failing(2)).start()
        await wait_until(lambda: list(place.glob("mail.*")), 30, "a mail is there")
        (path,) = place.glob("mail.*")
        assert env.master.numbers(State.HELD) == [1]
        waiting.cancel()
        run = env.program.program_id
    told = email.message_from_bytes(path.read_bytes())
    assert told["To"] == "anna@example.org"
    assert told["Subject"].startswith(f"hyperflow: job 1, failing(2) of {run} on ")
    text = told.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert b"ValueError: no root of 2" in text
    assert b"hyperflow retry 1" in text


@pytest.mark.process
async def test_a_mailer_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told in the log; the run is not disturbed."""
    stand_in(tmp_path, monkeypatch, "echo no route to host >&2; exit 75")
    with caplog.at_level(logging.WARNING, "hyperflow"):
        await mailer("anna@example.org").send("a\nsubject", "text")
    assert "no mail to anna@example.org" in caplog.text
    assert "75: no route to host" in caplog.text


async def test_no_mailer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is made."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("hyperflow.master.mail.ADMINISTRATORS", ())
    with pytest.raises(hf.ConfigurationError, match=r"no mailer.*mail_type"):
        async with hf.open_cluster(base_dir=tmp_path / "runs", local=True, mail="anna@example.org"):
            pass
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("address", ["", "anna, bob", "anna\nBcc: bob@example.org", "<anna>"])
def test_no_address(address: str) -> None:
    """Nor a way to write headers."""
    with pytest.raises(hf.ConfigurationError, match="one address is needed"):
        mailer(address)
