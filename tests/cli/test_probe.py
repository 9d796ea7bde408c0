"""The shell on a node, here at the other end of a pair of sockets."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest

from hyperflow.cli.probe import Refused, open_probe
from hyperflow.errors import LauncherError
from hyperflow.transports.process import Connection, Local, Receiver
from hyperflow.transports.ssh import shell_line


@attrs.frozen
class Login:
    """A login on this machine, as sshd has it: a login shell, which may be talkative, runs one line of text."""

    noise: str = ""
    node: str = "here"

    async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
        """Start the command."""
        return await Local().start(["/bin/sh", "-c", f"{self.noise}{shell_line(command)}"], receiver, log_file)


async def test_it_echoes_reads_and_writes(tmp_path: Path) -> None:
    """Texts and paths arrive as they are, whatever signs are in them."""
    odd = tmp_path / "a dir$(x) \"with' \\signs"
    odd.mkdir()
    (odd / "-here").write_text("  found %s \\n\n")

    async with open_probe(Login(), tmp_path / "log") as probe:
        assert await probe.ask("echo", text=" a  `b` \\c ") == " a  `b` \\c "
        assert await probe.ask("read", str(odd / "-here")) == "  found %s \\n"
        assert await probe.ask("write", str(odd / "there"), "$x  'y'") == ""

    assert (odd / "there").read_text() == "$x  'y'\n"


async def test_it_says_why_not(tmp_path: Path) -> None:
    """What cannot be read or written is an error with the shell's words, and the shell goes on."""
    async with open_probe(Login(), tmp_path / "log") as probe:
        with pytest.raises(Refused, match="No such file"):
            await probe.ask("read", str(tmp_path / "nothing"))
        with pytest.raises(Refused):
            await probe.ask("write", str(tmp_path / "no" / "directory"), "x")
        assert await probe.ask("echo", text="still here") == "still here"


async def test_noise_does_no_harm(tmp_path: Path) -> None:
    """What a shell's start-up files say, with or without an end of line, is skipped."""
    async with open_probe(Login(noise="printf 'Welcome!\\nYou have mail'; "), tmp_path / "log") as probe:
        assert await probe.ask("echo", text="x") == "x"


async def test_a_shell_that_ends_says_what_it_said(tmp_path: Path) -> None:
    """If there is no shell, or it ends, the error has what was printed, on either stream."""
    with pytest.raises(LauncherError, match=r"This account is closed.*it said: no home"):
        async with open_probe(Login(noise="echo This account is closed; echo no home >&2; exit 1; "), tmp_path / "log"):
            pass


def test_the_script_is_one_line() -> None:
    """A csh as login shell takes no line breaks in quotes, and expands exclamation marks even there."""
    from hyperflow.cli.probe import SCRIPT

    assert "\n" not in SCRIPT
    assert "!" not in SCRIPT
