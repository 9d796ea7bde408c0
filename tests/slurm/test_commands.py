"""Commands of Slurm on a machine that has no room for another process."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperflow.errors import SlurmError
from hyperflow.slurm.commands import Commands, SlurmAway
from tests.helpers import alive, block_until


@pytest.mark.process
async def test_no_room_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process or file is to be had just now, that says nothing about jobs: it is tried again later."""
    commands = Commands()

    def none(_: str) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("hyperflow.slurm.commands.os.memfd_create", none)
        with pytest.raises(SlurmAway, match="true could not be started on this machine: Too many open files"):
            await commands.run("true", timeout=10)
    assert (await commands.run("true", timeout=10)).code == 0
    with pytest.raises(SlurmError, match="there is no no-such-command in PATH"):
        await commands.run("no-such-command", timeout=10)


@pytest.mark.process
def test_a_command_ends_with_its_program(tmp_path: Path) -> None:
    """An sbatch that hangs does not outlive a program that is killed."""
    (tmp_path / "sbatch").write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/draft; mv {tmp_path}/draft {tmp_path}/pid\nexec sleep 300"
    )
    (tmp_path / "sbatch").chmod(0o755)
    what = "asyncio.run(Commands().run('sbatch', timeout=300))"
    code = f"import asyncio\nfrom hyperflow.slurm.commands import Commands\n{what}"
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PATH": path}) as program:
        block_until((tmp_path / "pid").exists, 20, "sbatch runs")
        program.kill()
    pid = int((tmp_path / "pid").read_text())
    block_until(lambda: not alive(pid), 10, "sbatch has ended")
