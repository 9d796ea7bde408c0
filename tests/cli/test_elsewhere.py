"""Orders that travel to the machine that carries them out; ssh and srun are scripts of the test."""

import os
from pathlib import Path

import pytest

from hyperflow.cli import elsewhere
from hyperflow.control.client import Refused

pytestmark = pytest.mark.process

WHY = Refused("it runs on north")

GETS_THERE = '#!/bin/sh\necho "$@" >> "$0.log"\nfor last; do :; done\nexec sh -c "$last"\n'
FAILS = '#!/bin/sh\necho "{0} gets nowhere" >&2\nexit {1}\n'


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of programs; hyperflow itself echoes its words there, or fails."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    script = 'test "$1" = node && echo "did: $*" || { echo "hyperflow: no $1" >&2; exit 1; }'
    monkeypatch.setattr(elsewhere, "command", lambda words: ["sh", "-c", script, "hyperflow", *words])
    return tmp_path


def put(directory: Path, name: str, script: str) -> None:
    """Write a program."""
    (directory / name).write_text(script)
    (directory / name).chmod(0o755)


def test_by_ssh(ways: Path) -> None:
    """The command is run there with its words as they are, and what it prints comes back; so does its refusal."""
    put(ways, "ssh", GETS_THERE)
    assert elsewhere.carry_out("north", ["node", "drain", "it's $HOME"], WHY) == "did: node drain it's $HOME\n"
    assert " -- north " in (ways / "ssh.log").read_text()
    with pytest.raises(Refused, match=r"^on north: no jobs\nabout this: "):
        elsewhere.carry_out("north", ["jobs"], WHY)


def test_by_srun(ways: Path) -> None:
    """Where ssh does not get there, a step of the Slurm job does; only where there is one."""
    put(ways, "ssh", FAILS.format("ssh", 255))
    put(ways, "srun", GETS_THERE)
    assert elsewhere.carry_out("north", ["node", "drain", "a"], WHY, "17") == "did: node drain a\n"
    log = (ways / "srun.log").read_text()
    assert "--jobid=17 --overlap" in log
    assert "--nodelist=north" in log
    with pytest.raises(
        Refused, match=r"^it runs on north; type: ssh north .*no way leads there: ssh: ssh gets nowhere\)\n"
    ):
        elsewhere.carry_out("north", ["node", "drain", "a"], WHY)


def test_no_way(ways: Path) -> None:
    """Both reasons are told; a failure of srun is not taken for one of the command."""
    put(ways, "ssh", FAILS.format("ssh", 255))
    put(ways, "srun", FAILS.format("srun", 1))
    with pytest.raises(Refused, match="ssh: ssh gets nowhere; srun: srun gets nowhere"):
        elsewhere.carry_out("north", ["node", "drain", "a"], WHY, "17")
