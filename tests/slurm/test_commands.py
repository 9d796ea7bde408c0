"""Commands of Slurm on a machine that has no room for another process."""

import errno
import os

import pytest

from hyperflow.errors import SlurmError
from hyperflow.slurm.commands import Commands, SlurmAway


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
